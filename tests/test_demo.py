"""`make demo` on a machine without a network: three tracked runs, one model, the seed scored, the commands named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from slantwise import __main__
from slantwise.model import load
from tests.golden.remake import GOLDEN, figures
from training.demo import program


@pytest.mark.parametrize(("argument", "status", "said"), [("--help", 0, "usage:"), ("task=topic", 2, "task=topic")])
def test_help_and_unknown_arguments_train_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, status: int,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(__main__, "set_quiet_defaults", lambda: None)
    monkeypatch.setattr(sys, "argv", ["slantwise", "demo", argument])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert caught.value.code == status
    captured = capsys.readouterr()
    assert said in (captured.err if status else captured.out)
    assert list(tmp_path.iterdir()) == []


def test_programs_are_named_as_they_can_be_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = tmp_path / "my env" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "slantwise"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert program("slantwise") == "'my env/bin/slantwise'"
    assert program("mlflow") == "'my env/bin/python' -m mlflow"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert program("slantwise") == f"'{programs}/slantwise'"
    monkeypatch.setenv("PATH", str(programs))
    assert program("slantwise") == "slantwise"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    folder = tmp_path_factory.mktemp("demo")
    start = time.perf_counter()
    environment = {**os.environ, "COLUMNS": "140", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "slantwise", "demo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment)
    return folder, done.stdout, time.perf_counter() - start


def test_it_takes_less_than_ninety_seconds_even_beside_another_test(demo: tuple[Path, str, float]) -> None:
    assert demo[2] < 90


def test_three_finished_runs_are_in_the_local_store_whatever_server_the_environment_names(
    demo: tuple[Path, str, float],
) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{demo[0]}/mlruns/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["slantwise"], output_format="list")
    assert {run.data.tags["task"] for run in runs} == {"topic", "framing", "stance"}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_one_model_holds_the_three_tasks(demo: tuple[Path, str, float]) -> None:
    (directory,) = (demo[0] / "models").iterdir()
    assert list(load(directory).heads) == ["topic", "framing", "stance"]


def test_the_summary_shows_the_seed_with_all_its_targets(demo: tuple[Path, str, float]) -> None:
    for expected in ("Khaled Iskef", "21st Century Wire", "Syrian Army", "Russia", "Hay'at Tahrir al-Sham", "Turkey"):
        assert expected in demo[1]
    assert re.search(r"topic\s+│ conflict_war_and_peace", demo[1])


def test_the_named_reports_exist(demo: tuple[Path, str, float]) -> None:
    reports = re.findall(r"^\s+(runs/\S+report\.html)$", demo[1], re.MULTILINE)
    assert len(reports) == 3
    assert all((demo[0] / report).is_file() for report in reports)


def test_the_figures_are_the_golden_ones(demo: tuple[Path, str, float]) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for task, metrics in figures(demo[0]).items():
        # a tolerance of three test examples or so: other processors round sums differently
        assert metrics == pytest.approx(golden[task], abs=0.03), task


def test_a_second_demo_works_beside_the_first(demo: tuple[Path, str, float]) -> None:
    subprocess.run([sys.executable, "-m", "slantwise", "demo"], cwd=demo[0], capture_output=True, check=True)
    assert len(list((demo[0] / "runs").iterdir())) == 6
