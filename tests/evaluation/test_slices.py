"""Slices: found by what was planted, judged against the rest as scikit-learn would, quiet where there is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import f1_score

from data.config import CleaningConfig, CorpusConfig, SplitConfig
from data.corpus import load_corpus
from data.prepare import clean_corpus, fit_cleaner, split_corpus
from data.splitting import Split
from evaluation.judge import EvaluationConfig
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.report import LEAST_EXAMPLES
from evaluation.slices import NONE_GIVEN, Slice, find_slices, in_words, periods, seen_in_training
from slantwise.errors import ConfigurationError
from slantwise.task import Task
from tests.conftest import Row, WriteJsonl

TOPIC = Task("topic", "multiclass", ("health", "sport", "weather"))
FRAMING = Task("framing", "multilabel", ("economic", "political", "morality"))
Flags = npt.NDArray[np.bool_]


def predictions(
    wrong: Flags,
    task: Task = TOPIC,
    seed: int = 0,
    sources: Sequence[str | None] | None = None,
    groups: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[str | None]] | None = None,
) -> Predictions:
    """Random gold labels; answers are right but where `wrong`, (n,)."""
    rng, n = np.random.default_rng(seed), len(wrong)
    ids = [f"a{i}" for i in range(n)]
    gold: npt.NDArray[np.int64] | Flags
    predicted: npt.NDArray[np.int64] | Flags
    if task.kind == "multiclass":
        gold = rng.integers(3, size=n)
        predicted = np.where(wrong, (gold + 1) % 3, gold)
    else:
        gold = rng.random((n, 3)) < 0.4
        predicted = gold ^ wrong[:, None]
    probabilities = np.full((n, 3), 1 / 3, dtype=np.float32)
    return Predictions(
        task, "test", ids, ["some words here"] * n, gold, probabilities, predicted, groups or ids, [None] * n,
        sources or [None] * n, columns or {},
    )  # fmt: skip


def planted(task: Task = TOPIC, n: int = 600) -> Predictions:
    """One in ten answers is wrong, but every second one of the source "far.example"."""
    rng = np.random.default_rng(7)
    sources = [["near.example", "mid.example", "far.example"][i % 3] for i in range(n)]
    far = np.array([source == "far.example" for source in sources])
    return predictions(rng.random(n) < np.where(far, 0.5, 0.1), task, sources=sources)


def by_value(found: Sequence[Slice], column: str) -> dict[str, Slice]:
    return {each.value: each for each in found if each.column == column}


@pytest.mark.parametrize(("task", "metric"), [(TOPIC, "macro_f1"), (TOPIC, "accuracy"), (FRAMING, "micro_f1")])
def test_a_planted_slice_is_found_and_stands_first(task: Task, metric: str) -> None:
    found = find_slices(planted(task), metric, resamples=200)
    assert (found.slices[0].column, found.slices[0].value, found.slices[0].worse) == ("source", "far.example", True)
    assert [each.value for each in found.worst()] == ["far.example"]
    gap = found.slices[0].gap
    assert gap.value is not None
    assert gap.high is not None
    assert gap.value < gap.high < 0


@pytest.mark.parametrize(("task", "metric"), [(TOPIC, "macro_f1"), (TOPIC, "mcc"), (FRAMING, "example_f1")])
def test_slice_and_rest_have_the_metric_of_their_examples_alone(task: Task, metric: str) -> None:
    everything = planted(task)
    far = np.array([source == "far.example" for source in everything.sources])
    inside, outside = (everything.select(np.flatnonzero(rows)) for rows in (far, ~far))
    each = by_value(find_slices(everything, metric, resamples=50).slices, "source")["far.example"]
    assert each.estimate.value == pytest.approx(compute(inside, [metric])[metric])
    assert each.rest == pytest.approx(compute(outside, [metric])[metric])
    assert each.gap.value == pytest.approx((each.estimate.value or 0) - (each.rest or 0))
    assert (each.n, each.groups) == (200, 200)


def test_a_label_is_judged_by_its_f1_against_the_mean_of_the_others() -> None:
    everything = planted()
    f1 = f1_score(everything.gold, everything.predicted, average=None)
    found = by_value(find_slices(everything, "macro_f1", resamples=50).slices, "label")
    for i, label in enumerate(TOPIC.labels):
        assert found[label].metric == "f1"
        assert found[label].estimate.value == pytest.approx(f1[i])
        assert found[label].rest == pytest.approx(np.delete(f1, i).mean())
        assert found[label].n == (everything.gold == i).sum()


def test_without_a_gap_false_alarms_are_as_rare_as_they_say() -> None:
    """Of 40 samples without any gap at most one in ten calls a slice different; one in twenty is expected at most."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sources = [f"s{i}" for i in rng.integers(12, size=300)]
        found = find_slices(predictions(rng.random(300) < 0.2, seed=seed, sources=sources), "accuracy", 100, seed)
        assert len(found.slices) > 12
        alarms += any(each.worse is not None for each in found.slices)
    assert alarms <= 4


