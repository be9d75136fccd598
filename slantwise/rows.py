"""Rows: files in, rows with their line numbers out. Text stays text; a row that cannot be read says why.

Nothing is dropped: every row of a file comes out as a `Row` or as a `BadRow`.
"""

from __future__ import annotations

import ast
import bz2
import codecs
import csv
import glob
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from slantwise.errors import ConfigurationError, CorpusError

if TYPE_CHECKING:
    from slantwise.sources import File

MAX_ROW = 1 << 26  # bytes of a line, characters of a field: one that does not end must not fill the memory
csv.field_size_limit(MAX_ROW)


class Format(StrEnum):
    """How a file is laid out; `auto` goes by the ending of its name."""

    auto = "auto"
    jsonl = "jsonl"
    json = "json"  # a file that is one object, a list of objects, or an object with such a list (`element`)
    csv = "csv"
    lines = "lines"  # a row for each line; gives the columns line (its number) and text, or those of `pattern`
    parquet = "parquet"
    xlsx = "xlsx"  # a sheet of an Excel workbook (corpora only)
    sgml = "sgml"  # SGML or XML, well-formed or not; gives the columns that data/readers.py describes (corpora only)
    folder = "folder"  # <class>/<file>.txt, or <file>.txt; gives the columns path, class and text
    text = "text"  # a file is one text; gives the columns file (its name), class (its folder's name) and text
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
    escape: str | None = None  # CSV: the character that takes the meaning from the one after it, such as "\\"
    names: list[str] = field(default_factory=list)  # CSV, XLSX: the column names of a table without a header
    skip: int = 0  # CSV, XLSX: rows above the header to leave out; with `names`, rows above the first row
    sheet: str | None = None  # XLSX: the sheet's name; default: the first
    # SGML: the element that is one row (default: the first). JSON: the key that holds the rows (outer.inner for one
    # inside another, "*" for the file itself): a list of objects, or an object of them, whose keys become `key`.
    element: str | None = None
    explode: str | None = None  # a column with a list: each item is a row of its own, the other columns beside it
    pattern: str | None = (
        None  # lines: a regular expression whose named groups are the columns: '(?P<label>\S+) (?P<text>.*)'
    )
    # a regular expression over the file's path; its named groups become columns: '(?P<outlet>[^/]+)/(?P<id>\d+)\.json$'
    from_path: str | None = None


ENDINGS = {
    ".jsonl": Format.jsonl, ".ndjson": Format.jsonl, ".json": Format.json, ".csv": Format.csv, ".tsv": Format.csv,
    ".parquet": Format.parquet, ".xlsx": Format.xlsx, ".sgm": Format.sgml, ".sgml": Format.sgml, ".xml": Format.sgml,
    ".html": Format.text, ".htm": Format.text,
}  # fmt: skip
COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open,
              ".zst": lambda path: pa.input_stream(path, compression="zstd")}  # fmt: skip
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
BINARY = (Format.parquet, Format.xlsx)  # these compress by themselves
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row as it stands in the file; `line` counts physical lines, or rows where a file has no lines, from 1.

    `item` counts the items of a list that was exploded, from 1.
    """

    file: str
    line: int
    values: dict[str, Any]
    item: int | None = None


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


class UndecodableRow(BadRow):
    """A row that holds what no text can: bytes that its encoding does not have, or half of a surrogate pair."""


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
        if kind in BINARY and path.suffix.lower() in COMPRESSED:
            raise CorpusError(f"{path} cannot be read compressed; unpack it")
        try:
            rows = readers[kind](path, layout)
            rows = _with_path(rows, layout.from_path) if layout.from_path else rows
            yield from _exploded(rows, layout.explode) if layout.explode else rows
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # the latter three: broken compressed data
            raise CorpusError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        except UnicodeError as error:  # an encoding whose invalid bytes cannot be told row by row, such as UTF-16
            raise CorpusError(f"{path} is not valid {layout.encoding}: {error}") from error


def _check(layout: Layout) -> None:
    if layout.format is Format.dataset:
        raise ConfigurationError(f"{layout.path}: format: dataset cannot be read here; expected a file or a folder")
    separator = layout.separator
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise ConfigurationError(f'separator={separator!r}; expected one character ("\\t" in double quotes is a tab)')
    if layout.escape is not None and (len(layout.escape) != 1 or layout.escape in '"\r\n'):
        raise ConfigurationError(f"escape={layout.escape!r}; expected one character, such as '\\'")
    if layout.skip < 0:
        raise ConfigurationError(f"skip={layout.skip}; expected 0 or more")
    for encoding in filter(None, (layout.encoding, layout.fallback_encoding)):
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ConfigurationError(f"encoding {encoding!r} is unknown") from error
    for name in ("from_path", "pattern"):
        expression = getattr(layout, name)
        try:
            groups = re.compile(expression).groupindex if expression else {"": 0}
        except re.error as error:
            raise ConfigurationError(f"{name}={expression!r} is no regular expression: {error}") from error
        if not groups:
            raise ConfigurationError(f"{name}={expression!r} names no group; expected (?P<column>...)")


def _with_path(rows: Iterator[Row | BadRow], pattern: str) -> Iterator[Row | BadRow]:
    """The rows with columns taken from their file's path; they win over columns of the same name."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row
        elif found := re.search(pattern, Path(row.file).as_posix()):
            yield Row(row.file, row.line, {**row.values, **found.groupdict()})
        else:
            yield BadRow(row.file, row.line, None, None, f"the path does not match from_path={pattern!r}")


