"""Export: the heads of several runs become one model that MLflow and slantwise load alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slantwise.article import Article
from slantwise.errors import ConfigurationError, ModelError
from slantwise.model import load
from tests.training.test_run import TrackingConfig, make_config, run
from training.export import ExportConfig, Tolerance, export


@pytest.fixture
def runs(tmp_path: Path, tiny_path: Path) -> list[Path]:
    directories = []
    for task in ("topic", "framing", "stance"):
        away = TrackingConfig(enabled=False)
        config = make_config(tmp_path, tiny_path, task, tracking=away)
        config.run_dir = str(tmp_path / task)
        directories.append(run(config).directory)
    return directories


def test_one_model_answers_all_tasks_as_its_runs_do(runs: list[Path], tmp_path: Path) -> None:
    model = export(runs, tmp_path / "model")
    article = Article(id="x", text="The nurse praised the Harbour Plan at the clinic. The doctor saw a fever.")
    together = load(tmp_path / "model").predict([article], [["Harbour Plan"]])[0]
    assert list(together) == ["id", "topic", "framing", "stance"]
    for directory in runs:
        alone = load(directory).predict([article], [["Harbour Plan"]])[0]
        task = next(key for key in alone if key != "id")
        assert together[task] == alone[task]
    assert [task.name for task in model.tasks] == ["topic", "framing", "stance"]


def test_the_exported_folder_is_an_mlflow_model_that_runs_outside_the_checkout(
    runs: list[Path], tmp_path: Path
) -> None:
    export(runs, tmp_path / "model")
    program = (
        "import json, mlflow, pandas as pd, sys\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "rows = model.predict(pd.DataFrame({'text': ['The nurse saw the Harbour Plan. The doctor had a fever today.'],"
        " 'targets': [['Harbour Plan']]}))\n"
        "import slantwise; print(json.dumps([slantwise.__file__, rows]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path / "model")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    where, rows = json.loads(done.stdout.splitlines()[-1])
    assert Path(where).is_relative_to(tmp_path / "model")
    assert rows[0]["topic"]["label"] == "health"


def test_two_runs_of_one_task_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="another model of task topic"):
        export([runs[0], runs[0]], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_output_that_exists_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="exists"):
        export(runs, runs[0])


def test_a_run_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty is not a model directory"):
        export([tmp_path / "empty"], tmp_path / "model")


@pytest.mark.parametrize("format", ["onnx", "onnx_int8"])
def test_a_linear_run_has_nothing_to_convert(runs: list[Path], tmp_path: Path, format: str) -> None:
    with pytest.raises(ConfigurationError, match=f"format={format}: .*topic is a linear model of task topic"):
        export(runs, tmp_path / "model", format)
    assert not (tmp_path / "model").exists()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="format=pickle; expected one of torch, onnx, onnx_int8"):
        ExportConfig(runs=["runs/a"], output="model", format="pickle")


@pytest.mark.parametrize("change", [{"equal_labels": 1.5}, {"difference": -1.0}, {"metric": float("nan")}])
def test_a_tolerance_that_cannot_be_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=f"tolerance: {next(iter(change))}="):
        Tolerance(**change)
