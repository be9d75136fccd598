"""Broken bytes and rows of anything: every row is read or in quarantine, or the file is refused with a reason.

Nothing that is read is empty, NaN or outside its label set.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from data.config import CorpusConfig, FileConfig
from data.corpus import Corpus, load_corpus, write_quarantine
from slantwise.errors import SlantwiseError
from slantwise.rows import Format

ROWS = [
    {"id": "a1", "text": "One, “two” and\nthree.", "topic": "health", "frames": ["economic"], "stances": None},
    {"id": "a2", "text": "Grüße, \"quoted\"; 🙂", "topic": "sport", "frames": [], "split": "train",
     "stances": [{"target": "Ann", "stance": "favor", "start": 0, "end": 3}]},
    {"id": 3, "text": "Plain text", "topic": None, "title": "T\u2028t", "published": 2020},
    {"id": "a4", "text": "The last", "topic": "weather", "source": "x"},
]  # fmt: skip
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = (
    'id,text,topic,title,split\r\na1,"One, “two” and\nthree",health,T,\r\n'
    'a2,"Grüße ""quoted"" 🙂",sport,,train\r\n3,Plain text,,NA,test\r\na4,The last,weather,,\r\n'
).encode()

SPLICES = [b"\n", b"\r", b"\0", b'"', b",", b"{", b"}", b"\\", b"\\ud83d", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf",
           b"\xe2\x80\xa8", b"NaN", b"1e999", b"null", b"[[", b"-1", b":", b"\x1a"]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """The bytes after one to four deletions, overwrites, insertions, moves and cuts at the end."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0 if draw(st.booleans()) else len(content) // 4, len(content)))
        to = min(len(content), at + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["delete", "overwrite", "insert", "move", "cut"]))
        if kind == "delete":
            del content[at:to]
        elif kind == "overwrite":
            content[at:to] = draw(st.binary(min_size=to - at, max_size=to - at))
        elif kind == "insert":
            content[at:at] = draw(st.sampled_from(SPLICES))
        elif kind == "move":
            piece = content[at:to]
            del content[at:to]
            place = draw(st.integers(0, len(content)))
            content[place:place] = piece
        else:
            del content[max(at, len(content) - 40) :]
    return bytes(content)


