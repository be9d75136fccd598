"""Readers of corpora: files (slantwise.rows), Excel workbooks, SGML, and data sets of the `datasets` library."""

from __future__ import annotations

import html
import itertools
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from data.config import FileConfig
from slantwise.errors import CorpusError
from slantwise.rows import (
    READERS,
    BadRow,
    Format,
    Layout,
    Row,
    column_names,
    distinct_names,
    encoding_of,
    not_decodable,
    read_rows,
    read_text,
)


def read_corpus_rows(config: Layout, root: Path) -> Iterator[Row | BadRow]:
    """All rows of the file, folder, glob or data set that `config` names, in order; raises CorpusError."""
    if config.format is Format.dataset and isinstance(config, FileConfig):
        yield from _dataset_rows(config, root)
    else:
        yield from read_rows(config, root, {**READERS, Format.xlsx: _xlsx_rows, Format.sgml: _sgml_rows})


# What openpyxl raises where a workbook is damaged
DAMAGED = (zipfile.BadZipFile, zlib.error, ParseError, OSError, EOFError, LookupError, ValueError, TypeError,
           AttributeError, NotImplementedError)  # fmt: skip


def _xlsx_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    """The rows of one sheet; `line` is the sheet's row number. Numbers stay numbers, dates become ISO 8601 text."""
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    names: list[str] = list(layout.names)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # parts that carry no cells, such as styles and validations
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            if layout.sheet is not None and layout.sheet not in book.sheetnames:
                raise CorpusError(f"{path} has no sheet {layout.sheet!r}; it has {', '.join(book.sheetnames)}")
            sheet = book[layout.sheet or book.sheetnames[0]]
            sheet.reset_dimensions()  # some writers state too small a range
            table = [[_cell(value) for value in cells] for cells in sheet.iter_rows(values_only=True)]
    except (*DAMAGED, InvalidFileException) as error:
        raise CorpusError(f"{path} cannot be read as an Excel workbook: {error}") from error
    for line, cells in enumerate(table[layout.skip :], start=layout.skip + 1):
        while cells and cells[-1] is None:
            cells.pop()
        if cells and not names:
            names = distinct_names(["" if cell is None else str(cell).strip() for cell in cells])
            column_names(names, path)
        elif len(cells) > len(names):
            yield BadRow(str(path), line, None, cells, f"{len(cells)} cells where {len(names)} columns have a name")
        elif cells:
            yield Row(str(path), line, dict.fromkeys(names) | dict(zip(names, cells, strict=False)))


def _cell(value: Any) -> Any:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


