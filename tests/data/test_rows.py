"""Files become rows: every row comes out as it stands, or with the reason why it cannot be read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slantwise.errors import ConfigurationError, CorpusError
from slantwise.rows import BadRow, Format, Layout, Row, flat, parse_list, read_rows

Write = Callable[[str, bytes | str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, content) -> the path of the new file; text is written as UTF-8, line ends as given."""

    def write_file(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def read(path: Path | str, root: Path | None = None, **layout: Any) -> list[Row | BadRow]:
    return list(read_rows(Layout(path=str(path), **layout), root or Path()))


def values(path: Path | str, root: Path | None = None, **layout: Any) -> list[dict[str, Any]]:
    """The values of all rows; fails where a row is bad."""
    rows = read(path, root, **layout)
    assert [row for row in rows if isinstance(row, BadRow)] == []
    return [row.values for row in rows if isinstance(row, Row)]


def only_bad(rows: list[Row | BadRow]) -> BadRow:
    (bad,) = (row for row in rows if isinstance(row, BadRow))
    return bad


# JSON Lines


def test_jsonl_gives_objects_with_their_lines(write: Write) -> None:
    path = write("a.jsonl", '{"id": "1", "n": 2.0}\n{"id": "2", "n": null}\n')
    assert read(path) == [
        Row(str(path), 1, {"id": "1", "n": 2.0}),
        Row(str(path), 2, {"id": "2", "n": None}),
    ]


def test_jsonl_skips_blank_lines_and_counts_them(write: Write) -> None:
    rows = read(write("a.jsonl", '\n{"id": "1"}\n  \r\n\n{"id": "2"}'))
    assert [(row.line, row.values) for row in rows if isinstance(row, Row)] == [(2, {"id": "1"}), (5, {"id": "2"})]
    assert len(rows) == 2


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_jsonl_row(write: Write, separator: str) -> None:
    text = f"one{separator}two"
    line = json.dumps({"text": text}, ensure_ascii=False).replace(json.dumps(separator)[1:-1], separator)
    if ord(separator) < 0x20:  # JSON wants these escaped: one bad row then, never two
        assert only_bad(read(write("a.jsonl", line + "\n"))).line == 1
    else:
        assert values(write("a.jsonl", line + "\n")) == [{"text": text}]


def test_a_carriage_return_within_an_object_ends_no_row(write: Write) -> None:
    assert values(write("a.jsonl", '{"id":\r"1"}\r\n{"id": "2"}\r\n')) == [{"id": "1"}, {"id": "2"}]


def test_malformed_json_on_line_7_of_10_is_one_bad_row(write: Write) -> None:
    lines = [f'{{"id": "{i}"}}' for i in range(1, 11)]
    lines[6] = '{"id": "7", '
    rows = read(write("a.jsonl", "\n".join(lines)))
    assert len(rows) == 10
    bad = only_bad(rows)
    assert (bad.line, bad.field, bad.value) == (7, None, '{"id": "7",')
    assert bad.reason.startswith("not valid JSON: ")


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "3", "null"])
def test_json_that_is_no_object_is_a_bad_row(write: Write, line: str) -> None:
    bad = only_bad(read(write("a.jsonl", line + "\n")))
    assert bad.reason == "a JSON object was expected"
    assert bad.value == json.loads(line)


@pytest.mark.parametrize(
    "line",
    ['{"n": ' + "1" * 5000 + "}", '{"n": ' + "[" * 100_000 + "]" * 100_000 + "}"],
    ids=["a number of 5,000 digits", "100,000 nested lists"],
)
def test_json_beyond_the_parsers_limits_is_a_bad_row(write: Write, line: str) -> None:
    rows = read(write("a.jsonl", line + '\n{"id": "2"}\n'))
    assert only_bad(rows).line == 1
    assert len(rows) == 2


def test_half_a_surrogate_pair_is_a_bad_row(write: Write) -> None:
    rows = read(write("a.jsonl", '{"text": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n'))
    assert "surrogate" in only_bad(rows).reason
    assert isinstance(rows[1], Row)
    assert rows[1].values == {"text": "😀"}


def test_invalid_utf8_in_jsonl_names_line_and_byte(write: Write) -> None:
    bad = only_bad(read(write("a.jsonl", b'{"id": "1"}\n{"id": "caf\xe9"}\n')))
    assert (bad.line, bad.field) == (2, None)
    assert bad.reason == "not valid UTF-8: byte 0xE9"
    json.dumps(bad.value, ensure_ascii=False).encode()  # it can be written down


