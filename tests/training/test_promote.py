"""The gate before a champion, against a real MLflow store: who is refused, who is accepted, and the way back."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from hydra.core.global_hydra import GlobalHydra

from data.config import CleaningConfig, CorpusConfig, SplitConfig
from evaluation.judge import EvaluationConfig
from slantwise.command import CHECKOUT, Progress
from slantwise.errors import ConfigurationError
from training import promote
from training.config import TaskConfig, TrackingConfig, TrainConfig
from training.decisions import DecisionConfig
from training.linear import LinearConfig
from training.promote import GateConfig, PromoteConfig, Registry, judge_challenger
from training.run import train

SAMPLE = CorpusConfig(name="sample", path=str(CHECKOUT / "data" / "sample" / "articles.jsonl"))
SURE = EvaluationConfig(resamples=200)


class Store:
    """A store with three runs on one split: `worse` (10 words of each text count), `champion` and `better`."""

    def __init__(self, folder: Path) -> None:
        self.tracking = TrackingConfig(True, f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
        self.folder = folder
        settings = {
            "worse": {"word_ngrams": [1, 1], "char_ngrams": [0, 0], "max_features": 20},
            "champion": {"word_ngrams": [1, 1], "char_ngrams": [0, 0], "max_features": 300},
            "better": {},
        }
        self.runs = {name: self.train(name, LinearConfig(C=[1.0], **given)) for name, given in settings.items()}

    def train(self, name: str, classifier: LinearConfig) -> Path:
        config = TrainConfig(
            task=TaskConfig("topic"), corpus=SAMPLE, cleaning=CleaningConfig(), split=SplitConfig(),
            classifier=classifier, decision=DecisionConfig(), evaluation=SURE, tracking=self.tracking, name=name,
            run_dir=str(self.folder / name),
        )  # fmt: skip
        return train(config, f"name: {name}\n", Progress(quiet=True)).directory

    def config(self, name: str, **changes: Any) -> PromoteConfig:
        gate = GateConfig(largest_ece=1.0, largest_slice_drop=1.0)
        given = {"model": str(self.runs[name]), "gate": gate, **changes}
        return PromoteConfig(
            task_name="topic", name="slantwise-topic", corpus=SAMPLE, evaluation=SURE, permutations=99,
            tracking=self.tracking, **given,
        )  # fmt: skip

    def decide(self, name: str, **changes: Any) -> dict[str, Any]:
        """What `slantwise promote` does, alias and all."""
        chosen = self.config(name, **changes)
        registry = Registry(chosen)
        run_id = registry.run_of(chosen.model or "")
        evidence = judge_challenger(chosen, run_id, registry, Progress(quiet=True))
        version = registry.record(run_id, evidence)
        if evidence["decision"] != "refused":
            registry.promote(version)
        return {**evidence, "version": version}

    @property
    def champion(self) -> str | None:
        return Registry(self.config("champion")).champion()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def championed(store: Store) -> Store:
    """The middle run is the only champion there has been."""
    client = mlflow.MlflowClient(store.tracking.uri)
    if client.search_registered_models("name='slantwise-topic'"):
        client.delete_registered_model("slantwise-topic")
    assert store.decide("champion")["decision"] == "accepted"
    return store


def holding(evidence: dict[str, Any]) -> dict[str, bool]:
    return {rule["name"]: rule["holds"] for rule in evidence["rules"]}


def test_a_worse_challenger_is_refused(championed: Store) -> None:
    evidence = championed.decide("worse")
    assert evidence["decision"] == "refused"
    assert not holding(evidence)["not worse, 95 % confidence"]
    assert championed.champion == "1"


def test_an_equal_challenger_is_refused(championed: Store) -> None:
    championed.runs["equal"] = championed.runs["champion"]
    evidence = championed.decide("equal")
    assert evidence["decision"] == "refused"
    assert [name for name, holds in holding(evidence).items() if not holds] == ["gain in macro_f1"]


def test_a_better_challenger_becomes_the_champion(championed: Store) -> None:
    evidence = championed.decide("better")
    assert evidence["decision"] == "accepted"
    assert championed.champion == evidence["version"] == "2"


def test_what_was_decided_is_kept_with_the_run_and_its_version(championed: Store) -> None:
    evidence = championed.decide("worse")
    client = mlflow.MlflowClient(championed.tracking.uri)
    kept = client.list_artifacts(evidence["challenger"]["run"], "promotions")
    assert len(kept) >= 1
    tags = client.get_model_version("slantwise-topic", evidence["version"]).tags
    assert tags["decision"] == "refused"


def test_a_forced_promotion_is_recorded_as_such_with_its_reason(championed: Store) -> None:
    evidence = championed.decide("worse", force=True, reason="the champion names dead outlets")
    assert evidence["decision"] == "forced"
    version = mlflow.MlflowClient(championed.tracking.uri).get_model_version("slantwise-topic", championed.champion)
    assert (version.tags["decision"], version.tags["reason"]) == ("forced", "the champion names dead outlets")


def test_rolling_back_makes_the_champion_before_it_champion_again(championed: Store) -> None:
    championed.decide("better")
    assert Registry(championed.config("better")).roll_back() == ("2", "1")
    assert championed.champion == "1"


def test_the_first_champion_cannot_be_rolled_back(championed: Store) -> None:
    with pytest.raises(ConfigurationError, match="none before it"):
        Registry(championed.config("better")).roll_back()


def test_a_crash_before_the_last_step_leaves_the_champion(championed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "promote", crash)
    with pytest.raises(KeyboardInterrupt):
        championed.decide("better")
    assert championed.champion == "1"


def test_a_minimum_that_is_not_reached_refuses_the_first_champion(store: Store) -> None:
    chosen = store.config("worse", gate=GateConfig(minimum=0.99, largest_ece=1.0))
    registry = Registry(replace(chosen, name="slantwise-first"))
    evidence = judge_challenger(
        replace(chosen, name="slantwise-first"), registry.run_of(chosen.model or ""), registry, Progress(quiet=True)
    )
    assert evidence["decision"] == "refused"


def test_an_unpublished_run_is_refused_with_the_command_that_publishes_it(store: Store, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=f"slantwise publish run_dir={tmp_path}$"):
        Registry(store.config("better")).run_of(str(tmp_path))


@pytest.mark.parametrize(("name", "expected"), [("nope", "does not exist"), (".", "holds no run.json")])
def test_what_is_no_run_is_refused_without_the_command_that_publishes_runs(
    store: Store, tmp_path: Path, name: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{expected}.*expected a run directory") as caught:
        Registry(store.config("better")).run_of(str(tmp_path / name))
    assert "publish" not in str(caught.value)


def test_an_exported_model_is_refused_with_the_run_that_it_was_made_of(store: Store) -> None:
    with pytest.raises(ConfigurationError, match=r"exported model; .* as in model=runs/better$"):
        Registry(store.config("better")).run_of(str(store.runs["better"] / "model"))


def test_the_task_is_asked_for_by_the_name_that_it_has_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["slantwise promote", "rollback=true"])
    with pytest.raises(SystemExit):
        promote.main()
    assert capfd.readouterr().err == "error: task must be given, as in task=topic\n"


def test_force_without_a_reason_is_refused(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="needs a reason"):
        store.config("worse", force=True)
