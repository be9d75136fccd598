"""Metrics of classifiers, each a function of statistics that add up over examples.

A statistic turns predictions into a sparse matrix (n, k), one row for each example; a metric turns the sum of those
rows, shape (..., k), into its value, shape (...). A sample that is weighted or resampled needs only new sums, so a
bootstrap is one matrix product (see `evaluation.intervals`).

A metric that is undefined is NaN here, never 0 by accident, and `undefined` says in words what that means:

    precision of a label that is never predicted; recall and average precision of a label without gold examples; F1 of
    a label that has neither; Matthews correlation where the gold or the predicted labels are all the same; example F1
    of an example without gold and predicted labels; label-ranking average precision and coverage error of an example
    without gold labels, and ranking loss also of one whose gold labels are all there are; anything of no examples

Averages over labels, targets or examples leave out those that are undefined, and are undefined where all are. For
labels this is scikit-learn's `zero_division=np.nan`, not its default, which counts an absent label as an F1 of 0. The
one exception follows its official scorer: `semeval2023_macro_f1` counts it as 1.

An abstained prediction (-1, multiclass only) is no label: it counts as a wrong answer in accuracy, in the recall of its
gold label, in the Matthews correlation (as a class of its own) and in the FNC score, and as no answer in precision.
Metrics of the probabilities (log_loss, brier, ece, average precision) do not see the decision.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import ndtr

from evaluation.predictions import Predictions
from slantwise.errors import ConfigurationError
from slantwise.task import Task

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows: TypeAlias = "sparse.csr_array[np.float64, tuple[int, int]]"
Statistic = Callable[[Predictions], Rows]

CALIBRATION_BINS = 15
FNC_LABELS = ("agree", "disagree", "discuss", "unrelated")


@dataclass(frozen=True)
class Metric:
    """`value` of the summed rows of `statistic`; `undefined` says in words what it means when that is NaN.

    `folded`: the rows are those of `calibration_gaps` and the value adds up absolute gaps, which noise makes larger; so
    its interval needs more than resampled values (see `evaluation.intervals`).
    """

    statistic: Statistic
    value: Callable[[Floats], Floats]
    undefined: str
    by_default: bool = True
    folded: bool = False


@dataclass(frozen=True)
class Mean:
    """The mean of other metrics' values; undefined ones are left out, and without any other it is undefined itself."""

    of: tuple[Metric, ...]
    undefined: str
    by_default: bool = True


def is_folded(metric: Metric | Mean) -> bool:
    return isinstance(metric, Metric) and metric.folded


