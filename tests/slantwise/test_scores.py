"""Scores as Arrow columns and as dictionaries: the same rows, one for each request or rejection."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slantwise.article import Article
from slantwise.inputs import Rejection, Request
from slantwise.model import Model
from slantwise.scores import score_batch, score_rows, scores_schema
from slantwise.summary import add, rejected, summarise

REQUESTS = st.builds(
    Request,
    st.builds(Article, st.text("abc", min_size=1), st.sampled_from(["Goal, goal", "Frost and gale", "The nurse met."])),
    st.lists(st.sampled_from(["Tram Line", "Harbour Plan", "Russia"]), max_size=3).map(tuple),
)
REJECTIONS = st.builds(
    Rejection, st.none() | st.just("x"), st.just("empty_text"), st.just("text"), st.none(), st.just("r")
)


@settings(max_examples=60)
@given(rows=st.lists(REQUESTS | REJECTIONS, max_size=12))
def test_the_batch_holds_the_rows(model: Model, rows: list[Request | Rejection]) -> None:
    batch = score_batch(model, rows)
    batch.validate(full=True)
    assert batch.schema == scores_schema(model.tasks)
    assert batch.to_pylist() == score_rows(model, rows)


def test_scores_are_the_model_s_predictions(model: Model) -> None:
    article = Article("a", "The council praised the Harbour Plan. Goal.")
    row = score_rows(model, [Request(article, ("Harbour Plan",))])[0]
    assert row == {"error": None, **model.predict([article], [["Harbour Plan"]])[0]}


def test_a_rejected_row_has_its_code_and_nulls(model: Model) -> None:
    row = score_batch(model, [Rejection("b", "empty_text", "text", "''", "the text is empty")]).to_pylist()[0]
    assert row == {"id": "b", "error": "empty_text", "topic": None, "framing": None, "stance": None}


@pytest.mark.parametrize("cut", [0, 1, 3, 5])
def test_a_summary_is_the_sum_of_its_parts(model: Model, cut: int) -> None:
    rows: list[Request | Rejection] = [
        Request(Article("1", "Goal"), ("Tram Line", "Russia")), Rejection("2", "empty_text", "text", None, ""),
        Request(Article("3", "Frost")), Rejection(None, "unreadable_row", None, None, ""),
        Request(Article("5", "Gale")),
    ]  # fmt: skip
    batch = score_batch(model, rows)
    whole = summarise(batch, model.tasks)
    parts = add(summarise(batch.slice(0, cut), model.tasks), summarise(batch.slice(cut), model.tasks))
    assert rejected(whole) == rejected(parts) == 2
    assert whole["rejected"] == {"empty_text": 1, "unreadable_row": 1}
    assert (whole["rows"], parts["rows"]) == (5, 5)
    for task in model.tasks:
        one, other = whole["tasks"][task.name], parts["tasks"][task.name]
        assert one["scored"] == other["scored"] == {"topic": 3, "framing": 3, "stance": 2}[task.name]
        assert one["labels"] == other["labels"]
        assert one.get("confidence_sum") == pytest.approx(other.get("confidence_sum"))


def test_the_summary_counts_labels_and_confidence(model: Model) -> None:
    batch = score_batch(model, [Request(Article(str(i), t), ()) for i, t in enumerate(["Goal", "Frost", "Frost"])])
    topics = pa.array(batch.column("topic")).to_pylist()
    found = summarise(batch, model.tasks)["tasks"]["topic"]
    assert {label: n for label, n in found["labels"].items() if n} == {
        label: sum(t["label"] == label for t in topics) for label in {t["label"] for t in topics}
    }
    assert found["confidence_sum"] == pytest.approx(float(np.sum([t["confidence"] for t in topics])))
