"""Slices: on which part of the examples does the model do worse than on the rest?

The examples are cut by label, source, target, language, length, date, by what of them the training has seen, and by
every further column that they carry. A slice is compared with all other examples by the primary metric, and groups are
resampled as for every other interval: each draw serves all slices, and slice and rest share it. The slice of a label
is judged by the F1 of that label, against the mean F1 of the other labels: a macro-F1 of examples that all carry one
label would mean nothing.

p values are two-sided, of a t statistic: the gap over its bootstrap standard error, with the groups of the smaller side
less one as degrees of freedom. (The share of resamples beyond 0 cannot be smaller than one in all of them, which is too
coarse for hundreds of tests.) A slice whose few answers are all right, or all wrong, does not vary in any resample; so
its variance is taken to be at least that of as many groups drawn from all examples, as a score test would.

They are corrected for looking at many slices by Benjamini and Hochberg (1995): of the slices called clearly different,
one in twenty is expected to be a false alarm. Slices are a list of places to look at; Holm's correction, which keeps
even one false alarm below 5 %, would hide most true ones among hundreds. Slices overlap, and gaps of overlapping slices
go together, under which the correction holds (Benjamini and Yekutieli 2001).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats

from data.examples import LabelledExamples
from data.prepare import CleanCorpus
from data.splitting import Split
from evaluation.intervals import (
    CHUNK_BYTES,
    Estimate,
    draw_counts,
    effective_groups,
    estimate,
    group_codes,
    sum_by_group,
)
from evaluation.metrics import (
    Floats,
    Rows,
    Statistic,
    counts,
    divide,
    is_folded,
    label_counts,
    mean_of_defined,
    micro_f1,
    primary,
    select,
    statistics,
    values,
)
from evaluation.predictions import Predictions
from evaluation.report import LEAST_EXAMPLES, LEAST_GROUPS, LOWER_IS_BETTER, metric_name, number
from slantwise.task import Task

MOST_VALUES = 200  # of one column: so many of its largest slices are judged
SHOWN_SMALL = 30  # slices of one column that are too small and named all the same, the largest first
WIDEST = 1000  # columns of a statistic; one that keeps every distinct probability cannot be kept for every slice
CONFIDENCE, ALPHA = 0.95, 0.05
NONE_GIVEN = "(none given)"
MOST_NUMBERS = 12  # a column of more distinct numbers is cut into quarters
STANDING = ("label", "source", "target", "length", "date", "published", "language")  # slices of every report
SEEN = ("near-duplicate in training", "source in training", "target in training")
NO_F1 = "no gold or predicted example carries the label"
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """The examples that share a value of a column.

    metric        the primary metric; f1 for the slice of a label
    n, groups     number of examples, and of groups that the intervals resample
    estimate      the metric on the slice
    rest          the metric on all other examples; of a label the mean F1 of the other labels. None: undefined
    gap           estimate minus rest, with its 95 % interval
    p             of the gap being 0; None where it is undefined
    p_corrected   the same after Benjamini and Hochberg, over all slices
    worse         whether the gap is clearly one for the worse (True) or the better (False); None: not clear
    """

    column: str
    value: str
    metric: str
    n: int
    groups: int
    estimate: Estimate
    rest: float | None
    gap: Estimate
    p: float | None
    p_corrected: float | None = None
    worse: bool | None = None


@dataclass(frozen=True)
class SmallSlice:
    """A slice that is too small to be judged."""

    column: str
    value: str
    n: int
    groups: int


@dataclass(frozen=True)
class Slices:
    """slices: those that were judged, the largest gaps first; small: those of too few examples or groups, and
    `n_small`, how many there are of them by column; skipped: by column, why there is nothing to cut by."""

    metric: str
    slices: Sequence[Slice] = ()
    small: Sequence[SmallSlice] = ()
    n_small: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def worst(self, most: int = 3) -> list[Slice]:
        """Those that are clearly worse than the rest, the largest gaps first."""
        return [each for each in self.slices if each.worse][:most]


# --- Columns ----------------------------------------------------------------------------------------------------------


def seen_in_training(clean: CleanCorpus, split: Split, clusters: Index) -> LabelledExamples:
    """The test examples of a split, with columns (SEEN) that say what of each the training has seen: a near-duplicate,
    its source, its target. Validation counts as training: decisions, and some classifiers, are fitted on it."""
    rows = np.array(split.rows("test"), dtype=np.int64)
    learned = [*split.rows("train"), *split.rows("validation")]
    test, known = clean.examples(rows), clean.examples(learned)
    twins = np.repeat(np.isin(clusters[rows], clusters[learned]), clean.example_counts[rows])
    twin_column, source_column, target_column = SEEN
    columns: dict[str, Sequence[str | None]] = {twin_column: ["yes" if twin else "no" for twin in twins.tolist()]}
    sources = set(known.sources)
    columns[source_column] = [_seen(source in sources) if source else None for source in test.sources]
    if clean.task.has_target:
        targets = set(known.targets)
        columns[target_column] = [_seen(target in targets) for target in test.targets]
    return replace(test, columns={**test.columns, **columns})


def not_known_in_training(task: Task, why: str) -> dict[str, str]:
    """Why none of the columns of `seen_in_training` can be told."""
    return dict.fromkeys(SEEN if task.has_target else SEEN[:2], why)


def _seen(known: bool) -> str:
    return "seen" if known else "unseen"


@dataclass(frozen=True)
class Partition:
    """A column's values by which the examples are cut; `code_of` is the number of each example's value, (n,)."""

    column: str
    names: Sequence[str]
    code_of: Index


def partitions(predictions: Predictions) -> Iterator[Partition]:
    """Everything that the examples can be cut by, but for their labels."""
    yield _by_value("source", predictions.sources)
    if predictions.task.has_target:
        yield _by_value("target", predictions.targets)
    yield _by_size("length", _lengths(predictions.texts), "words")
    columns = dict(predictions.columns)
    if "published" in columns:
        yield _by_value("date", periods(columns.pop("published")))
    for name, column in columns.items():
        yield partition(name, column)


def partition(column: str, given: Sequence[str | None]) -> Partition:
    """By value; a column of many numbers by their size."""
    numbers = _numbers(given)
    return _by_value(column, given) if numbers is None else _by_size(column, numbers)


def _numbers(given: Sequence[str | None]) -> Floats | None:
    """A column of many distinct numbers, NaN where one is missing; None for a column of anything else."""
    try:
        number_of = {text: float(text) for text in set(given) if text is not None}
    except ValueError:
        return None
    if len(number_of) <= MOST_NUMBERS or not np.isfinite(list(number_of.values())).all():
        return None
    return np.array([np.nan if text is None else number_of[text] for text in given])


def _by_value(column: str, given: Sequence[str | None]) -> Partition:
    """Values in the order of their number; what is missing is a value too, unless all is."""
    sizes = Counter(given)
    names = [value for value, _ in sizes.most_common()]
    number = {value: i for i, value in enumerate(names)}
    codes = np.fromiter((number[value] for value in given), dtype=np.int64, count=len(given))
    return Partition(column, [NONE_GIVEN if name is None else name for name in names], codes)


def _lengths(texts: Sequence[str]) -> Floats:
    """In words."""
    found, last, length = np.empty(len(texts)), None, 0
    for i, text in enumerate(texts):
        if text is not last:  # the examples of an article stand together
            last, length = text, len(text.split())
        found[i] = length
    return found


def _by_size(column: str, sizes: Floats, unit: str = "") -> Partition:
    """Quarters of equal number, as far as ties allow; those without a size (NaN) apart."""
    if not len(sizes):
        return Partition(column, [], np.zeros(0, dtype=np.int64))
    given = ~np.isnan(sizes)
    edges = np.unique(np.quantile(sizes[given], [0.25, 0.5, 0.75], method="inverted_cdf"))
    filled, found = np.unique(np.searchsorted(edges, sizes[given]), return_inverse=True)
    codes = np.full(len(sizes), len(filled), dtype=np.int64)
    codes[given] = found
    ends = [(sizes[codes == i].min(), sizes[codes == i].max()) for i in range(len(filled))]
    plain = [[f"{end:,.0f}" if float(end).is_integer() else f"{end:,.4g}" for end in pair] for pair in ends]
    names = [low if low == high else f"{low} to {high}" for low, high in plain]
    names = [f"{name} {unit}".rstrip() for name in names]
    return Partition(column, names if given.all() else [*names, NONE_GIVEN], codes)


def periods(published: Sequence[str | None]) -> list[str | None]:
    """The year of each ISO 8601 date where there are three years or more, else the quarter ("2024 Q1")."""
    day_of = {text: _day(text) for text in set(published)}
    yearly = len({day.year for day in day_of.values() if day}) > 2
    name_of = {
        text: None if day is None else str(day.year) if yearly else f"{day.year} Q{(day.month + 2) // 3}"
        for text, day in day_of.items()
    }
    return [name_of[text] for text in published]


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat((text or "")[:10])
    except ValueError:
        return None


# --- Judging ----------------------------------------------------------------------------------------------------------


def find_slices(predictions: Predictions, metric: str, resamples: int = 1000, seed: int = 0) -> Slices:
    """Every slice of the predictions with its gap to the rest.

    A metric that cannot be kept for every slice (one that ranks all probabilities, or a calibration error) gives way to
    the primary one of the task's kind. Raises ConfigurationError for a metric that the task does not have.
    """
    metric = _additive(predictions, metric)
    if len(set(predictions.groups)) < 2:
        return Slices(metric, skipped={"all": "all examples are of one group: there is nothing to resample"})
    groups = group_codes(predictions.groups)
    judged: list[tuple[Partition, _Size]] = []
    small, n_small, skipped = list[SmallSlice](), dict[str, int](), dict[str, str]()
    for part in partitions(predictions):
        if len(part.names) < 2:
            only = part.names[0] if part.names else NONE_GIVEN
            skipped[part.column] = "not given" if only == NONE_GIVEN else f"all examples are of one: {only}"
            continue
        sizes = _sizes(part.code_of, groups, len(part.names))
        kept = [each for each in sizes if each.is_enough][:MOST_VALUES]
        chosen = {each.code for each in kept}
        rest = sorted((each for each in sizes if each.code not in chosen), key=lambda each: -each.n)
        small += [SmallSlice(part.column, part.names[s.code], s.n, s.groups) for s in rest[:SHOWN_SMALL]]
        n_small |= {part.column: len(rest)} if rest else {}
        judged += [(part, each) for each in kept]
    labels = _label_sizes(predictions, groups)
    enough = [each for each in labels if each.is_enough]
    small_labels = [
        SmallSlice("label", predictions.task.labels[each.code], each.n, each.groups)
        for each in labels
        if not each.is_enough
    ]
    n_small |= {"label": len(small_labels)} if small_labels else {}
    scorers = [_score_labels(predictions, enough, groups), _score_values(predictions, metric, judged, groups)]
    by_label, by_value = _resampled(scorers, int(groups.max()) + 1, resamples, seed)
    of_label = Partition("label", predictions.task.labels, groups)
    spread = effective_groups(np.bincount(groups))
    found = _slices([(of_label, each) for each in enough], "f1", *by_label, spread, NO_F1)
    undefined = select(predictions.task, [metric])[metric].undefined
    found += _slices(judged, metric, *by_value, spread, undefined)
    ordered = sorted(found, key=lambda each: -abs(each.gap.value or 0.0))
    return Slices(metric, _corrected(ordered), [*small_labels, *small], n_small, skipped)


def _additive(predictions: Predictions, metric: str) -> str:
    found = select(predictions.task, [metric])
    few = predictions.select(np.arange(min(len(predictions), 1000)))
    wide = any(statistic(few).shape[1] > WIDEST for statistic in statistics(found))
    folded = any(map(is_folded, found.values()))
    ranks = "average_precision" in metric
    return primary(predictions.task) if wide or folded or ranks else metric


@dataclass(frozen=True)
class _Size:
    """`worth`: the groups of equal size that the slice, and the rest, are worth (Kish 1965)."""

    code: int
    n: int
    groups: int
    worth: float
    worth_of_rest: float

    @property
    def is_enough(self) -> bool:
        return self.n >= LEAST_EXAMPLES and min(self.worth, self.worth_of_rest) >= LEAST_GROUPS


def _sizes(code_of: Index, groups: Index, n_codes: int) -> list[_Size]:
    """Of each value's slice, the largest first. code_of: (n,), -1 for none."""
    whole, inside = np.bincount(groups), code_of >= 0
    shape = (len(whole), n_codes)
    table = sparse.csc_array((np.ones(inside.sum(), np.int64), (groups[inside], code_of[inside])), shape=shape)
    table.sum_duplicates()
    squares, found = float((whole.astype(np.float64) ** 2).sum()), []
    for code in range(n_codes):
        span = slice(table.indptr[code], table.indptr[code + 1])
        own, rows = table.data[span], table.indices[span]
        n = int(own.sum())
        left = (whole[rows] - own).astype(np.float64)
        squares_left = squares - float((whole[rows].astype(np.float64) ** 2).sum()) + float((left**2).sum())
        worth_of_rest = (len(code_of) - n) ** 2 / squares_left if n < len(code_of) else 0.0
        found.append(_Size(code, n, len(own), effective_groups(own) if n else 0.0, worth_of_rest))
    return sorted(found, key=lambda each: -each.n)


