"""Statistics of models that were judged on exactly the same examples: differences, tests, slices, flips.

Differences are paired: each bootstrap resample draws the same groups for every model, so what makes an example hard for
all of them cancels out (Efron and Tibshirani 1993; Berg-Kirkpatrick et al. 2012 for this use).

Where a model has several runs (seeds), its metric is the mean over them, and the bootstrap draws runs as well as
groups, independently: the pigeonhole bootstrap of crossed effects (Owen 2007, Annals of Applied Statistics 1(2),
386-411). It counts what examples and runs do together more than once, and with few runs by far; so its deviations are
scaled to the variance that the components add up to, and widened by Student's t over the normal quantile at the degrees
of freedom of Satterthwaite (1946), as percentiles of a few values are too narrow (Hesterberg 2015, The American
Statistician 69(4), 371-386).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats

from evaluation.intervals import (
    CHUNK_BYTES,
    Estimate,
    draw_counts,
    effective_groups,
    estimate,
    evaluate,
    group_codes,
    resample,
    sum_by_group,
)
from evaluation.metrics import (
    Floats,
    Rows,
    Statistic,
    correctness,
    is_folded,
    ratio,
    select,
    set_overlap,
    statistics,
    values,
)
from evaluation.predictions import Predictions
from evaluation.slices import NONE_GIVEN, STANDING, Partition, partition
from slantwise.errors import ConfigurationError
from slantwise.task import Task

CONFIDENCE = 0.95
POWER = 0.8
LEAST_IN_SLICE = 10
Index = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Contestant:
    """A model under comparison: its predictions, one a run, all on the same examples in the same order."""

    name: str
    runs: Sequence[Predictions]
    has_probabilities: bool = True
    origins: Sequence[str] = ()  # what each run was read from

    @property
    def examples(self) -> Predictions:
        return self.runs[0]


@dataclass(frozen=True)
class Difference:
    """A challenger's metric minus the baseline's.

    estimate     the difference with its 95 % interval, or the reason why it is undefined
    p            two-sided p value of the null hypothesis that there is no difference; None where undefined
    p_holm       the same, corrected for the number of challengers; set by `holm`
    test         permutation, exact permutation (all swaps enumerated) or bootstrap (a side has several runs)
    needed       examples that would show a difference of this size with a power of .8; None where undefined, or where
                 no number would because the runs differ too much
    detectable   the difference that would be shown with a power of .8 on as many examples as there are
    """

    metric: str
    estimate: Estimate
    p: float | None
    p_holm: float | None
    test: str | None
    needed: int | None
    detectable: float | None

    @property
    def shown(self) -> bool:
        """Whether there is a difference: the corrected p value is below .05 and the interval excludes 0."""
        return self.p_holm is not None and self.p_holm < 1 - CONFIDENCE and excludes_zero(self.estimate)


def excludes_zero(value: Estimate) -> bool:
    return value.low is not None and value.high is not None and (value.low > 0 or value.high < 0)


class _NoProbabilities(Exception):
    """A statistic asked for probabilities."""


class _AnswersOnly:
    """Predictions that have no probabilities to ask for."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions

    def __len__(self) -> int:
        return len(self.predictions)

    def __getattr__(self, name: str) -> Any:
        if name == "probabilities":
            raise _NoProbabilities
        return getattr(self.predictions, name)


def needs_probabilities(predictions: Predictions, name: str) -> bool:
    """Whether the metric looks at the probabilities, found by trying."""
    try:
        for statistic in statistics(select(predictions.task, [name])):
            statistic(cast(Predictions, _AnswersOnly(predictions.select(np.arange(min(1, len(predictions)))))))
    except _NoProbabilities:
        return True
    return False


def undefined_reason(contestant: Contestant, name: str) -> str | None:
    """Why a metric cannot be computed for the model at all; None where it can."""
    if not contestant.has_probabilities and needs_probabilities(contestant.examples, name):
        return f"{contestant.name} has no probabilities"
    return None


# --- Resampling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resampled:
    """Metrics of one contestant.

    runs          name -> (n_runs,), the metric of each run on all examples
    groups        name -> (resamples,), the mean over its runs on resampled groups; empty for fewer than two groups
    both          name -> (resamples,), the same with the runs resampled too; that of `groups` where there is one run
    run_variance  name -> the variance of the mean over the runs that comes from the runs alone, and the same with what
                  comes from runs and examples together; 0 for one run
    """

    runs: Mapping[str, Floats]
    groups: Mapping[str, Floats]
    both: Mapping[str, Floats]
    run_variance: Mapping[str, tuple[float, float]]

    def value(self, name: str) -> float:
        return float(self.runs[name].mean())


