"""Training runs: the run directory, MLflow, cross-validation, and that nothing leaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest

from data.config import CleaningConfig, CorpusConfig, LabelsConfig, SplitConfig, SplitKind
from evaluation.judge import EvaluationConfig
from evaluation.predictions import Predictions
from slantwise.command import CHECKOUT, Progress
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.model import load
from training import tracking
from training.config import TaskConfig, TrackingConfig, TrainConfig
from training.decisions import DecisionConfig
from training.linear import LinearConfig
from training.run import train

AWAY = TrackingConfig(enabled=False)
FAST = {"C": [1.0], "char_ngrams": [0, 0]}


def make_config(tmp_path: Path, path: Path, task: str = "topic", **changes: Any) -> TrainConfig:
    store = tmp_path / "mlruns"
    config = TrainConfig(
        task=TaskConfig(task),
        corpus=CorpusConfig(name="tiny", path=str(path)),
        cleaning=CleaningConfig(),
        split=SplitConfig(),
        classifier=LinearConfig(**FAST),
        decision=DecisionConfig(),
        evaluation=EvaluationConfig(resamples=50),
        tracking=TrackingConfig(True, f"sqlite:///{store}/mlflow.db", str(store / "artifacts")),
        name=f"test-{task}",
        run_dir=str(tmp_path / "run"),
    )
    return replace(config, **changes)


def run(config: TrainConfig) -> Any:
    return train(config, "name: test\n", Progress(quiet=True))


@pytest.mark.parametrize("task", ["topic", "framing", "stance"])
def test_a_run_directory_holds_everything_about_the_run(tmp_path: Path, tiny_path: Path, task: str) -> None:
    result = run(make_config(tmp_path, tiny_path, task, tracking=TrackingConfig(enabled=False)))
    expected = {
        "config.yaml", "run.json", "split.parquet", "predictions.parquet", "validation.parquet", "metrics.json",
        "validation_metrics.json", "report.html", "report.json", "plots", "quarantine.jsonl", "model", "log.txt",
        "history.jsonl",
    }  # fmt: skip
    # code.diff is there where the checkout differs from its commit
    assert {path.name for path in result.directory.iterdir()} - {"code.diff"} == expected
    assert load(result.directory).heads[task].provenance["corpus"] == "tiny"
    assert "test, n =" in (result.directory / "log.txt").read_text()


def test_the_three_splits_share_no_article(tmp_path: Path, tiny_path: Path) -> None:
    result = run(make_config(tmp_path, tiny_path, tracking=TrackingConfig(enabled=False)))
    split = pq.read_table(result.directory / "split.parquet").to_pydict()
    by_id = dict(zip(split["id"], split["split"], strict=True))
    assert len(by_id) == 72
    assert {by_id[i] for i in Predictions.read(result.directory / "predictions.parquet").ids} == {"test"}
    assert {by_id[i] for i in Predictions.read(result.directory / "validation.parquet").ids} == {"validation"}


def test_the_saved_model_gives_the_predictions_of_the_run(tmp_path: Path, tiny_path: Path) -> None:
    result = run(make_config(tmp_path, tiny_path, "stance", tracking=TrackingConfig(enabled=False)))
    saved = Predictions.read(result.directory / "predictions.parquet")
    from slantwise.article import Example

    head = load(result.directory).heads["stance"]
    again = head.predict([Example(text, target) for text, target in zip(saved.texts, saved.targets, strict=True)])
    np.testing.assert_allclose(again, saved.probabilities, atol=1e-6)


def test_the_same_run_twice_gives_the_same_predictions(tmp_path: Path, tiny_path: Path) -> None:
    config = make_config(tmp_path, tiny_path, tracking=TrackingConfig(enabled=False))
    first, second = (run(replace(config, run_dir=str(tmp_path / name))) for name in ("first", "second"))
    one, two = (Predictions.read(r.directory / "predictions.parquet") for r in (first, second))
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


def test_a_run_in_mlflow_has_parameters_metrics_data_artifacts_and_a_model(tmp_path: Path, tiny_path: Path) -> None:
    config = make_config(tmp_path, tiny_path)
    result = run(config)
    mlflow.set_tracking_uri(config.tracking.uri)
    known = mlflow.get_run(result.mlflow_run)
    assert known.info.status == "FINISHED"
    assert known.data.params["split"] == "stratified"
    assert known.data.params["classifier.C"] == "[1.0]"
    value, low = (known.data.metrics[f"test_log_loss{ending}"] for ending in ("", "_low"))
    assert value == pytest.approx(result.only.metrics["log_loss"].value)
    assert low == pytest.approx(result.only.metrics["log_loss"].low)
    assert {i.tags[0].value for i in known.inputs.dataset_inputs} == {"train", "validation", "test"}
    assert known.data.tags["corpus_sha256"] == load(result.directory).heads["topic"].provenance["corpus_sha256"]
    names = {f.path for f in mlflow.artifacts.list_artifacts(run_id=result.mlflow_run)}
    assert {"config.yaml", "report.html", "predictions.parquet", "plots"} <= names
    model = mlflow.pyfunc.load_model(f"runs:/{result.mlflow_run}/model")
    assert model.metadata.signature.inputs.input_names() == ["id", "text", "title", "source", "targets"]


def test_a_store_that_is_away_costs_a_warning_and_the_run_can_be_published_later(
    tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = TrackingConfig(uri="http://127.0.0.1:9")
    progress = Progress(quiet=True)
    result = train(make_config(tmp_path, tiny_path, tracking=away), "name: test\n", progress)
    assert result.mlflow_run is None
    assert "slantwise publish run_dir=" in progress.console.export_text()
    here = TrackingConfig(uri=f"sqlite:///{tmp_path}/later/mlflow.db", artifacts=str(tmp_path / "later/artifacts"))
    run_id = tracking.publish(result.directory, here)
    found = mlflow.MlflowClient(here.uri).get_run(run_id)
    assert found.data.metrics["test_macro_f1"] == pytest.approx(result.only.metrics["macro_f1"].value)
    assert tracking.publish(result.directory, here) == run_id


def test_cross_validation_judges_every_article_once_and_exports_a_model_of_all(tmp_path: Path, tiny_path: Path) -> None:
    split = SplitConfig(kind=SplitKind.kfold, folds=3)
    result = run(make_config(tmp_path, tiny_path, split=split, tracking=TrackingConfig(enabled=False)))
    predictions = Predictions.read(result.directory / "predictions.parquet")
    assert sorted(predictions.ids) == sorted(f"a{i:03}" for i in range(72))
    assert len(json.loads((result.directory / "run.json").read_text())["tasks"]["topic"]["folds"]) == 3
    assert load(result.directory).heads["topic"].provenance["split"]["kind"] == "kfold"


def test_labels_shuffled_in_train_give_chance_level_test_scores(tmp_path: Path) -> None:
    sample = CHECKOUT / "data" / "sample" / "articles.jsonl"
    config = make_config(tmp_path, sample, tracking=TrackingConfig(enabled=False))
    config = replace(config, classifier=LinearConfig(C=[1.0], char_ngrams=[0, 0]), evaluation=EvaluationConfig(300))
    honest = run(replace(config, run_dir=str(tmp_path / "honest")))
    shuffled = run(replace(config, shuffle_train_labels=True))
    assert honest.only.metrics["accuracy"].low > 0.45
    assert shuffled.only.metrics["accuracy"].value < 0.2  # 17 topics, the largest 9 %
    assert shuffled.only.metrics["mcc"].low < 0.05


def test_what_validation_chose_and_how_much_there_was_are_parameters(tmp_path: Path, tiny_path: Path) -> None:
    result = run(make_config(tmp_path, tiny_path, tracking=AWAY))
    parameters = json.loads((result.directory / "run.json").read_text())["parameters"]
    assert parameters["chosen.C"] == "1.0"
    assert parameters["n_train"] + parameters["n_validation"] + parameters["n_test"] == 72


def test_a_test_split_of_a_few_examples_is_warned_of_where_its_figures_are_read(
    tmp_path: Path, tiny_path: Path
) -> None:
    result = run(make_config(tmp_path, tiny_path, tracking=AWAY))
    assert "the test split has" in (result.directory / "report.html").read_text()


def test_train_with_one_label_is_refused(tmp_path: Path, tiny_rows: list[Any], write_jsonl: Any) -> None:
    path = write_jsonl([{**row, "topic": "health"} for row in tiny_rows], "one.jsonl")
    with pytest.raises(CorpusError, match="one label"):
        run(make_config(tmp_path, path, tracking=AWAY))
    assert not (tmp_path / "run").exists()


def test_credentials_in_a_tracking_uri_reach_no_file_of_the_run(
    tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://bob:hunter2@127.0.0.1:9"
    monkeypatch.setattr("sys.argv", ["slantwise train", f"tracking.uri={uri}"])
    config = make_config(tmp_path, tiny_path, tracking=TrackingConfig(uri=uri))
    directory = train(config, tracking.redact(f"uri: {uri}\n"), Progress(quiet=True)).directory
    assert not [p for p in directory.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()]


def test_a_used_run_directory_is_refused_and_left_as_it_was(tmp_path: Path, tiny_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigurationError, match="exists"):
        run(make_config(tmp_path, tiny_path))
    assert not list((tmp_path / "run").iterdir())


def test_a_corpus_without_labels_for_the_task_leaves_nothing_behind(tmp_path: Path, tiny_path: Path) -> None:
    corpus = CorpusConfig(name="tiny", path=str(tiny_path), topic=LabelsConfig(columns=["topic"]))
    with pytest.raises(CorpusError, match="no labels for task stance"):
        run(make_config(tmp_path, tiny_path, "stance", corpus=corpus))
    assert not (tmp_path / "run").exists()
