"""Excel workbooks, SGML and saved data sets of the `datasets` library become rows; nothing touches the network."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import CorpusConfig, FileConfig, LabelsConfig
from data.corpus import load_corpus
from data.readers import read_corpus_rows
from slantwise.errors import CorpusError, SlantwiseError
from slantwise.rows import BadRow, Format, Row


def make(ids: list[str], codes: list[Any], label: Any = None) -> Dataset:
    label = label or ClassLabel(names=["news", "sport"])
    features = Features({"id": Value("string"), "text": Value("string"), "label": label})
    return Dataset.from_dict({"id": ids, "text": [f"text of {i}" for i in ids], "label": codes}, features=features)


def rows_of(path: str, root: Path, **keys: Any) -> list[Row]:
    rows = list(read_corpus_rows(FileConfig(path=path, format=Format.dataset, **keys), root))
    assert all(isinstance(row, Row) for row in rows)
    return [row for row in rows if isinstance(row, Row)]


def test_a_saved_dataset_gives_class_names(tmp_path: Path) -> None:
    make(["a", "b"], [1, 0]).save_to_disk(tmp_path / "saved")
    rows = rows_of("saved", tmp_path)
    assert [(row.line, row.values["label"], row.values["split"]) for row in rows] == [
        (1, "sport", None),
        (2, "news", None),
    ]


def test_lists_of_classes_give_lists_of_names(tmp_path: Path) -> None:
    make(["a", "b"], [[1, 0], []], List(ClassLabel(names=["news", "sport"]))).save_to_disk(tmp_path / "saved")
    assert [row.values["label"] for row in rows_of("saved", tmp_path)] == [["sport", "news"], []]


def test_hidden_and_missing_classes_stay_what_they_are(tmp_path: Path) -> None:
    make(["a", "b"], [-1, None]).save_to_disk(tmp_path / "saved")
    assert [row.values["label"] for row in rows_of("saved", tmp_path)] == [-1, None]


def test_a_saved_dict_gives_its_splits(tmp_path: Path) -> None:
    DatasetDict(train=make(["a", "b"], [1, 0]), test=make(["c"], [1])).save_to_disk(tmp_path / "saved")
    rows = rows_of("saved", tmp_path)
    assert [(row.file, row.line, row.values["split"]) for row in rows] == [
        ("saved[train]", 1, "train"),
        ("saved[train]", 2, "train"),
        ("saved[test]", 1, "test"),
    ]
    assert [row.values["id"] for row in rows_of("saved", tmp_path, dataset_split="test")] == ["c"]


def test_a_corpus_of_a_saved_dict_has_labels_and_splits(tmp_path: Path) -> None:
    DatasetDict(train=make(["a", "b"], [1, 0]), validation=make(["c"], [1])).save_to_disk(tmp_path / "saved")
    file = FileConfig(path="saved", format=Format.dataset)
    topic = LabelsConfig(columns=["label"], labels=["news", "sport"])
    table = load_corpus(CorpusConfig(root=str(tmp_path), files=[file], topic=topic)).table
    assert table["topic"].to_pylist() == [["sport"], ["news"], ["sport"]]
    assert table["split"].to_pylist() == ["train", "train", "validation"]


def test_a_split_that_the_data_set_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    DatasetDict(train=make(["a"], [1])).save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match=r"no split 'dev'; it has \['train'\]"):
        rows_of("saved", tmp_path, dataset_split="dev")


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be loaded"):
        rows_of(".", tmp_path)


def test_a_name_is_asked_of_the_hub_with_subset_and_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def load_dataset(name: str, subset: str | None, *, revision: str | None) -> DatasetDict:
        asked.append((name, subset, revision))
        return DatasetDict(train=make(["a"], [0]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = rows_of("someone/news", tmp_path, subset="en", revision="abc")
    assert asked == [("someone/news", "en", "abc")]
    assert [(row.file, row.values["label"]) for row in rows] == [("someone/news[train]", "news")]


def test_a_hub_that_is_away_is_an_error_of_the_corpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_dataset(*_: Any, **__: Any) -> DatasetDict:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match="'someone/news' cannot be loaded: no route to the hub"):
        rows_of("someone/news", tmp_path)


# Excel workbooks


def save_book(path: Path, *sheets: tuple[str, list[list[Any]]]) -> str:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path.name


def read(path: str, root: Path, **keys: Any) -> list[Row | BadRow]:
    return list(read_corpus_rows(FileConfig(path=path, **keys), root))


def test_cells_keep_their_types_and_dates_become_text(tmp_path: Path) -> None:
    name = save_book(
        tmp_path / "a.xlsx",
        ("one", [["id", "text", "n", "at", "on"], [1, "a\nb", 2.5, datetime(2020, 1, 2, 3, 4), date(2020, 1, 2)]]),
    )
    row = {"id": 1, "text": "a\nb", "n": 2.5, "at": "2020-01-02T03:04:00", "on": "2020-01-02T00:00:00"}
    assert read(name, tmp_path) == [Row(str(tmp_path / name), 2, row)]


def test_an_empty_row_is_skipped_and_an_empty_cell_is_null(tmp_path: Path) -> None:
    name = save_book(tmp_path / "a.xlsx", ("one", [["id", "text"], [1, None], [], [None, "b"]]))
    rows = read(name, tmp_path)
    assert [(row.line, row.values) for row in rows if isinstance(row, Row)] == [
        (2, {"id": 1, "text": None}),
        (4, {"id": None, "text": "b"}),
    ]


def test_a_sheet_is_chosen_by_name_and_the_first_is_the_default(tmp_path: Path) -> None:
    name = save_book(tmp_path / "a.xlsx", ("one", [["id"], [1]]), ("two", [["id"], [2]]))
    found = [read(name, tmp_path, **keys) for keys in ({}, {"sheet": "two"})]
    assert [row.values for rows in found for row in rows if isinstance(row, Row)] == [{"id": 1}, {"id": 2}]
    with pytest.raises(CorpusError, match="no sheet 'three'; it has one, two"):
        read(name, tmp_path, sheet="three")


def test_a_sheet_without_a_header_and_one_below_a_title(tmp_path: Path) -> None:
    name = save_book(tmp_path / "a.xlsx", ("bare", [[1, "a"]]), ("titled", [["Table 1"], ["id", "text"], [1, "a"]]))
    (bare,) = read(name, tmp_path, names=["id", "text"])
    (titled,) = read(name, tmp_path, sheet="titled", skip=1)
    assert isinstance(bare, Row)
    assert isinstance(titled, Row)
    assert bare.values == titled.values == {"id": 1, "text": "a"}
    assert (bare.line, titled.line) == (1, 3)


def test_columns_of_a_sheet_without_or_with_the_same_name(tmp_path: Path) -> None:
    name = save_book(tmp_path / "a.xlsx", ("one", [[None, "text", "text"], [0, "a", "b"]]))
    assert [r.values for r in read(name, tmp_path) if isinstance(r, Row)] == [
        {"column_1": 0, "text_1": "a", "text_2": "b"}
    ]


def test_a_cell_beyond_the_header_is_a_bad_row(tmp_path: Path) -> None:
    name = save_book(tmp_path / "a.xlsx", ("one", [["id", "text"], [1, "a", "stray"], [2, "b"]]))
    bad, good = read(name, tmp_path)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.value, bad.reason) == (2, [1, "a", "stray"], "3 cells where 2 columns have a name")
    assert isinstance(good, Row)


def test_a_file_that_is_no_workbook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"id,text\n1,a\n")
    with pytest.raises(CorpusError, match="cannot be read as an Excel workbook"):
        read("a.xlsx", tmp_path)


def _book() -> bytes:
    book = openpyxl.Workbook()
    for row in (["id", "text", "topic"], [1, "One text", "art"], [2, "Another", "sport"]):
        book.active.append(row)
    book.save(content := io.BytesIO())
    return content.getvalue()


BOOK = _book()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(BOOK) - 1), st.binary(min_size=1, max_size=40))
def test_a_damaged_workbook_is_read_or_refused(at: int, piece: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.xlsx").write_bytes(BOOK[:at] + piece + BOOK[at + len(piece) :])
        with contextlib.suppress(SlantwiseError):
            assert all(isinstance(row, Row | BadRow) for row in read("a.xlsx", Path(folder)))


# SGML


def sgml(root: Path, content: str | bytes, **keys: Any) -> list[Row | BadRow]:
    (root / "a.sgm").write_bytes(content.encode() if isinstance(content, str) else content)
    return read("a.sgm", root, **keys)


def only_values(rows: list[Row | BadRow]) -> dict[str, Any]:
    (row,) = rows
    assert isinstance(row, Row)
    return row.values


def test_attributes_elements_and_items_are_columns(tmp_path: Path) -> None:
    content = """<!DOCTYPE lewis SYSTEM "lewis.dtd">