def resample_contestant(
    contestant: Contestant, names: Sequence[str], resamples: int, seed: int, position: int = 0
) -> Resampled:
    """Resample groups (the same for every contestant) and runs (by `position`, so that two contestants differ).

    What noise makes larger (`Metric.folded`) is larger still in resamples of a sample; so these are moved to have the
    mean of the value that they are resamples of.
    """
    found = [resample(run, names, resamples, seed) for run in contestant.runs]
    n_runs, metrics = len(found), select(contestant.examples.task, names)
    runs = {name: np.array([on_all[name] for on_all, _ in found]) for name in names}
    drawn = {name: np.array([resampled[name] for _, resampled in found]) for name in names if found[0][1]}
    for name in drawn:
        if is_folded(metrics[name]):
            drawn[name] += (runs[name] - drawn[name].mean(axis=1))[:, None]
    groups = {name: each.mean(axis=0) for name, each in drawn.items()}
    if n_runs == 1 or not drawn:
        return Resampled(runs, groups, groups, dict.fromkeys(names, (0.0, 0.0)))
    picks = np.random.default_rng([seed, 1 + position]).integers(n_runs, size=(n_runs, resamples))
    both = {name: np.take_along_axis(each, picks, axis=0).mean(axis=0) for name, each in drawn.items()}
    return Resampled(runs, groups, both, {name: _run_variance(runs[name], drawn[name]) for name in names})


def _run_variance(runs: Floats, drawn: Floats) -> tuple[float, float]:
    """The runs' own part of the variance of their mean, and the whole of it; runs (n_runs,), drawn (n_runs, resamples).

    Runs differ on the same examples because they are better or worse, and because each has its luck with these
    examples; how their differences change from resample to resample tells the second part, which is taken off.
    """
    n_runs = len(runs)
    luck = sum(map(_variance, drawn - drawn.mean(axis=0))) / (n_runs - 1)
    whole = float(runs.var(ddof=1))
    return max(0.0, whole - luck) / n_runs, whole / n_runs


def _variance(resampled: Floats) -> float:
    """Of the resamples in which the metric is defined; NaN without any."""
    defined = resampled[~np.isnan(resampled)]
    return float(defined.var()) if len(defined) else math.nan


@dataclass(frozen=True)
class Spread:
    """A metric, or the difference of two, and how far it varies.

    resampled          (resamples,), or None for fewer than two groups
    example_variance   the part that more examples would shrink; NaN where resampled is None
    run_variance       the part that more runs would shrink
    """

    value: float
    resampled: Floats | None
    example_variance: float
    run_variance: float

    @property
    def error(self) -> float:
        return math.sqrt(self.example_variance + self.run_variance)


def spread(name: str, of: Resampled, minus: Resampled | None = None) -> Spread:
    """The metric of a contestant, or its difference from that of another."""
    terms = [(1, of)] if minus is None else [(1, of), (-1, minus)]
    value = sum(sign * each.value(name) for sign, each in terms)
    run_variance = sum(each.run_variance[name][0] for _, each in terms)
    if name not in of.groups:
        return Spread(value, None, math.nan, run_variance)
    groups, both = (
        np.asarray(sum(sign * getattr(each, part)[name] for sign, each in terms)) for part in ("groups", "both")
    )
    example_variance = _variance(groups)
    runs = [(each.run_variance[name][1], len(each.runs[name])) for _, each in terms if len(each.runs[name]) > 1]
    if runs and (drawn := _variance(both)) > 0:
        scale = math.sqrt((example_variance + run_variance) / drawn) * _widening(example_variance + run_variance, runs)
        centre = np.nanmean(both)
        both = centre + scale * (both - centre)
    return Spread(value, both, example_variance, run_variance)


def _widening(variance: float, runs: Sequence[tuple[float, int]]) -> float:
    """Student's t over the normal quantile at the degrees of freedom of a variance into which these went: the variance
    of the mean of so many runs; those of the examples are taken to be many."""
    squares = sum(of_runs**2 / (n - 1) for of_runs, n in runs)
    if not squares:
        return 1.0
    tail = (1 + CONFIDENCE) / 2
    return float(stats.t.ppf(tail, max(1.0, variance**2 / squares)) / stats.norm.ppf(tail))