# --- Arithmetic with undefined values ---------------------------------------------------------------------------------


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise, NaN where the denominator is 0; both of one shape."""
    quotient = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN, NaN where nothing is: (..., m) -> (...)."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


# --- Statistics: Predictions -> (n, k) --------------------------------------------------------------------------------


def indicators(codes: npt.NDArray[np.int64] | Flags, task: Task) -> Flags:
    """Gold or predicted labels as bool (n, n_labels); an abstained prediction is a row without a label."""
    return codes[:, None] == np.arange(len(task.labels)) if task.kind == "multiclass" else codes.astype(bool)


def label_counts(predictions: Predictions) -> Rows:
    """True positives, false positives and false negatives of each label: (n, 3 * n_labels)."""
    gold = indicators(predictions.gold, predictions.task)
    predicted = indicators(predictions.predicted, predictions.task)
    return sparse.csr_array(np.hstack([gold & predicted, predicted & ~gold, gold & ~predicted])).astype(np.float64)


def per_example(values: npt.ArrayLike, weights: npt.ArrayLike = 1.0) -> Rows:
    """Columns value and weight, (n, 2), whose sums `ratio` divides: the mean of a value over the examples."""
    return sparse.csr_array(np.column_stack(np.broadcast_arrays(np.asarray(values, np.float64), weights)))


def correctness(predictions: Predictions) -> Rows:
    """Whether the prediction is exactly the gold label or the gold set of labels."""
    right = predictions.gold == predictions.predicted
    return per_example(right if right.ndim == 1 else right.all(axis=1))


def wrong_labels(predictions: Predictions) -> Rows:
    """Share of the labels that are predicted but not gold or gold but not predicted; multilabel."""
    wrong = predictions.gold != predictions.predicted
    return per_example(wrong.sum(axis=1), wrong.shape[1])


def set_overlap(predictions: Predictions) -> Rows:
    """2 |Y and P| / (|Y| + |P|) of the gold set Y and the predicted set P; examples where both are empty weigh 0."""
    sizes = predictions.gold.sum(axis=1) + predictions.predicted.sum(axis=1)
    shared = (predictions.gold & predictions.predicted).sum(axis=1)
    return per_example(2 * shared / np.maximum(sizes, 1), sizes > 0)


def surprise(predictions: Predictions) -> Rows:
    """-ln of the probability of the gold label; multilabel: of each label's presence or absence, mean over labels.

    Probabilities are clipped to [e, 1 - e] with e = 1.2e-7, the float32 epsilon, as scikit-learn's log_loss does.
    """
    present = predictions.probabilities.astype(np.float64)
    if predictions.task.kind == "multiclass":
        given = present[np.arange(len(present)), predictions.gold.astype(np.int64)][:, None]
    else:
        given = np.where(predictions.gold, present, 1 - present)
    epsilon = float(np.finfo(np.float32).eps)
    return per_example(-np.log(np.clip(given, epsilon, 1 - epsilon)).mean(axis=1))


def squared_error(predictions: Predictions) -> Rows:
    """Squared error of the probabilities: sum over classes (Brier 1950); multilabel: mean over labels."""
    squares = (predictions.probabilities.astype(np.float64) - indicators(predictions.gold, predictions.task)) ** 2
    return per_example(squares.sum(axis=1) if predictions.task.kind == "multiclass" else squares.mean(axis=1))


def index_distance(predictions: Predictions) -> Rows:
    """Distance of the indices of gold and predicted label: (n, 2 * n_labels + 1), multiclass.

    By gold label the distance and the number of examples; last, whether the decision abstained, which has no distance.
    """
    gold = indicators(predictions.gold, predictions.task)
    abstained = predictions.predicted < 0
    distance = np.where(abstained, 0, np.abs(predictions.gold.astype(np.int64) - predictions.predicted))
    return sparse.csr_array(np.hstack([gold * distance[:, None], gold, abstained[:, None]])).astype(np.float64)


def fnc_points(predictions: Predictions) -> Rows:
    """Points scored and points that could be scored under the rule of the Fake News Challenge, stage 1 (2017).

    https://github.com/FakeNewsChallenge/fnc-1: a right `unrelated` .25; on a related pair .25 for any related label and
    .75 more for the right one.
    """
    unrelated = predictions.task.labels.index("unrelated")
    gold, predicted = predictions.gold.astype(np.int64), predictions.predicted.astype(np.int64)
    related = (gold != unrelated) & (predicted != unrelated) & (predicted >= 0)
    right = gold == predicted
    return per_example(
        0.25 * (right & (gold == unrelated)) + 0.25 * related + 0.75 * (right & related),
        np.where(gold == unrelated, 0.25, 1.0),
    )


def calibration_pairs(predictions: Predictions) -> tuple[Floats, Flags]:
    """Confidences and whether they came true, both (m,).

    Multiclass: each example's highest probability, and whether that label is gold (top-label calibration, Guo et al.
    2017), m = n. Multilabel: the probability of every label of every example, and whether the label is gold, examples
    in order, m = n * n_labels.
    """
    probabilities = predictions.probabilities.astype(np.float64)
    if predictions.task.kind == "multilabel":
        return probabilities.ravel(), predictions.gold.astype(bool).ravel()
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == predictions.gold


def equal_mass_bins(confidences: Floats, at_most: int = CALIBRATION_BINS) -> npt.NDArray[np.int64]:
    """Bin of each confidence, (m,), in 0..at_most - 1: sorted and cut into equal shares (Nixon et al. 2019).

    Equal confidences share a bin, so that the order of the examples does not matter; some bins may then stay empty.
    """
    order = np.argsort(confidences)
    ordered = confidences[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]][: len(order)]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    return rank * at_most // max(len(order), 1)


def calibration_gaps(predictions: Predictions, classwise: bool = False) -> Rows:
    """Outcome - confidence, summed by equal-mass bin, and what tells its variance: (n, 2 * bins + 2).

    First the gap of each bin; then its square over each group, in the row of the group's first example, so that it adds
    up over groups; then the number of confidences, and that of groups. CALIBRATION_BINS bins of `calibration_pairs`, or
    as many for each label one against the rest. The bins are cut on the given predictions and stay where they are when
    these are resampled.
    """
    n, n_labels = predictions.probabilities.shape
    if classwise:
        columns = predictions.probabilities.astype(np.float64).T
        confidences, outcomes = columns.T.ravel(), indicators(predictions.gold, predictions.task).ravel()
        bins = np.stack([equal_mass_bins(one) + i * CALIBRATION_BINS for i, one in enumerate(columns)], axis=1).ravel()
        n_bins = n_labels * CALIBRATION_BINS
    else:
        confidences, outcomes = calibration_pairs(predictions)
        bins, n_bins = equal_mass_bins(confidences), CALIBRATION_BINS
    each = len(confidences) // max(n, 1)
    places: dict[str, int] = {}
    first = np.fromiter((places.setdefault(g, i) for i, g in enumerate(predictions.groups)), dtype=np.int64, count=n)
    of_group = sparse.coo_array((outcomes - confidences, (np.repeat(first, each), bins)), shape=(n, n_bins)).tocsr()
    gaps = sparse.coo_array((outcomes - confidences, (np.repeat(np.arange(n), each), bins)), shape=(n, n_bins))
    is_first = first == np.arange(n)
    return sparse.csr_array(sparse.hstack([gaps, of_group**2, np.column_stack([np.full(n, float(each)), is_first])]))


def label_ranks(predictions: Predictions) -> tuple[Floats, Floats]:
    """For each gold label of an example, how many labels, and how many gold labels, score as high or higher.

    Both (n, n_labels), 0 for labels that are not gold.
    """
    scores, gold = predictions.probabilities, predictions.gold.astype(bool)
    above = np.zeros(scores.shape)
    gold_above = np.zeros(scores.shape)
    for i in range(scores.shape[1]):
        reaches = scores >= scores[:, i : i + 1]
        above[:, i] = reaches.sum(axis=1)
        gold_above[:, i] = (reaches & gold).sum(axis=1)
    return above * gold, gold_above * gold


def label_ranking_precision(predictions: Predictions) -> Rows:
    """Mean over the gold labels of the share of gold ones among the labels ranked as high (Tsoumakas et al. 2010)."""
    above, gold_above = label_ranks(predictions)
    n_gold = predictions.gold.sum(axis=1)
    shares = np.divide(gold_above, above, out=np.zeros_like(above), where=above > 0)
    return per_example(shares.sum(axis=1) / np.maximum(n_gold, 1), n_gold > 0)


def label_coverage(predictions: Predictions) -> Rows:
    """How far down the ranking of labels one has to go to find all gold ones, counted from 1 (Tsoumakas et al. 2010).

    A label that ties with the last gold one is counted, as scikit-learn does.
    """
    above, _ = label_ranks(predictions)
    return per_example(above.max(axis=1), predictions.gold.any(axis=1))


def label_misorder(predictions: Predictions) -> Rows:
    """Share of the pairs of a gold and another label that are ranked wrongly or tie (Tsoumakas et al. 2010)."""
    above, gold_above = label_ranks(predictions)
    n_gold = predictions.gold.sum(axis=1)
    pairs = n_gold * (predictions.gold.shape[1] - n_gold)
    return per_example((above - gold_above).sum(axis=1) / np.maximum(pairs, 1), pairs > 0)


def label_counts_by_target(predictions: Predictions) -> Rows:
    """`label_counts` of each target in columns of its own: (n, n_targets * 3 * n_labels), targets as they appear."""
    number = {target: i for i, target in enumerate(dict.fromkeys(predictions.targets))}
    codes = np.array([number[target] for target in predictions.targets], dtype=np.int64)
    found = label_counts(predictions).tocoo()
    row, column = found.coords
    width = found.shape[1]
    return sparse.csr_array((found.data, (row, column + width * codes[row])), shape=(len(codes), width * len(number)))


def label_counts_of_target(predictions: Predictions, target: str) -> Rows:
    """`label_counts` of the examples with the target; those of others are rows of zeros."""
    chosen = np.array([each == target for each in predictions.targets], dtype=np.float64)
    return sparse.csr_array(label_counts(predictions).multiply(chosen[:, None]))


def ranking(predictions: Predictions, label: int) -> Rows:
    """All examples and the positive ones by the step of the label's precision-recall curve they enter at: (n, 2 t).

    Steps are the t distinct scores of positive examples, highest first; an example enters at the first step whose score
    it reaches. Steps without a positive example add nothing to average precision, so they are not needed.
    """
    scores, positive = predictions.probabilities[:, label], indicators(predictions.gold, predictions.task)[:, label]
    steps = np.unique(scores[positive])
    step = len(steps) - np.searchsorted(steps, scores, side="right")
    entering, positives = np.flatnonzero(step < len(steps)), np.flatnonzero(positive)
    row = np.concatenate([entering, positives])
    column = np.concatenate([step[entering], len(steps) + step[positives]])
    return sparse.csr_array((np.ones(len(row)), (row, column)), shape=(len(scores), 2 * len(steps)))


# --- Values: summed statistics (..., k) -> (...) ----------------------------------------------------------------------


def ratio(sums: Floats) -> Floats:
    return divide(sums[..., 0], sums[..., 1])


def counts(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """True positives, false positives, false negatives, each (..., n_labels), of summed `label_counts`."""
    n_labels = sums.shape[-1] // 3
    return sums[..., :n_labels], sums[..., n_labels : 2 * n_labels], sums[..., 2 * n_labels :]


def precision(sums: Floats, label: int) -> Floats:
    tp, fp, _ = counts(sums)
    return divide(tp[..., label], tp[..., label] + fp[..., label])


def recall(sums: Floats, label: int) -> Floats:
    tp, _, fn = counts(sums)
    return divide(tp[..., label], tp[..., label] + fn[..., label])


def f1(sums: Floats, label: int) -> Floats:
    tp, fp, fn = (count[..., label] for count in counts(sums))
    return divide(2 * tp, 2 * tp + fp + fn)


def micro_f1(sums: Floats) -> Floats:
    tp, fp, fn = (count.sum(axis=-1) for count in counts(sums))
    return divide(2 * tp, 2 * tp + fp + fn)


def weighted_f1(sums: Floats) -> Floats:
    """Mean F1 of the labels, weighted by their gold examples; a label without any has no weight."""
    tp, fp, fn = counts(sums)
    support = tp + fn
    f1s = np.where(support > 0, divide(2 * tp, 2 * tp + fp + fn), 0.0)
    return divide((support * f1s).sum(axis=-1), support.sum(axis=-1))


def matthews(sums: Floats) -> Floats:
    """Multiclass Matthews correlation (Gorodkin 2004), undefined where gold or predicted labels are all the same."""
    tp, fp, fn = counts(sums)
    gold, predicted = tp + fn, tp + fp
    n = gold.sum(axis=-1)
    abstained = n - predicted.sum(axis=-1)
    both = tp.sum(axis=-1) * n - (gold * predicted).sum(axis=-1)
    gold_spread = n**2 - (gold**2).sum(axis=-1)
    predicted_spread = n**2 - (predicted**2).sum(axis=-1) - abstained**2
    return divide(both, np.sqrt(gold_spread) * np.sqrt(predicted_spread))


def favor_against(sums: Floats, favor: int, against: int) -> Floats:
    return (f1(sums, favor) + f1(sums, against)) / 2


def mean_over_targets(sums: Floats, value: Callable[[Floats], Floats], width: int) -> Floats:
    """Mean of the values of each target's `width` columns, of summed `label_counts_by_target`."""
    return mean_of_defined(value(sums.reshape(*sums.shape[:-1], -1, width)))


