"""Metrics with intervals: a percentile bootstrap (Efron and Tibshirani 1993) that resamples whole groups.

Examples of one article, or of one source, are not independent of each other. Resampling examples one by one would take
them for more evidence than they are and give intervals that are too narrow; so a group is drawn whole or not at all
(Field and Welsh 2007).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import sparse

from evaluation.metrics import Floats, Rows, Statistic, select, statistics, values
from evaluation.predictions import Predictions
from slantwise.errors import ConfigurationError

CHUNK_BYTES = 200_000_000


@dataclass(frozen=True)
class Estimate:
    """A metric's value and its interval; each is None where it is undefined, and then `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


def group_codes(groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """The number of each example's group, (n,), groups numbered from 0 as they first appear."""
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return np.fromiter((number[group] for group in groups), dtype=np.int64, count=len(groups))


def sum_by_group(rows: Rows, codes: npt.NDArray[np.int64], n_groups: int) -> Rows:
    """Rows of examples (n, k) summed to rows of groups (n_groups, k)."""
    n = len(codes)
    return sparse.csr_array((np.ones(n), (codes, np.arange(n))), shape=(n_groups, n)) @ rows


def draw_counts(n_groups: int, resamples: int, seed: int, chunk: int) -> Iterator[Floats]:
    """How often each group is drawn in each resample, in arrays (n_groups, up to chunk); the same for every `chunk`."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        drawn = np.empty((min(chunk, resamples - start), n_groups))
        # Counting n drawn groups is an exact multinomial sample with equal probabilities, and the fastest one:
        # Generator.multinomial draws a binomial for each group. Independent Poisson weights would let the size vary.
        for row in drawn:
            row[:] = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        yield np.ascontiguousarray(drawn.T)


def _weighted_sums(rows: Mapping[Statistic, Rows], drawn: Floats, statistic: Statistic) -> Floats:
    return cast(Floats, (rows[statistic].T @ drawn).T)


def resample(
    predictions: Predictions, names: Sequence[str] | None, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Each metric on the predictions and on resamples of their groups, (resamples,); NaN where undefined.

    Resamples depend on the seed and on the groups alone, so those of two models on the same examples are pairs. With
    fewer than two groups there is nothing to resample and the second dictionary is empty.
    """
    metrics = select(predictions.task, names)
    codes = group_codes(predictions.groups)
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    rows = {statistic: sum_by_group(statistic(predictions), codes, n_groups) for statistic in statistics(metrics)}
    on_all = {name: float(value) for name, value in values(metrics, lambda key: rows[key].sum(axis=0)).items()}
    if n_groups < 2 or not metrics:
        return on_all, {}
    # One resample needs its counts, twice while they are transposed, and the sums with what a metric makes of them.
    numbers = 2 * n_groups + 3 * max(matrix.shape[1] for matrix in rows.values())
    chunk = max(1, CHUNK_BYTES // (8 * numbers))
    parts = [
        values(metrics, partial(_weighted_sums, rows, drawn)) for drawn in draw_counts(n_groups, resamples, seed, chunk)
    ]
    return on_all, {name: np.concatenate([part[name] for part in parts]) for name in metrics}


def estimate(value: float, resampled: Floats | None, confidence: float, undefined: str) -> Estimate:
    """A value (NaN: undefined, for the reason given) with the percentile interval of its resamples (None: no groups).

    Undefined resamples are dropped; where they are more than half of all, there is no interval.
    """
    if np.isnan(value):
        return Estimate(None, None, None, undefined)
    if resampled is None:
        return Estimate(value, None, None, "no interval: all examples are of one group")
    defined = resampled[~np.isnan(resampled)]
    missing = len(resampled) - len(defined)
    if 2 * missing > len(resampled):
        reason = f"no interval: undefined in {missing} of {len(resampled)} resamples ({undefined})"
        return Estimate(value, None, None, reason)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), None)


def evaluate(
    predictions: Predictions,
    names: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """The named metrics, or those computed by default, each with its bootstrap interval.

    The interval of `ece` sits high: the estimate is biased upwards (Kumar et al. 2019) and resampling adds to the bias,
    so the interval can lie above the value. Raises ConfigurationError for a metric that the task does not have, fewer
    than one resample, or a confidence that is not between 0 and 1.
    """
    if resamples < 1:
        raise ConfigurationError(f"resamples: {resamples}; expected at least 1")
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence: {confidence}; expected a number between 0 and 1")
    on_all, resampled = resample(predictions, names, resamples, seed)
    metrics = select(predictions.task, names)
    return {
        name: estimate(value, resampled.get(name), confidence, metrics[name].undefined)
        for name, value in on_all.items()
    }
