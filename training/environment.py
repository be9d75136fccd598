"""Under what a run was made: code, versions, command line and machine, as tags of its MLflow run."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import slantwise
from slantwise.command import CHECKOUT
from training.redact import redact, redact_code
from training.system import hardware

LIBRARIES = ("scikit-learn", "numpy", "scipy", "pyarrow", "mlflow", "hydra-core")
ENCODER_LIBRARIES = ("torch", "transformers", "tokenizers")  # named where the backend has imported torch
CODE = ("slantwise", "data", "training", "evaluation")  # the folders whose code makes a run what it is
MAX_TAG = 5000  # characters; MLflow cuts a tag at 8,000
MAX_DIFF = 2_000_000  # characters


def environment_tags(command: Sequence[str]) -> dict[str, str]:
    """Command line, code, versions and machine."""
    libraries = (*LIBRARIES, *(ENCODER_LIBRARIES if "torch" in sys.modules else ()))
    tags = {
        "command": redact(" ".join(command))[:MAX_TAG],
        "slantwise": slantwise.__version__,
        "code_sha256": code_fingerprint(),
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        **hardware(),
    }
    commit = _git("rev-parse", "HEAD")
    if commit is not None:
        tags |= {"git_commit": commit.strip(), "git_dirty": str(bool(_git("status", "--porcelain"))).lower()}
    return tags


def code_fingerprint() -> str:
    """sha256 over the sources of this checkout: the same for the same code, whichever commit it stands in."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(f"{path.relative_to(CHECKOUT).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for folder in CODE:
        yield from sorted((CHECKOUT / folder).rglob("*.py"))


def code_diff() -> str:
    """What the checkout's files differ in from its commit, new files of code and configuration included, without
    secrets; empty where nothing differs or there is no commit."""
    changed = _git("diff", "HEAD", "--no-color", "--no-ext-diff") or ""
    added = _git("ls-files", "--others", "--exclude-standard", "--", *CODE, "configs") or ""
    for name in added.splitlines():
        path = CHECKOUT / name
        if path.suffix in (".py", ".yaml", ".html", ".css", ".js"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            changed += f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n"
            changed += "".join(f"+{line}\n" for line in lines)
    text = redact_code(changed)
    if len(text) > MAX_DIFF:
        text = text[:MAX_DIFF] + f"\n[cut: {len(text):,} characters in all]\n"
    return text


def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None outside of one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True, timeout=20,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
