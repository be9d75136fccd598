"""`slantwise score`: a model and a file of articles in; one score row for each input row out, in input order.

Rows are read, scored and written in chunks, so memory is bounded for any input. A row that cannot be scored keeps its
place with an `error` and null predictions, and goes to <output>.quarantine.jsonl with file, line, field and reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from slantwise.article import Article
from slantwise.errors import CorpusError, ScoringError
from slantwise.model import Model, load
from slantwise.rows import BadRow, Format, Layout, Row, read_rows
from slantwise.task import Task

CHUNK = 512  # articles: large enough for the vectoriser, small enough that a chunk of long articles stays small
PEEKED = 100  # rows
OUTPUTS = (".jsonl", ".parquet", ".csv")


@dataclass
class ScoreColumns:
    """Which column of the input holds what."""

    id: str | None = "id"  # null: ids are made from the row's number
    text: str = "text"
    title: str | None = "title"
    source: str | None = "source"
    targets: str | None = "targets"  # a list of names, or of {target: name}; in CSV separated by target_separator


@dataclass
class ScoreConfig:
    """`slantwise score`."""

    model: str = "???"
    input: str = "???"
    output: str = "???"
    format: Format = Format.auto
    encoding: str = "utf-8"
    separator: str | None = None
    columns: ScoreColumns = field(default_factory=ScoreColumns)
    targets: list[str] = field(default_factory=list)  # the targets of articles that name none themselves
    target_separator: str = "|"
    device: str = "auto"  # where encoders run


@dataclass
class Counts:
    rows: int = 0
    rejected: int = 0


def main() -> None:
    from hydra.core.config_store import ConfigStore

    from slantwise.command import run

    ConfigStore.instance().store(name="score_schema", node=ScoreConfig)
    run("score", _job)


def _job(config: Any) -> None:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from slantwise.command import to_object
    from slantwise.locate import locate_model

    chosen = to_object(config, ScoreConfig)
    output = Path(chosen.output)
    check_output(output)
    layout = Layout(chosen.input, chosen.format, chosen.encoding, None, chosen.separator)
    rows = peek(read_rows(layout, Path()), chosen.columns)
    model = load(locate_model(chosen.model), chosen.device)
    columns = (
        SpinnerColumn(), TextColumn("{task.completed:,} articles"), BarColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns) as bar:
        job = bar.add_task("score", total=None, rate="")

        def report(counts: Counts) -> None:
            elapsed = bar.tasks[0].elapsed or 1e-9
            rate = f"{counts.rows / elapsed:,.0f} articles/s, {counts.rejected:,} rejected"
            bar.update(job, completed=counts.rows, rate=rate)

        counts = score(model, rows, output, chosen, report)
    print(f"{output}: {counts.rows:,} rows, {counts.rejected:,} of them rejected")
    if counts.rejected:
        print(f"rejected rows: {quarantine_path(output)}")


def check_output(output: Path) -> None:
    """Raises ScoringError where the output or its quarantine exists or its ending is unknown."""
    if output.suffix not in OUTPUTS:
        raise ScoringError(f"output={output}: expected a name that ends in {', '.join(OUTPUTS)}")
    for path in (output, quarantine_path(output)):
        if path.exists():
            raise ScoringError(f"output={output}: {path} exists; remove it or choose another name")
    if output.parent.exists() and not output.parent.is_dir():
        raise ScoringError(f"output={output}: {output.parent} is not a folder")


def quarantine_path(output: Path) -> Path:
    return output.with_name(output.name + ".quarantine.jsonl")


def peek(rows: Iterator[Row | BadRow], columns: ScoreColumns) -> Iterator[Row | BadRow]:
    """The same rows, after a look at the first: an input without the text column is an error, not rejected rows.

    A JSONL file has no header; the column is missing only where none of its first PEEKED rows has it.
    """
    try:
        first = list(islice(rows, PEEKED))
    except CorpusError as error:
        raise ScoringError(str(error)) from error
    if not first:
        raise ScoringError("the input holds no rows")
    readable = [row for row in first if isinstance(row, Row)]
    if readable and not any(columns.text in row.values for row in readable):
        names = dict.fromkeys(name for row in readable for name in row.values)
        raise ScoringError(
            f"{readable[0].file} has no column {columns.text!r}; it has {', '.join(map(repr, names)) or 'none'}; "
            "name it with columns.text=…"
        )
    return chain(first, rows)


def score(
    model: Model, rows: Iterable[Row | BadRow], output: Path, config: ScoreConfig, report: Any = lambda counts: None
) -> Counts:
    """Score all rows into `output`, which appears only when it is whole; `report` is called after each chunk.

    Rejected rows are listed in `quarantine_path(output)`. Raises ScoringError where the output cannot be written.
    """
    partial, counts = output.with_name(output.name + ".partial"), Counts()
    quarantined = quarantine_path(output).with_suffix(".partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            _open_writer(partial, output.suffix, model.tasks) as writer,
            quarantined.open("w", encoding="utf-8") as bad,
        ):
            iterator = iter(rows)
            while chunk := list(islice(iterator, CHUNK)):
                writer.write(_score_chunk(model, chunk, config, counts, bad))
                report(counts)
        partial.rename(output)
        if counts.rejected:
            quarantined.rename(quarantine_path(output))
    except OSError as error:
        raise ScoringError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
        quarantined.unlink(missing_ok=True)
    return counts


def _score_chunk(
    model: Model, chunk: Sequence[Row | BadRow], config: ScoreConfig, counts: Counts, quarantine: TextIO
) -> list[dict[str, Any]]:
    articles, targets, results = [], [], []
    for row in chunk:
        counts.rows += 1
        bad = row if isinstance(row, BadRow) else None
        id_: str | None = None  # a row that cannot be read has none
        if isinstance(row, Row):
            id_ = _id(row, config, str(counts.rows))
            try:
                own = _targets(row, config)
                article = _article(row, id_, config)
            except _Rejected as error:
                bad = BadRow(row.file, row.line, error.field, _shown(error.value), str(error))
            else:
                articles.append(article)
                targets.append(own)
        if bad is not None:
            counts.rejected += 1
            quarantine.write(
                json.dumps({"row": counts.rows, "id": id_} | vars(bad), ensure_ascii=False, default=str) + "\n"
            )
        results.append((id_, None if bad is None else bad.reason))
    scored = iter(model.predict(articles, targets))
    empty = {task.name: None for task in model.tasks}
    return [{"id": id_, "error": error, **(empty if error else _without_id(next(scored)))} for id_, error in results]


def _without_id(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "id"}


class _Rejected(Exception):
    def __init__(self, field: str, value: Any, reason: str) -> None:
        super().__init__(reason)
        self.field, self.value = field, value


def _shown(value: Any) -> str | None:
    return None if value is None else repr(value)[:200]


def _id(row: Row, config: ScoreConfig, number: str) -> str:
    for column in (config.columns.id, "path"):
        value = row.values.get(column) if column else None
        if value is not None and str(value).strip():
            return str(value)
    return number


def _article(row: Row, id_: str, config: ScoreConfig) -> Article:
    columns = config.columns
    text = row.values.get(columns.text)
    if not isinstance(text, str):
        raise _Rejected(columns.text, text, "the text is missing" if text is None else "the text is no text")
    if not text.strip():
        raise _Rejected(columns.text, text, "the text is empty")

    def optional(column: str | None) -> str | None:
        value = row.values.get(column) if column else None
        return value.strip() if isinstance(value, str) and value.strip() else None

    return Article(id=id_, text=text, title=optional(columns.title), source=optional(columns.source))


def _targets(row: Row, config: ScoreConfig) -> list[str]:
    column = config.columns.targets
    value = row.values.get(column) if column else None
    if value is None and column == "targets" and isinstance(row.values.get("stances"), list):
        value = row.values["stances"]  # a canonical article row names its targets with its labels
    if value is None or value == "":
        return list(config.targets)
    if isinstance(value, str):
        value = [part.strip() for part in value.split(config.target_separator) if part.strip()]
    if not isinstance(value, list):
        raise _Rejected(column or "targets", value, "targets is no list")
    names = [entry.get("target") if isinstance(entry, Mapping) else entry for entry in value]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise _Rejected(column or "targets", value, "targets holds something that is no name")
    return [str(name) for name in names]


def scores_schema(tasks: Sequence[Task]) -> pa.Schema:
    """The Arrow schema of the scores of a model with these tasks."""
    fields = [pa.field("id", pa.string()), pa.field("error", pa.string())]
    for task in tasks:
        probabilities = pa.struct([(label, pa.float32()) for label in task.labels])
        if task.kind == "multilabel":
            kind = pa.struct([("labels", pa.list_(pa.string())), ("probabilities", probabilities)])
        else:
            parts = [("label", pa.string()), ("confidence", pa.float32()), ("probabilities", probabilities)]
            kind = pa.struct(parts) if not task.has_target else pa.list_(pa.struct([("target", pa.string()), *parts]))
        fields.append(pa.field(task.name, kind))
    return pa.schema(fields)


class Writer(Protocol):
    def write(self, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def __enter__(self) -> Writer: ...
    def __exit__(self, *error: object) -> None: ...


def _open_writer(path: Path, ending: str, tasks: Sequence[Task]) -> Writer:
    writers: dict[str, Callable[[Path, Sequence[Task]], Writer]]
    writers = {".jsonl": _JsonlWriter, ".csv": _CsvWriter, ".parquet": _ParquetWriter}
    return writers[ending](path, tasks)


class _JsonlWriter:
    def __init__(self, path: Path, tasks: Sequence[Task]) -> None:
        self.file = path.open("w", encoding="utf-8")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.file.writelines(json.dumps(_rounded(row), ensure_ascii=False) + "\n" for row in rows)

    def __enter__(self) -> _JsonlWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


class _CsvWriter(_JsonlWriter):
    """One column for each task; nested values as JSON, since a cell holds but text."""

    def __init__(self, path: Path, tasks: Sequence[Task]) -> None:
        import csv

        self.file = path.open("w", encoding="utf-8", newline="")
        self.csv = csv.DictWriter(self.file, ["id", "error", *(task.name for task in tasks)])
        self.csv.writeheader()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            plain = {
                k: v if v is None or isinstance(v, str) else json.dumps(_rounded(v), ensure_ascii=False)
                for k, v in row.items()
            }
            self.csv.writerow(plain)


class _ParquetWriter:
    def __init__(self, path: Path, tasks: Sequence[Task]) -> None:
        self.schema = scores_schema(tasks)
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.writer.write_table(pa.Table.from_pylist(list(rows), schema=self.schema))

    def __enter__(self) -> _ParquetWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()


def _rounded(value: Any) -> Any:
    """Probabilities with six decimals: all that a float32 holds."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value


if __name__ == "__main__":
    main()
