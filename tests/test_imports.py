"""What is imported when: the command starts at once, a linear run needs no torch, and imports run one way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
HEAVY = ("mlflow", "torch", "sklearn", "datasets", "hydra", "transformers", "pandas", "numpy", "pyarrow")

REPORT = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr)); "


def modules(code: str, *arguments: str, cwd: Path) -> tuple[set[str], str]:
    """The top-level modules that a fresh process has at its end, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT + code, *arguments],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}, done.stdout


MAIN = "from slantwise.__main__ import main; main()"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(tmp_path: Path, argument: str) -> None:
    loaded, out = modules(MAIN, argument, cwd=tmp_path)
    assert "slantwise" in out
    assert not loaded.intersection(HEAVY)


def test_help_takes_well_under_half_a_second(tmp_path: Path) -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "slantwise", "--help"], cwd=CHECKOUT, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.4  # the least of five: what other processes do meanwhile is no matter


def test_training_a_linear_model_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    topics = {"health": "clinic nurse vaccine", "sport": "goal referee league", "weather": "storm frost gale"}
    rows = [
        {"id": str(n), "text": f"Of {words} they spoke on day {n} of the year {n * 7}.", "topic": topic}
        for n in range(8)
        for topic, words in topics.items()
    ]
    rows = [{**row, "id": str(number)} for number, row in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded, _ = modules(
        MAIN, "train", "task=topic", "corpus=file", "corpus.path=rows.jsonl", "split.test=0.3", "split.validation=0.3",
        "split.near_duplicates=1", "classifier.C=[1]", "evaluation.resamples=20", "tracking=none", "run_dir=run",
        cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "run" / "model" / "slantwise.json").is_file()
    assert not loaded.intersection({"torch", "transformers", "tensorflow"})


def test_loading_a_model_imports_no_tracking_and_no_training(tmp_path: Path) -> None:
    loaded, _ = modules("import slantwise.model, slantwise.scoring, slantwise.linear", cwd=tmp_path)
    assert not loaded.intersection({"mlflow", "hydra", "sklearn", "torch", "pandas", "data", "evaluation", "training"})


def test_imports_run_one_way(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [tool, "--cache-dir", str(tmp_path), "--config", str(CHECKOUT / "pyproject.toml")],
        cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