# No tag holds a "<", not even in quotes: so a quote that is never closed cannot swallow the rows that follow
TAG = re.compile(r"""<(/?)([A-Za-z][\w.:-]*)((?:\s+[\w.:-]+(?:\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s"'<>]+))?)*\s*/?)>""")
ATTRIBUTE = re.compile(r"""([\w.:-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
VERBATIM = re.compile(r"<!--.*?-->|<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
BREAKS = frozenset("br div h1 h2 h3 h4 h5 h6 li p tr".split())  # HTML: a line ends here
ITEM = "D"  # an element that holds <D> items is a list of them, as in Reuters-21578 (lewis.dtd)


def _sgml_rows(path: Path, layout: Layout) -> Iterator[Row | BadRow]:
    """A row for each `element` of a file of SGML or XML, read leniently: what is no tag is text, and an element that
    is never closed ends with the one around it.

    Columns: `@NAME`, the attributes of the row's element; `TAG`, the text of it and of each element inside it at any
    depth (a list where the element stands several times or holds <D> items); `TAG/@NAME`, their attributes; `TAG/@`,
    a list with an object for each of these elements that has attributes: these, and its `text`. Entities are replaced
    and control characters removed.
    """
    encoding = encoding_of(path, layout)
    text = VERBATIM.sub(_plain, read_text(path, encoding))
    tags = list(TAG.finditer(text))
    name = layout.element or next((tag[2] for tag in tags if not tag[1]), "")
    starts = [tag for tag in tags if tag[2] == name and not tag[1]]
    if not starts:
        raise CorpusError(f"{path} has no element <{name}>; set element: ... to the one that is a row")
    lists = {tag[2] for tag, item in itertools.pairwise(tags) if not tag[1] and item[2] == ITEM} - {name, ITEM}
    line, at = 1, 0
    if _has_text(head := text[: starts[0].start()]):
        yield BadRow(str(path), line, None, head.strip(), f"text before the first <{name}>")
    for start, stop in zip(starts, [*(tag.start() for tag in starts[1:]), len(text)], strict=True):
        line, at = line + text.count("\n", at, start.start()), start.start()
        inside, end, after = _partition(text[start.end() : stop], name)
        if start[3].endswith("/"):
            inside, end, after = "", "/>", inside + end + after
        if bad := not_decodable(str(path), line, None, start[0] + inside, encoding):
            yield bad
        elif not end:
            yield BadRow(str(path), line, None, start[0] + inside, f"<{name}> has no end tag")
        else:
            yield Row(str(path), line, _SgmlRow(start, inside, lists).columns())
        if end and _has_text(after):
            yield BadRow(str(path), line, None, after.strip(), f"text after the end of <{name}>")


def _partition(markup: str, name: str) -> tuple[str, str, str]:
    """What stands before the first end tag of that name, the tag ("" without one), and what follows it."""
    end = re.search(rf"</{re.escape(name)}\s*>", markup)
    return (markup[: end.start()], end[0], markup[end.end() :]) if end else (markup, "", "")


def _plain(verbatim: re.Match[str]) -> str:
    """CDATA as escaped text; of a comment only its line ends, so that lines still count."""
    return html.escape(verbatim[1]) if verbatim[1] is not None else "\n" * verbatim[0].count("\n")


def _has_text(markup: str) -> bool:
    return bool(CONTROL.sub("", re.sub(r"<[^>]*>", "", markup)).strip())


def _text(markup: str) -> str:
    return CONTROL.sub("", html.unescape(markup)).strip()


@dataclass
class _Element:
    """An element that is still open: the markup of its text so far, of that outside of other elements, its items and
    its attributes."""

    name: str
    text: str = ""
    own: str = ""
    items: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)


class _SgmlRow:
    """The columns of one row: its element's start tag, the markup inside it, the names of elements that are lists."""

    def __init__(self, start: re.Match[str], inside: str, lists: set[str]) -> None:
        self.lists = lists
        self.listed: set[str] = set()  # lists that hold nothing but items
        self.found: dict[str, list[str]] = {}
        self.objects: dict[str, list[dict[str, str]]] = {}
        self.around = [_Element(start[2])]  # the open elements, the innermost last
        self.attributes(start, "@")
        at = 0
        for tag in TAG.finditer(inside):
            self.text(inside[at : tag.start()] + ("\n" if tag[2].lower() in BREAKS else ""))
            at = tag.end()
            if not tag[1]:
                self.open(tag)
            if tag[1] or tag[3].endswith("/"):
                self.close(tag[2])
        self.text(inside[at:])
        while len(self.around) > 1:
            self.leave()
        self.found.setdefault(start[2], []).append(_text(self.around[0].text))

    def columns(self) -> dict[str, Any]:
        columns = {name: values if name in self.listed or len(values) > 1 else values[0]
                   for name, values in self.found.items()}  # fmt: skip
        return columns | self.objects

    def attributes(self, tag: re.Match[str], prefix: str) -> dict[str, str]:
        pairs = [(name, _text(value.strip("\"'"))) for name, value in ATTRIBUTE.findall(tag[3])]
        for name, value in pairs:
            self.found.setdefault(prefix + name, []).append(value)
        return dict(pairs)

    def text(self, markup: str) -> None:
        self.around[-1].own += markup
        for element in self.around:
            element.text += markup

    def open(self, tag: re.Match[str]) -> None:
        if len(self.around) > 1 and self.around[-1].name == tag[2]:  # <P>one<P>two
            self.close(tag[2])
        attributes = self.attributes(tag, f"{tag[2]}/@")
        self.around.append(_Element(tag[2], attributes=attributes))

    def close(self, name: str) -> None:
        """Close the innermost element of that name with all that is open inside it; without one do nothing."""
        if any(element.name == name for element in self.around[1:]):
            while self.around[-1].name != name:
                self.leave()
            self.leave()

    def leave(self) -> None:
        element = self.around.pop()
        if element.attributes:
            its = {"text": _text(element.text), **element.attributes}
            self.objects.setdefault(f"{element.name}/@", []).append(its)
        if element.name == ITEM:
            self.around[-1].items.append(_text(element.text))
        elif element.name in self.lists and not _text(element.own):
            self.listed.add(element.name)
            self.found.setdefault(element.name, []).extend(element.items)
        else:
            self.found.setdefault(element.name, []).append(_text(element.text))


def _dataset_rows(config: FileConfig, root: Path) -> Iterator[Row | BadRow]:
    """A folder made by `Dataset.save_to_disk`, or a data set by its name on the hub."""
    import datasets

    try:
        if (root / config.path).is_dir():
            loaded = datasets.load_from_disk(str(root / config.path))
        else:
            loaded = datasets.load_dataset(config.path, config.subset, revision=config.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"data set {config.path!r} cannot be loaded: {error}") from error
    parts = loaded if isinstance(loaded, dict) else {config.dataset_split or config.split or "": loaded}
    if config.dataset_split:
        if config.dataset_split not in parts:
            raise CorpusError(f"data set {config.path!r} has no split {config.dataset_split!r}; it has {list(parts)}")
        parts = {config.dataset_split: parts[config.dataset_split]}
    for split, part in parts.items():
        names = {name: names for name, feature in part.features.items() if (names := _class_names(feature))}
        for number, values in enumerate(part, start=1):
            named = {k: _named(v, names[k]) if k in names else v for k, v in values.items()}
            yield Row(f"{config.path}[{split}]", number, {"split": split or None, **named})


def _class_names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel or of a list of them."""
    return getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)


def _named(value: Any, names: list[str]) -> Any:
    """Codes -> names; a negative code (the hub's "hidden label") stays what it is."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and value >= 0 else value
