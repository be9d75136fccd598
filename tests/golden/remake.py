"""Remake tests/golden/sample.json: the test metrics of the three demo runs.

python -m tests.golden.remake

Run it after a change that is meant to change figures, and look at the difference before committing it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).with_name("sample.json")


def figures(folder: Path) -> dict[str, dict[str, float]]:
    """Task -> headline metric -> value, from the run directories of a demo in `folder`."""
    found = {}
    for task in ("topic", "framing", "stance"):
        (record,) = (folder / "runs").glob(f"demo-{task}-*/run.json")
        run = json.loads(record.read_text(encoding="utf-8"))["tasks"][task]
        found[task] = {name: run["metrics"][name]["value"] for name in run["headline"]}
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "slantwise", "demo"], cwd=scratch, check=True)
        GOLDEN.write_text(json.dumps(figures(Path(scratch)), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
