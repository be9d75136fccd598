"""Measure the calibration error before and after calibration on test splits that the literature gives.

    SLANTWISE_CORPORA=<folder of the corpora> python -m benchmarks.calibration [corpus ...]

Trains a linear classifier on each corpus (all of CORPORA where none is named) and writes its row of
benchmarks/calibration.md. Validation chooses how to calibrate; test data choose nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
CORPORA = {
    "newsmtsc": ("experiment=newsmtsc",),
    "fnc1": ("experiment=fnc1",),
    "reuters21578": ("task=topic", "corpus=reuters21578", "split=given"),
}
HEAD = """# Calibration on public corpora

The calibration error of the linear classifier on test, before and after the calibration that validation chose:

- *measured*: `ece`, 15 bins of equal size, as the literature reports it. Noise makes it larger than it is.
- *by chance*: what the same figure is on average for probabilities that are exactly right, on as many test examples. A
  measured error near it is no sign of miscalibration, and none can be expected to be much smaller.
- *without noise*: `ece_debiased`, the estimate of the true error, with its 95 % interval.

Made by `python -m benchmarks.calibration`.

| corpus | test examples | calibration | measured before | measured after | by chance | without noise before | without noise after | log loss before | log loss after |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""  # noqa: E501


def main() -> None:
    for name in sys.argv[1:] or list(CORPORA):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / name
            arguments = [*CORPORA[name], f"run_dir={directory}", "tracking=none", "shortcuts=false"]
            subprocess.run([sys.executable, "-m", "slantwise", "train", *arguments], check=True)
            report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
        write_row(name, row(name, report))


def row(name: str, report: Mapping[str, Any]) -> str:
    decision, metrics = report["decision"], report["metrics"]
    after = metrics["ece_debiased"]
    before = {
        name: decision.get(f"uncalibrated_{name}", metrics[name]["value"])
        for name in ("ece", "ece_debiased", "log_loss")
    }
    cells = [
        name,
        f"{report['examples']:,}",
        decision["calibration"],
        f"{before['ece']:.4f}",
        f"{metrics['ece']['value']:.4f}",
        f"{decision['ece_by_chance']:.4f}",
        f"{before['ece_debiased']:.4f}",
        f"{after['value']:.4f} [{after['low']:.4f}, {after['high']:.4f}]",
        f"{before['log_loss']:.4f}",
        f"{metrics['log_loss']['value']:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


def write_row(name: str, line: str) -> None:
    """Into the page, in place of the corpus's row where it has one."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    kept = [each for each in text.removeprefix(HEAD).splitlines() if not each.startswith(f"| {name} |")]
    rows = {each.split(" | ")[0].removeprefix("| "): each for each in [*kept, line]}
    PAGE.write_text(HEAD + "".join(rows[each] + "\n" for each in CORPORA if each in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
