"""Metrics as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from evaluation.intervals import Estimate


def format_estimate(estimate: Estimate) -> tuple[str, str]:
    """Value and 95 % interval as text."""
    if estimate.value is None:
        return "undefined", estimate.reason or ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}", "none"
    return f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}"


def metrics_table(
    metrics: Mapping[str, Estimate],
    names: Sequence[str],
    split: str,
    n: int,
    folds: Sequence[Mapping[str, float]] = (),
) -> Table:
    """The named metrics with their intervals; with folds also the mean over them, as the literature reports it."""
    table = Table(title=f"{split}, n = {n:,}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    if folds:
        table.add_column("mean of folds", justify="right")
    for name in names:
        mean = [f"{np.nanmean([fold[name] for fold in folds]):.3f}"] if folds else []
        table.add_row(name, *format_estimate(metrics[name]), *mean)
    return table