# CSV


def test_csv_cells_stay_text(write: Write) -> None:
    path = write("a.csv", "id,n,na\n007,1.50,NA\n8,,nan\n9,1e5,NULL\n")
    assert values(path) == [
        {"id": "007", "n": "1.50", "na": "NA"},
        {"id": "8", "n": "", "na": "nan"},
        {"id": "9", "n": "1e5", "na": "NULL"},
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_line_ends(write: Write, end: str) -> None:
    assert values(write("a.csv", end.join(["id,text", "1,a", "2,b", ""]))) == [
        {"id": "1", "text": "a"},
        {"id": "2", "text": "b"},
    ]


def test_embedded_newlines_stay_and_lines_are_physical(write: Write) -> None:
    path = write("a.csv", 'id,text\n1,"one\ntwo, ""three"""\n\n2,four\n')
    assert read(path) == [
        Row(str(path), 2, {"id": "1", "text": 'one\ntwo, "three"'}),
        Row(str(path), 5, {"id": "2", "text": "four"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "layout"),
    [
        ("a.csv", "id;text\n1;a, b\n", {"separator": ";"}),
        ("a.tsv", "id\ttext\n1\ta, b\n", {}),
        ("a.csv", "id\ttext\n1\ta, b\n", {"separator": "\t"}),
        ("a.txt", "id|text\n1|a, b\n", {"separator": "|", "format": Format.csv}),
        ("a.csv", '1,"a, b"\n', {"names": ["id", "text"]}),
    ],
    ids=["semicolon", ".tsv", "tab", "bar, another ending", "no header"],
)
def test_csv_layouts(write: Write, name: str, content: str, layout: dict[str, Any]) -> None:
    assert values(write(name, content), **layout) == [{"id": "1", "text": "a, b"}]


def test_without_quoting_a_quote_is_text(write: Write) -> None:
    path = write("a.tsv", 'id\ttext\n1\t"open\n2\tin "the" middle\n')
    assert [row["text"] for row in values(path, quoting=False)] == ['"open', 'in "the" middle']


def test_a_quote_may_be_escaped(write: Write) -> None:
    path = write("a.csv", 'id,text\n1,"he said \\"no\\", twice"\n')
    assert [row["text"] for row in values(path, escape="\\")] == ['he said "no", twice']
    assert "escape: ..." in read(path)[0].reason  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match=r"escape=.*one character"):
        read(path, escape="ab")


def test_a_stray_quote_is_a_bad_row_not_a_guess(write: Write) -> None:
    rows = read(write("a.csv", 'id,text\n1,"a" b\n2,c\n'))
    bad = only_bad(rows)
    assert bad.line == 2
    assert bad.reason.startswith("not readable as CSV: ")
    assert isinstance(rows[1], Row)


def test_a_quote_that_never_closes_is_a_bad_row(write: Write) -> None:
    rows = read(write("a.csv", 'id,text\n1,a\n2,"b\n3,c\n'))
    assert [row.line for row in rows] == [2, 3]
    assert only_bad(rows).reason == "not readable as CSV: unexpected end of data"


@pytest.mark.parametrize(("row", "count"), [("1", 1), ("1,a,b", 3)])
def test_a_wrong_number_of_fields_is_a_bad_row(write: Write, row: str, count: int) -> None:
    bad = only_bad(read(write("a.csv", f"id,text\n0,z\n{row}\n2,c\n")))
    assert (bad.line, bad.value, bad.reason) == (3, row.split(","), f"{count} fields where 2 were expected")


def test_a_wrong_separator_is_asked_about_where_all_rows_have_the_wrong_number_of_fields(write: Write) -> None:
    bad = only_bad(read(write("a.csv", "id;text\n1;a, b\n")))
    assert bad.reason == "2 fields where 1 were expected; is the separator right?"


def test_invalid_utf8_in_csv_names_line_field_and_byte(write: Write) -> None:
    rows = read(write("a.csv", b'id,text\n1,"a\nb"\n2,caf\xe9 \xff\n3,c\n'))
    bad = only_bad(rows)
    assert (bad.line, bad.field, bad.reason) == (4, "text", "not valid UTF-8: byte 0xE9, 0xFF")
    assert len(rows) == 3


def test_a_bad_row_can_be_written_down_whatever_its_bytes(write: Write) -> None:
    bad = only_bad(read(write("a.csv", b"id,text\n1,caf\xe9,c\n")))
    json.dumps(vars(bad), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"id,text,id,id_2\n1,a,2,3\n", "named twice: id_2"),
        (b"\n1,a\n", "no header row"),
        (b"id,t\xe9xt\n1,a\n", "0xE9"),
    ],
)
def test_a_header_that_cannot_be_used(write: Write, header: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read(write("a.csv", header))


def test_given_names_that_repeat_are_refused(write: Write) -> None:
    with pytest.raises(CorpusError, match="named twice: id"):
        read(write("a.csv", "1,a\n"), names=["id", "id"])


def test_a_column_without_a_name_gets_its_number(write: Write) -> None:
    assert values(write("a.csv", ",text\n0,a\n")) == [{"column_1": "0", "text": "a"}]


def test_columns_that_share_a_name_are_told_apart(write: Write) -> None:
    assert values(write("a.csv", "id,text,id\n1,a,2\n")) == [{"id_1": "1", "text": "a", "id_2": "2"}]


def test_rows_above_the_header_are_left_out_and_lines_still_count(write: Write) -> None:
    path = write("a.csv", 'exported by "x",\n\nid,text\n1,a\n')
    assert read(path, skip=2) == [Row(str(path), 4, {"id": "1", "text": "a"})]


def test_given_names_take_the_place_of_a_header_that_is_left_out(write: Write) -> None:
    assert values(write("a.csv", "id,id\n1,a\n"), skip=1, names=["id", "text"]) == [{"id": "1", "text": "a"}]


def test_more_rows_left_out_than_there_are(write: Write) -> None:
    with pytest.raises(CorpusError, match="no header row"):
        read(write("a.csv", "id,text\n1,a\n"), skip=5)


def test_a_negative_number_of_rows_to_leave_out_is_refused(write: Write) -> None:
    with pytest.raises(ConfigurationError, match="skip=-1"):
        read(write("a.csv", "id\n1\n"), skip=-1)


@pytest.mark.parametrize("separator", ["\\t", ";;", "", "\n", '"'])
def test_a_separator_that_is_no_single_character_is_refused(write: Write, separator: str) -> None:
    with pytest.raises(ConfigurationError, match="separator"):
        read(write("a.csv", "id,text\n1,a\n"), separator=separator)


# encodings


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "id,text\n1,é\n"), ("a.jsonl", '{"id": "1", "text": "é"}\n')], ids=["csv", "jsonl"]
)
@pytest.mark.parametrize(
    ("written", "layout"),
    [
        ("utf-8-sig", {}),
        ("utf-8-sig", {"encoding": "UTF_8"}),
        ("utf-8-sig", {"encoding": "cp1252"}),
        ("utf-16", {"encoding": "utf-16"}),
        ("utf-16", {}),
        ("utf-32", {"fallback_encoding": "cp1252"}),
        ("cp1252", {"encoding": "cp1252"}),
        ("cp1252", {"fallback_encoding": "cp1252"}),
        ("utf-8", {"fallback_encoding": "cp1252"}),
    ],
)
def test_encodings_and_byte_order_marks(
    write: Write, name: str, content: str, written: str, layout: dict[str, Any]
) -> None:
    assert values(write(name, content.encode(written)), **layout) == [{"id": "1", "text": "é"}]