@dataclass(frozen=True)
class _Scorer:
    """`scores`: counts of groups (n_groups, r) -> (3, r, s + 1), the scores of slices and last of all examples, those
    of the rest, and the gap; `width`: how many numbers it sums for one resample."""

    scores: Callable[[Floats], Floats]
    width: int


def _score_values(
    predictions: Predictions, metric: str, judged: Sequence[tuple[Partition, _Size]], groups: Index
) -> _Scorer:
    """The metric on slices of values."""
    metrics, n_groups = select(predictions.task, [metric]), int(groups.max()) + 1
    rows = {each: each(predictions) for each in statistics(metrics)}
    total = {each: sum_by_group(matrix, groups, n_groups) for each, matrix in rows.items()}
    inside = {each: _side_by_side(matrix, judged, groups, n_groups) for each, matrix in rows.items()}

    def scores(drawn: Floats) -> Floats:
        def of_slices(statistic: Statistic) -> Floats:
            whole = (total[statistic].T @ drawn).T[:, None, :]
            own = (inside[statistic].T @ drawn).T.reshape(len(whole), len(judged), whole.shape[2])
            return cast(Floats, np.stack([np.concatenate([own, whole], 1), np.concatenate([whole - own, whole], 1)]))

        found = values(metrics, of_slices)[metric]
        return np.concatenate([found, found[:1] - found[1:]])

    return _Scorer(scores, sum(matrix.shape[1] for matrix in rows.values()) * (len(judged) + 1))


