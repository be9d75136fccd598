"""Broken bytes: every row of a damaged file is read or in quarantine, or the whole file is refused with a reason."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from data.config import CorpusConfig
from data.corpus import Corpus, load_corpus, write_quarantine
from slantwise.errors import SlantwiseError

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


def load(content: bytes, name: str) -> Corpus | None:
    """The corpus of the damaged file with all bad rows in quarantine; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            corpus = load_corpus(CorpusConfig(path=str(path), max_bad_rows=1000))
        except SlantwiseError as error:
            event(f"refused: {type(error).__name__}")
            return None
        event("read")
        write_quarantine(corpus.quarantine, Path(folder) / "quarantine.jsonl")
        written = (Path(folder) / "quarantine.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        assert [json.loads(line)["reason"] for line in written] == [bad.reason for bad in corpus.quarantine]
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
        assert len(corpus) + len(corpus.quarantine) == present


@settings(max_examples=300, deadline=None)
@given(mutated(CSV))
@example(CSV.replace(b"The last", b"\xff,\xff"))
@example(CSV.replace(b",topic", b",t\xe9pic"))
def test_rows_of_a_damaged_csv_file_add_up(content: bytes) -> None:
    corpus = load(content, "a.csv")
    if corpus is not None:
        assert len(corpus) + len(corpus.quarantine) == corpus.rows_read
        if b'"' not in content:  # then lines are rows
            lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            assert corpus.rows_read == sum(bool(line) for line in lines) - 1
