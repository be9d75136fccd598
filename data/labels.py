"""Labels: the values of a file's cells become labels of a task, or a reason why they cannot."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
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
    if labels.columns or labels.nested:
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
    if not config.columns:
        raise ConfigurationError(f"corpus.{name}.columns is empty; name the column that holds the labels")
    return Task(name, cast(Kind, config.kind or standard.kind), labels, standard.has_target)


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
        if self.config.indicators:
            given |= {self.config.map.get(column, column) for column in self.config.columns}
        unknown = sorted(given - set(self.task.labels))
        if unknown:
            key = "columns and map give" if self.config.indicators else "map gives"
            raise ConfigurationError(f"corpus.{self.task.name}: {key} {unknown}; expected {_listing(self.task.labels)}")

    def labels_of(self, row: Mapping[str, Any]) -> list[str] | None:
        """Topic or framing labels of a row; None where it is not labelled for the task. Raises LabelError."""
        labels = self._indicators(row) if self.config.indicators else self._listed(row)
        if labels is None or (self.task.kind == "multiclass" and not labels):
            return None
        if self.task.kind == "multiclass" and len(labels) > 1:
            raise LabelError(self.config.columns[0], labels, "several labels where the task takes one")
        return labels

    def _listed(self, row: Mapping[str, Any]) -> list[str] | None:
        labels: list[str] = []
        labelled = False
        for column in self.config.columns:
            value = row.get(column)
            if isinstance(value, str) and self.config.separator:
                value = [part for part in value.split(self.config.separator) if part.strip()] if value.strip() else None
            labelled = labelled or (value is not None and value != "")
            for item in value if isinstance(value, list) else [value]:
                label = self._label(column, item)
                if label is not None and label not in labels:
                    labels.append(label)
        return labels if labelled else None

    def stances_of(self, row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The stances of a row as {target, stance, start, end}; None where it has none. Raises LabelError."""
        if self.config.nested is None:
            stance = self._stance(row, self.config.columns[0])
            return None if stance is None else [stance]
        entries = row.get(self.config.nested)
        if entries is None or entries == "":
            return None
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise LabelError(self.config.nested, entries, "a list of objects was expected")
        stances = [self._stance(entry, f"{self.config.nested}.{self.config.columns[0]}") for entry in entries]
        return [stance for stance in stances if stance is not None] or None

    def _stance(self, row: Mapping[str, Any], field: str) -> dict[str, Any] | None:
        label = self._label(field, row.get(self.config.columns[0]))
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
        if label not in self.task.labels:
            raise LabelError(
                field, value, f"unknown label; expected {_listing(self.task.labels)}{_hint(label, self.task.labels)}"
            )
        return label


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
