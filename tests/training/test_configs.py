"""Every configuration composes, and means what its schema says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from slantwise.command import CHECKOUT, register_resolvers, to_object
from slantwise.errors import ConfigurationError
from training import config as schemas
from training.config import TrainConfig

CONFIGS = CHECKOUT / "configs"
TASKS, CORPORA, SPLITS, CLASSIFIERS, EXPERIMENTS = (
    sorted(path.relative_to(CONFIGS / group).with_suffix("").as_posix() for path in (CONFIGS / group).rglob("*.yaml"))
    for group in ("task", "corpus", "split", "classifier", "experiment")
)


@pytest.fixture(autouse=True)
def hydra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SLANTWISE_CORPORA", "/corpora")
    schemas.register()
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


def composed(*overrides: str) -> TrainConfig:
    return to_object(compose("train", overrides=[*overrides, "run_dir=x", "name=x"]), TrainConfig)


@pytest.mark.parametrize(("task", "corpus", "classifier"), product(TASKS, CORPORA, CLASSIFIERS))
def test_every_task_corpus_and_classifier_compose(task: str, corpus: str, classifier: str) -> None:
    path = ["corpus.path=mine.jsonl"] if corpus == "file" else []
    config = composed(f"task={task}", f"corpus={corpus}", f"classifier={classifier}", *path)
    assert config.task.name == task
    assert config.corpus.files


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_composes_to_the_kind_it_is_named_after(split: str) -> None:
    assert str(composed(f"split={split}").split.kind) == split


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_overrides_the_defaults(experiment: str) -> None:
    assert composed(f"experiment={experiment}").corpus.name == experiment.rpartition("/")[2]


def test_an_experiment_wins_over_the_defaults_and_the_command_line_over_the_experiment() -> None:
    assert composed("experiment=fnc1").classifier.first_label == "unrelated"
    assert composed("experiment=fnc1", "classifier.first_label=null").classifier.first_label is None


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(Path(p).relative_to(CONFIGS)))
def test_every_file_opens_with_the_command_that_uses_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert first.startswith("# slantwise ")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("split.test=1.5", "split.test=1.5"),
        ("split.folds=1", "split.folds=1"),
        ("split.group_by=[outlet]", "outlet"),
        ("decision.thresholds=best", "decision.thresholds=best"),
        ("classifier.loss=hinge", "hinge"),
        ("corpus.max_bad_rows=-1", "corpus.max_bad_rows=-1"),
    ],
)
def test_a_value_out_of_range_is_named_before_anything_is_read(override: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match=key.replace("[", r"\[")):
        composed(override)


def test_a_corpus_without_a_file_names_the_key_to_set() -> None:
    with pytest.raises(ConfigurationError, match=r"set corpus\.path"):
        to_object(compose("train", overrides=["corpus=file"]), TrainConfig)


def test_two_runs_started_in_the_same_second_have_different_directories() -> None:
    first, second = (compose("train") for _ in range(2))
    assert first.run_dir != second.run_dir
    assert first.run_dir == first.run_dir
