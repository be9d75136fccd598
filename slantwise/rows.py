"""Rows: files in, rows with their line numbers out. Text stays text; a row that cannot be read says why.

Nothing is dropped: every row of a file comes out as a `Row` or as a `BadRow`.
"""

from __future__ import annotations

import codecs
import csv
import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
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
    json = "json"  # a file that is one object, a list of objects, or an object with such a list (`element`)
    csv = "csv"
    parquet = "parquet"
    xlsx = "xlsx"  # a sheet of an Excel workbook (corpora only)
    sgml = "sgml"  # SGML or XML, well-formed or not; gives the columns that data/readers.py describes (corpora only)
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
    names: list[str] = field(default_factory=list)  # CSV, XLSX: the column names of a table without a header
    skip: int = 0  # CSV, XLSX: rows above the header to leave out; with `names`, rows above the first row
    sheet: str | None = None  # XLSX: the sheet's name; default: the first
    element: str | None = None  # SGML: the element that is one row (default: the first); JSON: the key that holds rows
    # a regular expression over the file's path; its named groups become columns: '(?P<outlet>[^/]+)/(?P<id>\d+)\.json$'
    from_path: str | None = None


ENDINGS = {
    ".jsonl": Format.jsonl, ".ndjson": Format.jsonl, ".json": Format.json, ".csv": Format.csv, ".tsv": Format.csv,
    ".parquet": Format.parquet, ".xlsx": Format.xlsx, ".sgm": Format.sgml, ".sgml": Format.sgml, ".xml": Format.sgml,
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


def read_rows(layout: Layout, root: Path, readers: Mapping[Format, Reader] | None = None) -> Iterator[Row | BadRow]:
    """All rows of the file, folder or glob that `layout` names, in order.

    Raises CorpusError where there is no such file, where it is empty or cannot be read, or where its format is
    unknown; ConfigurationError where the layout cannot work or `readers` (default: READERS) has none for the format.
    """
    readers = READERS if readers is None else readers
    _check(layout)
    for path in find_paths(layout.path, root):
        kind = layout.format if layout.format is not Format.auto else guess_format(path)
        if kind not in readers:
            raise ConfigurationError(f"{path}: format: {kind} cannot be read here; expected {', '.join(readers)}")
        if kind is not Format.folder and path.is_dir():
            raise CorpusError(f"{path} is a folder; expected a file, or set format: folder")
        if kind is not Format.folder and path.stat().st_size == 0:
            raise CorpusError(f"{path} is empty; expected at least one row")
        try:
            rows = readers[kind](path, layout)
            yield from _with_path(rows, layout.from_path) if layout.from_path else rows
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
    if layout.skip < 0:
        raise ConfigurationError(f"skip={layout.skip}; expected 0 or more")
    for encoding in filter(None, (layout.encoding, layout.fallback_encoding)):
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ConfigurationError(f"encoding {encoding!r} is unknown") from error
    try:
        groups = re.compile(layout.from_path).groupindex if layout.from_path else {"": 0}
    except re.error as error:
        raise ConfigurationError(f"from_path={layout.from_path!r} is no regular expression: {error}") from error
    if not groups:
        raise ConfigurationError(f"from_path={layout.from_path!r} names no group; expected (?P<column>...)")


def _with_path(rows: Iterator[Row | BadRow], pattern: str) -> Iterator[Row | BadRow]:
    """The rows with columns taken from their file's path; they win over columns of the same name."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row
        elif found := re.search(pattern, Path(row.file).as_posix()):
            yield Row(row.file, row.line, {**row.values, **found.groupdict()})
        else:
            yield BadRow(row.file, row.line, None, None, f"the path does not match from_path={pattern!r}")


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


def encoding_of(path: Path, layout: Layout) -> str:
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


def not_decodable(file: str, line: int, field: str | None, text: str, encoding: str) -> BadRow | None:
    if bad := invalid_bytes(text):
        reason = f"not valid {encoding.removesuffix('-sig').upper()}: byte {bad}"
        return BadRow(file, line, field, _printable(text), reason)
    return None


def _jsonl_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = encoding_of(path, layout)
    # newline="\n": only a line feed ends a row; other separators (U+2028, a form feed) may stand in a text
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                values = _json_of(str(path), number, line, encoding)
                yield values if isinstance(values, BadRow) else _object(str(path), number, values)


def _json_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    """The file's one object, or the objects of its list (which is the value of `element`), numbered from 1."""
    encoding = encoding_of(path, layout)
    text = path.read_text(encoding=encoding, errors="surrogateescape")
    content = _json_of(str(path), 1, text, encoding)
    if isinstance(content, BadRow):
        if "Extra data" in content.reason:
            raise CorpusError(f"{path} holds more than one JSON value; one object a line is format: jsonl")
        yield content
        return
    if layout.element is not None:
        if not isinstance(content, dict) or not isinstance(content.get(layout.element), list):
            raise CorpusError(f"{path} has no list under the key {layout.element!r} (element)")
        content = content[layout.element]
    for number, values in enumerate(content if isinstance(content, list) else [content], start=1):
        yield _object(str(path), number, values)


def _json_of(file: str, number: int, text: str, encoding: str) -> Any:
    """The value that `text` stands for, or a BadRow."""
    if bad := not_decodable(file, number, None, text, encoding):
        return bad
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half a surrogate pair is valid JSON, but no text can hold it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        reason = f"not valid Unicode: half of a surrogate pair, {error.object[error.start]!a}"
        return BadRow(file, number, None, text.strip(), reason)
    except (ValueError, RecursionError) as error:  # besides JSONDecodeError: a number of too many digits
        return BadRow(file, number, None, text.strip(), f"not valid JSON: {error}")
    return value


def _object(file: str, number: int, values: Any) -> Row | BadRow:
    if isinstance(values, dict):
        return Row(file, number, values)
    return BadRow(file, number, None, values, "a JSON object was expected")


def _csv_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = encoding_of(path, layout)
    separator = layout.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
        reader = csv.reader(
            file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE, strict=True
        )
        for _ in range(layout.skip):
            with suppress(csv.Error):
                next(reader, None)
        names = column_names(list(layout.names) or _header(reader, path), path)
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
                yield _table_row(str(path), line, names, cells, encoding)


def _header(reader: Any, path: Path) -> list[str]:
    line = reader.line_num + 1
    try:
        names = next(reader, None)
    except csv.Error as error:
        raise CorpusError(f"{path}: line {line}: not readable as CSV: {error}") from error
    if not names:
        raise CorpusError(f"{path} has no header row; name its columns with names: [...]")
    return distinct_names(names)


def distinct_names(header: Sequence[str]) -> list[str]:
    """A column without a name is called by its number, column_3; those that share a name are told apart: id_1, id_2.

    So a configuration that asks for a name that stands twice has to say which one it means.
    """
    names, seen = [], dict.fromkeys(header, 0)
    for number, name in enumerate(header, start=1):
        seen[name] += 1
        names.append(f"column_{number}" if not name else f"{name}_{seen[name]}" if header.count(name) > 1 else name)
    return names


def column_names(names: list[str], path: Path) -> list[str]:
    """The names, checked; raises CorpusError."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CorpusError(
            f"{path}: columns named twice: {', '.join(repeated)}; name the columns with names: [...], "
            "and leave a header out with skip: 1"
        )
    if bad := invalid_bytes("".join(names)):
        raise CorpusError(f"{path}: the header is not valid in this encoding: byte {bad}; set encoding: ...")
    return names


def _table_row(file: str, line: int, names: list[str], cells: list[str], encoding: str) -> Row | BadRow:
    """A row of a table from its cells, or why they cannot be one."""
    if len(cells) != len(names):
        hint = "; is the separator right?" if len(names) == 1 else ""
        shown = [_printable(cell) for cell in cells]
        return BadRow(file, line, None, shown, f"{len(cells)} fields where {len(names)} were expected{hint}")
    for name, cell in zip(names, cells, strict=True):
        if bad := not_decodable(file, line, name, cell, encoding):
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
        encoding = encoding_of(file, layout)
        name = file.relative_to(path).as_posix()
        text = file.read_text(encoding=encoding, errors="surrogateescape")
        values = {"path": name, "class": file.parent.name if "/" in name else None, "text": text}
        yield not_decodable(str(file), 1, "text", text, encoding) or Row(str(file), 1, values)


Reader = Callable[[Path, Layout], Iterator[Row | BadRow]]
READERS: dict[Format, Reader] = {
    Format.jsonl: _jsonl_rows,
    Format.json: _json_rows,
    Format.csv: _csv_rows,
    Format.parquet: _parquet_rows,
    Format.folder: _folder_rows,
}
