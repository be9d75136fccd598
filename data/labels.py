"""Labels: the values of a file's cells become labels of a task, or a reason why they cannot."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from data.config import CorpusConfig, LabelsConfig
from slantwise.errors import ConfigurationError
from slantwise.task import IPTC_TOPICS, POLICY_FRAMES, STANCES, Kind, Task

STANDARD: dict[str, Task] = {
    "topic": Task("topic", "multiclass", IPTC_TOPICS),
    "framing": Task("framing", "multilabel", POLICY_FRAMES),
    "stance": Task("stance", "multiclass", STANCES, has_target=True),
}
# The canonical article row carries its labels in these columns.
CANONICAL: dict[str, LabelsConfig] = {
    "topic": LabelsConfig(columns=["topic"]),
    "framing": LabelsConfig(columns=["frames"]),
    "stance": LabelsConfig(nested="stances", target="target", columns=["stance"], start="start", end="end"),
}


class LabelError(Exception):
    """A cell that is no label; `field` and `value` say which, the message what was expected."""

    def __init__(self, field: str, value: Any, reason: str, expected_drop: bool = False) -> None:
        super().__init__(reason)
        self.field, self.value, self.expected_drop = field, value, expected_drop


def label_configs(config: CorpusConfig) -> dict[str, LabelsConfig]:
    """Task name -> where its labels stand.

    A corpus that says nothing of its labels is read as canonical rows; a task of which only the label set or the map
    is given keeps the canonical columns.
    """
    named = {name: getattr(config, name) for name in STANDARD if getattr(config, name) != LabelsConfig()}
    return {name: _with_canonical_columns(name, labels) for name, labels in named.items()} or dict(CANONICAL)


def _with_canonical_columns(name: str, labels: LabelsConfig) -> LabelsConfig:
    if labels.columns or labels.nested or labels.annotators:
        return labels
    canonical = CANONICAL[name]
    if name == "stance" and (labels.target or labels.target_name):
        raise ConfigurationError("corpus.stance.columns is empty; name the column that holds the stance")
    places = {key: getattr(canonical, key) for key in ("columns", "nested", "target", "start", "end")}
    return replace(labels, **places)


def make_task(name: str, config: LabelsConfig) -> Task:
    """The task as this corpus defines it: its own labels and kind, else the standard ones."""
    standard = STANDARD[name]
    labels = tuple(config.labels) or standard.labels
    if config.kind not in (None, "multiclass", "multilabel"):
        raise ConfigurationError(f"corpus.{name}.kind={config.kind}; expected multiclass or multilabel")
    if not config.columns and not config.annotators:
        raise ConfigurationError(f"corpus.{name}.columns is empty; name the column that holds the labels")
    kind = cast(Kind, config.kind or standard.kind)
    if kind == "multilabel" and (config.largest or config.annotators):
        raise ConfigurationError(
            f"corpus.{name}: largest and annotators choose one label; set corpus.{name}.kind=multiclass"
        )
    if config.largest and config.indicators:
        raise ConfigurationError(f"corpus.{name}: largest and indicators are both set; the columns can only be one")
    return Task(name, kind, labels, standard.has_target)


def value_key(value: Any) -> str:
    """The form under which a cell is looked up: 2.0, 2 and "2" are one code."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    if text.endswith(".0") and text[:-2].lstrip("-").isdigit():
        return text[:-2]
    return text