<DOC TOPICS="YES" id=7>
<TOPICS><D>tea</D><D>silver </D></TOPICS><PLACES></PLACES>
<TEXT TYPE="NORM">&#2;
<TITLE>Tea &amp; silver rise</TITLE><BODY>Prices of &lt;tea> rose
by 5 &gt; 4.\x03</BODY></TEXT>
</DOC>
<DOC TOPICS="NO" id=8><TOPICS></TOPICS><PLACES><D>uk</D></PLACES><TEXT>Raw</TEXT></DOC>
"""
    first, second = sgml(tmp_path, content)
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.line, second.line) == (2, 8)
    assert {name: first.values[name] for name in first.values if name not in ("DOC", "TEXT")} == {
        "@TOPICS": "YES", "@id": "7", "TOPICS": ["tea", "silver"], "PLACES": [], "TEXT/@TYPE": "NORM",
        "TITLE": "Tea & silver rise", "BODY": "Prices of <tea> rose\nby 5 > 4.",
        "TEXT/@": [{"text": first.values["TEXT"], "TYPE": "NORM"}],
    }  # fmt: skip
    assert first.values["TEXT"] == "Tea & silver risePrices of <tea> rose\nby 5 > 4."
    assert (second.values["TOPICS"], second.values["PLACES"], second.values["TEXT"]) == ([], ["uk"], "Raw")
    assert "TITLE" not in second.values


def test_xml_with_a_root_names_its_rows(tmp_path: Path) -> None:
    content = """<?xml version="1.0"?>
