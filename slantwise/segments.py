"""Segments: the input in pieces of bounded size, cut at the same rows however often and from wherever it is read.

Reading is split in two: what has to happen in order (finding where rows end) gives `Segment`s, which are cheap to make
and to send to another process; `Segment.rows` does the rest (decoding, JSON) there. Segments are put together to
chunks, what is scored in one go, and chunks to parts. Where a segment ends is decided by the rows in it alone, so that
reading from a part's start gives the same chunks as reading through.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from slantwise.errors import ConfigurationError, CorpusError, ScoringError
from slantwise.inputs import InputOptions
from slantwise.rows import (
    COMPRESSED,
    MAX_ROW,
    READERS,
    BadRow,
    Format,
    Layout,
    Row,
    encoding_of,
    json_row,
    not_decodable,
    open_binary,
    read_text,
)
from slantwise.sources import File

ROWS = 1_000  # of a chunk: enough for the vectoriser to work in bulk
BYTES = 4 << 20  # of a chunk
PEEKED = 100  # rows


@dataclass(frozen=True)
class Position:
    """Where reading goes on: the file's number, and what of it was read: rows, lines, and bytes (decompressed)."""

    file: int = 0
    row: int = 0
    line: int = 0
    offset: int = 0

    to_dict = asdict


class Rows(Protocol):
    """What can be sent to another process and turned into rows there."""

    def rows(self) -> Iterator[Row | BadRow]: ...


@dataclass(frozen=True)
class Segment:
    """Some rows of one file: `count` of them, about `size` bytes; `end` is where the next ones begin."""

    content: Rows
    count: int
    size: int
    end: Position


@dataclass(frozen=True)
class Chunk:
    """What is scored in one go: its rows are those from number `first` (from 1) of the whole input."""

    first: int
    count: int
    contents: tuple[Rows, ...]
    end: Position
    ends_part: bool = False

    def rows(self) -> Iterator[Row | BadRow]:
        for content in self.contents:
            yield from content.rows()


def chunk_rows(part_rows: int) -> int:
    """The most rows that a chunk, and a segment, has in parts of `part_rows` rows."""
    return min(ROWS, part_rows)


def chunks(segments: Iterable[Segment], first: int, part_rows: int) -> Iterator[Chunk]:
    """Chunks of at most ROWS rows and about BYTES bytes. A part ends with the chunk that brings it to `part_rows` rows.

    `first` is the number of the first row, which begins a part. The last chunk ends its part.
    """
    held: Chunk | None = None
    in_part = 0
    for chunk in _together(segments, first, chunk_rows(part_rows)):
        in_part += chunk.count
        ends = in_part >= part_rows
        in_part = 0 if ends else in_part
        if held is not None:
            yield held
        held = replace(chunk, ends_part=ends)
    if held is not None:
        yield replace(held, ends_part=True)


def _together(segments: Iterable[Segment], first: int, most: int) -> Iterator[Chunk]:
    """Small segments put together, as many files with few rows each give them."""
    pending: list[Segment] = []

    def chunk() -> Chunk:
        count = sum(segment.count for segment in pending)
        return Chunk(first, count, tuple(segment.content for segment in pending), pending[-1].end)

    rows = size = 0
    for segment in segments:
        if pending and (rows + segment.count > most or size + segment.size > BYTES):
            yield chunk()
            first, rows, size = first + rows, 0, 0
            pending.clear()
        pending.append(segment)
        rows, size = rows + segment.count, size + segment.size
    if pending:
        yield chunk()


def read_segments(
    files: Sequence[File],
    layout: Layout,
    options: InputOptions,
    start: Position = Position(),
    most: int = ROWS,
) -> Iterator[Segment]:
    """All rows of the files from `start` on, at most `most` in a segment.

    Raises CorpusError where a file cannot be read.
    """
    for number in range(start.file, len(files)):
        file = files[number]
        begin = start if number == start.file else Position(number)
        try:
            if file.size == 0 and len(files) == 1 and file.format is not Format.text:
                raise CorpusError(f"{file} is empty; expected at least one row")
            yield from _reader(file, layout, options, begin, most)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # the latter three: broken compressed data
            raise CorpusError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        except UnicodeError as error:  # an encoding whose invalid bytes cannot be told row by row, such as UTF-16
            raise CorpusError(f"{file} is not valid {layout.encoding}: {error}") from error
        finally:
            file.close()


