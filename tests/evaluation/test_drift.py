"""Drift between two batches of scores, from the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.drift import about_rows, drift_tables, read_summary
from slantwise.command import CHECKOUT
from slantwise.errors import ConfigurationError


def batch(folder: Path, counts: dict[str, int], **more: Any) -> Path:
    n = sum(counts.values())
    topic = {"scored": n, "labels": counts, "abstained": 0, "confidence_sum": 0.7 * n, **more}
    folder.mkdir()
    summary = {"rows": n + 10, "rejected": {"empty_text": 10}, "tasks": {"topic": topic}}
    (folder / "_summary.json").write_text(json.dumps(summary))
    return folder


def test_the_command_prints_what_moved_and_by_how_much(tmp_path: Path) -> None:
    batch(tmp_path / "may", {"sport": 500, "health": 500}, words={"looked_at": 100, "far": 1})
    batch(tmp_path / "june", {"sport": 300, "health": 700}, words={"looked_at": 100, "far": 20})
    done = subprocess.run(
        [sys.executable, "-m", "slantwise", "compare", "scores=[may,june]"], cwd=tmp_path, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "moderate drift" in done.stdout
    assert "-20.0 points" in done.stdout
    assert "far from the training data 1.0% then, 20.0% now" in done.stdout


def test_the_share_of_rejected_rows_is_of_all_rows(tmp_path: Path) -> None:
    summary = read_summary(batch(tmp_path / "a", {"sport": 90}))
    assert "rejected: 10.00% then" in about_rows(summary, summary)[0]


def test_the_summary_of_a_single_file_stands_beside_it(tmp_path: Path) -> None:
    summary = (batch(tmp_path / "a", {"sport": 5}) / "_summary.json").rename(tmp_path / "s.jsonl.summary.json")
    (tmp_path / "s.jsonl").touch()
    assert read_summary(tmp_path / "s.jsonl") == json.loads(summary.read_text())


def test_other_label_sets_are_refused(tmp_path: Path) -> None:
    first, second = (read_summary(batch(tmp_path / name, {name: 5})) for name in "ab")
    with pytest.raises(ConfigurationError, match="task topic: the two have other labels"):
        drift_tables(first, second)


def test_an_output_that_is_not_whole_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing holds no summary of scores"):
        read_summary(tmp_path / "nothing")
