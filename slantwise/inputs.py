"""A row of values becomes a request to score or a rejection with a code: one parser for every way in.

The local engine, the MLflow model and Spark all call `parse`, so that a row means the same to each of them. The codes,
which stand in the `error` column of the scores, are stable:

    missing_text    there is no text: the column is missing, null or NaN
    wrong_type      the text, the title or the source is no text but a number, a list, ...
    empty_text      the text is empty or blank
    invalid_text    bytes that are not valid UTF-8, or half of a surrogate pair, which no file can hold
    text_too_long   text and title together have more than `max_characters`
    bad_targets     targets is no list of names, or one of unreasonable size
    unreadable_row  the row cannot be told from its file: a line that is no JSON object, a wrong number of fields, ...
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slantwise.article import Article

MISSING_TEXT, WRONG_TYPE, EMPTY_TEXT, INVALID_TEXT = "missing_text", "wrong_type", "empty_text", "invalid_text"
TEXT_TOO_LONG, BAD_TARGETS, UNREADABLE_ROW = "text_too_long", "bad_targets", "unreadable_row"
CODES = (MISSING_TEXT, WRONG_TYPE, EMPTY_TEXT, INVALID_TEXT, TEXT_TOO_LONG, BAD_TARGETS, UNREADABLE_ROW)

MAX_CHARACTERS = 5_000_000  # some 800,000 words, more than any article; a longer text would take minutes
MAX_TARGETS = 1_000  # of one article: each is an example of its own
MAX_NAME = 1_000  # characters of a target
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlist, _SHORT.maxdict = 4, 200, 200, 20, 20


@dataclass
class Columns:
    """Which column of the input holds what; `outer.inner` is a field inside another."""

    id: str | None = "id"  # null: ids are made from the row's number
    text: str = "text"
    title: str | None = "title"
    source: str | None = "source"
    targets: str | None = "targets"  # a list of names, or of {target: name}; in CSV separated by target_separator


@dataclass(frozen=True)
class InputOptions:
    """How rows are read. `targets` are those of articles that name none themselves."""

    columns: Columns = field(default_factory=Columns)
    targets: tuple[str, ...] = ()
    target_separator: str = "|"
    max_characters: int = MAX_CHARACTERS


@dataclass(frozen=True)
class Request:
    """An article to score, and the targets whose stance is asked for."""

    article: Article
    targets: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.article.id


@dataclass(frozen=True)
class Rejection:
    """A row that cannot be scored: one of CODES, the field at fault, its value (shortened) and the reason in words.

    `id` is None where the row could not be read at all.
    """

    id: str | None
    code: str
    field: str | None
    value: str | None
    reason: str


def parse(values: Mapping[str, Any], number: int, options: InputOptions) -> Request | Rejection:
    """What the row `values`, the `number`th of its input (from 1), asks for.

    Values may be of any type: what JSON, CSV, Arrow, pandas, numpy or Spark give.
    """
    columns = options.columns
    id_ = _id(values, columns, number)
    try:
        text = _text(_value(values, columns.text), columns.text)
        title = _optional(_value(values, columns.title), columns.title)
        source = _optional(_value(values, columns.source), columns.source)
        length = len(text) + len(title or "")
        if length > options.max_characters:
            reason = f"{length:,} characters of text and title; expected at most {options.max_characters:,}"
            raise _Rejected(TEXT_TOO_LONG, columns.text, text, reason)
        targets = _targets(values, options)
    except _Rejected as error:
        return Rejection(id_, error.code, error.field, shown(error.value), str(error))
    return Request(Article(id=id_, text=text, title=title, source=source), targets)


def shown(value: Any) -> str | None:
    """`value` as a person may see it in a list of rejected rows: printable and short, whatever it is."""
    return None if value is None else _SHORT.repr(value)


class _Rejected(Exception):
    def __init__(self, code: str, field: str | None, value: Any, reason: str) -> None:
        super().__init__(reason)
        self.code, self.field, self.value = code, field, value


def _value(values: Mapping[str, Any], column: str | None) -> Any:
    """The column's value, None where there is none; numpy's scalars and arrays as Python's own values."""
    if column is None:
        return None
    value = values.get(column)
    if type(value) is str:
        return value
    if value is None:
        if "." not in column or column in values:
            return None
        value = values
        for name in column.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return None if _is_missing(value) else value


def _is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA and NaT, which are known by name since pandas need not be installed."""
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


def _id(values: Mapping[str, Any], columns: Columns, number: int) -> str:
    """The row's id as text, whatever its type; else its file's path in a folder of texts; else its number."""
    for column in (columns.id, "path"):
        value = _value(values, column)
        if type(value) is str and value.isascii() and value and not value.isspace():
            return value
        if value is not None:
            id_ = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
            if id_.strip():
                return id_.encode("utf-8", "backslashreplace").decode() if not id_.isascii() else id_
    return str(number)


def _text(value: Any, column: str) -> str:
    if value is None:
        raise _Rejected(MISSING_TEXT, column, None, "the text is missing")
    text = _as_text(value, column)
    if not text or text.isspace():
        raise _Rejected(EMPTY_TEXT, column, text, "the text is empty")
    return text


def _optional(value: Any, column: str | None) -> str | None:
    return None if value is None else _as_text(value, column).strip() or None


def _as_text(value: Any, column: str | None) -> str:
    if type(value) is str and value.isascii():
        return value
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            reason = f"not valid UTF-8: byte 0x{value[error.start]:02X} at {error.start:,}"
            raise _Rejected(INVALID_TEXT, column, bytes(value[:200]), reason) from None
    if not isinstance(value, str):
        raise _Rejected(WRONG_TYPE, column, value, f"expected text; received {type(value).__name__}")
    if (place := _unprintable(value)) is not None:
        reason = f"not valid Unicode: half of a surrogate pair, {value[place]!a}, at {place:,}"
        raise _Rejected(INVALID_TEXT, column, value[max(place - 20, 0) :], reason)
    return value


def _unprintable(text: str) -> int | None:
    """The place of the first half of a surrogate pair, or None."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _targets(values: Mapping[str, Any], options: InputOptions) -> tuple[str, ...]:
    column = options.columns.targets
    value = _value(values, column)
    if value is None and column == "targets" and isinstance(values.get("stances"), list | np.ndarray):
        value = _value(values, "stances")  # a canonical article row names its targets with its labels
    if value is None or value == "":
        return options.targets
    name = column or "targets"
    if isinstance(value, str):
        value = [part.strip() for part in value.split(options.target_separator) if part.strip()]
    if not isinstance(value, list | tuple):
        raise _Rejected(BAD_TARGETS, name, value, f"expected a list of names; received {type(value).__name__}")
    if len(value) > MAX_TARGETS:
        raise _Rejected(BAD_TARGETS, name, value, f"{len(value):,} targets; expected at most {MAX_TARGETS:,}")
    return _names(value, name)


def _names(entries: Sequence[Any], column: str) -> tuple[str, ...]:
    names = []
    for entry in entries:
        name = _value(entry, "target") if isinstance(entry, Mapping) else _value({"target": entry}, "target")
        if not isinstance(name, str) or not name.strip():
            raise _Rejected(BAD_TARGETS, column, entries, "the list holds something that is no name")
        if len(name) > MAX_NAME:
            raise _Rejected(BAD_TARGETS, column, name, f"a name of {len(name):,} characters; expected {MAX_NAME:,}")
        names.append(_as_text(name, column))
    return tuple(names)