def bootstrap_p(found: Spread) -> float | None:
    """Two-sided p value: how often the difference varies by as much as it is away from 0 (Hall and Wilson 1991,
    Biometrics 47, 757-762: resample under the null hypothesis, that is, around the difference found)."""
    if found.resampled is None or math.isnan(found.value):
        return None
    deviations = found.resampled[~np.isnan(found.resampled)] - found.value
    return float((1 + (np.abs(deviations) >= abs(found.value) - 1e-12).sum()) / (1 + len(deviations)))


def examples_needed(n: int, found: Spread) -> int | None:
    """How many examples would show a difference of this size, two-sided at 5 %, with a power of .8.

    n' = n * v_e / ((d / (z_.975 + z_.8))^2 - v_r), with v_e and v_r the variances of the difference d on n examples
    that come from the examples and from the runs: the usual normal approximation (Lachin 1981, Controlled Clinical
    Trials 2, 93-113; Card et al. 2020, With Little Power Comes Great Responsibility). It takes further examples to come
    in groups of the same size. None where the difference is 0 or undefined, or the runs alone vary too much.
    """
    room = (found.value / _quantiles()) ** 2 - found.run_variance
    if math.isnan(found.example_variance) or math.isnan(room) or room <= 0:
        return None
    return math.ceil(n * found.example_variance / room)


def _quantiles() -> float:
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER))


# --- The permutation test ---------------------------------------------------------------------------------------------


