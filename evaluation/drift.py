"""`slantwise compare scores=[a,b]`: how far one batch of scores is from an earlier one, without any labels.

Each is what `slantwise score` wrote: a folder, or a file that has its summary beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from slantwise.command import run, to_object
from slantwise.errors import ConfigurationError
from slantwise.monitoring import LARGE, MODERATE, Drift, drift
from slantwise.summary import rejected

SHOWN = 12  # labels of a task, those that moved most


@dataclass
class DriftConfig:
    """See configs/drift.yaml."""

    scores: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.scores) != 2:
            raise ConfigurationError(f"scores={self.scores}; expected two, the earlier one first: scores=[old,new]")


def main() -> None:
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="drift_schema", node=DriftConfig)
    run("drift", _job)


def _job(config: Any) -> None:
    chosen = to_object(config, DriftConfig)
    before, now = (read_summary(Path(path)) for path in chosen.scores)
    console = Console()
    for name, table in drift_tables(before, now).items():
        console.print(f"[bold]{name}[/bold]", highlight=False)
        console.print(table)
    for line in about_rows(before, now):
        console.print(line, highlight=False)


def read_summary(path: Path) -> dict[str, Any]:
    """Of a folder of scores, a file of scores, or the summary itself. Raises ConfigurationError."""
    candidates = (path / "_summary.json", path.with_name(path.name + ".summary.json"), path)
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ConfigurationError(
            f"{path} holds no summary of scores; expected the output of `slantwise score`, whole: a folder with "
            "_summary.json, or a file beside <file>.summary.json"
        )
    try:
        summary = json.loads(found.read_text(encoding="utf-8"))
        if not {"rows", "tasks"} <= summary.keys():
            raise ValueError("it has no rows and tasks")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{found} cannot be read as a summary of scores: {error}") from error
    return dict(summary)


def drift_tables(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Table]:
    """By heading, a table for each task that both have. Raises ConfigurationError where there is none, or where the
    labels differ: other models."""
    tables = {}
    for name in before["tasks"].keys() & now["tasks"].keys():
        first, second = before["tasks"][name], now["tasks"][name]
        if first["labels"].keys() != second["labels"].keys():
            raise ConfigurationError(f"task {name}: the two have other labels; expected scores of one label set")
        if (found := drift(name, first, second)) is not None:
            heading = f"{name}: {_verdict(found)}; {first['scored']:,} scores then, {second['scored']:,} now"
            tables[heading] = _table(found)
    if not tables:
        raise ConfigurationError("no task has scores in both")
    return dict(sorted(tables.items()))


def _verdict(found: Drift) -> str:
    if found.few:
        return "too few scores to tell a drift"
    return f"{found.verdict} drift (index {found.index:.3f}; from {MODERATE} moderate, from {LARGE} large)"


def _table(found: Drift) -> Table:
    table = Table("label", "then", "now", "change")
    for column in table.columns[1:]:
        column.justify = "right"
    moved = sorted(found.labels.items(), key=lambda entry: -abs(entry[1][1] - entry[1][0]))
    for label, (then, now) in moved[:SHOWN]:
        table.add_row(label, f"{then:.1%}", f"{now:.1%}", f"{100 * (now - then):+.1f} points")
    if len(moved) > SHOWN:
        table.add_row(f"{len(moved) - SHOWN} more moved less", "", "", "")
    if found.sure is not None and found.left is not None:
        table.add_section()
        table.add_row(
            "mean confidence", *(f"{value:.3f}" for value in found.sure), f"{found.sure[1] - found.sure[0]:+.3f}"
        )
        then, now = found.left
        table.add_row("abstained", f"{then:.1%}", f"{now:.1%}", f"{100 * (now - then):+.1f} points")
    return table


def about_rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Rows, the share that was rejected, and articles far from the training data, then and now."""
    shares = [rejected(summary) / max(summary["rows"], 1) for summary in (before, now)]
    lines = [f"rows: {before['rows']:,} then, {now['rows']:,} now; rejected: {shares[0]:.2%} then, {shares[1]:.2%} now"]
    for name in sorted(before["tasks"].keys() & now["tasks"].keys()):
        words = [summary["tasks"][name].get("words") for summary in (before, now)]
        if all(each and each["looked_at"] for each in words):
            far = [each["far"] / each["looked_at"] for each in words]
            lines.append(f"{name}: far from the training data {far[0]:.1%} then, {far[1]:.1%} now (1 % expected)")
    return lines