def _score_labels(predictions: Predictions, judged: Sequence[_Size], groups: Index) -> _Scorer:
    """F1 of gold labels, the mean F1 of the others, and for all examples the F1 of all decisions pooled."""
    n_labels, chosen = len(predictions.task.labels), [each.code for each in judged]
    total = sum_by_group(label_counts(predictions), groups, int(groups.max()) + 1)

    def scores(drawn: Floats) -> Floats:
        sums = (total.T @ drawn).T
        right, spurious, missed = counts(sums)
        f1 = divide(2 * right, 2 * right + spurious + missed)
        pooled = micro_f1(sums)[:, None]
        others = [mean_of_defined(np.delete(f1, code, axis=1))[:, None] for code in chosen]
        own, rest = np.concatenate([f1[:, chosen], pooled], 1), np.concatenate([*others, pooled], 1)
        return np.stack([own, rest, own - rest])

    return _Scorer(scores, 3 * n_labels)


def _label_sizes(predictions: Predictions, groups: Index) -> list[_Size]:
    """Of the labels that occur, in their order."""
    gold, n_labels = predictions.gold, len(predictions.task.labels)
    carries = gold[:, None] == np.arange(n_labels) if gold.ndim == 1 else gold.astype(bool)
    sizes = [_sizes(np.where(carries[:, i], 0, -1), groups, 1)[0] for i in range(n_labels)]
    return [replace(size, code=i) for i, size in enumerate(sizes) if size.n]


