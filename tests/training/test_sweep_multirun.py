"""The runs of a grid stand below one MLflow run; all sweep configurations compose."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from benchmarks.sweep import composed
from slantwise.command import CHECKOUT
from slantwise.errors import ConfigurationError
from training.multirun import GROUP, PARENT, ParentRun, group_tags
from training.space import Dimension, Space

SPACES = sorted(path.stem for path in (CHECKOUT / "configs" / "sweep").glob("*.yaml"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (GROUP, PARENT, "PYTHONPATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def tracking(uri: str, folder: Path, enabled: bool = True) -> object:
    one = {"enabled": enabled, "uri": uri, "artifacts": str(folder), "experiment": "slantwise", "timeout": 1.0}
    return OmegaConf.create({"tracking": one})


def test_runs_of_a_grid_bear_the_tag_of_a_parent_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