def _reader(file: File, layout: Layout, options: InputOptions, start: Position, most: int) -> Iterator[Segment]:
    if file.format is Format.parquet:
        return _parquet_segments(file, options, start, most)
    if file.format is Format.text:
        return _text_segments(file, layout, start)
    if file.format not in READERS:
        raise ConfigurationError(f"{file}: format: {file.format} cannot be read here; expected {', '.join(READERS)}")
    if file.format is Format.jsonl and encoding_of(file, layout) in ("utf-8", "utf-8-sig"):
        return _line_segments(file, start, most)
    return _row_segments(file, layout, start, most)


# --- JSONL ---


@dataclass(frozen=True)
class Lines:
    """Lines of a JSONL file in UTF-8, the first of them number `line`; None stands for one that was too long."""

    file: str
    line: int
    lines: list[bytes | None]

    def rows(self) -> Iterator[Row | BadRow]:
        for number, line in enumerate(self.lines, self.line):
            if line is None:
                yield BadRow(self.file, number, None, None, f"a line of more than {MAX_ROW >> 20} MiB")
            elif not line.isspace():
                yield json_row(self.file, number, line)


def _line_segments(file: File, start: Position, most: int) -> Iterator[Segment]:
    with open_buffered(file) as stream:
        _skip_to(stream, file, start.offset)
        lines: list[bytes | None] = []
        count = size = 0
        at = start
        while line := stream.readline(MAX_ROW):
            whole, length = _whole_line(stream, line)
            if at.offset == 0 and whole is not None:
                whole = whole.removeprefix(b"\xef\xbb\xbf")
            # a row that would make the segment too large begins the next one
            if count and size + length > BYTES:
                yield Segment(Lines(file.name, at.line - len(lines) + 1, lines), count, size, at)
                lines, count, size = [], 0, 0
            is_row = whole is None or not whole.isspace()
            lines.append(whole)
            count, size = count + is_row, size + length
            at = Position(at.file, at.row + is_row, at.line + 1, at.offset + length)
            if count == most or len(lines) == 10 * ROWS:
                if count:
                    yield Segment(Lines(file.name, at.line - len(lines) + 1, lines), count, size, at)
                lines, count, size = [], 0, 0
        if count:
            yield Segment(Lines(file.name, at.line - len(lines) + 1, lines), count, size, at)


def _whole_line(stream: IO[bytes], line: bytes) -> tuple[bytes | None, int]:
    """The line, or None where it has MAX_ROW bytes and goes on, which is skipped; and how many bytes it has."""
    length = len(line)
    if length < MAX_ROW or line.endswith(b"\n"):
        return line, length
    while rest := stream.readline(1 << 20):
        length += len(rest)
        if rest.endswith(b"\n"):
            break
    return None, length


def open_buffered(file: File) -> IO[bytes]:
    return io.BufferedReader(open_binary(file), 1 << 20)  # type: ignore[type-var]


def _skip_to(stream: IO[bytes], file: File, offset: int) -> None:
    if offset and file.suffix.lower() not in COMPRESSED:
        stream.seek(offset)
        return
    while offset > 0:
        offset -= len(stream.read(min(offset, 1 << 20))) or offset


# --- Parquet ---


@dataclass(frozen=True)
class Batch:
    """Rows of a Parquet file, the first of them number `line`, as an Arrow stream."""

    file: str
    line: int
    stream: pa.Buffer

    def rows(self) -> Iterator[Row | BadRow]:
        with pa.ipc.open_stream(self.stream) as reader:
            batch = reader.read_next_batch()
        names = batch.schema.names
        columns = [column_values(column) for column in batch.columns]
        for number, values in enumerate(zip(*columns, strict=True), self.line):
            yield Row(self.file, number, dict(zip(names, values, strict=True)))