def _resampled(scorers: Sequence[_Scorer], n_groups: int, resamples: int, seed: int) -> list[tuple[Floats, Floats]]:
    """For each scorer its scores on all groups, (3, s + 1), and on resamples, (3, resamples, s + 1)."""
    width = max(scorer.width for scorer in scorers)
    chunk = max(1, CHUNK_BYTES // (8 * (2 * n_groups + 6 * width)))
    drawn = [[scorer.scores(each) for scorer in scorers] for each in draw_counts(n_groups, resamples, seed, chunk)]
    all_groups = np.ones((n_groups, 1))
    return [
        (scorer.scores(all_groups)[:, 0], np.concatenate(parts, axis=1))
        for scorer, parts in zip(scorers, zip(*drawn, strict=True), strict=True)
    ]


def _side_by_side(
    rows: Rows, judged: Sequence[tuple[Partition, _Size]], groups: Index, n_groups: int
) -> sparse.csr_array:
    """The rows of a statistic (n, k) summed by group, for each slice in k columns of its own: (n_groups, s * k)."""
    entries, width = rows.tocoo(), rows.shape[1]
    example, column = entries.coords
    found = sparse.csr_array((n_groups, len(judged) * width), dtype=np.float64)
    for part in {id(part): part for part, _ in judged}.values():
        place_of = np.full(len(part.names), -1, dtype=np.int64)
        for i, (other, size) in enumerate(judged):
            if other is part:
                place_of[size.code] = i
        place = place_of[part.code_of][example]
        held = place >= 0
        at = (groups[example[held]], place[held] * width + column[held])
        found += sparse.csr_array((entries.data[held], at), shape=found.shape)
    return found


def _slices(
    judged: Sequence[tuple[Partition, _Size]], metric: str, on_all: Floats, resampled: Floats, worth: float,
    undefined: str,
) -> list[Slice]:  # fmt: skip
    """From the scores of one scorer; `worth`: of how many groups of equal size all examples are."""
    spread = float(np.nanvar(resampled[0, :, -1])) * worth
    return [
        _slice(part.column, part.names[size.code], metric, size, on_all[:, i], resampled[:, :, i], spread, undefined)
        for i, (part, size) in enumerate(judged)
    ]


def _slice(
    column: str, value: str, metric: str, size: _Size, on_all: Floats, resampled: Floats, spread: float,
    undefined: str,
) -> Slice:  # fmt: skip
    """From the scores of slice, rest and gap, (3,) and (3, resamples); `spread`: the variance of one group's worth."""
    own, rest, gap = on_all.tolist()
    worth = min(size.worth, size.worth_of_rest)
    score = _without_empty(estimate(own, resampled[0], CONFIDENCE, undefined, n_groups=size.worth))
    difference = estimate(gap, resampled[2], CONFIDENCE, undefined, n_groups=worth)
    if score.value is not None and score.low is None and difference.value is not None:
        difference = Estimate(difference.value, None, None, score.reason)  # one side alone would make it too narrow
    p = None
    if not np.isnan(gap):
        defined = resampled[2][~np.isnan(resampled[2])]
        least = spread * (1 / size.worth + 1 / size.worth_of_rest)
        variance = max(float(defined.var()) if len(defined) else 0.0, 0.0 if np.isnan(least) else least)
        p = float(2 * stats.t.sf(abs(gap) / np.sqrt(variance), worth - 1)) if variance > 0 else 1.0
    rest_value = None if np.isnan(rest) else rest
    return Slice(column, value, metric, size.n, size.groups, score, rest_value, difference, p)


def _without_empty(found: Estimate) -> Estimate:
    if found.low is None or found.low != found.high:
        return found
    return Estimate(found.value, None, None, "no interval: all resamples, or almost all, give the same value")


def _corrected(found: Sequence[Slice]) -> list[Slice]:
    """With p values after Benjamini and Hochberg (1995), and what they say."""
    tested = [i for i, each in enumerate(found) if each.p is not None]
    corrected = stats.false_discovery_control([found[i].p for i in tested]) if tested else np.zeros(0)
    judged = list(found)
    for i, p in zip(tested, corrected.tolist(), strict=True):
        sign = -1 if found[i].metric in LOWER_IS_BETTER else 1
        worse = sign * (found[i].gap.value or 0.0) < 0 if p < ALPHA else None
        judged[i] = replace(found[i], p_corrected=p, worse=worse)
    return judged


# --- Words ------------------------------------------------------------------------------------------------------------


def in_words(found: Slices) -> list[str]:
    """The worst slices for the terminal, a line each, three at most."""
    n = len(found.slices)
    if not n:
        return []
    return [_sentence(each) for each in found.worst()] or [f"no slice of {n:,} is clearly worse than the rest"]


def _sentence(each: Slice) -> str:
    against = f"{metric_name(each.metric)} {number(each.estimate.value)} against {number(each.rest)} on the rest"
    facts = f"n = {each.n:,}, corrected p {p_value(each.p_corrected)}"
    return f"worst slice: {each.column} {each.value}: {against} ({facts})"


def p_value(p: float | None) -> str:
    """< .001, .012 or "undefined"."""
    return "< .001" if p is not None and p < 0.001 else number(p)
