"""The bootstrap: what it draws, what it covers, what it refuses to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

import evaluation.intervals as intervals
from benchmarks.intervals import METRICS, MULTICLASS, MULTILABEL, coverage, many, seconds, simulate
from evaluation.intervals import (
    INTERVALS,
    GroupSums,
    draw_counts,
    effective_groups,
    estimate,
    evaluate,
    few_groups,
    group_codes,
    normal_points,
    resample,
)
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
    names = [name for name in available(task) if "ece" not in name]  # whose bins are of the whole sample
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

REPEATS = 1000
# The standard error of a coverage of .95 over 1,000 repeats is .007.


@cache
def covered(task: Task, grouped: bool) -> dict[str, float]:
    """The share of the intervals that hold the truth, by metric, of samples of 200, grouped ones in groups of 10."""
    found = coverage(task, 200, grouped, REPEATS, "bca", resamples=500, population=300_000)
    return {name: share for name, (share, _, _) in found.items()}


@pytest.mark.parametrize(
    ("task", "grouped", "metric"),
    [
        (task, grouped, metric)
        for task, grouped in ((MULTICLASS, True), (MULTILABEL, True))
        for metric in METRICS[task.kind]
    ],
    ids=lambda value: value.kind if isinstance(value, Task) else str(value),
)
def test_of_100_intervals_93_to_97_hold_the_truth(task: Task, grouped: bool, metric: str) -> None:
    assert 0.93 <= covered(task, grouped)[metric] <= 0.97


def test_intervals_of_grouped_examples_seldom_hold_the_truth_if_examples_are_resampled_one_by_one() -> None:
    rng, truth = np.random.default_rng(12), 0.7
    held = 0
    for seed in range(200):
        right = grouped_answers(rng).ravel()
        found = evaluate(right_or_wrong(right), ["accuracy"], 400, seed)["accuracy"]
        held += found.low <= truth <= found.high  # type: ignore[operator]
    assert held / 200 < 0.80


def grouped_answers(rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """60 groups of 10; a group is easy (.95 right) or hard (.45), so the true accuracy is .7."""
    return rng.random((60, 10)) < rng.choice([0.95, 0.45], size=(60, 1))


GROUPS = [f"article {i}" for i in range(60) for _ in range(10)]


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


def test_bca_agrees_with_scipy_where_groups_are_many() -> None:
    values = np.random.default_rng(3).gamma(1.0, size=60)  # skewed, so that BCa and percentile differ
    draws = np.random.default_rng(0).integers(60, size=(40_000, 60))
    without_each = (values.sum() - values) / 59
    found = estimate(values.mean(), values[draws].mean(axis=1), 0.95, "", jackknife=without_each)
    expected = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=1).confidence_interval
    percentile = estimate(values.mean(), values[draws].mean(axis=1), 0.95, "")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert percentile.high != pytest.approx(expected.high, abs=0.01)


@pytest.mark.parametrize("n", [5, 20, 1000])
def test_a_percentile_interval_of_a_mean_is_as_wide_as_a_t_interval(n: int) -> None:
    # Bootstrap means of n values are normal with variance (n - 1) / n of the usual estimate of the mean's.
    values = np.random.default_rng(n).normal(size=n)
    resampled = values.mean() + values.std(ddof=0) / math.sqrt(n) * stats.norm.ppf((np.arange(10**5) + 0.5) / 10**5)
    found = estimate(values.mean(), resampled, 0.95, "", n_groups=n)
    expected = 2 * stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)
    assert found.high - found.low == pytest.approx(expected, rel=0.03)  # type: ignore[operator]


def test_without_a_number_of_groups_the_quantiles_are_the_plain_ones() -> None:
    assert normal_points(0.95, math.inf) == pytest.approx(stats.norm.ppf([0.025, 0.975]))


def test_unequal_groups_are_worth_fewer_equal_ones() -> None:
    assert effective_groups(np.array([10, 10, 10])) == pytest.approx(3)
    assert effective_groups(np.array([28, 1, 1])) == pytest.approx(900 / 786)


def test_few_groups_are_warned_of_and_many_are_not() -> None:
    right = np.ones(40, dtype=bool)
    (warning,) = few_groups(right_or_wrong(right, ["a"] * 20 + ["b"] * 20))
    assert "worth 2.0 of equal size" in warning
    assert few_groups(right_or_wrong(right)) == []
    assert few_groups(right_or_wrong(np.zeros(0, dtype=bool))) == []


@pytest.mark.parametrize("task", [STANCE, FRAMING], ids=lambda task: task.kind)
def test_jackknife_values_are_the_metrics_without_each_group(task: Task) -> None:
    predictions = random_predictions(task, n=60, n_groups=12)
    names = [name for name in available(task) if "ece" not in name]  # whose bins are of the whole sample
    found, codes = GroupSums.of(predictions, names).jackknife(), group_codes(predictions.groups)
    for group in range(12):
        expected = compute(predictions.select(np.flatnonzero(codes != group)), names)
        assert {name: found[name][group] for name in names} == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_blocks_of_the_jackknife_give_the_acceleration_of_single_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = simulate(MULTICLASS, 20_000, False, np.random.default_rng(4))

    def acceleration() -> float:
        (values,) = GroupSums.of(predictions, ["log_loss"]).jackknife().values()
        deviations = values.mean() - values
        return float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))

    blocks = acceleration()
    monkeypatch.setattr(intervals, "JACKKNIFE_BLOCKS", 20_000)
    assert blocks == pytest.approx(acceleration(), abs=0.006)  # twice its standard error, sqrt(6 / 200) / 6 / sqrt(200)


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_interval_of_a_calibration_error_does_not_follow_its_bias(interval: str) -> None:
    # Perfect probabilities: the true error is 0, the estimate from 300 examples about .08.
    rng = np.random.default_rng(2)
    right = rng.uniform(0.5, 1.0, size=300)
    gold = (rng.random(300) > right).astype(np.int64)
    predictions = predictions_of(TOPIC, gold, np.zeros(300), None, np.column_stack([right, 1 - right]))
    found = evaluate(predictions, ["ece"], interval=interval)["ece"]
    low, high = np.quantile(resample(predictions, ["ece"], 1000, 0)[1]["ece"], [0.025, 0.975])
    assert (found.low, low > 0.05) == (0, True)
    assert 0 < found.high < high  # type: ignore[operator]


def calibrated(task: Task, n: int, rng: np.random.Generator) -> Predictions:
    """Perfect probabilities."""
    top = rng.uniform(0.5, 1.0, size=n)
    given = np.column_stack([top, 1 - top])
    gold = (rng.random(n) > top).astype(np.int64)
    if task.kind == "multiclass":
        return predictions_of(task, gold, np.zeros(n), None, given)
    return predictions_of(task, np.column_stack([1 - gold, gold]), given > 0.5, None, given)


@pytest.mark.parametrize("task", [TOPIC, Task("framing", "multilabel", ("a", "b"))], ids=lambda task: task.kind)
def test_intervals_hold_the_calibration_error_that_was_measured_and_the_one_without_noise(task: Task) -> None:
    rng = np.random.default_rng(6)
    estimates = [evaluate(calibrated(task, 150, rng), ["ece", "ece_debiased"], 200, seed) for seed in range(60)]
    for found in estimates:
        for each in found.values():
            assert each.low is None or each.low <= each.value <= each.high  # type: ignore[operator]
    drawn_out = sum(found["ece"].high == found["ece"].value for found in estimates)
    assert 2 <= drawn_out <= 15  # chance makes some measured errors so large that the truth is clearly below them


def test_without_noise_a_calibration_error_is_nearer_to_the_truth() -> None:
    rng = np.random.default_rng(7)
    found = [compute(calibrated(TOPIC, 300, rng), ["ece", "ece_debiased"]) for _ in range(100)]
    measured, debiased = (np.array([each[name] for each in found]) for name in ("ece", "ece_debiased"))
    assert measured.mean() > 0.06  # of probabilities that are perfect
    assert debiased.mean() < 0.65 * measured.mean()
    assert (debiased**2).mean() < 0.5 * (measured**2).mean()


def test_the_interval_of_a_large_calibration_error_surrounds_it() -> None:
    # Always sure, right 6 times in 10: one bin, a gap of .4, a standard error of .49 / sqrt(500) = .022.
    right = np.random.default_rng(1).random(500) < 0.6
    probabilities = np.tile([1.0, 0.0], (500, 1))
    predictions = predictions_of(TOPIC, ~right, np.zeros(500), None, probabilities)
    found = evaluate(predictions, ["ece"])["ece"]
    assert found.low == pytest.approx(found.value - 1.96 * 0.022, abs=0.006)  # type: ignore[operator]
    assert found.high == pytest.approx(found.value + 1.96 * 0.022, abs=0.006)  # type: ignore[operator]


# --- Speed ------------------------------------------------------------------------------------------------------------


def test_all_metrics_of_10_000_predictions_take_seconds() -> None:
    # A tenth of what has to be done in 20 seconds, in processor time: about 1 second where nothing else runs.
    _, processor = seconds(many("multilabel", 10_000, 15))
    assert processor < 6


# --- Confidence -------------------------------------------------------------------------------------------------------


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
    right = gold.copy()
    right[:3] = [0, 0, 1]  # two gold examples of the label, one of them found
    found = evaluate(predictions_of(TOPIC, np.array([0, 1, 0] + [1] * 47), right), ["recall/a"])["recall/a"]
    assert (found.value, found.low, found.high, found.reason) == (0.5, 0.0, 1.0, None)


def test_there_is_no_interval_where_all_resamples_give_the_same_value() -> None:
    found = evaluate(right_or_wrong(np.ones(30, dtype=bool)), ["accuracy", "f1/a"])
    for each in found.values():
        assert (each.value, each.low, each.high) == (1.0, None, None)
        assert each.reason == "no interval: all resamples, or almost all, give the same value"


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("task", [STANCE, FRAMING], ids=lambda task: task.kind)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 40])
def test_every_estimate_is_a_number_or_says_why_not(task: Task, n: int, interval: str) -> None:
    for n_groups in (1, 2, 40):
        predictions = random_predictions(task, n, n_groups)
        for name, found in evaluate(predictions, available(task), 50, interval=interval).items():
            for number in (found.value, found.low, found.high):
                assert found.reason if number is None else math.isfinite(number), name
            assert (found.low is None) == (found.high is None), name
            assert found.low is None or found.low <= found.high, name  # type: ignore[operator]


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
        ({"interval": "basic"}, "interval: basic; expected one of bca, percentile"),
        ({"names": ["f1/neutral"]}, "no metric f1/neutral"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate(right_or_wrong(np.array([True, False])), **options)  # type: ignore[arg-type]
