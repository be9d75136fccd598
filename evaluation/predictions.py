"""Predictions: what evaluation judges, whoever made them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.labels import value_key
from slantwise.errors import BadRowsError, CorpusError
from slantwise.rows import BadRow, Layout, Row, read_rows
from slantwise.task import Task

Key = tuple[str, str | None]  # an example: the article's id, and the target where the task has one
COLUMN = "column."  # before the names of further columns in a file of predictions
SHOWN = 8  # as many mistakes of a kind are named


@dataclass(frozen=True)
class Predictions:
    """One row for each example, aligned lists and arrays.

    gold          multiclass: int64 (n,), index into task.labels; multilabel: bool (n, n_labels)
    probabilities float32 (n, n_labels), columns in the order of task.labels, after calibration
    predicted     like gold; multiclass: -1 where the decision abstained
    groups        what is resampled together by the bootstrap: the article, or the group column of the corpus
    columns       what else is known of each example, by name: what `evaluation.slices` cuts by
    """

    task: Task
    split: str
    ids: Sequence[str]
    texts: Sequence[str]
    gold: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    groups: Sequence[str]
    targets: Sequence[str | None]
    sources: Sequence[str | None]
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, shape = len(self.ids), (len(self.ids), len(self.task.labels))
        gold_shape = shape if self.task.kind == "multilabel" else (n,)
        assert self.probabilities.shape == shape, (self.probabilities.shape, shape)
        assert self.gold.shape == self.predicted.shape == gold_shape, (
            self.gold.shape,
            self.predicted.shape,
            gold_shape,
        )
        assert np.isfinite(self.probabilities).all(), "a probability is not a number"
        assert len(self.texts) == len(self.groups) == len(self.targets) == len(self.sources) == n
        assert all(len(column) == n for column in self.columns.values())

    def __len__(self) -> int:
        return len(self.ids)

    def spread(self, most: int) -> npt.NDArray[np.int64]:
        """Row numbers, `most` of them at most, evenly spread from the first to the last."""
        return np.linspace(0, len(self) - 1, min(len(self), most)).round().astype(np.int64)

    def select(self, rows: npt.NDArray[np.int64]) -> Predictions:
        """The given rows, in the given order."""

        def pick(column: Sequence[str | None]) -> list[str | None]:
            return [column[i] for i in rows]

        return replace(
            self,
            ids=[self.ids[i] for i in rows],
            texts=[self.texts[i] for i in rows],
            groups=[self.groups[i] for i in rows],
            targets=pick(self.targets),
            sources=pick(self.sources),
            columns={name: pick(column) for name, column in self.columns.items()},
            gold=self.gold[rows],
            probabilities=self.probabilities[rows],
            predicted=self.predicted[rows],
        )

    def write(self, path: Path) -> None:
        """One Parquet file; the task and the split are in its schema metadata."""
        labels = np.array(self.task.labels)

        def names(values: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> list[list[str]]:
            if self.task.kind == "multilabel":
                return [labels[row].tolist() for row in values]
            return [[str(labels[i])] if i >= 0 else [] for i in values]

        table = pa.table(
            {
                "id": pa.array(self.ids, pa.string()),
                "target": pa.array(self.targets, pa.string()),
                "gold": pa.array(names(self.gold), pa.list_(pa.string())),
                "predicted": pa.array(names(self.predicted), pa.list_(pa.string())),
                "probabilities": pa.array(list(self.probabilities), pa.list_(pa.float32())),
                "group": pa.array(self.groups, pa.string()),
                "source": pa.array(self.sources, pa.string()),
                "text": pa.array(self.texts, pa.string()),
                **{COLUMN + name: pa.array(column, pa.string()) for name, column in self.columns.items()},
            }
        )
        metadata = {"task": json.dumps(self.task.to_dict()), "split": self.split}
        pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Raises CorpusError where the file is not one that `write` made."""
        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata or {}
            task, split = Task.from_dict(json.loads(metadata[b"task"])), metadata[b"split"].decode()
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise CorpusError(f"{path}: not a predictions file of slantwise ({error})") from error
        columns = table.to_pydict()
        index = {label: i for i, label in enumerate(task.labels)}

        def codes(rows: list[list[str]]) -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
            if task.kind == "multiclass":
                return np.array([index[row[0]] if row else -1 for row in rows], dtype=np.int64)
            matrix = np.zeros((len(rows), len(task.labels)), dtype=bool)
            for i, row in enumerate(rows):
                matrix[i, [index[label] for label in row]] = True
            return matrix

        probabilities = np.array(columns["probabilities"], dtype=np.float32).reshape(-1, len(task.labels))
        return cls(
            task, split, columns["id"], columns["text"], codes(columns["gold"]), probabilities,
            codes(columns["predicted"]), columns["group"], columns["target"], columns["source"],
            {name.removeprefix(COLUMN): column for name, column in columns.items() if name.startswith(COLUMN)},
        )  # fmt: skip