def _exploded(rows: Iterator[Row | BadRow], column: str) -> Iterator[Row | BadRow]:
    """A row for each item of the column's list, or for each key of its object, which is then {key, value}.

    A row whose list is empty or missing stays one row, with nothing in that column.
    """
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        value = parse_list(flat(row.values).get(column))
        items = [{"key": k, "value": v} for k, v in value.items()] if isinstance(value, dict) else value
        if items is None or items == "":
            items = []
        if not isinstance(items, list):
            yield BadRow(row.file, row.line, column, value, "a list was expected (explode)")
            continue
        for number, item in enumerate(items or [None], start=1):
            yield replace(row, values={**row.values, column: item}, item=number)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns and what is inside them; NaN, which tables write for "nothing", is None.

    An object gives a column for each of its keys, `outer.inner`; a list of objects one with the list of their values,
    so that its items stay aligned; a pair of numbers `span.0` and `span.1`.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[name] = None if isinstance(value, float) and value != value else value
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            items = [flat(item) for item in value]
            keys = dict.fromkeys(key for item in items for key in item)
            found |= {f"{name}.{key}": [item.get(key) for item in items] for key in keys}
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(item, int | float) for item in value):
            found |= {f"{name}.0": value[0], f"{name}.1": value[1]}
    return found


