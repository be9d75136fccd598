"""Parts: scores in the bytes of a format, and files that appear only when they are whole and safely on the disk.

parquet  the columns of `slantwise.scores`
jsonl    the same as one object a line, probabilities with six decimals
csv      a column for each value, for spreadsheets: id, error, topic.label, topic.confidence,
         topic.probabilities.<label>, ...; lists (framing.labels, stance) as JSON in one cell
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slantwise.manifest import publish, sha256_of
from slantwise.scores import scores_schema
from slantwise.task import Task

QUARANTINE = "_quarantine"
GROUP_ROWS, GROUP_BYTES = 50_000, 64 << 20  # of a Parquet row group
DECIMALS = 6  # all that a float32 holds


class OutputFormat(StrEnum):
    parquet = "parquet"
    jsonl = "jsonl"
    csv = "csv"


def encode(batch: pa.RecordBatch, form: OutputFormat, tasks: Sequence[Task]) -> Any:
    """The rows as a part's writer takes them: bytes, for Parquet the batch itself."""
    if form is OutputFormat.parquet:
        return batch
    return _jsonl(batch, tasks) if form is OutputFormat.jsonl else _csv(batch, tasks)


# --- JSONL ---


def _jsonl(batch: pa.RecordBatch, tasks: Sequence[Task]) -> bytes:
    columns: list[Iterator[str]] = [
        map(_json, batch.column("id").to_pylist()),
        map(_json, batch.column("error").to_pylist()),
    ]
    columns += [_json_values(batch.column(task.name), task) for task in tasks]
    row = "{" + ", ".join(f"{_json(name)}: %s" for name in ["id", "error", *(task.name for task in tasks)]) + "}\n"
    return "".join(map(row.__mod__, zip(*columns, strict=True))).encode("utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json_values(column: pa.Array, task: Task) -> Iterator[str]:
    """The column's values as JSON."""
    structs = column.flatten() if task.has_target else column.drop_null()
    objects = iter(_json_objects(structs, task))
    for valid, size in zip(column.is_valid().to_pylist(), _sizes(column, task), strict=True):
        if not valid:
            yield "null"
        elif task.has_target:
            yield "[" + ", ".join([next(objects) for _ in range(size)]) + "]"
        else:
            yield next(objects)


def _sizes(column: pa.Array, task: Task) -> list[int]:
    return list(pc.fill_null(pc.list_value_length(column), 0).to_pylist()) if task.has_target else [1] * len(column)


def _json_objects(structs: pa.Array, task: Task) -> Iterator[str]:
    known = {label: _json(label) for label in task.labels} | {None: "null"}
    names = _names(task)
    parts: list[Sequence[Any]] = []
    for name in names:
        values = pc.struct_field(structs, name)
        if name == "probabilities":
            template = "{" + ", ".join(f"{_escaped(label)}: %r" for label in task.labels) + "}"
            parts.append([template % row for row in zip(*_probabilities(values, task), strict=True)])
        elif name == "confidence":
            parts.append([repr(value) for value in _rounded(values)])
        elif name == "labels":
            parts.append(["[" + ", ".join([known[label] for label in held]) + "]" for held in values.to_pylist()])
        elif name == "label":
            parts.append([known[label] for label in values.to_pylist()])
        else:
            parts.append([_json(value) for value in values.to_pylist()])
    return map(("{" + ", ".join(f'"{name}": %s' for name in names) + "}").__mod__, zip(*parts, strict=True))


def _escaped(label: str) -> str:
    return _json(label).replace("%", "%%")


def _names(task: Task) -> list[str]:
    if task.kind == "multilabel":
        return ["target", "labels", "probabilities"] if task.has_target else ["labels", "probabilities"]
    names = ["label", "confidence", "probabilities"]
    return ["target", *names] if task.has_target else names


def _probabilities(structs: pa.Array, task: Task) -> list[list[float]]:
    return [_rounded(pc.struct_field(structs, [index])) for index in range(len(task.labels))]


def _rounded(values: pa.Array) -> list[float]:
    wide = values.to_numpy(zero_copy_only=False).astype(np.float64)
    rounded: list[float] = np.round(wide, DECIMALS).tolist()
    return rounded


# --- CSV ---


def csv_header(tasks: Sequence[Task]) -> bytes:
    names = ["id", "error"]
    for task in tasks:
        names += [f"{task.name}.{name}" for name in _csv_names(task)] if not task.has_target else [task.name]
    return _csv_rows([names])


def _csv_names(task: Task) -> list[str]:
    plain = [name for name in _names(task) if name != "probabilities"]
    return [*plain, *(f"probabilities.{label}" for label in task.labels)]


def _csv(batch: pa.RecordBatch, tasks: Sequence[Task]) -> bytes:
    columns: list[Sequence[Any]] = [batch.column("id").to_pylist(), batch.column("error").to_pylist()]
    for task in tasks:
        column = batch.column(task.name)
        if task.has_target:
            columns.append(["" if value == "null" else value for value in _json_values(column, task)])
            continue
        for name in _names(task):
            values = pc.struct_field(column, name)
            if name == "probabilities":
                columns += [_cells(pc.struct_field(values, [i])) for i in range(len(task.labels))]
            elif name == "confidence":
                columns.append(_cells(values))
            else:
                columns.append([_json(v) if isinstance(v, list) else v for v in values.to_pylist()])
    return _csv_rows(zip(*columns, strict=True))


def _cells(values: pa.Array) -> list[Any]:
    """Rounded numbers, None where there is none."""
    rounded = _rounded(pc.fill_null(values, 0))
    return [n if valid else None for n, valid in zip(rounded, values.is_valid().to_pylist(), strict=True)]


def _csv_rows(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8")


# --- files ---


class Sink(Protocol):
    """A file to which encoded rows are added."""

    def write(self, encoded: Any) -> None: ...
    def close(self) -> None: ...


class _BytesSink:
    def __init__(self, path: Path, header: bytes = b"") -> None:
        self.file = path.open("wb")
        self.write(header)

    def write(self, encoded: Any) -> None:
        self.file.write(encoded)

    def close(self) -> None:
        self.file.close()


class _ParquetSink:
    def __init__(self, path: Path, tasks: Sequence[Task]) -> None:
        self.schema = scores_schema(tasks)
        repeating = ["error", *map(_label_column, tasks)]  # a dictionary pays for these alone
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd", use_dictionary=repeating)
        self.held: list[pa.RecordBatch] = []

    def write(self, encoded: Any) -> None:
        self.held.append(encoded)
        if sum(b.num_rows for b in self.held) >= GROUP_ROWS or sum(b.nbytes for b in self.held) >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self.held:
            table = pa.Table.from_batches(self.held, self.schema)
            self.writer.write_table(table, row_group_size=max(table.num_rows, 1))
            self.held = []

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self.writer.close()


def _label_column(task: Task) -> str:
    """Parquet's name for the column of the task's labels."""
    inside = "labels.list.element" if task.kind == "multilabel" else "label"
    return f"{task.name}.list.element.{inside}" if task.has_target else f"{task.name}.{inside}"


def open_sink(path: Path, form: OutputFormat, tasks: Sequence[Task]) -> Sink:
    if form is OutputFormat.parquet:
        return _ParquetSink(path, tasks)
    return _BytesSink(path, csv_header(tasks) if form is OutputFormat.csv else b"")


class Part:
    """A part on its way, `.part-00003.parquet.partial` beside its later name, and its quarantine."""

    def __init__(self, folder: Path, number: int, form: OutputFormat, tasks: Sequence[Task]) -> None:
        self.folder = folder
        self.name, self.quarantine = f"part-{number:05d}.{form}", f"{QUARANTINE}/part-{number:05d}.jsonl"
        self.sink = open_sink(self._draft(self.name), form, tasks)
        self.rejected = False

    def _draft(self, name: str) -> Path:
        path = self.folder / name
        return path.with_name(f".{path.name}.partial")

    def write(self, encoded: Any, quarantined: bytes) -> None:
        self.sink.write(encoded)
        if quarantined:
            draft = self._draft(self.quarantine)
            draft.parent.mkdir(exist_ok=True)
            with draft.open("ab" if self.rejected else "wb") as file:
                file.write(quarantined)
            self.rejected = True

    def publish(self) -> dict[str, Mapping[str, Any]]:
        """Give the files their names; the size and sha256 of each."""
        self.sink.close()
        names = [self.name, *[self.quarantine] * self.rejected]
        for name in names:
            publish(self._draft(name), self.folder / name)
        paths = {name: self.folder / name for name in names}
        return {name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for name, path in paths.items()}

    def discard(self) -> None:
        """Remove what was not published."""
        with suppress(OSError):  # a full disk; the bytes go anyway
            self.sink.close()
        for name in (self.name, self.quarantine):
            self._draft(name).unlink(missing_ok=True)


def join(folder: Path, names: Sequence[str], output: Path, form: OutputFormat, tasks: Sequence[Task]) -> None:
    """The parts `names` of the folder as one file, `output`."""
    draft = output.with_name(f".{output.name}.partial")
    header = len(csv_header(tasks)) if form is OutputFormat.csv else 0
    sink = open_sink(draft, form, tasks)
    try:
        for name in names:
            if form is OutputFormat.parquet:
                with pq.ParquetFile(folder / name) as part:
                    for batch in part.iter_batches():
                        sink.write(batch)
            else:
                with (folder / name).open("rb") as file:
                    file.seek(header)
                    while block := file.read(1 << 20):
                        sink.write(block)
        sink.close()
        publish(draft, output)
    finally:
        draft.unlink(missing_ok=True)