def test_the_fallback_encoding_is_chosen_file_by_file(write: Write, tmp_path: Path) -> None:
    write("a.csv", "text\né\n".encode("cp1252"))
    write("b.csv", "text\né\n")
    assert values("*.csv", tmp_path, fallback_encoding="cp1252") == [{"text": "é"}, {"text": "é"}]


@pytest.mark.parametrize("layout", [{"encoding": "utf-9"}, {"fallback_encoding": "utf-9"}])
def test_an_unknown_encoding_is_refused(write: Write, layout: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="encoding 'utf-9' is unknown"):
        read(write("a.csv", "id\n1\n"), **layout)


def test_a_file_that_is_not_utf16_is_refused(write: Write) -> None:
    with pytest.raises(CorpusError, match="not valid utf-16"):
        read(write("a.csv", b"id,text\n1,abc\n"), encoding="utf-16")


# JSON


def test_one_object_a_file(write: Write, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(f"{name}.json", json.dumps({"id": name, "text": "one\ntwo"}, indent=2))
    assert values("*.json", tmp_path) == [{"id": "a", "text": "one\ntwo"}, {"id": "b", "text": "one\ntwo"}]


def test_a_list_of_objects_is_numbered(write: Write) -> None:
    path = write("a.json", '[{"id": 1},\n 2,\n {"id": 3}]')
    assert [(row.line, isinstance(row, BadRow)) for row in read(path)] == [(1, False), (2, True), (3, False)]


def test_the_list_may_stand_under_a_key(write: Write) -> None:
    path = write("a.json", '{"version": 1, "articles": [{"id": 1}]}')
    assert values(path, element="articles") == [{"id": 1}]
    with pytest.raises(CorpusError, match="no list under the key 'version'"):
        read(path, element="version")


def test_the_list_may_stand_under_a_key_within_another(write: Write) -> None:
    path = write("a.json", '{"data": {"articles": [{"id": 1}]}, "a.b": [{"id": 2}]}')
    assert values(path, element="data.articles") == [{"id": 1}]
    assert values(path, element="a.b") == [{"id": 2}]
    with pytest.raises(CorpusError, match=r"no list under the key 'data.rows' .*it has 'data', 'a.b'"):
        read(path, element="data.rows")


def test_an_object_of_objects_gives_its_keys_as_a_column(write: Write) -> None:
    path = write("a.json", '{"a1": {"text": "x"}, "a2": {"text": "y", "key": "own"}, "a3": 5}')
    rows = read(path, element="*")
    assert [row.values for row in rows if isinstance(row, Row)] == [
        {"key": "a1", "text": "x"},
        {"key": "own", "text": "y"},
    ]
    assert only_bad(rows).value == 5


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_key_that_stands_twice_is_a_bad_row(write: Write, name: str) -> None:
    bad = only_bad(read(write(name, '{"id": "1", "text": "a", "text": "b"}\n')))
    assert bad.reason == "not valid JSON: the key 'text' stands twice"


def test_a_damaged_json_file_is_one_bad_row(write: Write, tmp_path: Path) -> None:
    write("a.json", '{"id": "1"}')
    write("b.json", '{"id": ')
    write("c.json", b'{"id": "caf\xe9"}')
    rows = read("*.json", tmp_path)
    assert [isinstance(row, BadRow) for row in rows] == [False, True, True]


def test_json_lines_under_another_ending_come_with_the_way_out(write: Write) -> None:
    path = write("a.json", '{"id": "1"}\n{"id": "2"}\n')
    with pytest.raises(CorpusError, match="format: jsonl"):
        read(path)
    assert len(values(path, format=Format.jsonl)) == 2


# Parquet


def test_parquet_keeps_types_and_numbers_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["1", "2"], "n": [2.0, None], "s": [[{"a": "b"}], []]}), path)
    assert read(path) == [
        Row(str(path), 1, {"id": "1", "n": 2.0, "s": [{"a": "b"}]}),
        Row(str(path), 2, {"id": "2", "n": None, "s": []}),
    ]