def parse_list(value: Any) -> Any:
    """The list or object that a cell's text is, as JSON or Python writes it; any other value as it stands."""
    if not isinstance(value, str) or value.strip()[:1] + value.strip()[-1:] not in ("[]", "{}"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        parsed = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return parsed if isinstance(parsed, list | dict) else value


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
    ending = plain_ending(path)
    if ending in ARCHIVES:
        raise CorpusError(f"{path} is an archive; unpack it and name the files in it")
    if ending not in ENDINGS:
        raise CorpusError(f"{path}: format unknown by its ending; set format to one of {', '.join(list(Format)[1:])}")
    return ENDINGS[ending]


def plain_ending(path: Path | File) -> str:
    """The ending in lower case, without that of a compression: .jsonl of a.JSONL.gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def open_binary(path: Path | File) -> IO[bytes]:
    """The file's bytes, decompressed where its ending says so."""
    stored = str(path) if isinstance(path, Path) else path.open()
    if path.suffix.lower() in COMPRESSED:
        return cast("IO[bytes]", COMPRESSED[path.suffix.lower()](stored))
    return io.FileIO(stored) if isinstance(stored, str) else stored


def open_text(path: Path | File, encoding: str, errors: str = "surrogateescape", newline: str | None = None) -> TextIO:
    return io.TextIOWrapper(io.BufferedReader(open_binary(path)), encoding, errors, newline)  # type: ignore[type-var]


def read_text(path: Path | File, encoding: str) -> str:
    with open_text(path, encoding) as file:
        return file.read()


def _shorten(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def encoding_of(path: Path | File, layout: Layout) -> str:
    """What the file's byte-order mark says; without one `encoding`, or `fallback_encoding` where there is one and the
    file is not valid in the first."""
    with open_binary(path) as start:
        first = start.read(4)
    for mark, encoding in MARKS.items():
        if first.startswith(mark):
            return encoding
    encoding = "utf-8-sig" if codecs.lookup(layout.encoding).name == "utf-8" else layout.encoding
    try:
        if layout.fallback_encoding:
            with open_text(path, encoding, "strict") as file:
                for _ in iter(lambda: file.read(1 << 20), ""):
                    pass
    except UnicodeDecodeError:
        return str(layout.fallback_encoding)
    return encoding


def invalid_bytes(text: str) -> str | None:
    """The bytes of `text` that the file's encoding could not decode, as 0x.., or None."""
    if text.isascii():
        return None
    bad = [f"0x{ord(c) - 0xDC00:02X}" for c in NOT_DECODED.findall(text)]
    return ", ".join(bad[:5]) if bad else None


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def not_decodable(file: str, line: int, field: str | None, text: str, encoding: str) -> BadRow | None:
    if bad := invalid_bytes(text):
        reason = f"not valid {encoding.removesuffix('-sig').upper()}: byte {bad}"
        return UndecodableRow(file, line, field, _printable(text), reason)
    return None


def _jsonl_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = encoding_of(path, layout)
    # newline="\n": only a line feed ends a row; other separators (U+2028, a form feed) may stand in a text
    with open_text(path, encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                values = _json_of(str(path), number, line, encoding)
                yield values if isinstance(values, BadRow) else _object(str(path), number, values)


def _json_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    """The file's one object, or the objects of its list (which is the value of `element`), numbered from 1."""
    encoding = encoding_of(path, layout)
    text = read_text(path, encoding)
    content = _json_of(str(path), 1, text, encoding)
    if isinstance(content, BadRow):
        if "Extra data" in content.reason:
            raise CorpusError(f"{path} holds more than one JSON value; one object a line is format: jsonl")
        yield content
        return
    if layout.element is not None:
        content = _element(path, content, layout.element)
    for number, values in enumerate(content if isinstance(content, list) else [content], start=1):
        yield _object(str(path), number, values)


def _element(path: Path, content: Any, name: str) -> list[Any]:
    """The rows under the key, or the keys "outer.inner"; "*" is the file's value itself. Raises CorpusError."""
    found = content
    for key in [] if name == "*" else [name] if isinstance(content, dict) and name in content else name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, dict):  # a row that has a `key` of its own keeps it
        return [{"key": key, **row} if isinstance(row, dict) else row for key, row in found.items()]
    if not isinstance(found, list):
        has = ", ".join(map(repr, list(content)[:20])) if isinstance(content, dict) else "no keys"
        raise CorpusError(f"{path} has no list under the key {name!r} (element); it has {has}")
    return found


def _json_of(file: str, number: int, text: str, encoding: str) -> Any:
    """The value that `text` stands for, or a BadRow."""
    if bad := not_decodable(file, number, None, text, encoding):
        return bad
    try:
        value = _DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:  # half a surrogate pair is valid JSON, but no text can hold it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        reason = f"not valid Unicode: half of a surrogate pair, {error.object[error.start]!a}"
        return UndecodableRow(file, number, None, text.strip(), reason)
    except (ValueError, RecursionError) as error:  # besides JSONDecodeError: a number of too many digits
        return BadRow(file, number, None, text.strip(), f"not valid JSON: {error}")
    return value


def json_row(file: str, number: int, line: bytes) -> Row | BadRow:
    """The row that a line of JSONL in UTF-8 stands for."""
    line = line.removesuffix(b"\n")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("utf-8", "surrogateescape")  # _json_of says which bytes
    values = _json_of(file, number, text, "utf-8")
    return values if isinstance(values, BadRow) else _object(file, number, values)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; raises ValueError where a key stands twice, since one of its values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)  # json.loads would make one for each row


def _object(file: str, number: int, values: Any) -> Row | BadRow:
    if isinstance(values, dict):
        return Row(file, number, values)
    return BadRow(file, number, None, values, "a JSON object was expected")


NOT_DECODED = re.compile("[\udc80-\udcff]")  # how surrogateescape keeps a byte that is no character
QUOTES = "; is a quote plain text (quoting: false), or is it escaped by a character (escape: ...)?"


def _csv_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = encoding_of(path, layout)
    separator = layout.separator or ("\t" if plain_ending(path) == ".tsv" else ",")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE
    with open_text(path, encoding, newline="") as file:
        reader = csv.reader(file, delimiter=separator, quoting=quoting, escapechar=layout.escape, strict=True)
        for _ in range(layout.skip):
            with suppress(csv.Error):
                next(reader, None)
        names = column_names(list(layout.names) or _header(reader, path), path)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                hint = QUOTES if "expected after" in str(error) else ""
                yield BadRow(str(path), line, None, None, f"not readable as CSV: {error}{hint}")
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


def _lines_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = encoding_of(path, layout)
    with open_text(path, encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            text = line.removesuffix("\n").removesuffix("\r")
            if bad := not_decodable(str(path), number, "text", text, encoding):
                yield bad
            elif layout.pattern is None:
                yield Row(str(path), number, {"line": number, "text": text})
            elif found := re.search(layout.pattern, text):
                yield Row(str(path), number, {"line": number, **found.groupdict()})
            else:
                yield BadRow(str(path), number, None, text, f"the line does not match pattern={layout.pattern!r}")


def _parquet_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            for values in _values_of(batch):
                number += 1
                if isinstance(values, UnicodeDecodeError):
                    yield UndecodableRow(str(path), number, None, None, f"not valid UTF-8: {values}")
                elif isinstance(values, ValueError | OverflowError):
                    yield BadRow(str(path), number, None, None, f"not readable: {values}")
                else:
                    yield Row(str(path), number, values)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path} cannot be read as Parquet: {error}") from error


TEXT = {pa.binary(): pa.string(), pa.large_binary(): pa.large_string()}  # what writers without a text type leave


def _values_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | ValueError | OverflowError]:
    """The rows of a batch; Arrow checks neither a file's strings nor its times, so one of them may fail."""
    columns = [c.view(TEXT[c.type]) if c.type in TEXT else c for c in batch.columns]
    batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    try:
        rows: list[dict[str, Any] | ValueError | OverflowError] = batch.to_pylist()
    except (ValueError, OverflowError):
        rows = [_value_of(batch.slice(i, 1)) for i in range(batch.num_rows)]
    yield from rows