def test_ten_right_answers_are_no_proof() -> None:
    """All resamples of such a slice agree, so the bootstrap alone would be certain that it is better."""
    rng = np.random.default_rng(0)
    wrong = rng.random(300) < 0.2
    wrong[:10] = False
    sources = ["lucky.example"] * 10 + ["rest.example"] * 290
    lucky = by_value(find_slices(predictions(wrong, sources=sources), "accuracy", 200).slices, "source")[
        "lucky.example"
    ]
    assert lucky.estimate.value == 1
    assert lucky.estimate.low is None
    assert lucky.gap.low is None
    assert lucky.p is not None
    assert lucky.p > 0.05


def test_examples_of_one_group_are_not_taken_for_many() -> None:
    """The same answers, each alone or in groups of thirty that are right or wrong together."""
    rng = np.random.default_rng(3)
    wrong = np.repeat(rng.random(20) < 0.3, 30)
    sources = ["a.example" if i % 600 < 300 else "b.example" for i in range(600)]
    single = predictions(wrong, sources=sources)
    grouped = predictions(wrong, sources=sources, groups=[f"g{i // 30}" for i in range(600)])
    p_single, p_grouped = (
        by_value(find_slices(each, "accuracy", 200).slices, "source")["a.example"].p for each in (single, grouped)
    )
    assert p_single is not None
    assert p_grouped is not None
    assert p_single < p_grouped


def test_slices_of_too_few_examples_are_named_and_not_judged() -> None:
    wrong = np.random.default_rng(0).random(100) < 0.3
    sources = ["big.example"] * 60 + ["also.example"] * (40 - 9) + ["small.example"] * 9
    found = find_slices(predictions(wrong, sources=sources), "accuracy", 50)
    assert LEAST_EXAMPLES == 10
    assert "small.example" not in by_value(found.slices, "source")
    assert [(each.value, each.n) for each in found.small if each.column == "source"] == [("small.example", 9)]
    assert found.n_small["source"] == 1


def test_slices_of_too_few_groups_are_not_judged() -> None:
    wrong = np.random.default_rng(0).random(120) < 0.3
    sources = ["many.example"] * 60 + ["some.example"] * 40 + ["one.example"] * 20
    groups = [f"g{i}" if i < 100 else "g-last" for i in range(120)]
    found = find_slices(predictions(wrong, sources=sources, groups=groups), "accuracy", 50)
    assert [(each.value, each.n, each.groups) for each in found.small] == [("one.example", 20, 1)]
    assert set(by_value(found.slices, "source")) == {"many.example", "some.example"}


def test_columns_that_do_not_cut_are_named_with_the_reason() -> None:
    found = find_slices(predictions(np.zeros(40, dtype=bool), columns={"language": ["en"] * 40}), "accuracy", 20)
    assert found.skipped["language"] == "all examples are of one: en"
    assert found.skipped["source"] == "not given"


def test_a_missing_value_is_a_slice_of_its_own() -> None:
    wrong = np.random.default_rng(0).random(60) < 0.3
    found = find_slices(predictions(wrong, columns={"language": ["en"] * 30 + [None] * 30}), "accuracy", 20)
    assert set(by_value(found.slices, "language")) == {"en", NONE_GIVEN}


def test_every_column_of_the_predictions_cuts() -> None:
    wrong = np.random.default_rng(0).random(60) < 0.3
    found = find_slices(predictions(wrong, columns={"desk": ["city"] * 30 + ["world"] * 30}), "accuracy", 20)
    assert set(by_value(found.slices, "desk")) == {"city", "world"}


def test_lengths_are_cut_into_quarters_of_words() -> None:
    made = predictions(np.random.default_rng(0).random(80) < 0.3)
    made = replace(made, texts=["word " * (1 + i) for i in range(80)])
    found = by_value(find_slices(made, "accuracy", 20).slices, "length")
    assert {name: each.n for name, each in found.items()} == {
        "1 to 20 words": 20, "21 to 40 words": 20, "41 to 60 words": 20, "61 to 80 words": 20,
    }  # fmt: skip