def permutation_test(
    baseline: Predictions, challenger: Predictions, names: Sequence[str], permutations: int, seed: int
) -> tuple[dict[str, float | None], bool]:
    """Two-sided p value of each metric's difference, None where undefined, and whether all swaps were enumerated.

    Approximate randomisation (Noreen 1989; Yeh 2000, COLING): where both models are the same, swapping their answers
    changes nothing; so answers are swapped at random, all those of a group together, and p is the share of swaps, that
    of the data themselves included, whose difference is as large as the one found. Where no more than `permutations`
    swaps are possible, each is taken once. Bins and thresholds (ece, average precision) are those of both models
    together. Raises ConfigurationError for fewer than one permutation.
    """
    if permutations < 1:
        raise ConfigurationError(f"permutations={permutations}; expected 1 or more")
    metrics = select(baseline.task, names)
    codes = group_codes(baseline.groups)
    n, n_groups = len(baseline), int(codes.max()) + 1
    both = _stacked(baseline, challenger)
    total: dict[Statistic, tuple[Floats, Floats]] = {}
    change: dict[Statistic, Rows] = {}
    for statistic in statistics(metrics):
        rows = statistic(both)
        old, new = (sum_by_group(part, codes, n_groups) for part in (rows[:n], rows[n:]))
        total[statistic] = old.sum(axis=0), new.sum(axis=0)
        change[statistic] = sparse.csr_array(new - old)
    changed = np.flatnonzero(sum(abs(each).sum(axis=1) for each in change.values()) != 0)  # NaN is not 0
    change = {statistic: each[changed] for statistic, each in change.items()}

    def difference(swaps: Floats) -> dict[str, Floats]:
        moved = partial(_moved, change, swaps)
        old = values(metrics, lambda statistic: total[statistic][0] + moved(statistic))
        new = values(metrics, lambda statistic: total[statistic][1] - moved(statistic))
        return {name: new[name] - old[name] for name in metrics}

    found = {name: float(value[0]) for name, value in difference(np.zeros((len(changed), 1))).items()}
    exact = len(changed) <= math.log2(permutations)
    widest = max(each.shape[1] for each in change.values())
    chunk = max(1, CHUNK_BYTES // (8 * (2 * len(changed) + 8 * widest)))
    swaps = _all_swaps(len(changed)) if exact else _draw_swaps(len(changed), permutations, seed, chunk)
    as_large, defined = dict.fromkeys(metrics, 0), dict.fromkeys(metrics, 0)
    for each in swaps:
        for name, value in difference(each).items():
            as_large[name] += int((np.abs(value) >= abs(found[name]) - 1e-12).sum())
            defined[name] += int((~np.isnan(value)).sum())
    own = 0 if exact else 1  # enumerated swaps hold the data themselves
    return {
        name: None if math.isnan(found[name]) else (own + as_large[name]) / (own + defined[name]) for name in metrics
    }, exact


def _stacked(first: Predictions, second: Predictions) -> Predictions:
    """The examples of both, one below the other, in groups of their own."""
    rows = np.tile(np.arange(len(first)), 2)
    return replace(
        first.select(rows),
        groups=[f"{number} {group}" for number in (1, 2) for group in first.groups],
        probabilities=np.concatenate([first.probabilities, second.probabilities]),
        predicted=np.concatenate([first.predicted, second.predicted]),
    )


def _moved(change: Mapping[Statistic, Rows], swaps: Floats, statistic: Statistic) -> Floats:
    return cast(Floats, (change[statistic].T @ swaps).T)


def _all_swaps(n: int) -> Iterator[Floats]:
    """Every choice among n groups as a column of (n, 2^n)."""
    yield (np.arange(2**n)[None, :] >> np.arange(n)[:, None] & 1).astype(np.float64)


def _draw_swaps(n: int, permutations: int, seed: int, chunk: int) -> Iterator[Floats]:
    """Which of n groups are swapped, 0 or 1 by the toss of a coin, in arrays (n, up to chunk)."""
    rng = np.random.default_rng(seed)
    width = -(-n // 8)
    for start in range(0, permutations, chunk):
        rows = min(chunk, permutations - start)
        coins = np.frombuffer(rng.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
        yield np.ascontiguousarray(np.unpackbits(coins, axis=1, count=n).T, dtype=np.float64)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number by Holm's step-down method (1979), undefined ones left out."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[i] = largest
    return corrected


# --- The comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """estimates: contestant -> metric -> Estimate; differences: challenger -> metric -> Difference, against the first
    contestant."""

    estimates: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Difference]]


def compare(
    contestants: Sequence[Contestant],
    names: Sequence[str],
    resamples: int,
    permutations: int,
    seed: int,
    interval: str = "bca",
) -> Comparison:
    """Estimates of all contestants, and the differences of all others from the first one.

    `interval` is that of a single run's estimates (see `evaluation.intervals`); others are percentile intervals.
    """
    undefined = {c.name: {n: r for n in names if (r := undefined_reason(c, n))} for c in contestants}
    found = {
        c.name: resample_contestant(c, [n for n in names if n not in undefined[c.name]], resamples, seed, position)
        for position, c in enumerate(contestants)
    }
    metrics = select(contestants[0].examples.task, names)
    n_groups = effective_groups(np.bincount(group_codes(contestants[0].examples.groups)))

    def summary(name: str, each: Spread) -> Estimate:
        return estimate(each.value, each.resampled, CONFIDENCE, metrics[name].undefined, n_groups=n_groups)

    def of_runs(name: str, each: Spread) -> Estimate:
        found = summary(name, each)
        return replace(found, low=max(found.low, 0.0)) if is_folded(metrics[name]) and found.low is not None else found

    estimates = {}
    for contestant in contestants:
        why = undefined[contestant.name]
        defined = [name for name in names if name not in why]
        of = found[contestant.name]
        # a single run gets the interval that `slantwise evaluate` gives it
        each = (
            evaluate(contestant.examples, defined, resamples, seed, interval=interval)
            if len(contestant.runs) == 1
            else {name: of_runs(name, spread(name, of)) for name in defined}
        )
        estimates[contestant.name] = {
            name: each[name] if name in each else Estimate(None, None, None, why[name]) for name in names
        }
    baseline = contestants[0]
    differences: dict[str, dict[str, Difference]] = {}
    for challenger in contestants[1:]:
        reasons = undefined[baseline.name] | undefined[challenger.name]
        spreads = {
            name: spread(name, found[challenger.name], found[baseline.name]) for name in names if name not in reasons
        }
        p_values, test = _p_values(baseline, challenger, spreads, permutations, seed)
        differences[challenger.name] = {
            name: Difference(name, Estimate(None, None, None, reasons[name]), None, None, None, None, None)
            if name in reasons
            else _difference(name, len(baseline.examples), summary(name, spreads[name]), spreads[name], p_values, test)
            for name in names
        }
    return Comparison(estimates, _corrected(differences, names))


def _p_values(
    baseline: Contestant, challenger: Contestant, spreads: Mapping[str, Spread], permutations: int, seed: int
) -> tuple[dict[str, float | None], str]:
    """Swapping the answers of two runs says nothing of other runs; so with several the bootstrap has to."""
    if len(baseline.runs) > 1 or len(challenger.runs) > 1:
        return {name: bootstrap_p(each) for name, each in spreads.items()}, "bootstrap"
    p_values, exact = permutation_test(baseline.examples, challenger.examples, list(spreads), permutations, seed)
    return p_values, "exact permutation" if exact else "permutation"


def _difference(
    name: str, n: int, value: Estimate, found: Spread, p_values: Mapping[str, float | None], test: str
) -> Difference:
    error = found.error
    detectable = None if math.isnan(error) else _quantiles() * error
    return Difference(name, value, p_values[name], None, test, examples_needed(n, found), detectable)


def _corrected(
    differences: Mapping[str, Mapping[str, Difference]], names: Sequence[str]
) -> dict[str, dict[str, Difference]]:
    """Holm's correction over the challengers, for each metric by itself."""
    corrected = {name: holm([each[name].p for each in differences.values()]) for name in names}
    return {
        challenger: {name: replace(each[name], p_holm=corrected[name][i]) for name in names}
        for i, (challenger, each) in enumerate(differences.items())
    }


# --- Slices -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """How a challenger's metric differs from the baseline's on the examples that share a label or a column's value."""

    kind: str  # label, source, target or the name of a further column
    value: str
    metric: str
    n: int  # examples; of a label: those whose gold label it is
    estimate: Estimate
    fixed: int  # wrong answers that became right
    broken: int  # right answers that became wrong


def slices(baseline: Contestant, challenger: Contestant, resamples: int, seed: int) -> list[Slice]:
    """Differences by label (F1 of the label), source, target and the columns of `evaluation.slices` (accuracy;
    multilabel: F1 of examples), those of ten examples or more, biggest differences first. Runs are averaged; their
    variance is not in the intervals."""
    found = [*_by_label(baseline, challenger, resamples, seed)]
    examples = baseline.examples
    further = {name: column for name, column in examples.columns.items() if name not in STANDING}
    for name, column in {"source": examples.sources, "target": examples.targets, **further}.items():
        found += _by_column(partition(name, column), baseline, challenger, resamples, seed)
    return sorted(found, key=lambda each: -abs(each.estimate.value or 0.0))


def _by_label(baseline: Contestant, challenger: Contestant, resamples: int, seed: int) -> Iterator[Slice]:
    task, gold = baseline.examples.task, baseline.examples.gold
    names = [f"f1/{label}" for label in task.labels]
    old, new = (resample_contestant(c, names, resamples, seed) for c in (baseline, challenger))
    metrics = select(task, names)
    n_groups = effective_groups(np.bincount(group_codes(baseline.examples.groups)))
    was, became = right(baseline), right(challenger)
    for i, (label, name) in enumerate(zip(task.labels, names, strict=True)):
        inside = gold == i if gold.ndim == 1 else gold[:, i].astype(bool)
        if inside.sum() < LEAST_IN_SLICE:
            continue
        before, after = (was[inside], became[inside]) if gold.ndim == 1 else (was[:, i], became[:, i])
        resampled = new.groups[name] - old.groups[name] if old.groups else None
        value = estimate(
            new.value(name) - old.value(name), resampled, CONFIDENCE, metrics[name].undefined, n_groups=n_groups
        )
        yield Slice("label", label, "f1", int(inside.sum()), value, *_flip_counts(before, after))


def _by_column(part: Partition, baseline: Contestant, challenger: Contestant, resamples: int, seed: int) -> list[Slice]:
    examples, sizes = baseline.examples, np.bincount(part.code_of, minlength=len(part.names))
    named = [code for code, name in enumerate(part.names) if name != NONE_GIVEN]
    kept = [code for code in named if sizes[code] >= LEAST_IN_SLICE]
    if len(named) < 2 or not kept:
        return []
    place_of = np.full(len(part.names), -1)
    place_of[kept] = np.arange(len(kept))
    slice_of = place_of[part.code_of]
    inside = np.flatnonzero(slice_of >= 0)
    codes = group_codes(examples.groups)
    n_groups = int(codes.max()) + 1
    score, metric = (correctness, "accuracy") if examples.task.kind == "multiclass" else (set_overlap, "example_f1")
    blocks = []
    for contestant in (baseline, challenger):
        mean = np.mean([score(run).toarray() for run in contestant.runs], axis=0)[inside]
        for scores in mean.T:
            block = sparse.csr_array((scores, (inside, slice_of[inside])), shape=(len(examples), len(kept)))
            blocks.append(sum_by_group(block, codes, n_groups))
    on_all = _slice_difference(np.concatenate([block.sum(axis=0) for block in blocks])[None, :])[0]
    chunk = max(1, CHUNK_BYTES // (8 * (2 * n_groups + 8 * len(kept))))
    resampled = (
        np.concatenate(
            [
                _slice_difference(np.concatenate([(block.T @ drawn).T for block in blocks], axis=1))
                for drawn in draw_counts(n_groups, resamples, seed, chunk)
            ]
        )
        if n_groups > 1
        else None
    )
    was, became = right(baseline), right(challenger)
    found = []
    for i, code in enumerate(kept):
        rows = slice_of == i
        sizes_of_groups = np.unique(codes[rows], return_counts=True)[1]
        each = None if resampled is None or len(sizes_of_groups) < 2 else resampled[:, i]
        undefined = "no example has a gold or a predicted label"
        shown = estimate(float(on_all[i]), each, CONFIDENCE, undefined, n_groups=effective_groups(sizes_of_groups))
        n, flipped = int(sizes[code]), _flip_counts(was[rows], became[rows])
        found.append(Slice(part.column, part.names[code], metric, n, shown, *flipped))
    return found


def _slice_difference(sums: Floats) -> Floats:
    """(r, 4 s) values and weights of the baseline, then of the challenger -> (r, s) difference of the ratios."""
    old, old_weight, new, new_weight = np.split(sums, 4, axis=1)
    return ratio(np.stack([new, new_weight], axis=-1)) - ratio(np.stack([old, old_weight], axis=-1))


# --- Flips ------------------------------------------------------------------------------------------------------------


def right(contestant: Contestant) -> Flags:
    """Whether the answer is right in more than half of the runs: (n,), multilabel (n, n_labels) for each decision."""
    share = np.mean([run.gold == run.predicted for run in contestant.runs], axis=0)
    return np.asarray(share > 0.5)


def answer(contestant: Contestant) -> npt.NDArray[Any]:
    """The most frequent answer over the runs, like `predicted`; of several the first of the label order."""
    if len(contestant.runs) == 1:
        return contestant.examples.predicted
    stacked = np.array([run.predicted for run in contestant.runs])
    if contestant.examples.task.kind == "multilabel":
        return np.asarray(stacked.mean(axis=0) > 0.5)
    votes = np.stack([(stacked == i).sum(axis=0) for i in range(-1, len(contestant.examples.task.labels))])
    return np.asarray(votes.argmax(axis=0) - 1)


def _flip_counts(was: Flags, became: Flags) -> tuple[int, int]:
    return int((became & ~was).sum()), int((was & ~became).sum())


@dataclass(frozen=True)
class McNemar:
    """How many decisions both models, one of them or none got right; multiclass: examples, multilabel: a decision for
    each label of each example (McNemar 1947 compares `broken` with `fixed`)."""

    both_right: int
    broken: int  # only the baseline is right
    fixed: int  # only the challenger is right
    both_wrong: int


def mcnemar(baseline: Contestant, challenger: Contestant) -> McNemar:
    was, became = right(baseline), right(challenger)
    fixed, broken = _flip_counts(was, became)
    return McNemar(int((was & became).sum()), broken, fixed, int((~was & ~became).sum()))


def flips(baseline: Contestant, challenger: Contestant) -> list[dict[str, Any]]:
    """Decisions that were right and became wrong or the other way round, in the order of the examples.

    {row, id, target, source, label, gold, baseline, challenger, change}: `label` is the one that was decided on
    (multilabel, else None), `change` is fixed or broken; gold, baseline and challenger are lists of labels.
    """
    examples, task = baseline.examples, baseline.examples.task
    was, became = right(baseline), right(challenger)
    old, new = answer(baseline), answer(challenger)
    found = []
    for where in np.argwhere(was != became):
        row = int(where[0])
        found.append(
            {
                "row": row,
                "id": examples.ids[row],
                "target": examples.targets[row],
                "source": examples.sources[row],
                "label": task.labels[where[1]] if len(where) > 1 else None,
                "gold": label_names(examples.gold[row], task),
                "baseline": label_names(old[row], task),
                "challenger": label_names(new[row], task),
                "change": "fixed" if became[tuple(where)] else "broken",
            }
        )
    return found


def label_names(value: Any, task: Task) -> list[str]:
    """The labels of one example: an index (-1: none) or flags."""
    found = np.asarray(value)
    return [task.labels[i] for i in (np.flatnonzero(found) if found.ndim else [int(found)]) if i >= 0]
