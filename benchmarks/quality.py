"""Train every experiment of configs/experiment and write benchmarks/quality.md.

    SLANTWISE_CORPORA=<folder of the corpora> python -m benchmarks.quality

Each experiment runs by its configuration alone, as `slantwise train experiment=<name>` would. Figures in the table are
written by this program, never by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
EXPERIMENTS = ("bbc_news", "gvfc", "babe", "semeval2016", "newsmtsc", "fnc1")


def main() -> None:
    published = yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: _train(name, Path(scratch) / name) for name in EXPERIMENTS}
        found["newsmtsc_mt"] = _evaluate(Path(scratch) / "newsmtsc", "newsmtsc_mt", Path(scratch) / "newsmtsc_mt")
    (HERE / "quality.md").write_text(_page(found, published), encoding="utf-8")


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "slantwise", *arguments], check=True)


def _train(name: str, directory: Path) -> dict[str, Any]:
    _command("train", f"experiment={name}", f"run_dir={directory}", "tracking=none")
    record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    (task,) = record["tasks"].values()
    return {"metrics": task["metrics"], "folds": task["folds"], "seconds": record["seconds"]}


def _evaluate(run: Path, corpus: str, output: Path) -> dict[str, Any]:
    _command("evaluate", f"model={run}", f"corpus={corpus}", "split=test", f"output={output}")
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return {"metrics": metrics, "folds": [], "seconds": None}


def _page(found: Mapping[str, Mapping[str, Any]], published: Mapping[str, Any]) -> str:
    lines = [
        "# Quality on public corpora",
        "",
        "The linear classifier on the protocols of the literature, by configuration alone (`configs/experiment`). The",
        "settings, calibration and thresholds were chosen on validation data inside the training set; test data chose",
        "nothing. Intervals are 95 % bootstrap intervals over articles. Made by `python -m benchmarks.quality`.",
        "",
        "| experiment | metric | slantwise linear | 95 % interval | classic anchor | published | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in published.items():
        record = found[row.get("of", name)]
        metric = record["metrics"][row["metric"]]
        value, how = metric["value"], ""
        if row.get("fold_mean"):
            value, how = float(np.mean([fold[row["metric"]] for fold in record["folds"]])), " (mean of folds)"
        seconds = "" if record["seconds"] is None else f"{record['seconds']:.0f}"
        lines.append(
            f"| {row.get('of', name)} | {row['metric']}{how} | **{value:.3f}** "
            f"| {metric['low']:.3f} to {metric['high']:.3f} | {row['anchor']['value']:.3f}: {row['anchor']['what']} "
            f"| {row['published']} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