def _value_of(row: pa.RecordBatch) -> dict[str, Any] | ValueError | OverflowError:
    try:
        values: dict[str, Any] = row.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return error
    return values


def _folder_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    """<class>/<file>.txt (what stands beside the class folders is no article), or a flat folder of <file>.txt."""
    files = sorted(p for p in path.glob("*/*.txt") if p.is_file()) or sorted(path.glob("*.txt"))
    if not files:
        raise CorpusError(
            f"{path}: no <class>/<file>.txt and no <file>.txt inside; files of another kind are named by a glob, such "
            f"as {path.name}/*.html or {path.name}/*.parquet"
        )
    for file in files:
        encoding = encoding_of(file, layout)
        name = file.relative_to(path).as_posix()
        text = read_text(file, encoding)
        values = {"path": name, "class": file.parent.name if "/" in name else None, "text": text}
        yield not_decodable(str(file), 1, "text", text, encoding) or Row(str(file), 1, values)


def _text_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    encoding = encoding_of(path, layout)
    text = read_text(path, encoding)
    values = {"file": path.name, "class": path.absolute().parent.name, "text": text}
    yield not_decodable(str(path), 1, "text", text, encoding) or Row(str(path), 1, values)


Reader = Callable[[Any, Layout], Iterator[Row | BadRow]]  # of a Path or a slantwise.sources.File
READERS: dict[Format, Reader] = {
    Format.jsonl: _jsonl_rows,
    Format.json: _json_rows,
    Format.csv: _csv_rows,
    Format.lines: _lines_rows,
    Format.parquet: _parquet_rows,
    Format.folder: _folder_rows,
    Format.text: _text_rows,
}
