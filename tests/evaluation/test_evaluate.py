"""`slantwise evaluate` judges a model on the articles that it did not learn from, and says so where it cannot."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from data.config import CleaningConfig, CorpusConfig, SplitConfig, SplitKind, TaskConfig
from data.corpus import load_corpus
from data.prepare import clean_corpus
from evaluation import evaluate
from evaluation.audit import AuditConfig, audit_corpus
from evaluation.evaluate import split_rows
from evaluation.intervals import INTERVALS
from evaluation.intervals import evaluate as metrics_with_intervals
from evaluation.judge import EvaluationConfig, constant, headline_metrics
from evaluation.predictions import Predictions
from slantwise.command import Progress
from slantwise.errors import CorpusError
from slantwise.model import load
from slantwise.task import Task
from tests.conftest import WriteJsonl
from tests.training.test_run import TrackingConfig, make_config, run

AWAY = TrackingConfig(enabled=False)


@pytest.fixture
def trained(tmp_path: Path, tiny_path: Path) -> Path:
    return Path(run(make_config(tmp_path, tiny_path, tracking=AWAY)).directory)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["slantwise evaluate", *arguments])
    try:
        evaluate.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_evaluating_on_the_training_corpus_repeats_the_figures_of_the_run(
    trained: Path, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "judged"
    assert (
        command(
            monkeypatch, f"model={trained}", "corpus=file", f"corpus.path={tiny_path}", "split=test", f"output={output}"
        )
        == 0
    )
    then, now = (json.loads((folder / "metrics.json").read_text())["macro_f1"]["value"] for folder in (trained, output))
    assert now == pytest.approx(then)
    assert Predictions.read(output / "predictions.parquet").ids == Predictions.read(trained / "predictions.parquet").ids
    assert (output / "report.html").exists()


def test_another_corpus_without_a_split_is_refused_instead_of_guessing_what_was_unseen(
    trained: Path, tiny_rows: list[dict[str, object]], write_jsonl: object, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    other = write_jsonl(tiny_rows[:40], "other.jsonl")  # type: ignore[operator]
    output = tmp_path / "judged"
    assert command(monkeypatch, f"model={trained}", "corpus=file", f"corpus.path={other}", f"output={output}") == 2
    assert "use split=all" in capsys.readouterr().err
    assert not output.exists()


def test_figures_on_training_articles_carry_a_warning(
    trained: Path, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "judged"
    command(
        monkeypatch, f"model={trained}", "corpus=file", f"corpus.path={tiny_path}", "split=train", f"output={output}"
    )
    assert "no estimate of its quality" in (output / "report.html").read_text()
    assert "no estimate of its quality" in capsys.readouterr().err


def test_a_run_and_an_audit_have_the_interval_that_was_asked_for_wherever_they_judge(
    tmp_path: Path, tiny_path: Path
) -> None:
    found: dict[str, list[Any]] = {}
    for interval in INTERVALS:
        sure = EvaluationConfig(resamples=60, seed=3, interval=interval)
        config = make_config(tmp_path, tiny_path, "stance", tracking=AWAY, evaluation=sure)
        folder = run(replace(config, run_dir=str(tmp_path / interval))).directory
        report, record, metrics = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("report.json", "run.json", "validation_metrics.json")
        )
        validation = Predictions.read(folder / "validation.parquet")
        expected = metrics_with_intervals(validation, list(metrics), 60, 3, interval=interval)
        assert metrics == {name: vars(each) for name, each in expected.items()}
        assert report["shortcuts"]["model"] == report["metrics"][report["shortcuts"]["metric"]]
        audit = AuditConfig(config.corpus, CleaningConfig(), task=TaskConfig("stance"), evaluation=sure, output="")
        figures, _ = audit_corpus(audit, Progress(quiet=True), prefer_given=False)
        shuffled = record["tasks"]["stance"]["shuffled_targets"]
        found[interval] = [shuffled, figures["probes"][0]["estimate"], figures["held_out"][0]["estimate"]]
    for one, other in zip(*found.values(), strict=True):
        assert one["value"] == other["value"]
        assert (one["low"], one["high"]) != (other["low"], other["high"])


def judged(monkeypatch: pytest.MonkeyPatch, model: Path, corpus: Path, *arguments: str) -> dict[str, Any]:
    """The slices of a report."""
    output = corpus.parent / f"judged-{len(list(corpus.parent.iterdir()))}"
    told = ("corpus=file", f"corpus.path={corpus}", f"output={output}", "evaluation.resamples=50")
    assert command(monkeypatch, f"model={model}", *told, *arguments) == 0
    found: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))["slices"]
    return found


def test_a_column_that_is_named_becomes_a_slice_in_train_and_evaluate(
    tiny_rows: list[dict[str, Any]], write_jsonl: WriteJsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl([{**row, "section": ["home", "world"][i % 2]} for i, row in enumerate(tiny_rows)])
    sure = EvaluationConfig(resamples=50, slices=["section"])
    model = Path(run(make_config(tmp_path, path, tracking=AWAY, evaluation=sure)).directory)
    then = json.loads((model / "report.json").read_text(encoding="utf-8"))["slices"]
    assert {each["value"] for each in then["small"] if each["column"] == "section"} == {"home", "world"}
    assert judged(monkeypatch, model, path, "evaluation.slices=[section]") == then
    without = judged(monkeypatch, model, path)
    assert "section" not in {each["column"] for each in without["small"]}


def test_what_training_has_seen_is_told_of_its_own_test_split_and_said_to_be_unknown_elsewhere(
    trained: Path, tiny_path: Path, tiny_rows: list[dict[str, Any]], write_jsonl: WriteJsonl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    then = json.loads((trained / "report.json").read_text(encoding="utf-8"))["slices"]
    assert then["skipped"]["near-duplicate in training"] == "all examples are of one: no"
    own = judged(monkeypatch, trained, tiny_path, "split=test", "evaluation.resamples=1000")
    assert own == then
    learned = judged(monkeypatch, trained, tiny_path, "split=train")["skipped"]
    assert learned["source in training"] == "articles of split train are what the model was trained on"
    other = write_jsonl([{**row, "split": "test"} for row in tiny_rows[:60]], "other.jsonl")
    elsewhere = judged(monkeypatch, trained, other, "corpus.name=later")["skipped"]
    for column in ("near-duplicate in training", "source in training"):
        assert elsewhere[column].startswith("the model was trained on another corpus than later as it is now")


def test_a_cross_validated_model_has_no_unseen_articles_in_its_corpus(tmp_path: Path, tiny_path: Path) -> None:
    config = make_config(tmp_path, tiny_path, tracking=AWAY)
    directory = run(replace(config, split=SplitConfig(kind=SplitKind.kfold, folds=3))).directory
    head = load(directory).heads["topic"]
    corpus = load_corpus(CorpusConfig(name="tiny", path=str(tiny_path)))
    with pytest.raises(CorpusError, match="no article is unseen"):
        split_rows(clean_corpus(corpus, head.task, head.cleaner), corpus, head, "test")


def test_a_given_test_split_of_another_corpus_is_used(
    trained: Path, tiny_rows: list[dict[str, object]], write_jsonl: object
) -> None:
    rows = [{**row, "split": "test" if i % 4 == 0 else "train"} for i, row in enumerate(tiny_rows)]
    corpus = load_corpus(CorpusConfig(name="given", path=str(write_jsonl(rows, "given.jsonl"))))  # type: ignore[operator]
    head = load(trained).heads["topic"]
    chosen = split_rows(clean_corpus(corpus, head.task, head.cleaner), corpus, head, "test")
    assert chosen == list(range(0, 72, 4))


def test_official_metrics_come_first_in_the_headline() -> None:
    task = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
    assert headline_metrics(task, ["semeval2016_favg"])[:2] == ["semeval2016_favg", "macro_f1"]


def test_the_baseline_answers_the_most_frequent_training_label_with_its_share() -> None:
    task = Task("topic", "multiclass", ("health", "sport"))
    n = 3
    predictions = Predictions(
        task, "test", ["a", "b", "c"], [""] * n, np.array([0, 1, 1]), np.full((n, 2), 0.5, np.float32),
        np.array([0, 0, 0]), ["a", "b", "c"], [None] * n, [None] * n,
    )  # fmt: skip
    baseline = constant(predictions, {"health": 0.7, "sport": 0.3})
    assert baseline.predicted.tolist() == [0, 0, 0]
    np.testing.assert_allclose(baseline.probabilities, [[0.7, 0.3]] * n)
