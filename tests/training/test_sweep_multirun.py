"""The runs of a grid stand below one MLflow run; all sweep configurations compose."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from mlflow import MlflowClient
from omegaconf import OmegaConf

from benchmarks.sweep import composed
from slantwise.command import CHECKOUT, run
from slantwise.errors import ConfigurationError
from training.config import register
from training.multirun import GROUP, JOBS, PARENT, ParentRun, group_tags
from training.space import Dimension, Space

SPACES = sorted(path.stem for path in (CHECKOUT / "configs" / "sweep").glob("*.yaml"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (GROUP, PARENT, JOBS, "PYTHONPATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def tracking(uri: str, folder: Path, enabled: bool = True) -> object:
    one = {"enabled": enabled, "uri": uri, "artifacts": str(folder), "experiment": "slantwise", "timeout": 1.0}
    return OmegaConf.create({"tracking": one, "hydra": {"sweep": {"dir": str(folder / "multirun")}}})


def fake_job(config: Any) -> None:
    """Leaves the run.json of a run in place of training one; the second seed goes on with an interrupted run."""
    if config.split.seed == 3:
        raise ConfigurationError("split.seed=3; expected\nanother one")
    folder = Path(f"runs/interrupted-{config.task.name}" if config.split.seed == 2 else config.run_dir)
    folder.mkdir(parents=True)
    estimate = {"value": 0.61 + config.split.seed / 1000, "low": 0.5, "high": 0.7, "reason": None}
    task = {"headline": ["macro_f1", "accuracy"], "metrics": {"macro_f1": estimate}}
    (folder / "run.json").write_text(json.dumps({"tags": group_tags(), "tasks": {config.task.name: task}}))


Grid = Callable[..., tuple[Any, str]]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Grid:
    """Runs a job over a grid that fails; gives the exit status and what was said."""

    def runs(job: Callable[[Any], None], *arguments: str) -> tuple[Any, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setattr(sys, "argv", ["slantwise train", "--multirun", "tracking=none", *arguments])
        GlobalHydra.instance().clear()
        register()
        with pytest.raises(SystemExit) as caught:
            run("train", job)
        return caught.value.code, capfd.readouterr().err

    return runs


def test_a_grid_ends_with_a_table_of_what_differs(grid: Grid, tmp_path: Path) -> None:
    status, err = grid(fake_job, "task=topic,stance", "split.seed=1,2,3", "evaluation.slices=[author]")
    assert status == 2
    table = [re.split(r" {2,}", line.strip()) for line in err[err.index("6 jobs") :].splitlines()]
    assert table[2] == ["task", "split.seed", "metric", "value", "95 % interval", "run directory"]
    rows = table[4:10]
    assert [row[:5] for row in rows if row[1] == "1"] == [
        [task, "1", "macro_f1", "0.611", "0.500 to 0.700"] for task in ("topic", "stance")
    ]
    assert all((tmp_path / row[5] / "run.json").is_file() for row in rows if row[1] != "3")
    assert [row[5] for row in rows if row[1] == "2"] == ["runs/interrupted-topic", "runs/interrupted-stance"]
    assert [row[2:] for row in rows if row[1] == "3"] == [["failed", "split.seed=3; expected"]] * 2
    assert err.endswith("error: 2 of the 6 jobs failed\n")
    assert not list((tmp_path / "runs" / "multirun").glob("*/*.json"))


def dying_job(config: Any) -> None:
    if config.split.seed == 2:
        raise RuntimeError("out of memory")
    fake_job(config)


def test_a_job_that_dies_leaves_its_traceback_and_the_other_jobs_run(grid: Grid) -> None:
    status, err = grid(dying_job, "task=topic", "split.seed=1,2,3")
    assert status == 1
    assert 'raise RuntimeError("out of memory")\nRuntimeError: out of memory\n' in err
    rows = [re.split(r" {2,}", line.strip()) for line in err[err.index("3 jobs") :].splitlines()][4:7]
    assert [row[1] for row in rows] == ["macro_f1", "failed", "failed"]
    assert rows[1][2] == "RuntimeError: out of memory"
    assert err.endswith("error: 2 of the 3 jobs failed\n")


def test_runs_of_a_grid_bear_the_tag_of_a_parent_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["slantwise train", "-m", "task=topic,stance"])
    uri, callback = f"sqlite:///{tmp_path}/mlflow.db", ParentRun()
    callback.on_multirun_start(tracking(uri, tmp_path))
    tags = group_tags()
    parent = MlflowClient(uri).get_run(tags["mlflow.parentRunId"])
    assert parent.info.run_name == tags["multirun"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"task": "topic,stance"}
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(CHECKOUT)
    callback.on_multirun_end(tracking(uri, tmp_path))
    assert group_tags() == {}
    assert f"the runs stand below {parent.info.run_id} ({tags['multirun']})" in capsys.readouterr().err


def test_a_grid_whose_store_is_away_goes_on_without_a_parent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["slantwise train", "-m"])
    ParentRun().on_multirun_start(tracking("http://127.0.0.1:9", tmp_path))
    assert list(group_tags()) == ["multirun"]
    assert "the runs of this grid have no parent" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", SPACES)
def test_every_search_space_fits_its_classifier(name: str) -> None:
    config, _ = composed(
        "task=topic", "corpus=sample", f"classifier={name.partition('_')[0]}", f"sweep={name}", "trials=1"
    )
    assert Space(config.sweep.space, config.classifier).distributions()


def test_the_command_line_changes_adds_and_removes_dimensions() -> None:
    config, _ = composed(
        "task=topic", "corpus=sample", "trials=1", "sweep.space.C.high=1000", "~sweep.space.min_df",
        "+sweep.space.window={choices:[3,7]}", "+sweep.space.max_features={low:1000,high:9000,log:true}",
    )  # fmt: skip
    space = config.sweep.space
    assert space["C"] == Dimension(0.03, 1000, log=True)
    assert space["window"] == Dimension(choices=[3, 7])
    assert space["max_features"] == Dimension(1000, 9000, log=True)
    assert "min_df" not in space


def test_an_unknown_key_of_a_dimension_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"sweep\.space\.C=.*expected some of choices, high, log, low, step"):
        composed("task=topic", "corpus=sample", "trials=1", "+sweep.space.C.most=3")


@pytest.mark.parametrize("classifier", ["linear", "encoder", "transformer"])
def test_a_classifier_brings_its_own_space(classifier: str) -> None:
    chosen, _ = composed("task=topic", "corpus=sample", f"classifier={classifier}", "trials=1")
    named, _ = composed("task=topic", "corpus=sample", f"classifier={classifier}", f"sweep={classifier}", "trials=1")
    assert chosen.sweep == named.sweep
