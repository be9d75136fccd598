"""Sequences over columns read like the lists that they stand for, and a corpus is not held as Python objects."""

from __future__ import annotations

import json
import random
import string
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data import corpus as corpus_module
from data import prepare as prepare_module
from data.columns import REMOVED, RemovedLines, Rows, Texts, View, inner, lengths, removed_array, stored, values
from data.config import CleaningConfig, CorpusConfig, LabelsConfig, SplitConfig
from data.corpus import load_corpus
from data.prepare import clean_corpus, fit_cleaner, split_corpus
from slantwise.cleaning import Removed

TEXTS = ["Ferry “North” sails", "a", "", "ünïcode"]


def test_texts_begin_at_their_starts_in_every_chunk() -> None:
    column = pa.chunked_array([TEXTS[:1], TEXTS[1:]], pa.string())
    starts = pa.chunked_array([[6], [0, 0, 2]], pa.int32())
    expected = ["“North” sails", "a", "", "ïcode"]
    texts = Texts(column, starts)
    assert list(texts) == [texts[i] for i in range(4)] == texts[:] == expected
    assert list(Texts(column)) == list(stored(TEXTS)) == TEXTS


def test_an_item_is_found_by_every_kind_of_number_and_none_beyond_the_end() -> None:
    texts = stored(TEXTS)
    assert (texts[-1], texts[np.int64(1)], texts[1:3]) == ("ünïcode", "a", ["a", ""])  # type: ignore[call-overload]
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            texts[beyond]


def test_a_view_has_the_items_that_it_names() -> None:
    assert list(View(stored(TEXTS), np.array([3, 1, 3]))) == ["ünïcode", "a", "ünïcode"]


def test_removed_lines_come_back_as_they_were() -> None:
    pages = [(Removed(1, "Share", "share bar"), Removed(9, "By Ann", "byline")), (), (Removed(2, "Ad", "byline"),)]
    column = pa.chunked_array([removed_array(pages[:2]), removed_array(pages[2:]), removed_array([])], REMOVED)
    removed = RemovedLines(column)
    assert list(removed) == [removed[i] for i in range(3)] == pages
    assert removed.total == 3


def test_a_row_is_a_mapping_of_its_columns() -> None:
    rows = Rows(pa.table({"id": ["a", "b"], "topic": [["x"], None]}))
    assert [dict(row) for row in rows] == [{"id": "a", "topic": ["x"]}, {"id": "b", "topic": None}]


def test_missing_lists_have_no_items() -> None:
    column = pa.chunked_array([[["a", "b"], None], [[], ["a"]]], pa.list_(pa.string()))
    assert (inner(column), lengths(column).tolist()) == (["a", "b", "a"], [2, 0, 0, 1])
    first, _, last = inner(column)
    assert first is last  # equal values are one object
    assert values(pa.chunked_array([["x"], [None, "x"]])) == ["x", None, "x"]


def test_reading_cleaning_and_splitting_take_less_python_memory_than_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (corpus_module, prepare_module):
        monkeypatch.setattr(module, "ROWS_OF_A_BATCH", 16)
    peak, size = {}, {}
    for count in (240, 120, 240):  # the first time for what is made once
        path = tmp_path / f"{count}.jsonl"
        size[count] = _write_articles(path, count)
        tracemalloc.start()  # Arrow's own memory is not traced
        _split(path)
        peak[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak[240] - peak[120] < 0.5 * (size[240] - size[120])


def _write_articles(path: Path, count: int) -> int:
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=6)) for _ in range(3000)]
    rows = []
    for number in range(count):
        paragraphs = [" ".join(draw.choices(words, k=50)) + "." for _ in range(20)]
        rows.append({
            "id": f"a{number}", "text": "\n\n".join([*paragraphs, "Read more: the ferry"]), "title": f"Ferry {number}",
            "source": f"outlet{number % 3}.example", "topic": ("health", "sport")[number % 2],
        })  # fmt: skip
    return path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _split(path: Path) -> None:
    labels = LabelsConfig(columns=["topic"], labels=["health", "sport"])
    corpus = load_corpus(CorpusConfig(path=str(path), topic=labels))
    clean = clean_corpus(corpus, corpus.task("topic"), fit_cleaner(corpus, CleaningConfig()))
    split_corpus(clean, SplitConfig())
    assert clean.furniture_lines >= len(clean)
