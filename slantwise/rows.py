"""Rows: files in, rows with their line numbers out. Text stays text; a row that cannot be read says why.

Nothing is dropped: every row of a file comes out as a `Row` or as a `BadRow`.
"""

from __future__ import annotations

import codecs
import csv
import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slantwise.errors import ConfigurationError, CorpusError

csv.field_size_limit(2**31 - 1)


class Format(StrEnum):
    """How a file is laid out; `auto` goes by the ending of its name."""

    auto = "auto"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    folder = "folder"  # <class>/<file>.txt, or <file>.txt; gives the columns path, class and text
    dataset = "dataset"  # a `datasets` data set: a saved folder or a name on the hub (corpora only)


@dataclass
class Layout:
    """How to read one file, folder or glob."""

    path: str = ""
    format: Format = Format.auto
    encoding: str = "utf-8"  # a byte-order mark is skipped in any case
    fallback_encoding: str | None = None  # for files that are not valid in `encoding`
    separator: str | None = None  # CSV: the field separator; default "," (a tab for .tsv)
    quoting: bool = True  # CSV: false where quote characters are plain text
    names: list[str] = field(default_factory=list)  # CSV: the column names of a file without a header


ENDINGS = {
    ".jsonl": Format.jsonl, ".ndjson": Format.jsonl, ".csv": Format.csv, ".tsv": Format.csv, ".parquet": Format.parquet,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row as it stands in the file; `line` counts physical lines, or rows where a file has no lines, from 1."""

    file: str
    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. `expected_drop`: set aside because the configuration says so, not an error."""

    file: str
    line: int
    field: str | None
    value: Any
    reason: str
    expected_drop: bool = False

    def __str__(self) -> str:
        where = f"{self.file}: line {self.line}" + (f", field {self.field!r}" if self.field else "")
        shown = "" if self.value is None else f" (value {_shorten(self.value)})"
        return f"{where}: {self.reason}{shown}"


def read_rows(layout: Layout, root: Path) -> Iterator[Row | BadRow]:
    """All rows of the file, folder or glob that `layout` names, in order.

    Raises CorpusError where there is no such file, where it is empty or cannot be read, or where its format is
    unknown; ConfigurationError where the layout cannot work.
    """
    _check(layout)
    for path in find_paths(layout.path, root):
        kind = layout.format if layout.format is not Format.auto else guess_format(path)
        if kind is not Format.folder and path.is_dir():
            raise CorpusError(f"{path} is a folder; expected a file, or set format: folder")
        if kind is not Format.folder and path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty; expected at least one row")
        try:
            yield from READERS[kind](path, layout)
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
        except UnicodeError as error:  # an encoding whose invalid bytes cannot be told row by row, such as UTF-16
            raise CorpusError(f"{path} is not valid {layout.encoding}: {error}") from error


def _check(layout: Layout) -> None:
    if layout.format is Format.dataset:
        raise ConfigurationError(f"{layout.path}: format: dataset cannot be read here; expected a file or a folder")
    separator = layout.separator
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise ConfigurationError(f'separator={separator!r}; expected one character ("\\t" in double quotes is a tab)')
    for encoding in filter(None, (layout.encoding, layout.fallback_encoding)):
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ConfigurationError(f"encoding {encoding!r} is unknown") from error


def find_paths(pattern: str, root: Path) -> list[Path]:
    """The files that `pattern` names (a path or a glob), sorted."""
    path = root / Path(pattern).expanduser()
    if path.exists():
        return [path]
    pattern_below_root = Path(glob.escape(str(root))) / Path(pattern).expanduser()
    found = sorted(Path(p) for p in glob.glob(str(pattern_below_root), recursive=True))
    if not found:
        raise CorpusError(f"{path} does not exist")
    return found


def guess_format(path: Path) -> Format:
    if path.is_dir():
        return Format.folder
    if path.suffix.lower() not in ENDINGS:
        raise CorpusError(f"{path}: format unknown by its ending; set format to one of {', '.join(list(Format)[1:])}")
    return ENDINGS[path.suffix.lower()]


def _shorten(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _encoding_of(path: Path, layout: Layout) -> str:
    """`encoding`, or `fallback_encoding` where there is one and the file is not valid in the first."""
    encoding = "utf-8-sig" if codecs.lookup(layout.encoding).name == "utf-8" else layout.encoding
    try:
        if layout.fallback_encoding:
            with path.open(encoding=encoding) as file:
                for _ in iter(lambda: file.read(1 << 20), ""):
                    pass
    except UnicodeDecodeError:
        return str(layout.fallback_encoding)
    return encoding


def invalid_bytes(text: str) -> str | None:
    """The bytes of `text` that the file's encoding could not decode, as 0x.., or None."""
    bad = [f"0x{ord(c) - 0xDC00:02X}" for c in text if "\udc80" <= c <= "\udcff"]
    return ", ".join(bad[:5]) if bad else None


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _not_decodable(file: str, line: int, field: str | None, text: str, encoding: str) -> BadRow | None:
    if bad := invalid_bytes(text):
        reason = f"not valid {encoding.removesuffix('-sig').upper()}: byte {bad}"
        return BadRow(file, line, field, _printable(text), reason)
    return None


def _jsonl_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = _encoding_of(path, layout)
    # newline="\n": only a line feed ends a row; other separators (U+2028, a form feed) may stand in a text
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if bad := _not_decodable(str(path), number, None, line, encoding):
                yield bad
                continue
            try:
                values = json.loads(line)
                if "\\ud" in line or "\\uD" in line:  # half a surrogate pair is valid JSON, but no text can hold it
                    json.dumps(values, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                reason = f"not valid Unicode: half of a surrogate pair, {error.object[error.start]!a}"
                yield BadRow(str(path), number, None, line.strip(), reason)
                continue
            except (ValueError, RecursionError) as error:  # besides JSONDecodeError: a number of too many digits
                yield BadRow(str(path), number, None, line.strip(), f"not valid JSON: {error}")
                continue
            if isinstance(values, dict):
                yield Row(str(path), number, values)
            else:
                yield BadRow(str(path), number, None, values, "a JSON object was expected")


def _csv_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = _encoding_of(path, layout)
    separator = layout.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        reader = csv.reader(
            file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE, strict=True
        )
        names = _checked_names(list(layout.names) or _header(reader, path), path)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield BadRow(str(path), line, None, None, f"not readable as CSV: {error}")
                continue
            if cells is None:
                return
            if cells:
                yield _csv_row(str(path), line, names, cells, encoding)


def _header(reader: Any, path: Path) -> list[str]:
    try:
        names = next(reader, None)
    except csv.Error as error:
        raise CorpusError(f"{path}: line 1: not readable as CSV: {error}") from error
    if not names:
        raise CorpusError(f"{path} has no header row; name its columns with names: [...]")
    return [name if name else f"column_{i}" for i, name in enumerate(names, start=1)]


def _checked_names(names: list[str], path: Path) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CorpusError(f"{path}: columns named twice: {', '.join(repeated)}; name the columns with names: [...]")
    if bad := invalid_bytes("".join(names)):
        raise CorpusError(f"{path}: the header is not valid in this encoding: byte {bad}; set encoding: ...")
    return names


def _csv_row(file: str, line: int, names: list[str], cells: list[str], encoding: str) -> Row | BadRow:
    if len(cells) != len(names):
        hint = "; is the separator right?" if len(names) == 1 else ""
        shown = [_printable(cell) for cell in cells]
        return BadRow(file, line, None, shown, f"{len(cells)} fields where {len(names)} were expected{hint}")
    for name, cell in zip(names, cells, strict=True):
        if bad := _not_decodable(file, line, name, cell, encoding):
            return bad
    return Row(file, line, dict(zip(names, cells, strict=True)))


def _parquet_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            for values in _values_of(batch):
                number += 1
                if isinstance(values, UnicodeDecodeError):
                    yield BadRow(str(path), number, None, None, f"not valid UTF-8: {values}")
                else:
                    yield Row(str(path), number, values)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path} cannot be read as Parquet: {error}") from error


def _values_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch; Arrow does not check that a file's strings are valid, so one of them may fail."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _folder_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    """<class>/<file>.txt (what stands beside the class folders is no article), or a flat folder of <file>.txt."""
    files = sorted(p for p in path.glob("*/*.txt") if p.is_file()) or sorted(path.glob("*.txt"))
    if not files:
        raise CorpusError(f"{path}: no <class>/<file>.txt and no <file>.txt inside")
    for file in files:
        encoding = _encoding_of(file, layout)
        name = file.relative_to(path).as_posix()
        text = file.read_text(encoding=encoding, errors="surrogateescape")
        values = {"path": name, "class": file.parent.name if "/" in name else None, "text": text}
        yield _not_decodable(str(file), 1, "text", text, encoding) or Row(str(file), 1, values)


READERS = {Format.jsonl: _jsonl_rows, Format.csv: _csv_rows, Format.parquet: _parquet_rows, Format.folder: _folder_rows}