def macro_f1_absent_as_one(sums: Floats, n_labels: int) -> Floats:
    f1s = np.stack([f1(sums, label) for label in range(n_labels)], axis=-1)
    return np.where(np.isnan(f1s).all(axis=-1), np.nan, np.where(np.isnan(f1s), 1.0, f1s).mean(axis=-1))


def mean_distance(sums: Floats) -> Floats:
    n_labels = sums.shape[-1] // 2
    distance = divide(sums[..., :n_labels].sum(axis=-1), sums[..., n_labels:-1].sum(axis=-1))
    return np.where(sums[..., -1] > 0, np.nan, distance)


def macro_mean_distance(sums: Floats) -> Floats:
    """Mean over gold labels of the mean distance of their examples (Baccianella et al. 2009)."""
    n_labels = sums.shape[-1] // 2
    distance = mean_of_defined(divide(sums[..., :n_labels], sums[..., n_labels:-1]))
    return np.where(sums[..., -1] > 0, np.nan, distance)


def mean_gaps(sums: Floats) -> Floats:
    """The gaps of summed `calibration_gaps`, as shares of all confidences: (..., bins)."""
    gaps = sums[..., : sums.shape[-1] // 2 - 1]
    return divide(gaps, np.broadcast_to(sums[..., -2:-1], gaps.shape))


def expected_calibration_error(sums: Floats) -> Floats:
    return divide(np.abs(sums[..., : sums.shape[-1] // 2 - 1]).sum(axis=-1), sums[..., -2])


def debiased_calibration_error(sums: Floats) -> Floats:
    """The calibration error less what noise has added to it, and at least 0.

    Were the gaps measured anew with noise on top, their absolute sum would grow by about as much as the noise that they
    hold already has made of it. So do Kumar, Liang and Ma (2019) in their package uncertainty-calibration, drawing
    normal noise; here its mean, that of a folded normal distribution (Leone, Nelson and Nottingham 1961), takes the
    place of draws, and groups are what varies.
    """
    bins, n_groups = sums.shape[-1] // 2 - 1, sums[..., -1:]
    gaps, squares = sums[..., :bins], sums[..., bins:-2]
    spread = squares - divide(gaps**2, np.broadcast_to(n_groups, gaps.shape))
    variance = np.maximum(spread, 0) * divide(n_groups, n_groups - 1)  # undefined for a single group
    error, size = np.sqrt(variance), np.abs(gaps)
    ratio_of_gap = np.divide(size, error, out=np.full(gaps.shape, np.inf), where=error > 0)
    again = error * np.sqrt(2 / np.pi) * np.exp(-(ratio_of_gap**2) / 2) + size * (1 - 2 * ndtr(-ratio_of_gap))
    return np.maximum(divide((2 * size - again).sum(axis=-1), sums[..., -2]), 0)


def average_precision(sums: Floats) -> Floats:
    """Sum over steps of precision times the gain in recall, without interpolation, of summed `ranking`."""
    steps = sums.shape[-1] // 2
    positives = sums[..., steps:]
    hits = np.cumsum(positives, axis=-1)
    seen = np.cumsum(sums[..., :steps], axis=-1)
    np.divide(hits, seen, out=hits, where=seen > 0)  # hits becomes precision; where nothing is seen yet it is 0 already
    hits *= positives
    return divide(hits.sum(axis=-1), positives.sum(axis=-1))


# --- The registry -----------------------------------------------------------------------------------------------------


def _label_metrics(task: Task) -> dict[str, Metric]:
    found = {}
    for i, label in enumerate(task.labels):
        found[f"f1/{label}"] = Metric(label_counts, partial(f1, label=i), f"no gold or predicted example is {label!r}")
        found[f"precision/{label}"] = Metric(label_counts, partial(precision, label=i), f"{label!r} is never predicted")
        found[f"recall/{label}"] = Metric(label_counts, partial(recall, label=i), f"no gold example is {label!r}")
        found[f"average_precision/{label}"] = Metric(
            partial(ranking, label=i), average_precision, f"no gold example is {label!r}"
        )
    return found


def _multiclass_metrics(task: Task, by_label: Mapping[str, Metric]) -> dict[str, Metric | Mean]:
    same = "the gold labels, or the predicted labels, are all the same"
    abstained = "a prediction abstained, or no examples"
    recalls = tuple(by_label[f"recall/{label}"] for label in task.labels)
    found: dict[str, Metric | Mean] = {
        "accuracy": Metric(correctness, ratio, "no examples"),
        "balanced_accuracy": Mean(recalls, "no examples"),
        "mcc": Metric(label_counts, matthews, same),
        # of ordinal labels, in the order of task.labels: a corpus whose labels are ordinal names them in `metrics`
        "mae": Metric(index_distance, mean_distance, abstained, by_default=False),
        "macro_mae": Metric(index_distance, macro_mean_distance, abstained, by_default=False),
    }
    if _has_stances(task):
        undefined = "the F1 of favor or of against is undefined"
        found["semeval2016_favg"] = Metric(label_counts, _favor_against_of(task), undefined)
        if task.has_target:
            value = partial(mean_over_targets, value=_favor_against_of(task), width=3 * len(task.labels))
            found["semeval2016_favg_macro"] = Metric(
                label_counts_by_target, value, f"{undefined} on every target", by_default=False
            )
    if set(task.labels) == set(FNC_LABELS):
        found["fnc_score"] = Metric(fnc_points, ratio, "no examples")
    return found


def _has_stances(task: Task) -> bool:
    return task.kind == "multiclass" and {"favor", "against"} <= set(task.labels)


def _favor_against_of(task: Task) -> Callable[[Floats], Floats]:
    return partial(favor_against, favor=task.labels.index("favor"), against=task.labels.index("against"))


def _of_target(task: Task, name: str) -> Metric | None:
    """`semeval2016_favg/<target>`: which targets there are is known to the predictions, not to the task."""
    kind, _, target = name.partition("/")
    if kind != "semeval2016_favg" or not target or not (task.has_target and _has_stances(task)):
        return None
    undefined = f"the F1 of favor or of against is undefined on target {target!r}"
    statistic = partial(label_counts_of_target, target=target)
    return Metric(statistic, _favor_against_of(task), undefined, by_default=False)


def _multilabel_metrics(task: Task) -> dict[str, Metric | Mean]:
    no_f1, no_gold = "no label has a gold or a predicted example", "no example has a gold label"
    return {
        # zero_division=1 in the official scorer of SemEval-2023 task 3, subtask 2 (Piskorski et al. 2023)
        "semeval2023_macro_f1": Metric(
            label_counts, partial(macro_f1_absent_as_one, n_labels=len(task.labels)), no_f1, by_default=False
        ),
        # as the evaluation of ConfliBERT (Hu et al. 2022) counts it
        "example_f1": Metric(set_overlap, ratio, "no example has a gold or a predicted label"),
        "subset_accuracy": Metric(correctness, ratio, "no examples"),
        "hamming_loss": Metric(wrong_labels, ratio, "no examples"),
        "label_ranking_average_precision": Metric(label_ranking_precision, ratio, no_gold),
        "coverage_error": Metric(label_coverage, ratio, no_gold),
        "ranking_loss": Metric(label_misorder, ratio, "every example has no gold label or all of them"),
    }


def registry(task: Task) -> dict[str, Metric | Mean]:
    """Every metric of the task by name, the general ones first, then those of single labels.

    Official scores: SemEval-2016 task 6 (Mohammad et al. 2016) is `semeval2016_favg`, the targets pooled, besides
    `semeval2016_favg_macro`, the mean over targets, and `semeval2016_favg/<target>` (see `select`); the Fake News
    Challenge is `fnc_score`, of the points that could be scored; SemEval-2023 task 3, framing, is `micro_f1` and
    `semeval2023_macro_f1`; ConfliBERT's multilabel score is `example_f1`.
    """
    by_label = _label_metrics(task)
    average_precisions = tuple(by_label[f"average_precision/{label}"] for label in task.labels)
    no_f1, no_gold = "no label has a gold or a predicted example", "no label has a gold example"
    return {
        "macro_f1": Mean(tuple(by_label[f"f1/{label}"] for label in task.labels), no_f1),
        "micro_f1": Metric(label_counts, micro_f1, no_f1),
        "weighted_f1": Metric(label_counts, weighted_f1, no_gold),
        **(_multiclass_metrics(task, by_label) if task.kind == "multiclass" else _multilabel_metrics(task)),
        "mean_average_precision": Mean(average_precisions, no_gold),
        "log_loss": Metric(surprise, ratio, "no examples"),
        "brier": Metric(squared_error, ratio, "no examples"),
        "ece": Metric(calibration_gaps, expected_calibration_error, "no examples", folded=True),
        "ece_debiased": Metric(
            calibration_gaps,
            debiased_calibration_error,
            "all examples are of one group, or there are none",
            folded=True,
        ),
        # with bins of equal mass: the adaptive calibration error of Nixon et al. 2019
        "classwise_ece": Metric(
            partial(calibration_gaps, classwise=True),
            expected_calibration_error,
            "no examples",
            by_default=False,
            folded=True,
        ),
        **by_label,
    }


def available(task: Task) -> list[str]:
    """The names of all metrics of the task, those that are only computed when asked for by name (mae) included.

    `semeval2016_favg/<target>`, which `select` knows besides, depends on the predictions.
    """
    return list(registry(task))


def primary(task: Task) -> str:
    """The metric that models of the task are compared by unless the configuration names another."""
    return "macro_f1" if task.kind == "multiclass" else "micro_f1"


def select(task: Task, names: Sequence[str] | None = None) -> dict[str, Metric | Mean]:
    """The named metrics, or those computed by default. Raises ConfigurationError for names the task does not have."""
    known = registry(task)
    if names is None:
        return {name: metric for name, metric in known.items() if metric.by_default}
    known |= {name: metric for name in names if name not in known and (metric := _of_target(task, name))}
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"task {task.name} has no metric {', '.join(unknown)}; {_expected(task, unknown)}")
    return {name: known[name] for name in names}


def _expected(task: Task, received: Sequence[str]) -> str:
    """What the task has in place of the received names: the general metrics, and those of single labels by their form;
    the labels only where such a metric was asked for."""
    known = registry(task)
    forms = list(dict.fromkeys(f"{name.partition('/')[0]}/<label>" for name in known if "/" in name))
    found = f"expected one of {', '.join(name for name in known if '/' not in name)}, {', '.join(forms)}"
    if _of_target(task, "semeval2016_favg/<target>"):
        found += ", semeval2016_favg/<target>"
    if any("/" in name for name in received):
        found += f", where <label> is one of {', '.join(task.labels)}"
    close = difflib.get_close_matches(received[0], known, n=1)
    return f"{found}; did you mean {close[0]}?" if close else found


# --- Evaluation -------------------------------------------------------------------------------------------------------


def _parts(metrics: Iterable[Metric | Mean]) -> dict[Statistic, list[Metric]]:
    """The metrics, and those that means are taken of, by the statistic they share."""
    parts = dict.fromkeys(part for metric in metrics for part in (metric.of if isinstance(metric, Mean) else (metric,)))
    by_statistic: dict[Statistic, list[Metric]] = {}
    for part in parts:
        by_statistic.setdefault(part.statistic, []).append(part)
    return by_statistic


def statistics(metrics: Mapping[str, Metric | Mean]) -> list[Statistic]:
    """The distinct statistics that the metrics need."""
    return list(_parts(metrics.values()))


def values(metrics: Mapping[str, Metric | Mean], sums: Callable[[Statistic], Floats]) -> dict[str, Floats]:
    """Each metric at the sums (..., k) of its statistic; `sums` is asked for one statistic at a time, once for each."""
    found: dict[Metric, Floats] = {}
    for statistic, parts in _parts(metrics.values()).items():
        summed = sums(statistic)
        found |= {part: part.value(summed) for part in parts}
    return {
        name: mean_of_defined(np.stack([found[part] for part in metric.of], axis=-1))
        if isinstance(metric, Mean)
        else found[metric]
        for name, metric in metrics.items()
    }


def compute(predictions: Predictions, names: Sequence[str] | None = None) -> dict[str, float]:
    """The metrics without intervals, NaN where undefined. Raises ConfigurationError for an unknown name."""
    found = values(select(predictions.task, names), lambda statistic: statistic(predictions).sum(axis=0))
    return {name: float(value) for name, value in found.items()}


def per_label_table(predictions: Predictions) -> list[dict[str, Any]]:
    """One row for each label: label, support, predicted (both counts), precision, recall, f1, average_precision.

    A metric that is undefined for the label is None.
    """
    columns = ("precision", "recall", "f1", "average_precision")
    labels = predictions.task.labels
    found = compute(predictions, [f"{column}/{label}" for label in labels for column in columns])
    tp, fp, fn = counts(label_counts(predictions).sum(axis=0))
    return [
        {"label": label, "support": int(tp[i] + fn[i]), "predicted": int(tp[i] + fp[i])}
        | {column: None if np.isnan(value := found[f"{column}/{label}"]) else value for column in columns}
        for i, label in enumerate(labels)
    ]


def confusion(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Multiclass: (n_labels, n_labels + 1), gold by predicted, the last column for abstained predictions.

    Multilabel: (n_labels, 2, 2), for each label [[true negative, false positive], [false negative, true positive]].
    """
    n_labels = len(predictions.task.labels)
    if predictions.task.kind == "multilabel":
        tp, fp, fn = counts(label_counts(predictions).sum(axis=0))
        return np.stack([len(predictions) - tp - fp - fn, fp, fn, tp], axis=-1).reshape(-1, 2, 2).astype(np.int64)
    column = np.where(predictions.predicted < 0, n_labels, predictions.predicted)
    table = np.zeros((n_labels, n_labels + 1), dtype=np.int64)
    np.add.at(table, (predictions.gold.astype(np.int64), column), 1)
    return table