def _parquet_segments(file: File, options: InputOptions, start: Position, most: int) -> Iterator[Segment]:
    try:
        with pq.ParquetFile(file.open(), pre_buffer=False) as parquet:
            names = _needed(file, parquet.schema_arrow.names, options)
            before = 0
            for group in range(parquet.num_row_groups):
                metadata = parquet.metadata.row_group(group)
                if before + metadata.num_rows > start.row:
                    for batch in parquet.iter_batches(_batch_rows(metadata, names, most), [group], names):
                        end = Position(start.file, before + batch.num_rows)
                        if end.row > start.row:
                            yield Segment(
                                Batch(file.name, before + 1, _stream(batch)), batch.num_rows, batch.nbytes, end
                            )
                        before = end.row
                else:
                    before += metadata.num_rows
    except pa.ArrowException as error:
        raise CorpusError(f"{file} cannot be read as Parquet: {error}") from error


def _needed(file: File, names: list[str], options: InputOptions) -> list[str]:
    """The columns that are read; a text column that is missing is an error before any row is."""
    columns = options.columns
    roots = {name: name if name in names else name.split(".")[0] for name in vars(columns).values() if name}
    if roots[columns.text] not in names:
        raise CorpusError(no_column(file.name, columns.text, names))
    wanted = {*roots.values(), "stances"} if columns.targets == "targets" else {*roots.values()}
    return [name for name in names if name in wanted]


def check_text(rows: Iterable[Row | BadRow], column: str) -> None:
    """Raises ScoringError where none of the first PEEKED rows has the text column: JSONL has no header to tell it."""
    readable = [row for row in islice(rows, PEEKED) if isinstance(row, Row)]
    roots = {column, column.split(".")[0]}
    if readable and not any(roots & row.values.keys() for row in readable):
        names = dict.fromkeys(name for row in readable for name in row.values)
        raise ScoringError(no_column(readable[0].file, column, names))


def no_column(file: str, column: str, names: Iterable[str]) -> str:
    listed = ", ".join(map(repr, islice(names, 20))) or "none"
    return f"{file} has no column {column!r}; it has {listed}; name it with columns.text=…"


def _batch_rows(group: Any, names: list[str], most: int) -> int:
    """So many rows that a batch of rows of the group's mean size has about BYTES bytes."""
    columns = [group.column(i) for i in range(group.num_columns)]
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in names)
    return max(min(most, BYTES * group.num_rows // max(size, 1)), 1)


def _stream(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def column_values(column: pa.Array) -> list[Any]:
    """The column's values; Arrow checks neither a file's strings nor its times: text that is no UTF-8 comes as bytes,
    what cannot be told at all as the exception that says so."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        except pa.ArrowException:
            large = pa.types.is_large_string(column.type)
            values = column.view(pa.large_binary() if large else pa.binary()).to_pylist()
        return values
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError) as error:
        return error


# --- texts, and all that is read row by row ---


@dataclass(frozen=True)
class Read:
    """Rows that were read already."""

    content: list[Row | BadRow]

    def rows(self) -> Iterator[Row | BadRow]:
        return iter(self.content)


def _text_segments(file: File, layout: Layout, start: Position) -> Iterator[Segment]:
    """A file that is one text."""
    if start.row:
        return
    path = file.label or file.stem + file.suffix
    row: Row | BadRow
    if file.size > MAX_ROW:
        row = BadRow(file.name, 1, None, None, f"a text of more than {MAX_ROW >> 20} MiB")
    else:
        encoding = encoding_of(file, layout)
        text = read_text(file, encoding)
        row = Row(file.name, 1, {"path": path, "text": text})
        row = not_decodable(file.name, 1, "text", text, encoding) or row
    yield Segment(Read([row]), 1, file.size, Position(start.file, 1))


def _row_segments(file: File, layout: Layout, start: Position, most: int) -> Iterator[Segment]:
    """Rows of any other format; those before `start` are read and left out."""
    rows = islice(READERS[file.format](file, layout), start.row, None)
    held: list[Row | BadRow] = []
    at, size = start.row, 0
    for row in rows:
        length = _size(row)
        if held and size + length > BYTES:
            yield Segment(Read(held), len(held), size, Position(start.file, at))
            held, size = [], 0
        held.append(row)
        at, size = at + 1, size + length
        if len(held) == most:
            yield Segment(Read(held), len(held), size, Position(start.file, at))
            held, size = [], 0
    if held:
        yield Segment(Read(held), len(held), size, Position(start.file, at))


def _size(row: Row | BadRow) -> int:
    values = row.values.values() if isinstance(row, Row) else [row.value]
    return sum(len(value) for value in values if isinstance(value, str | list | dict))