def test_a_parquet_string_that_is_no_utf8_is_one_bad_row(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"caf\xe9", b"three"])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": raw.view(pa.string())}), path)
    rows = read(path)
    assert [isinstance(row, BadRow) for row in rows] == [False, True, False]
    assert [row.line for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"id,text\n1,a\n", b"PAR1" + b"\x00" * 64 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(write: Write, content: bytes) -> None:
    with pytest.raises(CorpusError, match="cannot be read as Parquet"):
        read(write("a.parquet", content))


# folders


def test_a_folder_of_classes(write: Write, tmp_path: Path) -> None:
    write("c/README.txt", "beside the classes")
    write("c/sport/2.txt", "b")
    write("c/sport/1.txt", "a\r\nb")
    write("c/art/1.txt", "c")
    assert values("c", tmp_path) == [
        {"path": "art/1.txt", "class": "art", "text": "c"},
        {"path": "sport/1.txt", "class": "sport", "text": "a\nb"},
        {"path": "sport/2.txt", "class": "sport", "text": "b"},
    ]


def test_a_flat_folder_has_no_classes(write: Write, tmp_path: Path) -> None:
    write("c/1.txt", "a")
    write("c/notes.md", "no article")
    assert values("c", tmp_path, format=Format.folder) == [{"path": "1.txt", "class": None, "text": "a"}]


def test_a_file_of_a_folder_in_another_encoding(write: Write, tmp_path: Path) -> None:
    write("c/art/1.txt", b"caf\xe9")
    bad = only_bad(read("c", tmp_path))
    assert (Path(bad.file).name, bad.line, bad.field) == ("1.txt", 1, "text")
    assert values("c", tmp_path, fallback_encoding="cp1252")[0]["text"] == "café"


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no <class>/<file>\.txt"):
        read(tmp_path)


# paths


@pytest.mark.parametrize(
    ("name", "message"), [("missing.jsonl", "does not exist"), ("*.jsonl", "does not exist"), ("x.docx", "csv")]
)
def test_a_path_that_cannot_be_read(write: Write, tmp_path: Path, name: str, message: str) -> None:
    write("x.docx", "no rows")
    with pytest.raises(CorpusError, match=message):
        read(name, tmp_path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_an_empty_file_is_refused(write: Write, name: str) -> None:
    with pytest.raises(CorpusError, match="is empty"):
        read(write(name, b""))


def test_a_folder_where_a_file_was_expected_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is a folder"):
        read(tmp_path, format=Format.csv)


def test_a_data_set_cannot_be_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="format: dataset"):
        read(tmp_path, format=Format.dataset)


@pytest.mark.parametrize("name", ["a.xlsx", "a.sgm"])
def test_a_format_for_corpora_alone_is_refused(write: Write, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read here; expected jsonl, json, csv"):
        read(write(name, "x"))


def test_columns_may_come_from_the_path(write: Write, tmp_path: Path) -> None:
    write("2020/fox/a1.json", '{"text": "a"}')
    write("2021/cnn/a2.json", '{"text": "b"}')
    pattern = r"(?P<year>\d+)/(?P<outlet>\w+)/(?P<id>\w+)\.json$"
    assert values("*/*/*.json", tmp_path, from_path=pattern) == [
        {"text": "a", "year": "2020", "outlet": "fox", "id": "a1"},
        {"text": "b", "year": "2021", "outlet": "cnn", "id": "a2"},
    ]


# lists


def test_items_of_a_list_are_rows(write: Write) -> None:
    lines = [{"d": 1, "s": [{"t": "a"}, {"t": "b"}]}, {"d": 2, "s": []}, {"d": 3}, {"d": 4, "s": "x"}]
    rows = read(write("a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)), explode="s")
    assert [(row.line, row.item, row.values) for row in rows if isinstance(row, Row)] == [
        (1, 1, {"d": 1, "s": {"t": "a"}}),
        (1, 2, {"d": 1, "s": {"t": "b"}}),
        (2, 1, {"d": 2, "s": None}),
        (3, 1, {"d": 3, "s": None}),
    ]
    assert (only_bad(rows).line, only_bad(rows).field) == (4, "s")


def test_keys_of_an_object_are_rows(write: Write) -> None:
    path = write("a.jsonl", '{"of": {"stances": {"tax": "favor"}}}\n')
    (row,) = values(path, explode="of.stances")
    assert row["of.stances"] == {"key": "tax", "value": "favor"}


def test_a_list_written_in_a_cell_is_a_list(write: Write) -> None:
    path = write("a.csv", 'id,s\n1,"[""a"", ""b""]"\n')
    assert values(path, explode="s") == [{"id": "1", "s": "a"}, {"id": "1", "s": "b"}]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('["a", null]', ["a", None]),
        ("['a', 'b']", ["a", "b"]),
        (" [] ", []),
        ("{'a': 1}", {"a": 1}),
        ("[a, b]", "[a, b]"),
        ("[" * 100_000 + "]" * 100_000, None),
        ("(1, 2)", "(1, 2)"),
        ("__import__('os')", "__import__('os')"),
        (5, 5),
    ],
)
def test_only_what_is_written_as_a_list_or_an_object_is_one(cell: Any, value: Any) -> None:
    assert parse_list(cell) == (cell if value is None else value)


def test_what_is_inside_a_column_is_a_column() -> None:
    row = {"a": {"b": {"c": 1}}, "tags": [{"n": "x", "s": 1}, {"n": "y"}], "span": [3, 5], "nan": float("nan")}
    found = flat(row)
    assert {name: found[name] for name in found if name not in row} == {
        "a.b": {"c": 1}, "a.b.c": 1, "tags.n": ["x", "y"], "tags.s": [1, None], "span.0": 3, "span.1": 5,
    }  # fmt: skip
    assert found["nan"] is None


# lines and single texts


def test_a_line_is_a_row_and_an_empty_one_too(write: Write) -> None:
    assert values(write("a.txt", b"\xef\xbb\xbfone\r\n\nthree"), format=Format.lines) == [
        {"line": 1, "text": "one"},
        {"line": 2, "text": ""},
        {"line": 3, "text": "three"},
    ]


def test_a_pattern_divides_lines_into_columns(write: Write) -> None:
    path = write("a.txt", "__label__a one two\nno label\n")
    rows = read(path, format=Format.lines, pattern=r"__label__(?P<label>\S+) (?P<text>.*)")
    assert [row.values for row in rows if isinstance(row, Row)] == [{"line": 1, "label": "a", "text": "one two"}]
    assert "does not match pattern" in only_bad(rows).reason


def test_a_file_may_be_one_text(write: Write, tmp_path: Path) -> None:
    write("news/a.html", "<p>x</p>")
    write("news/b.md", b"caf\xe9")
    assert values("news/*.html", tmp_path) == [{"file": "a.html", "class": "news", "text": "<p>x</p>"}]
    assert only_bad(read("news/b.md", tmp_path, format=Format.text)).reason == "not valid UTF-8: byte 0xE9"


# Parquet


def test_columns_of_any_type_are_read(write: Write, tmp_path: Path) -> None:
    table = pa.table({
        "text": pa.array([b"caf\xc3\xa9", b"\xff"]),
        "label": pa.array(["a", "b"]).dictionary_encode(),
        "when": pa.array([0, 1], pa.timestamp("ms", "UTC")),
        "frames": [["x"], None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read("a.parquet", tmp_path)
    assert isinstance(rows[0], Row)
    assert (rows[0].values["text"], rows[0].values["label"], rows[0].values["frames"]) == ("café", "a", ["x"])
    assert isinstance(rows[0].values["when"], datetime)
    assert only_bad(rows).line == 2


def test_a_time_beyond_the_calendar_is_a_bad_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"when": pa.array([0, 2**60], pa.timestamp("ms"))}), tmp_path / "a.parquet")
    bad = only_bad(read("a.parquet", tmp_path))
    assert (bad.line, bad.reason[:12]) == (2, "not readable")


# compression


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return bytes(sink.getvalue())


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_compressed_files_are_read_as_the_files_in_them(write: Write, ending: str) -> None:
    lines, table = b'{"id": "caf\xc3\xa9"}\n', "id\ttext\nä\tx\n".encode("cp1252")
    assert values(write(f"a.jsonl{ending}", COMPRESS[ending](lines))) == [{"id": "café"}]
    assert values(write(f"a.TSV{ending}", COMPRESS[ending](table)), encoding="utf-8", fallback_encoding="cp1252") == [
        {"id": "ä", "text": "x"}
    ]


@pytest.mark.parametrize("ending", list(COMPRESS))
def test_a_damaged_compressed_file_is_refused(write: Write, ending: str) -> None:
    whole = COMPRESS[ending](b'{"id": 1}\n' * 100)
    for content in (whole[:-6], b"no such thing"):
        with pytest.raises(CorpusError, match="cannot be read"):
            read(write(f"a.jsonl{ending}", content))


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.zip", "archive; unpack it"), ("a.tar.gz", "archive; unpack it"), ("a.parquet.gz", "read compressed")],
)
def test_what_must_be_unpacked_first_says_so(write: Write, name: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read(write(name, gzip.compress(b"x")))


def test_a_path_that_does_not_match_is_a_bad_row(write: Write, tmp_path: Path) -> None:
    for name in ("a1", "note"):
        write(f"{name}.json", "{}")
    rows = read("*.json", tmp_path, from_path=r"/(?P<id>a\d+)\.json$")
    assert [Path(row.file).stem for row in rows] == ["a1", "note"]
    assert "does not match from_path" in only_bad(rows).reason


@pytest.mark.parametrize("key", ["from_path", "pattern"])
@pytest.mark.parametrize(("pattern", "message"), [("(?P<id>", "no regular expression"), (r"\d+", "names no group")])
def test_a_pattern_that_gives_no_column_is_refused(write: Write, key: str, pattern: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key}=.*{message}"):
        read(write("a.json", "{}"), **{key: pattern})


def test_a_glob_reads_its_files_in_order_below_a_root_with_brackets(write: Write, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(f"[2020]/{name}.csv", f"id\n{name}\n")
    assert [row["id"] for row in values("*.csv", tmp_path / "[2020]")] == ["a", "b"]


def test_a_bad_row_prints_file_line_field_reason_and_a_short_value() -> None:
    bad = BadRow("a.csv", 3, "text", "x" * 200, "the reason")
    assert str(bad) == f"a.csv: line 3, field 'text': the reason (value '{'x' * 78}…)"
