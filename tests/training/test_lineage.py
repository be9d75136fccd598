"""From a registered model back to its run, and the run made again: from the server alone, the directory deleted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.exceptions import RestException
from tracking_servers import TrackingServer

from evaluation.predictions import Predictions
from slantwise import __version__
from slantwise.command import CHECKOUT
from slantwise.errors import ConfigurationError, TrackingError
from training.config import TrackingConfig
from training.lineage import LineageConfig, Past, data_facts, run_facts
from training.reproduce import Change, Origin, changes_since, difference, other_keys
from training.store import first_line

SMALL = ["evaluation.resamples=10", "shortcuts=false", "classifier.C=[1.0]", "classifier.char_ngrams=[0,0]"]


@dataclass(frozen=True)
class Registered:
    """A registered model whose run directory is gone; `predictions`: what it held."""

    server: TrackingServer
    run_id: str
    corpus: Path
    folder: Path
    predictions: bytes
    report: bytes

    @property
    def tracking(self) -> TrackingConfig:
        return TrackingConfig(uri=self.server.uri, artifacts=None)

    def command(
        self, *arguments: str, folder: Path | None = None, checkout: Path = CHECKOUT
    ) -> subprocess.CompletedProcess[str]:
        return slantwise(self.server, folder or self.folder, *arguments, checkout=checkout)


def slantwise(
    server: TrackingServer, folder: Path, *arguments: str, checkout: Path = CHECKOUT
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": server.uri}
    command = [sys.executable, "-m", "slantwise", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def registered(tracking_server: TrackingServer, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    from tests.conftest import tiny_article

    corpus = tmp_path_factory.mktemp("corpus") / "tiny.jsonl"
    corpus.write_text("".join(json.dumps(tiny_article(number)) + "\n" for number in range(72)))
    work = tmp_path_factory.mktemp("work")
    done = slantwise(tracking_server, work, "train", "task=topic", "corpus=file", f"corpus.path={corpus}",
                     "tracking=server", "run_dir=runs/mine", *SMALL)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_id = json.loads((work / "runs/mine/mlflow.json").read_text())["run_id"]
    kept = [(work / "runs/mine" / name).read_bytes() for name in ("predictions.parquet", "report.html")]
    shutil.rmtree(work)
    client = mlflow.MlflowClient(tracking_server.uri)
    (model_id,) = (output.model_id for output in client.get_run(run_id).outputs.model_outputs)
    client.create_registered_model("tiny-topic")
    client.create_model_version("tiny-topic", f"models:/{model_id}", run_id, model_id=model_id)
    client.set_registered_model_alias("tiny-topic", "champion", "1")
    client.create_registered_model("tiny-bare")  # registered by the logged model's id alone
    client.create_model_version("tiny-bare", f"models:/{model_id}", model_id=model_id)
    return Registered(tracking_server, run_id, corpus, tmp_path_factory.mktemp("elsewhere"), *kept)


def past(registered: Registered, model: str = "models:/tiny-topic@champion") -> Past:
    return Past(registered.tracking, model)


# --- lineage ---


def test_the_command_prints_the_configuration_of_the_champion(registered: Registered) -> None:
    done = registered.command("lineage", "model=models:/tiny-topic@champion", "show=config", "tracking=server")
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load(done.stdout)
    assert settings["classifier"]["C"] == [1.0]
    assert settings["corpus"]["path"] == str(registered.corpus)


def test_the_command_writes_the_report_where_it_is_asked_to(registered: Registered, tmp_path: Path) -> None:
    arguments = ["lineage", "model=models:/tiny-topic/1", "show=report", f"output={tmp_path}/champion.html"]
    done = registered.command(*arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "champion.html").read_bytes() == registered.report
    assert registered.command(*arguments).returncode == 2, "what is there is not written over"


@pytest.mark.parametrize(
    "model", ["models:/tiny-topic@champion", "models:/tiny-topic/1", "models:/tiny-bare/1", "runs:/{}/model", "{}"]
)
def test_each_name_of_a_model_leads_to_its_run(registered: Registered, model: str) -> None:
    assert past(registered, model.format(registered.run_id)).run_id == registered.run_id


def test_the_run_says_how_it_was_made_and_what_came_out(registered: Registered) -> None:
    facts = run_facts(past(registered))
    assert facts["model"]["aliases"] == ["champion"]
    assert facts["run"]["status"] == "FINISHED"
    assert facts["made"]["command"].startswith("slantwise train task=topic")
    assert "macro_f1" in facts["test"]["topic"]
    assert "report.html" in facts["files"]


def test_the_data_are_named_with_fingerprints_and_sources(registered: Registered) -> None:
    facts = data_facts(past(registered))
    assert len(facts["corpus_sha256"]) == 64
    assert sum(split["examples"] for split in facts["splits"].values()) == 72
    assert all(split["files"] == [str(registered.corpus)] for split in facts["splits"].values())


def test_a_model_that_names_no_run_is_refused_with_what_was_expected(registered: Registered) -> None:
    with pytest.raises(ConfigurationError, match="expected models:/<name>@<alias>"):
        past(registered, "tiny-topic")
    with pytest.raises(TrackingError, match=r"has no such thing: .*not found"):
        past(registered, "models:/tiny-topic/7")
    with pytest.raises(TrackingError, match="has no such thing: Registered model alias best not found"):
        past(registered, "models:/tiny-topic@best")
    with pytest.raises(ConfigurationError, match=r"^run=nope; expected "):
        Past(registered.tracking, "nope", key="run")
    with pytest.raises(ConfigurationError, match="show=all-of-it; expected one of run, data"):
        LineageConfig("models:/tiny-topic/1", show="all-of-it")


def test_a_long_message_of_mlflow_ends_at_a_word() -> None:
    assert first_line(ValueError(" one (line)\nanother")) == "one (line)"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(RestException({"error_code": "NOT_FOUND", "message": "no such run"})) == "no such run"
    assert first_line(ValueError("four " * 100)) == "four " * 59 + "four …"
    assert first_line(ValueError("a" * 400)) == "a" * 300 + " …"


def test_no_empty_store_is_made_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="there is no MLflow store"):
        Past(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db"), "0" * 32)
    assert not list(tmp_path.iterdir())


# --- after an upgrade of the project ---


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of a later release: another version, other code, one more key in the configuration and in figures."""
    checkout = tmp_path_factory.mktemp("upgraded")
    for name in ("slantwise", "data", "evaluation", "training", "configs"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in (
        ("slantwise/__init__.py", f'"{__version__}"', '"99.0.0"'),
        ("training/config.py", "class TrainConfig:\n", "class TrainConfig:\n    of_later: int = 3\n"),
        (
            "evaluation/intervals.py",
            "    reason: str | None\n",
            "    reason: str | None\n    of_later: int | None = None\n",
        ),
    ):
        text = (checkout / name).read_text(encoding="utf-8")
        assert old in text, f"{name} holds no {old!r}"
        (checkout / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    return checkout


@pytest.mark.parametrize("show", ["run", "config", "data", "report"])
def test_a_later_release_finds_what_an_earlier_one_made(
    registered: Registered, upgraded: Path, tmp_path: Path, show: str
) -> None:
    arguments = ["lineage", "model=models:/tiny-topic@champion", f"show={show}", "tracking=server", "output=found"]
    for folder, checkout in (("before", CHECKOUT), ("after", upgraded)):
        (tmp_path / folder).mkdir()
        done = registered.command(*arguments, folder=tmp_path / folder, checkout=checkout)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "after/found").read_bytes() == (tmp_path / "before/found").read_bytes()


def test_a_later_release_says_what_has_changed_and_makes_the_run_again_if_asked_to(
    registered: Registered, upgraded: Path, tmp_path: Path
) -> None:
    arguments = ["train", "run=models:/tiny-topic@champion", "run_dir=again"]
    done = registered.command(*arguments, folder=tmp_path, checkout=upgraded)
    assert done.returncode == 2
    assert f"slantwise: {__version__} -> 99.0.0" in done.stderr
    assert "code (sha256): " in done.stderr
    done = registered.command(*arguments, "anyway=true", folder=tmp_path, checkout=upgraded)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again/predictions.parquet").read_bytes() == registered.predictions


# --- reproducing ---


def test_a_run_is_reproduced_bit_by_bit(registered: Registered, tmp_path: Path) -> None:
    done = registered.command("train", "run=models:/tiny-topic@champion", "run_dir=again", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"predictions on test are bit by bit those of run {registered.run_id}" in done.stderr
    assert (tmp_path / "again/predictions.parquet").read_bytes() == registered.predictions
    run_id = json.loads((tmp_path / "again/mlflow.json").read_text())["run_id"]
    tags = mlflow.MlflowClient(registered.server.uri).get_run(run_id).data.tags
    assert (tags["reproduces"], tags["reproduced_with_changes"]) == (registered.run_id, "none")


def test_a_changed_corpus_is_refused_with_the_difference_or_recorded(registered: Registered, tmp_path: Path) -> None:
    changed = tmp_path / "tiny.jsonl"
    changed.write_text("".join(registered.corpus.read_text().splitlines(keepends=True)[:-1]))
    arguments = ["train", f"run={registered.run_id}", "run_dir=again", f"corpus.path={changed}"]
    done = registered.command(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert "corpus (sha256): " in done.stderr
    assert "anyway=true" in done.stderr
    assert not (tmp_path / "again").exists()
    done = registered.command(*arguments, "anyway=true", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "again/run.json").read_text())
    assert record["tags"]["reproduced_with_changes"].startswith("corpus (sha256): ")
    assert not json.loads((tmp_path / "again/reproduction.json").read_text())["tasks"]["topic"]["identical"]


@pytest.mark.parametrize(
    ("tags", "change"),
    [
        ({"numpy": "1.0"}, "numpy: 1.0 -> "),
        ({"python": "3.1"}, "python: 3.1 -> "),
        ({"code_sha256": "12" * 32, "git_commit": "ab" * 20}, f"code (sha256): {'12' * 6} (commit {'ab' * 6}) -> "),
    ],
)
def test_a_changed_version_or_code_is_a_difference(tags: Mapping[str, str], change: str) -> None:
    from training.environment import code_fingerprint

    (found,) = changes_since({"code_sha256": code_fingerprint(), **tags})
    assert str(found).startswith(change)


def test_keys_that_would_change_what_a_run_was_made_with_are_named() -> None:
    kept = ["run=a=b", "anyway=true", "corpus.root=c", "tracking=server", "tracking.uri=u", "hydra.verbose=true", "-m"]
    assert other_keys(kept) == []
    assert other_keys(["run=a", "classifier.C=[3.0]", "+corpus=babe"]) == ["classifier.C", "corpus"]


def test_all_differences_are_told_at_once() -> None:
    origin = Origin("0" * 32, "a" * 64, [Change("numpy", "1.0", "2.0")], {}, anyway=False)
    with pytest.raises(ConfigurationError) as refused:
        origin.check("b" * 64)
    assert "corpus (sha256): aaaaaaaaaaaa -> bbbbbbbbbbbb" in str(refused.value)
    assert "numpy: 1.0 -> 2.0" in str(refused.value)
    replace(origin, anyway=True).check("b" * 64)


def test_the_least_difference_of_a_probability_is_one(registered: Registered, tmp_path: Path) -> None:
    (tmp_path / "old.parquet").write_bytes(registered.predictions)
    old = Predictions.read(tmp_path / "old.parquet")
    probabilities = old.probabilities.copy()
    probabilities[0, 0] += 1e-7
    assert difference(old, old)["identical"]
    assert not difference(old, replace(old, probabilities=probabilities))["identical"]
    assert not difference(old, replace(old, ids=[*old.ids[1:], "other"]))["same_examples"]