def load(content: bytes, name: str, **layout: Any) -> Corpus | None:
    """The corpus of the damaged file with all bad rows in quarantine; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        return load_from(Path(folder), name, **layout)


def load_from(folder: Path, name: str, **layout: Any) -> Corpus | None:
    files = [FileConfig(path=name, **layout)]
    try:
        corpus = load_corpus(CorpusConfig(root=str(folder), files=files, max_bad_rows=1000))
    except SlantwiseError as error:
        event(f"refused: {type(error).__name__}")
        return None
    event("read")
    write_quarantine(corpus.quarantine, folder / "quarantine.jsonl")
    written = (folder / "quarantine.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["reason"] for line in written] == [bad.reason for bad in corpus.quarantine]
    assert len(corpus) + len(corpus.quarantine) == corpus.rows_read
    for row in corpus.table.to_pylist():
        assert row["id"].strip()
        assert row["text"].strip()
        fields = {row[field] for field in ("id", "title", "source", "published", "group")}
        assert not fields & ({""} if name in ("a.csv", "a.xlsx") else {"", "nan", "None"})  # there it may be text
        for task, labels in (("topic", row["topic"]), ("framing", row["framing"])):
            assert labels is None or set(labels) <= set(corpus.tasks[task].labels)
        for entry in row["stance"] or []:
            assert entry["stance"] in corpus.tasks["stance"].labels
            assert entry["target"].strip()
    return corpus


@settings(max_examples=300, deadline=None)
@given(mutated(JSONL))
@example(JSONL.replace(b"Plain", b"\\ud83d"))
@example(JSONL.replace(b'"id": 3', b'"id": ' + b"3" * 5000))
def test_rows_of_a_damaged_jsonl_file_add_up(content: bytes) -> None:
    corpus = load(content, "a.jsonl")
    if corpus is not None:
        lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
        present = sum(bool(line.strip()) for line in lines)
        assert corpus.rows_read == present


@settings(max_examples=300, deadline=None)
@given(mutated(CSV))
@example(CSV.replace(b"The last", b"\xff,\xff"))
@example(CSV.replace(b",topic", b",t\xe9pic"))
def test_rows_of_a_damaged_csv_file_add_up(content: bytes) -> None:
    corpus = load(content, "a.csv")
    if corpus is not None and b'"' not in content:  # then lines are rows
        lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        assert corpus.rows_read == sum(bool(line) for line in lines) - 1


@settings(max_examples=60, deadline=None)
@given(mutated(gzip.compress(JSONL, mtime=0)))
def test_a_damaged_compressed_file_is_whole_or_refused(content: bytes) -> None:
    corpus = load(content, "a.jsonl.gz")
    assert corpus is None or corpus.rows_read == len(ROWS) * (len(gzip.decompress(content)) // len(JSONL))


@settings(max_examples=200, deadline=None)
@given(mutated(json.dumps({"v": 1, "rows": ROWS}, ensure_ascii=False).encode()))
def test_rows_of_a_damaged_json_file_add_up(content: bytes) -> None:
    corpus = load(content, "a.json", element="rows")
    if corpus is not None:
        try:
            rows = json.loads(content.decode("utf-8-sig"))["rows"]
        except (ValueError, KeyError, TypeError):
            rows = [None]  # the file as a whole
        assert corpus.rows_read in (len(rows), 1)


@settings(max_examples=150, deadline=None)
@given(mutated("".join(f"{row['id']}\t{row['text']}\n".replace("\nt", " t") for row in ROWS).encode()))
def test_lines_of_a_damaged_file_add_up(content: bytes) -> None:
    corpus = load(content, "a.txt", format=Format.lines, pattern="(?P<id>[^\t]+)\t(?P<text>.+)")
    if corpus is not None:
        text = content.removeprefix(b"\xef\xbb\xbf")
        assert corpus.rows_read == text.count(b"\n") + (not text.endswith(b"\n"))


# rows of anything

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers(10**17, 10**30) | st.floats() | st.text(max_size=2)
    | st.sampled_from(["health", "economic", "favor", "train", "2020-01-01", "['economic']", " ", "a" * 50]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "stance", "target"]), inner, min_size=1, max_size=2),
    max_leaves=4,
)  # fmt: skip
STANCE = st.fixed_dictionaries({"stance": ANYTHING}, optional={"target": ANYTHING, "start": ANYTHING})
KEYS = ["id", "text", "title", "source", "published", "language", "split", "group", "topic", "frames", "stances"]
ROW_OF_ANYTHING = st.fixed_dictionaries(
    {"id": st.text(min_size=1, max_size=2) | ANYTHING, "text": st.just("A text") | ANYTHING},
    optional=dict.fromkeys(KEYS[2:-1], ANYTHING) | {"stances": st.lists(STANCE, max_size=2) | ANYTHING},
)  # fmt: skip
GOOD = {"id": "good", "text": "A good row", "topic": "health", "frames": ["economic"]}


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for row in [{key: key for key in KEYS}, *rows]:
        writer.writerow([_cell(row.get(key)) for key in KEYS])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    columns = {}
    for key in KEYS:
        try:
            columns[key] = pa.array([row.get(key) for row in rows])
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):  # no one type for them
            texts = [None if row.get(key) is None else str(_cell(row[key])) for row in rows]
            columns[key] = pa.array([text and text.encode("utf-8", "surrogatepass") for text in texts], pa.binary())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _xlsx(rows: list[dict[str, Any]]) -> bytes:
    book = openpyxl.Workbook()
    for number, row in enumerate([{key: key for key in KEYS}, *rows], start=1):
        for column, key in enumerate(KEYS, start=1):
            value = _cell(row.get(key))
            if isinstance(value, str):
                value = openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE.sub("?", value).encode("utf-8", "replace").decode()
            if isinstance(value, float) and (value != value or abs(value) == float("inf")):
                value = str(value)
            book.active.cell(number, column, value).data_type = "s" if isinstance(value, str) else "n"
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


WRITERS: dict[str, tuple[Callable[[list[dict[str, Any]]], bytes], dict[str, Any]]] = {
    "a.jsonl": (_jsonl, {}),
    "a.json": (lambda rows: json.dumps({"rows": rows}).encode(), {"element": "rows"}),
    "a.csv": (_csv, {}),
    "a.parquet": (_parquet, {}),
    "a.xlsx": (_xlsx, {}),
}


@pytest.mark.parametrize("name", list(WRITERS))
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ROW_OF_ANYTHING, max_size=4))
def test_rows_of_anything_add_up(name: str, rows: list[dict[str, Any]]) -> None:
    write, layout = WRITERS[name]
    corpus = load(write([GOOD, *rows]), name, **layout)
    empty = [row for row in rows if name == "a.xlsx" and all(value in (None, "") for value in row.values())]
    assert corpus is not None
    assert corpus.rows_read == 1 + len(rows) - len(empty)  # an empty row of a sheet is none
    assert "good" in corpus.table["id"].to_pylist()


# formats whose bytes say little when they are damaged

PLAIN = [{key: row.get(key) for key in KEYS[:4]} | {"id": str(row["id"])} for row in ROWS]
BINARY = {"a.parquet": _parquet(PLAIN), "a.xlsx": _xlsx(PLAIN)}


@pytest.mark.parametrize("name", list(BINARY))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_binary_file_is_read_or_refused(name: str, data: st.DataObject) -> None:
    corpus = load(data.draw(mutated(BINARY[name])), name)
    assert corpus is None or corpus.rows_read <= len(ROWS) + 1


SGML = "".join(f'<DOC id="{row["id"]}"><text>{row["text"]}</text><topic>{row["topic"] or ""}</topic></DOC>\n'
               for row in ROWS).encode()  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(mutated(SGML))
def test_elements_of_a_damaged_sgml_file_add_up(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.sgm").write_bytes(content)
        files = [FileConfig(path="a.sgm", element="DOC")]
        config = CorpusConfig(root=folder, files=files, max_bad_rows=1000)
        config.columns.id = "@id"
        try:
            corpus = load_corpus(config)
        except SlantwiseError:
            return
        starts = re.findall(rb"<DOC(?=[\s/>])[^<>]*>", content)
        assert corpus.rows_read >= len([start for start in starts if re.fullmatch(rb'<DOC id="[^"<>]*">', start)])
        assert len(corpus) + len(corpus.quarantine) == corpus.rows_read


@settings(max_examples=100, deadline=None)
@given(st.lists(mutated("Grüße an alle\n\nund mehr".encode()), min_size=1, max_size=4))
def test_every_file_of_a_damaged_folder_is_a_row(contents: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(contents):
            path = Path(folder) / "texts" / ("health", "sport")[number % 2] / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        config = CorpusConfig(root=folder, files=[FileConfig(path="texts")], max_bad_rows=1000)
        config.columns.id, config.topic.columns = "path", ["class"]
        try:
            corpus = load_corpus(config)
        except SlantwiseError:
            event("refused")
            return
        assert corpus.rows_read == len(contents)
        assert len(corpus) + len(corpus.quarantine) == len(contents)
