"""Tasks that are trained together are split together: what one tests on, none learns from."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import CleaningConfig, CorpusConfig, SplitConfig, SplitKind
from data.corpus import Corpus, load_corpus
from data.joint import split_corpora, split_corpora_without_test
from data.prepare import CleanCorpus, clean_corpus, fit_cleaner, split_corpus
from evaluation import evaluate
from evaluation.evaluate import split_rows
from evaluation.predictions import Predictions
from slantwise.model import load
from tests.training.test_run import make_config, run
from training.config import TrackingConfig

AWAY = TrackingConfig(enabled=False)
TASKS = ("topic", "framing", "stance")
COLUMNS = {"topic": "topic", "framing": "frames", "stance": "stances"}


def cleans(corpus: Corpus) -> list[CleanCorpus]:
    cleaner = fit_cleaner(corpus, CleaningConfig())
    return [clean_corpus(corpus, corpus.task(name), cleaner) for name in TASKS if name in corpus.tasks]


def partly(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every article keeps one or two of its labels, some all: the tasks overlap in part."""
    kept = [set(names) for size in (1, 2, 3) for names in combinations(TASKS, size)]
    return [
        {**row, **{COLUMNS[name]: None for name in TASKS if name not in kept[number % len(kept)]}}
        for number, row in enumerate(rows)
    ]


@pytest.fixture
def overlapping(tiny_rows: list[dict[str, Any]], write_jsonl: Any) -> Path:
    return Path(write_jsonl(partly(tiny_rows), "partly.jsonl"))


@pytest.fixture
def parts(overlapping: Path) -> list[CleanCorpus]:
    return cleans(load_corpus(CorpusConfig(name="partly", path=str(overlapping))))


def sides(parts: list[CleanCorpus], splits: Any, fold: int = 0) -> dict[str, set[str]]:
    """By the article's id, the sides it is on in the tasks that label it."""
    found: dict[str, set[str]] = {}
    for part, (own, _) in zip(parts, splits, strict=True):
        for id_, side in zip(part.column("id"), own[fold].assignment, strict=True):
            found.setdefault(id_, set()).add(side)
    return found


@pytest.mark.parametrize("kind", [SplitKind.stratified, SplitKind.temporal, SplitKind.kfold])
def test_an_article_is_on_the_same_side_in_all_tasks_and_folds(parts: list[CleanCorpus], kind: SplitKind) -> None:
    splits = split_corpora(parts, SplitConfig(kind=kind, folds=3))
    for fold in range(len(splits[0][0])):
        found = sides(parts, splits, fold)
        assert len(found) == 72
        assert {len(side) for side in found.values()} == {1}


@pytest.mark.parametrize("kind", [SplitKind.row_holdout, SplitKind.row_kfold])
def test_rows_are_split_together_too(parts: list[CleanCorpus], kind: SplitKind) -> None:
    pair = [parts[0], parts[2]]  # each of their articles has a label to stratify by
    splits = split_corpora(pair, SplitConfig(kind=kind, folds=3))
    for fold in range(len(splits[0][0])):
        assert {len(side) for side in sides(pair, splits, fold).values()} == {1}


def test_split_apart_an_article_could_be_in_train_of_one_task_and_test_of_another(parts: list[CleanCorpus]) -> None:
    """What the joint split is for."""
    apart = [split_corpus(part, SplitConfig()) for part in parts]
    assert {"train", "test"} in sides(parts, apart).values()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 99), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_no_article_of_train_is_tested_on_whatever_the_seed_and_shares(
    parts: list[CleanCorpus], seed: int, test: float, validation: float
) -> None:
    splits = split_corpora(parts, SplitConfig(test=test, validation=validation, seed=seed))
    assert {len(side) for side in sides(parts, splits).values()} == {1}


def test_near_duplicates_of_different_tasks_are_on_one_side(tiny_rows: list[dict[str, Any]], write_jsonl: Any) -> None:
    rows = tiny_rows[:40]
    copies = [{**row, "id": f"copy-{row['id']}", "topic": None, "frames": None} for row in rows]
    originals = [{**row, "stances": None} for row in rows]
    corpus = load_corpus(CorpusConfig(name="copies", path=str(write_jsonl(originals + copies))))
    parts = cleans(corpus)
    found = sides(parts, split_corpora(parts, SplitConfig()))
    assert all(found[row["id"]] == found[f"copy-{row['id']}"] for row in rows)


def test_one_task_is_split_as_ever(tiny_corpus: Corpus) -> None:
    part = cleans(tiny_corpus)[0]
    ((splits, clusters),) = split_corpora([part], SplitConfig())
    expected, expected_clusters = split_corpus(part, SplitConfig())
    assert splits == expected
    np.testing.assert_array_equal(clusters, expected_clusters)


def test_each_task_has_labels_on_all_sides(parts: list[CleanCorpus]) -> None:
    for part, ((split,), _) in zip(parts, split_corpora(parts, SplitConfig()), strict=True):
        for side in ("train", "validation", "test"):
            gold = part.examples(split.rows(side)).gold
            assert len(np.unique(gold, axis=0)) >= 2, (part.task.name, side)


def test_every_articles_cluster_is_the_number_of_an_article_of_its_task(parts: list[CleanCorpus]) -> None:
    for part, (_, clusters) in zip(parts, split_corpora(parts, SplitConfig()), strict=True):
        assert len(clusters) == len(part)
        assert all(clusters[number] == number for number in set(clusters.tolist()))
        assert all(number <= place for place, number in enumerate(clusters.tolist()))


