"""Every metric against scikit-learn or against an example worked out by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation.metrics import (
    FNC_LABELS,
    available,
    average_precision,
    compute,
    confusion,
    equal_mass_bins,
    per_label_table,
    primary,
    ranking,
    select,
)
from evaluation.predictions import Predictions
from slantwise.errors import ConfigurationError
from slantwise.task import POLICY_FRAMES, STANCES, Task

LETTERS = "abcde"
STANCE = Task("stance", "multiclass", STANCES, has_target=True)
EXACT = 1e-9
against_sklearn = settings(max_examples=60, deadline=None)  # how long a case takes is the machine's business


def exactly(expected: float) -> object:
    return pytest.approx(expected, rel=EXACT, abs=EXACT, nan_ok=True)


def predictions_of(
    task: Task, gold: npt.ArrayLike, predicted: npt.ArrayLike, probabilities: npt.ArrayLike | None = None
) -> Predictions:
    dtype = np.int64 if task.kind == "multiclass" else np.bool_
    gold, predicted = np.asarray(gold, dtype), np.asarray(predicted, dtype)
    n, n_labels = len(gold), len(task.labels)
    if task.kind == "multilabel":
        gold, predicted = gold.reshape(n, n_labels), predicted.reshape(n, n_labels)
    if probabilities is None:
        probabilities = np.full((n, n_labels), 1 / n_labels)
    return Predictions(
        task=task,
        split="test",
        ids=[str(i) for i in range(n)],
        texts=[""] * n,
        gold=gold,
        probabilities=np.asarray(probabilities, np.float32).reshape(n, n_labels),
        predicted=predicted,
        groups=[str(i) for i in range(n)],
        targets=[None] * n,
        sources=[None] * n,
    )


def stances(gold: Sequence[str], predicted: Sequence[str]) -> Predictions:
    return predictions_of(STANCE, [STANCES.index(g) for g in gold], [STANCES.index(p) for p in predicted])


def multilabel(gold: Sequence[str], predicted: Sequence[str], labels: str = "abc") -> Predictions:
    """Sets of one-letter labels, one string for each example."""
    rows = [[[label in row for label in labels] for row in column] for column in (gold, predicted)]
    return predictions_of(Task("framing", "multilabel", tuple(labels)), *rows)


def dyadic_probabilities(rng: np.random.Generator, n: int, n_labels: int) -> npt.NDArray[np.float64]:
    """Rows that sum to 1 in multiples of 1/4096, which float32 holds exactly, none of them 0."""
    counts = rng.multinomial(4096 - n_labels, rng.dirichlet(np.ones(n_labels), n)) + 1
    return counts / 4096


@st.composite
def multiclass_cases(draw: st.DrawFn) -> Predictions:
    n_labels, n = draw(st.integers(2, 5)), draw(st.integers(1, 30))
    gold = draw(st.lists(st.integers(0, n_labels - 1), min_size=n, max_size=n))
    predicted = draw(st.lists(st.integers(-1, n_labels - 1), min_size=n, max_size=n))
    return predictions_of(Task("topic", "multiclass", tuple(LETTERS[:n_labels])), gold, predicted)


@st.composite
def multilabel_cases(draw: st.DrawFn) -> Predictions:
    # From two labels on: scikit-learn takes a single column for a binary task with two classes.
    n_labels, n = draw(st.integers(2, 5)), draw(st.integers(1, 20))
    sets = st.lists(st.sets(st.sampled_from(LETTERS[:n_labels])).map("".join), min_size=n, max_size=n)
    return multilabel(draw(sets), draw(sets), LETTERS[:n_labels])


def assert_label_metrics_agree_with_sklearn(predictions: Predictions, names: dict[str, float]) -> None:
    """Per-label and averaged precision, recall and F1 under zero_division=nan."""
    gold, predicted = predictions.gold, predictions.predicted
    options = {"labels": range(len(predictions.task.labels)), "zero_division": np.nan}
    for metric, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        for label, expected in zip(
            predictions.task.labels, function(gold, predicted, average=None, **options), strict=True
        ):
            assert names[f"{metric}/{label}"] == exactly(expected), (metric, label)
    for average in ("macro", "micro"):
        assert names[f"{average}_f1"] == exactly(sk.f1_score(gold, predicted, average=average, **options)), average
    if len(predictions.gold) and predictions.gold.any():  # without any support scikit-learn weighs labels equally
        expected = sk.f1_score(gold, predicted, average="weighted", **options)
        assert names["weighted_f1"] == exactly(expected)


# --- Metrics of the decision ------------------------------------------------------------------------------------------


@against_sklearn
@given(multiclass_cases())
def test_multiclass_precision_recall_and_f1_agree_with_sklearn(predictions: Predictions) -> None:
    assert_label_metrics_agree_with_sklearn(predictions, compute(predictions))


@against_sklearn
@given(multilabel_cases())
def test_multilabel_precision_recall_and_f1_agree_with_sklearn(predictions: Predictions) -> None:
    assert_label_metrics_agree_with_sklearn(predictions, compute(predictions))


@against_sklearn
@given(multiclass_cases())
def test_accuracy_and_matthews_correlation_agree_with_sklearn(predictions: Predictions) -> None:
    found = compute(predictions, ["accuracy", "mcc"])
    assert found["accuracy"] == exactly(sk.accuracy_score(predictions.gold, predictions.predicted))
    if len(set(predictions.gold)) == 1 or len(set(predictions.predicted)) == 1:
        assert math.isnan(found["mcc"])  # scikit-learn says 0
    else:
        assert found["mcc"] == exactly(sk.matthews_corrcoef(predictions.gold, predictions.predicted))


@against_sklearn
@given(multiclass_cases())
def test_balanced_accuracy_agrees_with_sklearn(predictions: Predictions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # predicted labels without gold examples
        expected = sk.balanced_accuracy_score(predictions.gold, predictions.predicted)
    assert compute(predictions, ["balanced_accuracy"])["balanced_accuracy"] == exactly(expected)


@against_sklearn
@given(multiclass_cases())
def test_mae_and_its_mean_over_gold_labels_agree_with_sklearn(predictions: Predictions) -> None:
    found, gold, predicted = compute(predictions, ["mae", "macro_mae"]), predictions.gold, predictions.predicted
    if (predicted < 0).any():
        assert math.isnan(found["mae"])
        assert math.isnan(found["macro_mae"])
        return
    of_labels = [sk.mean_absolute_error(gold[gold == label], predicted[gold == label]) for label in np.unique(gold)]
    assert found["mae"] == exactly(sk.mean_absolute_error(gold, predicted))
    assert found["macro_mae"] == exactly(np.mean(of_labels))


@against_sklearn
@given(multilabel_cases())
def test_semeval2023_scores_agree_with_sklearn_as_the_official_scorer_calls_it(predictions: Predictions) -> None:
    found, gold, predicted = (
        compute(predictions, ["micro_f1", "semeval2023_macro_f1"]),
        predictions.gold,
        predictions.predicted,
    )
    if not (gold | predicted).any():  # 1 in the official scorer
        assert all(math.isnan(value) for value in found.values())
        return
    assert found["micro_f1"] == exactly(sk.f1_score(gold, predicted, average="micro", zero_division=1))
    assert found["semeval2023_macro_f1"] == exactly(sk.f1_score(gold, predicted, average="macro", zero_division=1))


@against_sklearn
@given(multilabel_cases())
def test_example_f1_agrees_with_sklearn(predictions: Predictions) -> None:
    expected = sk.f1_score(predictions.gold, predictions.predicted, average="samples", zero_division=np.nan)
    assert compute(predictions, ["example_f1"])["example_f1"] == exactly(expected)


@against_sklearn
@given(multilabel_cases())
def test_subset_accuracy_and_hamming_loss_agree_with_sklearn(predictions: Predictions) -> None:
    found = compute(predictions, ["subset_accuracy", "hamming_loss"])
    assert found["subset_accuracy"] == exactly(sk.accuracy_score(predictions.gold, predictions.predicted))
    assert found["hamming_loss"] == exactly(sk.hamming_loss(predictions.gold, predictions.predicted))


@against_sklearn
@given(multiclass_cases())
def test_multiclass_confusion_agrees_with_sklearn(predictions: Predictions) -> None:
    n_labels = len(predictions.task.labels)
    expected = sk.confusion_matrix(
        predictions.gold,
        np.where(predictions.predicted < 0, n_labels, predictions.predicted),
        labels=range(n_labels + 1),
    )
    np.testing.assert_array_equal(confusion(predictions), expected[:n_labels])


@against_sklearn
@given(multilabel_cases())
def test_multilabel_confusion_agrees_with_sklearn(predictions: Predictions) -> None:
    expected = sk.multilabel_confusion_matrix(predictions.gold, predictions.predicted)
    np.testing.assert_array_equal(confusion(predictions), expected)


def test_semeval2016_favg_pools_the_targets() -> None:
    # Four tweets about one target, then four about another.
    gold = ["favor", "favor", "against", "neutral", "favor", "against", "neutral", "against"]
    predicted = ["favor", "against", "against", "favor", "favor", "favor", "against", "neutral"]
    # Pooled: favor 2 right of 3 gold and 4 predicted, F = 4/7; against 1 right of 3 and 3, F = 1/3.
    # The mean of the targets' own scores, 7/12 and 1/3, would be 11/24.
    assert compute(stances(gold, predicted))["semeval2016_favg"] == exactly((4 / 7 + 1 / 3) / 2)


ABOUT_TWO = [  # target, gold, predicted
    ("Rain", "favor", "favor"), ("Rain", "favor", "against"), ("Rain", "against", "against"),
    ("Rain", "neutral", "favor"), ("Snow", "favor", "favor"), ("Snow", "against", "favor"),
    ("Snow", "neutral", "against"), ("Snow", "against", "neutral"),
]  # fmt: skip


def about(rows: Sequence[tuple[str, str, str]]) -> Predictions:
    targets, gold, predicted = zip(*rows, strict=True)
    return replace(stances(gold, predicted), targets=targets)


def test_semeval2016_favg_of_each_target_and_its_mean_over_targets() -> None:
    names = ["semeval2016_favg_macro", "semeval2016_favg/Rain", "semeval2016_favg/Snow"]
    found = compute(about(ABOUT_TWO), names)
    # Rain: favor 1 right of 2 gold and 2 predicted, F = 1/2; against 1 right of 1 and 2, F = 2/3.
    # Snow: favor 1 right of 1 gold and 2 predicted, F = 2/3; against 0 right, F = 0.
    assert found["semeval2016_favg/Rain"] == exactly((1 / 2 + 2 / 3) / 2)
    assert found["semeval2016_favg/Snow"] == exactly((2 / 3 + 0) / 2)
    assert found["semeval2016_favg_macro"] == exactly((7 / 12 + 1 / 3) / 2)


def test_semeval2016_favg_agrees_with_sklearn_pooled_and_by_target() -> None:
    rng = np.random.default_rng(6)
    gold, predicted, targets = (rng.choice(values, size=300) for values in (STANCES, STANCES, ["Rain", "Snow", "Wind"]))
    found = compute(
        about(list(zip(targets, gold, predicted, strict=True))),
        ["semeval2016_favg", "semeval2016_favg_macro", "semeval2016_favg/Wind"],
    )

    def expected(rows: npt.NDArray[np.bool_]) -> float:
        return float(sk.f1_score(gold[rows], predicted[rows], labels=["favor", "against"], average="macro"))

    assert found["semeval2016_favg"] == exactly(expected(np.ones(300, dtype=bool)))
    assert found["semeval2016_favg/Wind"] == exactly(expected(targets == "Wind"))
    by_target = [expected(targets == target) for target in ("Rain", "Snow", "Wind")]
    assert found["semeval2016_favg_macro"] == exactly(np.mean(by_target))


def test_semeval2016_mean_over_targets_leaves_out_targets_on_which_it_is_undefined() -> None:
    found = compute(
        about([*ABOUT_TWO, ("Wind", "neutral", "neutral"), ("Wind", "favor", "favor")]),
        ["semeval2016_favg_macro", "semeval2016_favg/Wind", "semeval2016_favg/Hail"],
    )
    assert found["semeval2016_favg_macro"] == exactly((7 / 12 + 1 / 3) / 2)
    assert math.isnan(found["semeval2016_favg/Wind"])  # against is neither gold nor predicted
    assert math.isnan(found["semeval2016_favg/Hail"])  # no example


def test_scores_of_a_target_are_refused_where_the_task_has_no_targets() -> None:
    with pytest.raises(ConfigurationError, match="no metric semeval2016_favg/Rain"):
        select(Task("stance", "multiclass", STANCES), ["semeval2016_favg/Rain"])
    with pytest.raises(ConfigurationError, match="no metric semeval2016_favg/Rain"):
        select(Task("stance", "multiclass", FNC_LABELS, has_target=True), ["semeval2016_favg/Rain"])


def test_fnc_score_by_hand() -> None:
    agree, disagree, discuss, unrelated = range(4)
    gold = [agree, agree, agree, disagree, unrelated, unrelated, discuss]
    predicted = [agree, discuss, unrelated, -1, unrelated, agree, discuss]
    # 1 for the right stance, .25 for another related one, 0 for unrelated, 0 for an abstention, .25 for the right
    # unrelated pair, 0 for the wrong one, 1: 2.5 of 5 related pairs at 1 and 2 unrelated ones at .25.
    found = compute(predictions_of(Task("stance", "multiclass", FNC_LABELS), gold, predicted))
    assert found["fnc_score"] == exactly(2.5 / 5.5)


def test_fnc_score_of_a_published_confusion_table() -> None:
    # github.com/aiThanet/FNC-1, official test set: "Score: 8940.75 out of 11651.25"; rows gold, columns predicted.
    table = [[351, 3, 1319, 230], [57, 0, 424, 216], [247, 0, 3601, 616], [32, 0, 412, 17905]]
    gold = np.repeat(np.repeat(range(4), 4), np.ravel(table))
    predicted = np.repeat(np.tile(range(4), 4), np.ravel(table))
    found = compute(predictions_of(Task("stance", "multiclass", FNC_LABELS), gold, predicted))
    assert found["fnc_score"] == exactly(8940.75 / 11651.25)


def test_fnc_score_does_not_depend_on_the_order_of_labels() -> None:
    task = Task("stance", "multiclass", ("unrelated", "discuss", "agree", "disagree"))
    found = compute(predictions_of(task, [0, 0, 1, 2, 3], [0, 1, 2, 2, 0]))
    assert found["fnc_score"] == exactly((0.25 + 0 + 0.25 + 1 + 0) / (0.25 + 0.25 + 1 + 1 + 1))


def test_example_f1_by_hand_drops_rows_empty_on_both_sides() -> None:
    # 2*1/(2+2), 2*1/(1+1), dropped, 0, 2*1/(1+3)
    predictions = multilabel(["ab", "a", "", "", "a"], ["bc", "a", "", "c", "abc"])
    assert compute(predictions)["example_f1"] == exactly((0.5 + 1 + 0 + 0.5) / 4)


def test_mae_is_the_mean_distance_of_label_indices() -> None:
    predictions = predictions_of(Task("stance", "multiclass", tuple(LETTERS)), [0, 4, 2, 1], [4, 4, 1, 3])
    assert compute(predictions, ["mae"]) == {"mae": exactly((4 + 0 + 1 + 2) / 4)}


def test_macro_mae_weighs_gold_labels_equally_and_leaves_out_those_that_do_not_occur() -> None:
    # Labels 0 (three examples, distances 0, 0, 3) and 4 (one, distance 2).
    predictions = predictions_of(Task("stance", "multiclass", tuple(LETTERS)), [0, 0, 0, 4], [0, 0, 3, 2])
    assert compute(predictions, ["macro_mae"]) == {"macro_mae": exactly((1 + 2) / 2)}


def test_an_abstained_prediction_is_a_wrong_answer_and_no_predicted_label() -> None:
    found = compute(predictions_of(Task("topic", "multiclass", ("a", "b")), [0, 0, 1, 1], [0, -1, 1, 1]))
    assert found["accuracy"] == exactly(3 / 4)
    assert (found["precision/a"], found["recall/a"], found["f1/a"]) == (1, exactly(1 / 2), exactly(2 / 3))
    assert found["micro_f1"] == exactly(2 * 3 / (2 * 3 + 0 + 1))


# --- Metrics of the probabilities -------------------------------------------------------------------------------------


def test_multiclass_log_loss_and_brier_agree_with_sklearn() -> None:
    rng = np.random.default_rng(1)
    gold, probabilities = rng.integers(3, size=200), dyadic_probabilities(rng, 200, 3)
    found = compute(predictions_of(STANCE, gold, probabilities.argmax(1), probabilities), ["log_loss", "brier"])
    assert found["log_loss"] == exactly(sk.log_loss(gold, probabilities))
    assert found["brier"] == exactly(sk.brier_score_loss(gold, probabilities, labels=range(3), scale_by_half=False))


def test_multilabel_log_loss_and_brier_are_the_mean_of_sklearns_over_labels() -> None:
    rng = np.random.default_rng(2)
    gold, probabilities = rng.random((200, 4)) < 0.3, rng.integers(1, 1024, size=(200, 4)) / 1024
    task = Task("framing", "multilabel", tuple("abcd"))
    found = compute(predictions_of(task, gold, gold, probabilities), ["log_loss", "brier"])
    columns = list(zip(gold.T, probabilities.T, strict=True))
    assert found["log_loss"] == exactly(np.mean([sk.log_loss(g, p) for g, p in columns]))
    assert found["brier"] == exactly(np.mean([sk.brier_score_loss(g, p) for g, p in columns]))


def test_log_loss_of_a_probability_of_zero_is_clipped_at_the_float32_epsilon() -> None:
    task = Task("topic", "multiclass", ("a", "b"))
    found = compute(predictions_of(task, [0], [1], [[0, 1]]), ["log_loss"])
    assert found["log_loss"] == exactly(23 * math.log(2))


def test_multiclass_ece_by_hand() -> None:
    # The highest probability is .625 twice, right once, and .875 three times, always right:
    # |1 - 2 * .625| = .25 and |3 - 3 * .875| = .375, over 5 examples.
    probabilities = [[0.625, 0.375], [0.625, 0.375], [0.875, 0.125], [0.125, 0.875], [0.875, 0.125]]
    gold = [0, 1, 0, 1, 0]
    for predicted in ([0, 0, 0, 1, 0], [-1, -1, 0, 1, 0]):  # the decision plays no part
        predictions = predictions_of(Task("topic", "multiclass", ("a", "b")), gold, predicted, probabilities)
        assert compute(predictions, ["ece"]) == {"ece": exactly(0.125)}


def test_multilabel_ece_by_hand_pools_the_labels() -> None:
    # .25 twice, true once: |1 - .5|; .75 twice, true twice: |2 - 1.5|; over 4 decisions.
    task = Task("framing", "multilabel", ("a", "b"))
    predictions = predictions_of(task, [[0, 1], [1, 1]], [[0, 0], [1, 1]], [[0.25, 0.75], [0.25, 0.75]])
    assert compute(predictions, ["ece"]) == {"ece": exactly(0.25)}


def test_ece_sums_within_bins_before_it_takes_absolute_values() -> None:
    # 30 distinct confidences make 15 bins of two; each bin holds a right and a wrong answer around .75.
    top = 0.75 + np.arange(-15, 15) / 256
    probabilities = np.column_stack([top, 1 - top])
    predictions = predictions_of(Task("topic", "multiclass", ("a", "b")), [0, 1] * 15, [0] * 30, probabilities)
    expected = sum(abs(1 - top[i] - top[i + 1]) for i in range(0, 30, 2)) / 30
    assert compute(predictions, ["ece"]) == {"ece": exactly(expected)}


def binned_error(confidences: npt.NDArray[np.float64], outcomes: npt.NDArray[np.bool_]) -> float:
    """The calibration error of 15 bins of equal size, cut one by one."""
    bins = np.array_split(np.argsort(confidences), 15)
    return sum(len(b) / len(confidences) * abs(outcomes[b].mean() - confidences[b].mean()) for b in bins)


def test_multiclass_ece_and_its_mean_over_labels_agree_with_bins_cut_one_by_one() -> None:
    rng = np.random.default_rng(8)
    n, labels = 300, 4  # 20 confidences in each of 15 bins, no two of them equal
    given = rng.dirichlet(np.ones(labels), n).astype(np.float32).astype(np.float64)
    gold = rng.integers(labels, size=n)
    task = Task("topic", "multiclass", tuple(LETTERS[:labels]))
    found = compute(predictions_of(task, gold, gold, given), ["ece", "classwise_ece"])
    assert found["ece"] == exactly(binned_error(given.max(axis=1), given.argmax(axis=1) == gold))
    assert found["classwise_ece"] == exactly(np.mean([binned_error(given[:, i], gold == i) for i in range(labels)]))


def test_multilabel_ece_and_its_mean_over_labels_agree_with_bins_cut_one_by_one() -> None:
    rng = np.random.default_rng(8)
    given = rng.uniform(size=(300, 3)).astype(np.float32).astype(np.float64)
    gold = rng.random((300, 3)) < given**2
    found = compute(
        predictions_of(Task("framing", "multilabel", tuple("abc")), gold, gold, given), ["ece", "classwise_ece"]
    )
    assert found["ece"] == exactly(binned_error(given.ravel(), gold.ravel()))
    assert found["classwise_ece"] == exactly(np.mean([binned_error(given[:, i], gold[:, i]) for i in range(3)]))


def test_debiased_ece_takes_off_what_scipys_folded_normal_says_noise_adds() -> None:
    rng = np.random.default_rng(9)
    n, n_groups = 300, 60  # 20 confidences in each of 15 bins, no two of them equal
    top = rng.uniform(0.5, 1.0, n).astype(np.float32)
    gold = (rng.random(n) > top - 0.1).astype(np.int64)
    groups = rng.permutation(np.arange(n) % n_groups)
    predictions = replace(
        predictions_of(Task("topic", "multiclass", ("a", "b")), gold, gold, np.column_stack([top, 1 - top])),
        groups=[f"g{i}" for i in groups],
    )
    gaps = (gold == 0) - top.astype(np.float64)
    noise_added, measured = 0.0, 0.0
    for inside in np.array_split(np.argsort(top), 15):
        of_groups = np.bincount(groups[inside], gaps[inside], n_groups)
        error = of_groups.std(ddof=1) * math.sqrt(n_groups)  # of their sum
        size = abs(of_groups.sum())
        measured += size / n
        noise_added += (stats.foldnorm(size / error, scale=error).mean() - size) / n
    found = compute(predictions, ["ece", "ece_debiased"])
    assert found == {"ece": exactly(measured), "ece_debiased": exactly(measured - noise_added)}
    assert 0.05 < found["ece_debiased"] < found["ece"]


def test_debiased_ece_is_never_below_0_and_undefined_for_one_group() -> None:
    # Both bins' gaps are far smaller than their standard errors.
    confidences, task = np.repeat([0.5, 0.75], 8), Task("topic", "multiclass", ("a", "b"))
    gold = [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
    predictions = predictions_of(task, gold, gold, np.column_stack([confidences, 1 - confidences]))
    assert compute(predictions, ["ece_debiased"]) == {"ece_debiased": 0.0}
    assert math.isnan(compute(replace(predictions, groups=["one"] * 16), ["ece_debiased"])["ece_debiased"])


@against_sklearn
@given(multilabel_cases(), st.integers(0, 2**32 - 1), st.booleans())
def test_label_ranking_metrics_agree_with_sklearn(predictions: Predictions, seed: int, ties: bool) -> None:
    shape = predictions.gold.shape
    scores = np.random.default_rng(seed).integers(0, 4 if ties else 10**6, size=shape) / 10**6
    predictions = replace(predictions, probabilities=scores.astype(np.float32))
    names = ["label_ranking_average_precision", "coverage_error", "ranking_loss"]
    found = compute(predictions, names)
    n_gold = predictions.gold.sum(axis=1)
    functions = (sk.label_ranking_average_precision_score, sk.coverage_error, sk.label_ranking_loss)
    for name, function in zip(names, functions, strict=True):
        # scikit-learn gives an example whose labels cannot be ranked 1, 0 and 0; here it is left out
        ranked = (n_gold > 0) & ((n_gold < shape[1]) | (name != "ranking_loss"))
        expected = function(predictions.gold[ranked], scores[ranked]) if ranked.any() else math.nan
        assert found[name] == exactly(expected), name


@settings(deadline=None)
@given(st.lists(st.integers(0, 64), min_size=1, max_size=100), st.integers(1, 20))
def test_equal_mass_bins_keep_order_and_ties_and_share_evenly(values: list[int], at_most: int) -> None:
    confidences = np.array(values) / 64
    bins = equal_mass_bins(confidences, at_most)
    assert bins.min() >= 0
    assert bins.max() < at_most
    order = np.argsort(confidences, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()
    assert len(set(zip(confidences, bins, strict=True))) == len(set(confidences))
    if len(set(values)) == len(values) >= at_most:
        sizes = np.bincount(bins, minlength=at_most)
        assert sizes.max() - sizes.min() <= 1


@against_sklearn
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=60),
    st.booleans(),
)
def test_average_precision_with_ties_and_weights_agrees_with_sklearn(
    rows: list[tuple[bool, int, int]], distinct: bool
) -> None:
    positive, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    scores = (score * 64 + (np.arange(len(score)) if distinct else 0)) / 1024
    task = Task("framing", "multilabel", ("a",))
    predictions = predictions_of(task, positive[:, None], positive[:, None], scores[:, None])
    found = float(average_precision(ranking(predictions, 0).T @ weight.astype(np.float64)))
    if not (weight * positive).any():
        assert math.isnan(found)
    else:
        assert found == exactly(sk.average_precision_score(positive, scores, sample_weight=weight))


def test_average_precision_of_each_class_is_one_against_the_rest() -> None:
    rng = np.random.default_rng(3)
    gold, probabilities = rng.integers(3, size=300), dyadic_probabilities(rng, 300, 3)
    found = compute(predictions_of(STANCE, gold, gold, probabilities))
    for i, label in enumerate(STANCES):
        expected = sk.average_precision_score(gold == i, probabilities[:, i])
        assert found[f"average_precision/{label}"] == exactly(expected)


def test_multilabel_average_precision_and_its_mean_over_labels_agree_with_sklearn() -> None:
    rng = np.random.default_rng(3)
    gold, probabilities = rng.random((80, 3)) < 0.4, rng.integers(0, 9, size=(80, 3)) / 8
    predictions = predictions_of(Task("framing", "multilabel", tuple("abc")), gold, gold, probabilities)
    found = compute(predictions, ["mean_average_precision", *(f"average_precision/{label}" for label in "abc")])
    for i, label in enumerate("abc"):
        assert found[f"average_precision/{label}"] == exactly(
            sk.average_precision_score(gold[:, i], probabilities[:, i])
        )
    assert found["mean_average_precision"] == exactly(sk.average_precision_score(gold, probabilities, average="macro"))


def test_mean_average_precision_leaves_out_labels_without_gold_examples() -> None:
    gold = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
    probabilities = np.array([[8, 1, 3], [9, 2, 9], [3, 6, 5], [2, 4, 1]]) / 16
    task = Task("framing", "multilabel", ("a", "b", "c"))
    found = compute(predictions_of(task, gold, gold, probabilities))
    # a: ranked 2nd and 3rd: (1/2 + 2/3) / 2; b: ranked 1st and 3rd: (1 + 2/3) / 2
    assert found["mean_average_precision"] == exactly((7 / 12 + 10 / 12) / 2)
    assert math.isnan(found["average_precision/c"])


# --- Undefined, unknown, unasked --------------------------------------------------------------------------------------


def test_a_label_with_neither_gold_nor_predicted_examples_is_left_out_of_macro_f1() -> None:
    found = compute(stances(["favor", "against", "favor"], ["favor", "against", "against"]))
    assert math.isnan(found["f1/neutral"])
    assert found["macro_f1"] == exactly(2 / 3)  # 4/9 if the absent label counted as 0


def test_precision_without_predictions_and_recall_without_gold_examples_are_undefined_while_f1_is_zero() -> None:
    found = compute(stances(["favor"], ["against"]))
    assert math.isnan(found["precision/favor"])
    assert math.isnan(found["recall/against"])
    assert (found["recall/favor"], found["precision/against"]) == (0, 0)
    assert (found["f1/favor"], found["f1/against"], found["semeval2016_favg"]) == (0, 0, 0)


def test_semeval2016_favg_is_undefined_where_one_of_its_two_f1_is() -> None:
    assert math.isnan(compute(stances(["favor", "neutral"], ["favor", "neutral"]))["semeval2016_favg"])


def test_example_f1_is_undefined_where_every_set_is_empty() -> None:
    assert math.isnan(compute(multilabel(["", ""], ["", ""]))["example_f1"])


def test_mae_is_undefined_where_a_decision_abstained() -> None:
    found = compute(predictions_of(STANCE, [0, 1], [0, -1]), ["mae", "macro_mae"])
    assert all(math.isnan(value) for value in found.values())


def test_semeval2023_macro_f1_counts_an_absent_label_as_one_and_macro_f1_leaves_it_out() -> None:
    found = compute(multilabel(["a", "ab"], ["a", "a"]), ["macro_f1", "semeval2023_macro_f1"])
    assert found == {"macro_f1": exactly((1 + 0) / 2), "semeval2023_macro_f1": exactly((1 + 0 + 1) / 3)}


def test_label_ranking_metrics_are_undefined_where_no_example_has_labels_to_rank() -> None:
    found = compute(multilabel(["", ""], ["a", ""]))
    for name in ("label_ranking_average_precision", "coverage_error", "ranking_loss"):
        assert math.isnan(found[name]), name
    assert math.isnan(compute(multilabel(["abc"], ["a"]))["ranking_loss"])


def test_balanced_accuracy_leaves_out_labels_without_gold_examples() -> None:
    assert compute(stances(["favor", "favor"], ["favor", "neutral"]))["balanced_accuracy"] == exactly(1 / 2)


@pytest.mark.parametrize("task", [STANCE, Task("framing", "multilabel", POLICY_FRAMES)], ids=lambda task: task.kind)
def test_everything_is_undefined_without_examples(task: Task) -> None:
    empty = predictions_of(task, [], [])
    assert all(math.isnan(value) for value in compute(empty, available(task)).values())


def test_an_unknown_metric_is_refused_with_a_list_of_those_available() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no metric fnc_score, f1/agree; expected one of macro_f1, .*f1/<label>"
    ):
        select(STANCE, ["macro_f1", "fnc_score", "f1/agree"])


def test_metrics_of_single_labels_are_listed_by_their_form_with_the_labels_only_where_asked_for() -> None:
    framing = Task("framing", "multilabel", POLICY_FRAMES)
    with pytest.raises(ConfigurationError) as caught:
        select(framing, ["micro_f2"])
    message = str(caught.value)
    assert message.endswith("average_precision/<label>; did you mean micro_f1?")
    assert "fairness_and_equality" not in message
    with pytest.raises(ConfigurationError, match=r"f1/<label>, .*, where <label> is one of economic, .*fairness_and_"):
        select(framing, ["f1/none"])
    with pytest.raises(ConfigurationError, match=r"semeval2016_favg/<target>$"):
        select(STANCE, ["xyz"])


def test_official_metrics_are_offered_only_to_tasks_with_their_labels() -> None:
    fnc = Task("stance", "multiclass", FNC_LABELS)
    assert ("semeval2016_favg" in available(STANCE), "semeval2016_favg" in available(fnc)) == (True, False)
    assert ("fnc_score" in available(STANCE), "fnc_score" in available(fnc)) == (False, True)
    assert "fnc_score" not in available(Task("stance", "multiclass", (*FNC_LABELS, "other")))
    assert "semeval2016_favg" not in available(Task("stance", "multilabel", STANCES))


def test_scores_of_ordinal_labels_are_available_but_only_computed_when_asked_for() -> None:
    for name in ("mae", "macro_mae"):
        assert name in available(STANCE)
        assert name not in select(STANCE)
        assert list(select(STANCE, [name])) == [name]


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_the_primary_metric_is_available(kind: str) -> None:
    task = Task("topic", kind, ("a", "b"))  # type: ignore[arg-type]
    assert primary(task) == {"multiclass": "macro_f1", "multilabel": "micro_f1"}[kind]
    assert primary(task) in select(task)


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_per_label_table_counts_labels_and_says_none_where_undefined() -> None:
    probabilities = [[0.75, 0.25, 0], [0.5, 0.25, 0.25], [0.25, 0.75, 0]]
    predictions = predictions_of(STANCE, [0, 1, 1], [0, 0, 1], probabilities)
    favor, against, neutral = per_label_table(predictions)
    assert favor == {
        "label": "favor", "support": 1, "predicted": 2,
        "precision": 0.5, "recall": 1.0, "f1": exactly(2 / 3), "average_precision": 1.0,
    }  # fmt: skip
    assert against == {
        "label": "against", "support": 2, "predicted": 1,
        "precision": 1.0, "recall": 0.5, "f1": exactly(2 / 3), "average_precision": exactly((1 + 2 / 3) / 2),
    }  # fmt: skip
    assert neutral == {
        "label": "neutral", "support": 0, "predicted": 0,
        "precision": None, "recall": None, "f1": None, "average_precision": None,
    }  # fmt: skip


def test_confusion_puts_abstained_predictions_in_the_last_column() -> None:
    table = confusion(predictions_of(Task("topic", "multiclass", ("a", "b")), [0, 0, 1, 1], [0, -1, 0, -1]))
    assert table.tolist() == [[1, 0, 1], [1, 0, 1]]