<articles><!-- <article id="0"/> -->
<article id="1" title="It's"><p>One <a href="x">link</a>.</p><p>Two <![CDATA[a < b]]></p></article>
<article id="2" title="b"/>
</articles>"""
    first, second = sgml(tmp_path, content, element="article")
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.values["article"] == "One link.\n\nTwo a < b"
    assert first.values["p"] == ["One link.", "Two a < b"]
    assert (first.values["@title"], first.values["a/@href"]) == ("It's", "x")
    assert (first.line, second.line, second.values) == (3, 4, {"@id": "2", "@title": "b", "article": ""})


def test_elements_with_attributes_are_objects_too(tmp_path: Path) -> None:
    content = '<s><o target="Ann" polarity="-">won</o> and <o target="Bo"/></s>'
    assert only_values(sgml(tmp_path, content))["o/@"] == [
        {"text": "won", "target": "Ann", "polarity": "-"},
        {"text": "", "target": "Bo"},
    ]


def test_an_element_that_is_not_closed_ends_with_its_parent_or_the_next_of_its_name(tmp_path: Path) -> None:
    values = only_values(sgml(tmp_path, "<DOC><T>one<P>two<P>three</T>four</X></DOC>"))
    assert (values["T"], values["P"], values["DOC"]) == ("one\ntwo\nthree", ["two", "three"], "one\ntwo\nthreefour")


def test_what_only_looks_like_a_tag_is_text(tmp_path: Path) -> None:
    assert only_values(sgml(tmp_path, "<DOC><T>1 < 2, <3 and a > b</T></DOC>"))["T"] == "1 < 2, <3 and a > b"


def test_nothing_of_a_damaged_file_is_lost(tmp_path: Path) -> None:
    content = "stray\n<DOC>one</DOC>\n<DOC>two\n<DOC>three</DOC>\n<DOOC>four</DOC>\n<DOC>five</DOC>"
    rows = sgml(tmp_path, content, element="DOC")
    assert [(row.line, row.reason) for row in rows if isinstance(row, BadRow)] == [
        (1, "text before the first <DOC>"),
        (3, "<DOC> has no end tag"),
        (4, "text after the end of <DOC>"),
    ]
    assert [row.values["DOC"] for row in rows if isinstance(row, Row)] == ["one", "three", "five"]


def test_a_byte_that_is_not_in_the_encoding_is_one_bad_row(tmp_path: Path) -> None:
    content = b"<DOC>caf\xe9</DOC>\n<DOC>b</DOC>"
    bad, good = sgml(tmp_path, content)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.reason) == (1, "not valid UTF-8: byte 0xE9")
    assert isinstance(good, Row)
    assert isinstance(rows := sgml(tmp_path, content, encoding="latin-1")[0], Row)
    assert rows.values == {"DOC": "café"}


def test_text_beside_items_is_not_lost(tmp_path: Path) -> None:
    rows = sgml(tmp_path, "<DOC><T><D>a</D><D>b</D></T></DOC>\n<DOC><T><D>a</D>, then b</T></DOC>")
    assert [row.values["T"] for row in rows if isinstance(row, Row)] == [["a", "b"], "a, then b"]


@pytest.mark.parametrize("content", ["no tags", "<ROOT><ITEM>a</ITEM></ROOT>"])
def test_a_file_without_the_element_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(CorpusError, match=r"no element <DOC>; set element"):
        sgml(tmp_path, content, element="DOC")


SGML = '<DOC N="1"><TOPICS><D>tea</D></TOPICS><TEXT><TITLE>A</TITLE>b &amp; c</TEXT></DOC>\n' * 3


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SGML)), st.sampled_from(["<", ">", "</", '"', "&", "<D>", "x", ""]))))
def test_a_damaged_file_is_read_or_refused(splices: list[tuple[int, str]]) -> None:
    content = SGML
    for at, piece in splices:
        content = content[:at] + piece + content[at + 3 :]
    rows: list[Row | BadRow] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(CorpusError):
        rows = sgml(Path(folder), content, element="DOC")
    assert all(isinstance(row.values["DOC"], str) for row in rows if isinstance(row, Row))
    starts = len(re.findall('<DOC(?: N(?:="[^"<]*")?)?>', content))
    of_elements = [row for row in rows if isinstance(row, Row) or "end tag" in row.reason]
    assert not rows or len(of_elements) >= starts