def test_dates_are_years_or_quarters() -> None:
    assert periods(["2019-05-01", "2020-01-31", "2021-12-01T10:00:00", None]) == ["2019", "2020", "2021", None]
    assert periods(["2024-03-31", "2024-04-01", "long ago"]) == ["2024 Q1", "2024 Q2", None]


def test_a_metric_that_ranks_gives_way_to_the_primary_one() -> None:
    assert find_slices(planted(), "mean_average_precision", 20).metric == "macro_f1"
    assert find_slices(planted(), "ece", 20).metric == "macro_f1"


def test_of_a_loss_the_larger_is_worse() -> None:
    made = planted()
    sure = np.eye(3, dtype=np.float32)[made.predicted.astype(np.int64)] * 0.85 + 0.05
    found = find_slices(replace(made, probabilities=sure.astype(np.float32)), "log_loss", 100)
    far = by_value(found.slices, "source")["far.example"]
    assert (far.gap.value or 0) > 0
    assert far.worse is True


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("task", [TOPIC, FRAMING])
def test_a_handful_of_examples_has_no_slices(n: int, task: Task) -> None:
    assert list(find_slices(predictions(np.zeros(n, dtype=bool), task), "macro_f1", 20).slices) == []


def test_the_terminal_is_told_the_worst_three() -> None:
    (line,) = in_words(find_slices(planted(), "accuracy", 200))
    assert line.startswith("worst slice: source far.example: accuracy .")
    assert "(n = 200, corrected p < .001)" in line
    quiet = find_slices(predictions(np.random.default_rng(1).random(200) < 0.2), "accuracy", 50)
    assert in_words(quiet) == [f"no slice of {len(quiet.slices)} is clearly worse than the rest"]


def test_predictions_keep_their_columns_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    made = predictions(np.zeros(3, dtype=bool), columns={"language": ["en", None, "de"], "id": ["x", "y", "z"]})
    made.write(path)
    assert Predictions.read(path).columns == made.columns
    assert Predictions.read(path).ids == made.ids
    assert made.select(np.array([2, 0])).columns["language"] == ["de", "en"]


def test_what_training_has_seen_is_told_apart(tiny_rows: list[Row], write_jsonl: WriteJsonl) -> None:
    """The split is made by hand: north.example is only in test, and one test article stands in train once more."""
    twin = {**tiny_rows[1], "id": "twin", "source": "east.example"}
    corpus = load_corpus(CorpusConfig(name="tiny", path=str(write_jsonl([*tiny_rows, twin]))))
    clean = clean_corpus(corpus, corpus.task("stance"), fit_cleaner(corpus, CleaningConfig()))
    (_, clusters) = split_corpus(clean, SplitConfig())
    ids, sources = clean.column("id"), clean.column("source")
    unseen = sources[0]
    test = {i for i, (id_, source) in enumerate(zip(ids, sources, strict=True)) if id_ == "a001" or source == unseen}
    split = Split(tuple("test" if i in test else "train" for i in range(len(ids))), 0)
    found = seen_in_training(clean, split, clusters)
    told = dict(zip(found.ids, found.columns["near-duplicate in training"], strict=True))
    assert told == {id_: "yes" if id_ == "a001" else "no" for id_ in found.ids}
    seen = dict(zip(found.sources, found.columns["source in training"], strict=True))
    assert seen == {source: "unseen" if source == unseen else "seen" for source in set(found.sources)}
    assert set(found.columns["target in training"]) == {"seen"}
    assert set(found.columns["language"]) == {"en"}


# --- Further columns --------------------------------------------------------------------------------------------------


def test_a_column_of_many_numbers_is_cut_into_quarters_and_what_is_missing_stands_apart() -> None:
    sizes = [None if i % 6 == 5 else str(1000 + 0.5 * i) for i in range(600)]
    made = predictions(np.arange(600) % 10 == 0, columns={"size": sizes, "stars": [str(i % 5) for i in range(600)]})
    found = find_slices(made, "accuracy", resamples=50).slices
    quarters = by_value(found, "size")
    names = ["1,000 to 1,074", "1,075 to 1,149", "1,150 to 1,224", "1,225 to 1,299"]
    assert set(quarters) == {*names, NONE_GIVEN}
    assert {each.n for each in quarters.values()} <= {100, 124, 125, 126}
    assert set(by_value(found, "stars")) == {"0", "1", "2", "3", "4"}


def test_columns_that_are_slices_anyway_and_doubled_ones_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"evaluation.slices names source, date, which examples are cut by"):
        EvaluationConfig(slices=["section", "source", "date"])
    with pytest.raises(ConfigurationError, match=r"names a column twice"):
        EvaluationConfig(slices=["section", "section"])
