"""One parser of rows: whatever a cell holds, a request or a rejection with a code, never an exception."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slantwise.article import Article
from slantwise.inputs import CODES, MAX_NAME, MAX_TARGETS, Columns, InputOptions, Rejection, Request, parse

OPTIONS = InputOptions(targets=("Harbour Plan",), max_characters=1_000)


def parsed(**values: Any) -> Request | Rejection:
    return parse({"text": "Frost", **values}, 7, OPTIONS)


@pytest.mark.parametrize(
    ("values", "code", "field"),
    [
        ({}, "missing_text", "text"),
        ({"text": None}, "missing_text", "text"),
        ({"text": float("nan")}, "missing_text", "text"),
        ({"text": np.float32("nan")}, "missing_text", "text"),
        ({"text": pd.NA}, "missing_text", "text"),
        ({"text": pd.NaT}, "missing_text", "text"),
        ({"text": 7}, "wrong_type", "text"),
        ({"text": np.int64(7)}, "wrong_type", "text"),
        ({"text": True}, "wrong_type", "text"),
        ({"text": ["Frost"]}, "wrong_type", "text"),
        ({"text": {"body": {"p": [1, [2, {"x": None}]]}}}, "wrong_type", "text"),
        ({"text": np.array(["Frost", "Gale"])}, "wrong_type", "text"),
        ({"text": datetime.date(2020, 1, 2)}, "wrong_type", "text"),
        ({"text": ""}, "empty_text", "text"),
        ({"text": " \n\t\u2003"}, "empty_text", "text"),
        ({"text": b"  "}, "empty_text", "text"),
        ({"text": "Frost \ud83d and gale"}, "invalid_text", "text"),
        ({"text": b"Frost \xff"}, "invalid_text", "text"),
        ({"text": "x" * 1_001}, "text_too_long", "text"),
        ({"text": "x" * 600, "title": "y" * 600}, "text_too_long", "text"),
        ({"text": "Frost", "title": 7}, "wrong_type", "title"),
        ({"text": "Frost", "title": "\udc80"}, "invalid_text", "title"),
        ({"text": "Frost", "source": {"name": "north.example"}}, "wrong_type", "source"),
        ({"text": "Frost", "targets": 3}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": {"target": "Tram Line"}}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": [None]}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": ["Tram Line", " "]}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": [["Tram Line"]]}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": [{"name": "Tram Line"}]}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": np.array(["Tram Line", None], object)}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": ["x" * (MAX_NAME + 1)]}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": ["x"] * (MAX_TARGETS + 1)}, "bad_targets", "targets"),
        ({"text": "Frost", "targets": ["Tram\ud800"]}, "invalid_text", "targets"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_scored_is_rejected_with_code_and_field(
    values: dict[str, Any], code: str, field: str
) -> None:
    rejection = parse({"id": "a", **values}, 7, OPTIONS)
    assert isinstance(rejection, Rejection)
    assert (rejection.id, rejection.code, rejection.field) == ("a", code, field)
    assert rejection.reason
    assert rejection.value is None or len(rejection.value) <= 5_000
    (rejection.value or "").encode()


@pytest.mark.parametrize(
    "text",
    ["Frost", np.str_("Frost"), b"Frost", bytearray(b"Frost"), np.array("Frost")],
    ids=lambda t: type(t).__name__,
)
def test_text_of_any_text_type_is_scored(text: Any) -> None:
    request = parsed(text=text)
    assert isinstance(request, Request)
    assert request.article == Article("7", "Frost")
    assert type(request.article.text) is str or isinstance(request.article.text, np.str_)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (["Tram Line", "Russia"], ("Tram Line", "Russia")),
        (("Tram Line",), ("Tram Line",)),
        (np.array(["Tram Line", "Russia"]), ("Tram Line", "Russia")),
        (np.array([{"target": "Tram Line"}], object), ("Tram Line",)),
        ([{"target": "Tram Line", "stance": "favor"}], ("Tram Line",)),
        (" Tram Line |Russia| ", ("Tram Line", "Russia")),
        ([], ()),
        (None, ("Harbour Plan",)),
        ("", ("Harbour Plan",)),
        (float("nan"), ("Harbour Plan",)),
    ],
    ids=str,
)
def test_targets_come_as_a_list_or_a_string_and_without_any_from_the_options(
    value: Any, names: tuple[str, ...]
) -> None:
    request = parsed(targets=value)
    assert isinstance(request, Request)
    assert request.targets == names


def test_a_canonical_row_names_its_targets_with_its_labels() -> None:
    request = parsed(stances=[{"target": "Russia", "stance": None}])
    assert isinstance(request, Request)
    assert request.targets == ("Russia",)


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ("a1", "a1"), (5, "5"), (np.int64(5), "5"), (2.5, "2.5"), (True, "True"), (b"a1", "a1"), (b"\xff", "\\xff"),
        (decimal.Decimal("1.50"), "1.50"), (datetime.date(2020, 1, 2), "2020-01-02"), ("\ud800", "\\ud800"),
        (None, "7"), (float("nan"), "7"), (pd.NA, "7"), ("  ", "7"), (["a"], "['a']"),
    ],
    ids=repr,
)  # fmt: skip
def test_ids_of_any_type_are_text_and_missing_ones_the_row_s_number(value: Any, id_: str) -> None:
    assert parsed(id=value).id == id_
    assert parse({"id": value}, 7, OPTIONS).id == id_  # of a rejected row too


def test_a_text_of_a_folder_goes_by_its_path() -> None:
    assert parsed(path="sport/001.txt").id == "sport/001.txt"


def test_other_columns_can_be_named_also_inside_others() -> None:
    columns = Columns(id=None, text="article.body", title=None, source="outlet", targets=None)
    values = {"id": "x", "article": {"body": "Goal"}, "title": "Storm", "outlet": "north.example", "targets": 3}
    assert parse(values, 2, InputOptions(columns)) == Request(Article("2", "Goal", source="north.example"), ())
    plain = {"article.body": "Goal", "article": 3}
    assert isinstance(parse(plain, 2, InputOptions(columns)), Request)


def test_a_huge_value_is_shown_short() -> None:
    for value in (["x" * 10_000] * 10_000, {str(i): "x" * 10_000 for i in range(1_000)}, nested(900)):
        rejection = parsed(text=value)
        assert isinstance(rejection, Rejection)
        assert len(rejection.value or "") < 5_000


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8)


@settings(suppress_health_check=[HealthCheck.too_slow])  # making nested values takes long on a busy machine
@given(st.dictionaries(st.sampled_from(["id", "text", "title", "source", "targets", "stances", "path"]), VALUES))
def test_no_row_raises_and_every_answer_can_be_written(values: dict[str, Any]) -> None:
    answer = parse(values, 1, OPTIONS)
    assert answer.id is not None
    answer.id.encode()
    if isinstance(answer, Rejection):
        assert answer.code in CODES
    else:
        answer.article.text.encode()
        "".join(answer.targets).encode()
