"""The bootstrap: what it draws, what it covers, what it refuses to say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

import evaluation.intervals as intervals
from evaluation.intervals import draw_counts, evaluate, group_codes, resample
from evaluation.metrics import available, compute
from evaluation.predictions import Predictions
from slantwise.errors import ConfigurationError
from slantwise.task import STANCES, Task

TOPIC = Task("topic", "multiclass", ("a", "b"))
STANCE = Task("stance", "multiclass", STANCES)
FRAMING = Task("framing", "multilabel", tuple("abcd"))


def predictions_of(
    task: Task,
    gold: npt.ArrayLike,
    predicted: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    probabilities: npt.ArrayLike | None = None,
) -> Predictions:
    dtype = np.int64 if task.kind == "multiclass" else np.bool_
    gold, predicted = np.asarray(gold, dtype), np.asarray(predicted, dtype)
    n, n_labels = len(gold), len(task.labels)
    ids = [str(i) for i in range(n)]
    if probabilities is None:
        probabilities = np.full((n, n_labels), 1 / n_labels)
    return Predictions(
        task=task,
        split="test",
        ids=ids,
        texts=[""] * n,
        gold=gold,
        probabilities=np.asarray(probabilities, np.float32),
        predicted=predicted,
        groups=ids if groups is None else groups,
        targets=[None] * n,
        sources=[None] * n,
    )


def random_predictions(task: Task, n: int, n_groups: int) -> Predictions:
    """Scores with many ties, and abstentions where the task can have them."""
    rng = np.random.default_rng(5)
    groups = [f"g{i}" for i in rng.integers(n_groups, size=n)]
    probabilities = rng.integers(0, 17, size=(n, len(task.labels))) / 16
    if task.kind == "multilabel":
        return predictions_of(task, rng.random(probabilities.shape) < 0.3, probabilities > 0.6, groups, probabilities)
    gold = rng.integers(len(task.labels), size=n)
    predicted = np.where(probabilities.max(axis=1) < 0.5, -1, probabilities.argmax(axis=1))
    return predictions_of(task, gold, predicted, groups, probabilities)


def right_or_wrong(right: npt.NDArray[np.bool_], groups: Sequence[str] | None = None) -> Predictions:
    return predictions_of(TOPIC, np.zeros(len(right)), ~right, groups)


# --- Resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [STANCE, FRAMING], ids=lambda task: task.kind)
def test_resampled_values_are_the_metrics_of_the_drawn_examples(task: Task) -> None:
    predictions = random_predictions(task, n=60, n_groups=12)
    codes = group_codes(predictions.groups)
    names = [name for name in available(task) if name != "ece"]  # its bins are those of the whole sample
    on_all, resampled = resample(predictions, names, resamples=20, seed=7)
    assert on_all == pytest.approx(compute(predictions, names), abs=1e-9, nan_ok=True)
    (drawn,) = draw_counts(int(codes.max()) + 1, resamples=20, seed=7, chunk=20)
    for i, counts in enumerate(drawn.T.astype(np.int64)):
        rows = np.repeat(np.arange(len(predictions)), counts[codes])
        expected = compute(predictions.select(rows), names)
        assert {name: resampled[name][i] for name in names} == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_a_resample_draws_as_many_groups_as_there_are() -> None:
    (drawn,) = draw_counts(40, resamples=500, seed=0, chunk=500)
    assert drawn.shape == (40, 500)
    assert (drawn.sum(axis=0) == 40).all()
    # Multinomial: variance of each count 1 - 1/40, here the mean of 20,000 squared deviations.
    assert drawn.var() == pytest.approx(1 - 1 / 40, abs=0.04)


@pytest.mark.parametrize("chunk_bytes", [1, 20_000])
def test_estimates_do_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    predictions = random_predictions(FRAMING, n=60, n_groups=12)
    _, whole = resample(predictions, None, resamples=50, seed=3)
    monkeypatch.setattr(intervals, "CHUNK_BYTES", chunk_bytes)
    _, parts = resample(predictions, None, resamples=50, seed=3)
    for name, expected in whole.items():
        np.testing.assert_allclose(parts[name], expected, rtol=0, atol=1e-12, err_msg=name)


def test_the_seed_decides_the_interval_and_nothing_else_does() -> None:
    predictions = random_predictions(STANCE, n=80, n_groups=80)
    first = evaluate(predictions, resamples=100, seed=1)
    assert evaluate(predictions, resamples=100, seed=1) == first
    other = evaluate(predictions, resamples=100, seed=2)
    assert other["macro_f1"].value == first["macro_f1"].value
    assert (other["macro_f1"].low, other["macro_f1"].high) != (first["macro_f1"].low, first["macro_f1"].high)
    assert evaluate(predictions, ["macro_f1"], resamples=100, seed=1)["macro_f1"] == first["macro_f1"]


def test_models_judged_on_the_same_examples_get_the_same_resamples() -> None:
    right = np.random.default_rng(0).random(50) < 0.6
    _, one = resample(right_or_wrong(right), ["accuracy"], resamples=100, seed=4)
    _, opposite = resample(right_or_wrong(~right), ["accuracy"], resamples=100, seed=4)
    np.testing.assert_allclose(one["accuracy"] + opposite["accuracy"], 1, rtol=0, atol=1e-12)


# --- Coverage ---------------------------------------------------------------------------------------------------------

# At these sizes the percentile bootstrap covers about .94, a little less than its nominal .95, and 200 repeats estimate
# that with a standard error of .017: a right implementation lands within three of them, between .89 and .99.


def coverage(samples: Sequence[Predictions], truth: float) -> float:
    """Share of the samples whose 95 % interval of the accuracy holds the truth."""
    found = [evaluate(sample, ["accuracy"], resamples=400, seed=i)["accuracy"] for i, sample in enumerate(samples)]
    return float(np.mean([each.low <= truth <= each.high for each in found]))  # type: ignore[operator]


def test_intervals_of_independent_examples_cover_the_truth() -> None:
    rng = np.random.default_rng(11)
    samples = [right_or_wrong(rng.random(250) < 0.75) for _ in range(200)]
    assert 0.89 <= coverage(samples, truth=0.75) <= 0.99


def grouped_answers(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """60 groups of 10; a group is easy (.95 right) or hard (.45), so the true accuracy is .7."""
    return rng.random((60, 10)) < rng.choice([0.95, 0.45], size=(60, 1))


GROUPS = [f"article {i}" for i in range(60) for _ in range(10)]


def test_intervals_of_grouped_examples_cover_the_truth_only_if_groups_are_resampled() -> None:
    rng = np.random.default_rng(12)
    answers = [grouped_answers(rng).ravel() for _ in range(200)]
    assert 0.89 <= coverage([right_or_wrong(right, GROUPS) for right in answers], truth=0.7) <= 0.99
    assert coverage([right_or_wrong(right) for right in answers], truth=0.7) < 0.80


def test_grouped_examples_give_intervals_as_much_wider_as_the_design_effect_says() -> None:
    # Intraclass correlation .25^2 / (.7 * .3) = .298, design effect 1 + 9 * .298 = 3.68, its root 1.92.
    rng = np.random.default_rng(13)
    ratios = []
    for _ in range(40):
        right = grouped_answers(rng).ravel()
        grouped = evaluate(right_or_wrong(right, GROUPS), ["accuracy"])["accuracy"]
        single = evaluate(right_or_wrong(right), ["accuracy"])["accuracy"]
        ratios.append((grouped.high - grouped.low) / (single.high - single.low))  # type: ignore[operator]
    assert np.mean(ratios) == pytest.approx(1.92, abs=0.1)


def test_a_higher_confidence_gives_a_wider_interval_around_a_lower_one() -> None:
    predictions = random_predictions(STANCE, n=80, n_groups=80)
    wide = evaluate(predictions, ["accuracy"], confidence=0.99)["accuracy"]
    narrow = evaluate(predictions, ["accuracy"], confidence=0.5)["accuracy"]
    assert wide.low < narrow.low < narrow.high < wide.high  # type: ignore[operator]


# --- Undefined --------------------------------------------------------------------------------------------------------


def test_an_undefined_metric_is_none_with_a_reason() -> None:
    found = evaluate(predictions_of(STANCE, [0, 1, 0], [0, 1, 1]), resamples=20)["f1/neutral"]
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.reason == "no gold or predicted example is 'neutral'"


def test_undefined_resamples_are_dropped_while_they_are_fewer_than_half() -> None:
    # One gold example of the label in 50: a resample misses it with probability .98^50 = .36.
    gold = np.array([0] + [1] * 49)
    _, resampled = resample(predictions_of(TOPIC, gold, gold), ["recall/a"], resamples=1000, seed=0)
    assert np.isnan(resampled["recall/a"]).mean() == pytest.approx(0.36, abs=0.05)
    found = evaluate(predictions_of(TOPIC, gold, gold), ["recall/a"])["recall/a"]
    assert (found.value, found.low, found.high, found.reason) == (1.0, 1.0, 1.0, None)


def test_there_is_no_interval_where_more_than_half_of_the_resamples_are_undefined() -> None:
    # One example of favor and one of against in 50: a resample holds both with probability about .63^2 = .4.
    gold = np.array([0, 1] + [2] * 48)
    found = evaluate(predictions_of(STANCE, gold, gold), ["semeval2016_favg"])["semeval2016_favg"]
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert found.reason is not None
    assert found.reason.startswith("no interval: undefined in ")


def test_there_is_no_interval_where_all_examples_are_of_one_group() -> None:
    found = evaluate(right_or_wrong(np.array([True, False, True]), ["article"] * 3), ["accuracy"])["accuracy"]
    assert found.value == pytest.approx(2 / 3)
    assert (found.low, found.high) == (None, None)
    assert found.reason == "no interval: all examples are of one group"


def test_no_examples_give_no_values_and_no_failure() -> None:
    found = evaluate(right_or_wrong(np.zeros(0, dtype=bool)))
    assert {each.value for each in found.values()} == {None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples: 0"),
        ({"confidence": 1.0}, r"confidence: 1\.0"),
        ({"confidence": 95}, "confidence: 95"),
        ({"names": ["f1/neutral"]}, "no metric f1/neutral"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate(right_or_wrong(np.array([True, False])), **options)  # type: ignore[arg-type]