# --- Answers that another tool wrote ----------------------------------------------------------------------------------


@dataclass
class AnswerColumns:
    """Which columns of a file hold another tool's answers; `outer.inner` is a key inside a column of objects."""

    id: str = "id"
    target: str = "target"  # stance only
    label: str = "label"  # multiclass: one label; empty where the tool gave none
    labels: str = "labels"  # multilabel: a list, or one text with the labels separated by label_separator
    probability_prefix: str = ""  # a column for each label, named this and the label; all of them or none


@dataclass(frozen=True)
class Answers:
    """What a classifier said of examples, without the truth: one row each, in its own order.

    predicted and probabilities as in `Predictions`; probabilities None where there are none
    """

    keys: Sequence[Key]
    predicted: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.float32] | None


def is_predictions_file(path: Path) -> bool:
    """Whether the file is one that `Predictions.write` made."""
    try:
        return path.suffix == ".parquet" and {b"task", b"split"} <= set(pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False


def read_answers(
    layout: Layout,
    task: Task,
    columns: AnswerColumns | None = None,
    label_separator: str = "|",
    label_map: Mapping[str, str] | None = None,
) -> Answers:
    """Another tool's answers from CSV, JSONL, JSON or Parquet; `label_map` maps its labels to those of the task.

    Raises BadRowsError, which lists all rows that cannot be used, or CorpusError for a file that cannot be read.
    """
    reader = _AnswerReader(task, columns or AnswerColumns(), label_separator, dict(label_map or {}))
    rows = read_rows(layout, Path())
    found = [answer for row in rows if (answer := reader.read(row)) is not None]
    if bad := reader.bad:
        shown = "\n".join(f"  {row}" for row in bad[: 2 * SHOWN])
        more = f"\n  and {len(bad) - 2 * SHOWN:,} more" if len(bad) > 2 * SHOWN else ""
        raise BadRowsError(f"{layout.path}: {len(bad):,} rows of predictions cannot be used:\n{shown}{more}")
    if not found:
        raise CorpusError(f"{layout.path} holds no predictions; expected a row for each example")
    keys, predicted, probabilities = zip(*found, strict=True)
    with_probabilities = np.array(probabilities, dtype=np.float32) if reader.probability_columns else None
    return Answers(keys, np.array(predicted, dtype=bool if task.kind == "multilabel" else np.int64), with_probabilities)


@dataclass
class _AnswerReader:
    """Reads one row after the other and keeps those that are bad."""

    task: Task
    columns: AnswerColumns
    separator: str
    map: dict[str, str]
    bad: list[BadRow] = field(default_factory=list)
    probability_columns: list[str] | None = None  # of the first row; every row must have them, or none

    def read(self, row: Row | BadRow) -> tuple[Key, Any, list[float] | None] | None:
        if isinstance(row, BadRow):
            self.bad.append(row)
            return None
        if self.probability_columns is None:
            self._check_columns(row)
            self.probability_columns = self._probability_columns(row)
        try:
            label = self._labels(row) if self.task.kind == "multilabel" else self._label(row)
            return self._key(row), label, self._probabilities(row, self.probability_columns)
        except _BadValue as mistake:
            self.bad.append(BadRow(row.file, row.line, *mistake.args))
            return None

    def _check_columns(self, row: Row) -> None:
        """Every column of the first row, so that a wrong name is said once and not for each row."""
        multilabel = self.task.kind == "multilabel"
        needed = ["id", "labels" if multilabel else "label", *(["target"] if self.task.has_target else [])]
        if missing := [key for key in needed if _cell(row, getattr(self.columns, key), ...) is ...]:
            wrong = ", ".join(f"{getattr(self.columns, key)!r} (columns.{key}=…)" for key in missing)
            raise CorpusError(f"{row.file} has no column {wrong}; it has {', '.join(row.values)}")

    def _probability_columns(self, row: Row) -> list[str]:
        names = [self.columns.probability_prefix + label for label in self.task.labels]
        missing = [name for name in names if _cell(row, name, None) is None]
        if missing and len(missing) < len(names):
            raise CorpusError(
                f"{row.file} has probabilities of some labels only; the columns {', '.join(missing)} are missing or "
                "empty. Give one for each label of the task, or none"
            )
        return [] if missing else names

    def _key(self, row: Row) -> Key:
        id_ = self._text(row, self.columns.id)
        return id_, self._text(row, self.columns.target) if self.task.has_target else None

    def _text(self, row: Row, column: str) -> str:
        value = _required(row, column)
        if value is None or value == "":
            raise _BadValue(column, value, "empty")
        return value_key(value) if isinstance(value, float) else str(value)

    def _label(self, row: Row) -> int:
        """The label's index, -1 where the cell is empty: the tool abstained."""
        value = _required(row, self.columns.label)
        return -1 if value is None or value == "" else self._index(value, self.columns.label)

    def _labels(self, row: Row) -> list[bool]:
        """A flag for each label; an empty cell means none of them."""
        value = _required(row, self.columns.labels)
        given = [] if value is None else value if isinstance(value, list) else str(value).split(self.separator)
        held = {self._index(label, self.columns.labels) for label in given if str(label).strip()}
        return [i in held for i in range(len(self.task.labels))]

    def _index(self, value: Any, column: str) -> int:
        label = value_key(value)
        label = self.map.get(label, label)
        if label not in self.task.labels:
            raise _BadValue(column, value, f"no label of the task; expected one of {', '.join(self.task.labels)}")
        return self.task.labels.index(label)

    def _probabilities(self, row: Row, names: Sequence[str]) -> list[float] | None:
        found = []
        for name in names:
            value = _cell(row, name, None)
            try:
                found.append(float(value))
            except (TypeError, ValueError):
                raise _BadValue(name, value, "expected a probability") from None
            if not 0 <= found[-1] <= 1:
                raise _BadValue(name, value, "expected a probability between 0 and 1")
        if names and self.task.kind == "multiclass" and abs(sum(found) - 1) > 0.02:
            raise _BadValue(None, f"{sum(found):.3f}", "the probabilities of the labels must add up to 1")
        return found if names else None


class _BadValue(ValueError):
    """field, value, reason"""


def _cell(row: Row, column: str, default: Any) -> Any:
    """The value of `column`, or of the key inside an object that a dotted name means."""
    if column in row.values:
        value = row.values[column]
        return None if isinstance(value, float) and np.isnan(value) else value
    outer, _, inner = column.partition(".")
    value = row.values.get(outer)
    return _cell(Row(row.file, row.line, value), inner, default) if inner and isinstance(value, dict) else default


def _required(row: Row, column: str) -> Any:
    value = _cell(row, column, ...)
    if value is ...:
        raise _BadValue(column, None, "missing")
    return value


def answered(examples: Predictions, answers: Answers, known: Counter[Key], where: str) -> Predictions:
    """The given examples with these answers in place of their own, whatever order the answers have.

    `known` counts the examples of the whole corpus: answers to other examples of it are left out. Answers without
    probabilities get zeros, which no metric may be computed from. Raises CorpusError that names every example
    without an answer, and every answer that is unknown or doubled.
    """
    wanted = list(zip(examples.ids, examples.targets, strict=True))
    row_of = {key: row for row, key in enumerate(_numbered(answers.keys))}
    mistakes: dict[str, Sequence[Any]] = {
        "without a prediction": [key for key in _numbered(wanted) if key not in row_of],
        "unknown to the corpus": [key for key in dict.fromkeys(answers.keys) if key not in known],
        "predicted more than once": [k for k, n in Counter(answers.keys).items() if n > known[k] > 0],
    }
    if any(mistakes.values()):
        parts = [f"{len(keys):,} {what} ({_shown(keys)})" for what, keys in mistakes.items() if keys]
        raise CorpusError(
            f"{where}: {'; '.join(parts)}. Expected one prediction for each of the {len(examples):,} examples of split "
            f"{examples.split}, by id{' and target' if examples.task.has_target else ''}"
        )
    rows = np.array([row_of[key] for key in _numbered(wanted)], dtype=np.int64)
    given = answers.probabilities
    probabilities = np.zeros_like(examples.probabilities) if given is None else given[rows]
    return replace(examples, predicted=answers.predicted[rows], probabilities=probabilities)


def _numbered(keys: Iterable[Key]) -> Iterator[tuple[Key, int]]:
    """Each key with how often it stood before: a corpus may ask twice for one target of an article."""
    seen: Counter[Key] = Counter()
    for key in keys:
        yield key, seen[key]
        seen[key] += 1


def _shown(keys: Sequence[Any]) -> str:
    """The first keys as "a1", or "a1 towards City Mayor"."""
    plain = [key[0] if isinstance(key[0], tuple) else key for key in keys[:SHOWN]]
    names = [id_ if target is None else f"{id_} towards {target}" for id_, target in plain]
    return ", ".join(names) + (f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else "")