def test_units_are_those_of_the_tasks_own_articles(parts: list[CleanCorpus]) -> None:
    units: dict[str, set[int]] = {}
    for part, ((split,), _) in zip(parts, split_corpora(parts, SplitConfig()), strict=True):
        assert len(split.units) == len(part)
        for id_, unit in zip(part.column("id"), split.units, strict=True):
            units.setdefault(id_, set()).add(unit)
    assert {len(of_article) for of_article in units.values()} == {1}


def test_the_split_of_the_exported_model_has_no_test_and_is_alike_in_all_tasks(parts: list[CleanCorpus]) -> None:
    splits = split_corpora_without_test(parts, SplitConfig(kind=SplitKind.kfold))
    found = sides(parts, [([split], None) for split in splits])
    assert {next(iter(side)) for side in found.values()} == {"train", "validation"}
    assert {len(side) for side in found.values()} == {1}


def test_the_order_of_the_rows_does_not_matter(overlapping: Path, parts: list[CleanCorpus], write_jsonl: Any) -> None:
    rows = [json.loads(line) for line in overlapping.read_text().splitlines()]
    turned = cleans(load_corpus(CorpusConfig(name="turned", path=str(write_jsonl(rows[::-1], "turned.jsonl")))))
    assert sides(turned, split_corpora(turned, SplitConfig())) == sides(parts, split_corpora(parts, SplitConfig()))


def test_a_given_split_stays_as_it_is_given(tiny_rows: list[dict[str, Any]], write_jsonl: Any) -> None:
    given = [{**row, "split": "test" if n % 4 == 0 else "train"} for n, row in enumerate(partly(tiny_rows))]
    parts = cleans(load_corpus(CorpusConfig(name="given", path=str(write_jsonl(given)))))
    found = sides(parts, split_corpora(parts, SplitConfig(kind=SplitKind.given)))
    assert {id_ for id_, side in found.items() if side == {"test"}} == {row["id"] for row in given[::4]}
    assert {len(side) for side in found.values()} == {1}


# --- runs of several tasks ---


@pytest.fixture
def trained(tmp_path: Path, overlapping: Path) -> Path:
    config = make_config(tmp_path, overlapping, tracking=AWAY, shortcuts=False)
    return Path(run(replace(config, tasks=list(TASKS))).directory)


def written(trained: Path) -> dict[str, dict[str, str]]:
    tables = {name: pq.read_table(trained / name / "split.parquet").to_pydict() for name in TASKS}
    return {name: dict(zip(table["id"], table["split"], strict=True)) for name, table in tables.items()}


def test_a_run_of_several_tasks_trains_none_on_what_another_is_tested_on(trained: Path) -> None:
    splits = written(trained)
    learned, tested = (
        {id_ for split in splits.values() for id_, own in split.items() if own == side} for side in ("train", "test")
    )
    assert tested
    assert not learned & tested
    for name in TASKS:
        assert set(Predictions.read(trained / name / "predictions.parquet").ids) <= tested


def test_evaluation_judges_the_joint_split_and_no_training_article_of_any_task(
    trained: Path, overlapping: Path
) -> None:
    corpus = load_corpus(CorpusConfig(name="partly", path=str(overlapping)))
    splits = written(trained)
    learned = {id_ for split in splits.values() for id_, side in split.items() if side == "train"}
    for name, head in load(trained).heads.items():
        clean = clean_corpus(corpus, head.task, head.cleaner)
        for side in ("train", "validation", "test"):
            judged = {clean.column("id")[row] for row in split_rows(clean, corpus, head, side)}
            assert judged == {id_ for id_, own in splits[name].items() if own == side}
            assert side == "train" or not judged & learned


def test_the_validation_that_was_carved_out_of_a_given_split_is_the_joint_one(
    tmp_path: Path, tiny_rows: list[dict[str, Any]], write_jsonl: Any
) -> None:
    given = [{**row, "split": "test" if n % 4 == 0 else "train"} for n, row in enumerate(partly(tiny_rows))]
    path = Path(write_jsonl(given, "given.jsonl"))
    config = make_config(
        tmp_path, path, tracking=AWAY, shortcuts=False, split=SplitConfig(kind=SplitKind.given), tasks=list(TASKS)
    )
    directory, corpus = run(config).directory, load_corpus(CorpusConfig(name="tiny", path=str(path)))
    splits = written(directory)
    for name, head in load(directory).heads.items():
        clean = clean_corpus(corpus, head.task, head.cleaner)
        judged = {clean.column("id")[row] for row in split_rows(clean, corpus, head, "validation")}
        assert judged == {id_ for id_, own in splits[name].items() if own == "validation"}


def test_the_evaluate_command_repeats_the_figures_of_every_task(
    trained: Path, overlapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GlobalHydra.instance().clear()
    output = tmp_path / "judged"
    arguments = [f"model={trained}", "corpus=file", f"corpus.path={overlapping}", "split=test", f"output={output}"]
    monkeypatch.setattr(sys, "argv", ["slantwise evaluate", *arguments, "evaluation.resamples=20"])
    evaluate.main()
    for name in TASKS:
        then, now = (Predictions.read(folder / name / "predictions.parquet") for folder in (trained, output))
        assert now.ids == then.ids
        np.testing.assert_allclose(now.probabilities, then.probabilities, atol=1e-6)