@dataclass(frozen=True)
class LabelReader:
    """Reads the labels of one task from rows."""

    task: Task
    config: LabelsConfig

    def __post_init__(self) -> None:
        given = set(self.config.map.values())
        if self.config.indicators or self.config.largest:
            given |= {self.config.map.get(column, column) for column in self.config.columns}
        unknown = sorted(given - set(self.task.labels))
        if unknown:
            key = "columns and map give" if self.config.indicators or self.config.largest else "map gives"
            raise ConfigurationError(f"corpus.{self.task.name}: {key} {unknown}; expected {_listing(self.task.labels)}")

    def labels_of(self, row: Mapping[str, Any]) -> list[str] | None:
        """Topic or framing labels of a row; None where it is not labelled for the task. Raises LabelError."""
        if self.config.largest or not self.config.columns:
            chosen = self._chosen(row)
            labels = None if chosen is None else [chosen]
        else:
            labels = self._indicators(row) if self.config.indicators else self._listed(row)
        if self.task.kind == "multiclass" and not labels:
            labels = None
        if self.task.kind == "multiclass" and labels and len(labels) > 1:
            raise LabelError(self.config.columns[0], labels, "several labels where the task takes one")
        if not labels:
            self._unlabelled(row)
        return labels

    def _unlabelled(self, row: Mapping[str, Any]) -> None:
        if self.config.drop_unlabelled:
            column = self.config.nested or (self.config.columns or self.config.annotators)[0]
            raise LabelError(column, row.get(column), "no label (drop_unlabelled)", expected_drop=True)

    def _listed(self, row: Mapping[str, Any]) -> list[str] | None:
        labels: list[str] = []
        labelled = False
        for column in self.config.columns:
            value = self._parts(row.get(column))
            labelled = labelled or (value is not None and value != "")
            labels += self._labels_in(column, value)
        return list(dict.fromkeys(labels)) if labelled else None

    def _parts(self, value: Any) -> Any:
        """The list that a cell with separators stands for; None for a blank one."""
        if not isinstance(value, str) or not self.config.separator:
            return value
        return [part for part in value.split(self.config.separator) if part.strip()] if value.strip() else None

    def _labels_in(self, column: str, value: Any) -> Iterator[str]:
        for item in value if isinstance(value, list) else [value]:
            label = self._label(column, item)
            if label is not None:
                yield label

    def ratings_of(self, row: Mapping[str, Any]) -> list[list[str]]:
        """What the annotators said of the row (of each of its nested stances): [] without annotators."""
        if not self.config.annotators:
            return []
        return [self._ratings(item) for item in (self._entries(row) if self.config.nested else [row])]

    def _ratings(self, row: Mapping[str, Any]) -> list[str]:
        return [
            label
            for column in self.config.annotators
            for label in self._labels_in(column, self._parts(row.get(column)))
        ]

    def _chosen(self, row: Mapping[str, Any]) -> str | None:
        """The label with the largest share, or with most annotators; None without any. Raises LabelError for a tie."""
        if self.config.columns:
            field, shares = self.config.columns[0], self._shares(row)
        else:
            field, shares = self.config.annotators[0], dict(Counter(self._ratings(row)))
        if not shares:
            return None
        first = [label for label in shares if shares[label] == max(shares.values())]
        if len(first) > 1:
            raise LabelError(field, shares, f"a tie between {' and '.join(sorted(first))}", expected_drop=True)
        return first[0]

    def _shares(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Label -> share; {} where all columns are empty."""
        if all(row.get(column) in (None, "") for column in self.config.columns):
            return {}
        shares: dict[str, float] = {}
        for column in self.config.columns:
            try:
                share = float(row[column])
            except (KeyError, TypeError, ValueError):
                share = math.nan
            if not math.isfinite(share):
                raise LabelError(column, row.get(column), "a number was expected")
            label = self.config.map.get(column, column)
            shares[label] = shares.get(label, 0.0) + share
        return shares

    def stances_of(self, row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The stances of a row as {target, stance, start, end}; None where it has none. Raises LabelError."""
        entries = self._entries(row) if self.config.nested else [row]
        stances = [stance for entry in entries if (stance := self._stance(entry)) is not None]
        if not stances:
            self._unlabelled(row)
        return stances or None

    def _entries(self, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The objects of the nested list."""
        entries = row.get(str(self.config.nested))
        if entries is None or entries == "":
            return []
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise LabelError(str(self.config.nested), entries, "a list of objects was expected")
        return entries

    def _stance(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.config.largest or not self.config.columns:
            label = self._chosen(row)
        else:
            column = self.config.columns[0]
            label = self._label(f"{self.config.nested}.{column}" if self.config.nested else column, row.get(column))
        if label is None:
            return None
        target = self.config.target_name or (row.get(self.config.target) if self.config.target else None)
        if not isinstance(target, str) or not target.strip():
            raise LabelError(self.config.target or "target", target, "the target is missing")
        start, end = (_position(key, row.get(key)) if key else None for key in (self.config.start, self.config.end))
        return {"target": " ".join(target.split()), "stance": label, "start": start, "end": end}

    def _indicators(self, row: Mapping[str, Any]) -> list[str] | None:
        if all(row.get(column) in (None, "") for column in self.config.columns):
            return None
        labels = []
        for column in self.config.columns:
            key = value_key(row.get(column)).lower()
            if key not in ("0", "1", "true", "false"):
                raise LabelError(column, row.get(column), "0 or 1 was expected")
            if key in ("1", "true"):
                labels.append(self.config.map.get(column, column))
        return labels

    def _label(self, field: str, value: Any) -> str | None:
        if value is None or value == "":
            return None
        if isinstance(value, list | dict):
            raise LabelError(field, value, "a single label was expected")
        key = value_key(value)
        if key in map(value_key, self.config.missing):
            return None
        if key in map(value_key, self.config.drop):
            raise LabelError(field, value, "set aside by the configuration (drop)", expected_drop=True)
        label = {value_key(k): v for k, v in self.config.map.items()}.get(key, key)
        if label not in self.task.labels and self.config.ignore_unknown:
            return None
        if label not in self.task.labels:
            raise LabelError(
                field, value, f"unknown label; expected {_listing(self.task.labels)}{_hint(label, self.task.labels)}"
            )
        return label


def krippendorff_alpha(ratings: Iterable[Sequence[str]]) -> float | None:
    """Agreement of annotators on nominal labels: 1 where all agree, 0 where they agree as often as by chance.

    `ratings` holds the labels that each item got, in any order, missing ones left out; items with one label or none
    do not count. None where nothing can be said: no item has two labels, or only one label was ever given.
    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C.
    """
    totals: Counter[str] = Counter()
    differing = 0.0  # pairs of unlike labels within items, each item's weighed by 1 / (its labels - 1)
    for labels in ratings:
        if len(labels) > 1:
            counts = Counter(labels)
            totals += counts
            differing += (len(labels) ** 2 - sum(n * n for n in counts.values())) / (len(labels) - 1)
    n = totals.total()
    differing_by_chance = n * n - sum(count * count for count in totals.values())
    return 1 - (n - 1) * differing / differing_by_chance if differing_by_chance else None


def _position(field: str, value: Any) -> int | None:
    """A character position; CSV holds it as text, a table with gaps as a float."""
    if value is None or value == "":
        return None
    if not value_key(value).isdecimal():
        raise LabelError(field, value, "a character position was expected")
    return int(value_key(value))


def _listing(labels: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(labels[:limit])
    return f"one of {shown}" + (f" … ({len(labels)} labels)" if len(labels) > limit else "")


def _hint(label: str, labels: Sequence[str]) -> str:
    close = difflib.get_close_matches(label.lower().replace(" ", "_"), labels, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test",
}  # fmt: skip
