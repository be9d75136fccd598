"""One run of several tasks by one encoder, from the command to scores: heads, splits, reports, MLflow."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest

from evaluation.predictions import Predictions
from slantwise.article import Article
from slantwise.body import Body
from slantwise.command import CHECKOUT
from slantwise.model import Model, load
from tests.conftest import tiny_article

TASKS = ("topic", "framing", "stance")


def slantwise(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    environment.pop("MLFLOW_TRACKING_URI", None)  # what an earlier test has left there
    done = subprocess.run(
        [sys.executable, "-m", "slantwise", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """Holds `run`, made by one command of a corpus whose articles are labelled for some of the tasks or for all."""
    folder = tmp_path_factory.mktemp("several")
    rows = [tiny_article(number) for number in range(96)]
    for number, row in enumerate(rows):
        if number % 4 == 1:
            del row["stances"]
        if number % 4 == 2:
            del row["frames"], row["topic"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    slantwise(
        folder, "train", "task=[topic,framing,stance]", "corpus=file", "corpus.path=rows.jsonl",
        "classifier=transformer", f"classifier.encoder={tiny_encoder}", "classifier.max_tokens=64",
        "classifier.overlap=8", "classifier.learning_rate=0.01", "classifier.epochs=6", "classifier.patience=0",
        "classifier.device=cpu", "classifier.threads=1", "evaluation.resamples=10", "shortcuts=false", "run_dir=run",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder / "run")


def test_the_tasks_share_one_encoder_on_disk_and_in_memory(folder: Path, model: Model) -> None:
    assert list(model.heads) == list(TASKS)
    assert [path.name for path in (folder / "run" / "model" / "bodies").iterdir()] == ["1"]
    assert len({id(head.body) for head in model.heads.values()}) == 1


def test_the_model_card_names_the_encoder_and_what_it_does_not_read(folder: Path, tiny_encoder: Path) -> None:
    card = (folder / "run" / "model" / "README.md").read_text()
    assert card.count(f"Encoder: {tiny_encoder} (sha256 `") == len(TASKS)
    assert card.count("reads up to 8 windows of 64 tokens, mean of them. Of the training examples") == len(TASKS)


def test_each_task_is_learned_beside_the_others(folder: Path) -> None:
    scores = {task: json.loads((folder / "run" / task / "metrics.json").read_text()) for task in TASKS}
    assert scores["topic"]["accuracy"]["value"] > 0.8
    assert scores["framing"]["micro_f1"]["value"] > 0.6


def test_no_article_is_trained_on_in_one_task_and_tested_on_in_another(folder: Path) -> None:
    assigned: dict[str, set[str]] = {}
    for task in TASKS:
        table = pq.read_table(folder / "run" / task / "split.parquet").to_pydict()
        for id_, split in zip(table["id"], table["split"], strict=True):
            assigned.setdefault(id_, set()).add(split)
    assert len(assigned) == 96
    assert all(len(splits) == 1 for splits in assigned.values())


def test_an_article_without_a_label_is_judged_in_its_other_tasks_alone(folder: Path) -> None:
    ids = {task: set(pq.read_table(folder / "run" / task / "split.parquet")["id"].to_pylist()) for task in TASKS}
    without_stance = {f"a{number:03}" for number in range(96) if number % 4 == 1}
    without_others = {f"a{number:03}" for number in range(96) if number % 4 == 2}
    assert not ids["stance"] & without_stance
    assert not (ids["topic"] | ids["framing"]) & without_others
    assert without_stance <= ids["topic"]
    assert without_others <= ids["stance"]


def test_an_article_is_encoded_once_for_the_tasks_that_have_no_target(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    original = Body.represent

    def counted(self: Body, examples: Sequence[object]) -> object:
        passes.append(len(examples))
        return original(self, examples)  # type: ignore[arg-type]

    monkeypatch.setattr(Body, "represent", counted)
    row = tiny_article(3)
    (scores,) = model.predict([Article(id="a", text=row["text"])], [["City Mayor", "Harbour Plan"]])
    assert passes == [1, 2]  # topic and framing together; stance towards two targets
    assert [entry["target"] for entry in scores["stance"]] == ["City Mayor", "Harbour Plan"]
    assert set(scores) >= set(TASKS)


def test_evaluate_gives_the_predictions_of_the_run(folder: Path) -> None:
    slantwise(
        folder, "evaluate", "model=run", "corpus=file", "corpus.path=rows.jsonl", "task=stance", "split=test",
        "output=judged", "evaluation.resamples=10",
    )  # fmt: skip
    trained = Predictions.read(folder / "run" / "stance" / "predictions.parquet")
    judged = Predictions.read(folder / "judged" / "predictions.parquet")
    assert list(judged.ids) == list(trained.ids)
    np.testing.assert_allclose(judged.probabilities, trained.probabilities, atol=1e-5)


def test_the_run_in_mlflow_names_the_task_of_each_metric(folder: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlruns/mlflow.db")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {"topic_test_macro_f1", "framing_test_micro_f1", "stance_test_macro_f1"} <= set(run.data.metrics)
    assert run.data.tags["task"] == "topic,framing,stance"


def test_the_run_in_mlflow_knows_the_weights_and_what_was_cut_and_padded(folder: Path, tiny_encoder: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlruns/mlflow.db")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    weights = hashlib.sha256((tiny_encoder / "model.safetensors").read_bytes()).hexdigest()
    assert run.data.params["chosen.sha256"] == weights
    facts = ("padding_share", "validation_padding_share", "cut_articles", "cut_tokens", "fit_seconds")
    chosen = json.loads((folder / "run" / "run.json").read_text())["chosen"]
    assert {name: run.data.metrics[name] for name in facts} == {name: chosen[name] for name in facts}
    assert 0 < chosen["padding_share"] < 0.5
