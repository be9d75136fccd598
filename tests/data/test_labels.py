"""Cells become labels, or a reason why they cannot."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from data.config import CorpusConfig, LabelsConfig
from data.labels import (
    CANONICAL,
    STANDARD,
    LabelError,
    LabelReader,
    krippendorff_alpha,
    label_configs,
    make_task,
    value_key,
)
from slantwise.errors import ConfigurationError


def reader(task: str, **keys: Any) -> LabelReader:
    config = LabelsConfig(**keys)
    return LabelReader(make_task(task, config), config)


def topic(**keys: Any) -> LabelReader:
    return reader("topic", **{"columns": ["topic"], "labels": ["art", "sport", "war"], **keys})


def framing(**keys: Any) -> LabelReader:
    return reader("framing", **{"columns": ["frames"], "labels": ["art", "sport", "war"], **keys})


def stance(**keys: Any) -> LabelReader:
    return reader("stance", **{"columns": ["stance"], "target": "target", **keys})


def error_of(read: Any, row: dict[str, Any]) -> LabelError:
    with pytest.raises(LabelError) as caught:
        read(row)
    return caught.value


# which configuration, which task


def test_a_corpus_without_label_configuration_is_canonical() -> None:
    assert label_configs(CorpusConfig(path="x")) == CANONICAL


def test_a_corpus_with_one_task_has_no_other() -> None:
    config = LabelsConfig(columns=["section"])
    assert label_configs(CorpusConfig(path="x", topic=config)) == {"topic": config}


@pytest.mark.parametrize("name", ["topic", "framing", "stance"])
def test_the_standard_labels_are_the_default(name: str) -> None:
    assert make_task(name, CANONICAL[name]) == STANDARD[name]


def test_a_corpus_may_bring_labels_and_kind() -> None:
    task = framing(kind="multiclass").task
    assert (task.kind, task.labels) == ("multiclass", ("art", "sport", "war"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "binary"}, "kind=binary"),
        ({"columns": []}, "columns is empty"),
        ({"map": {"1": "sprot"}}, "sprot"),
        ({"labels": ["art", "art"]}, "named twice: art"),
        ({"kind": "multilabel", "largest": True}, "kind=multiclass"),
        ({"soft": True}, "soft needs shares"),
        ({"indicators": True, "largest": True, "columns": ["art", "war"]}, "indicators are both set"),
        ({"largest": True, "columns": ["art", "oops"]}, r"\['oops'\]"),
    ],
)
def test_a_label_configuration_that_cannot_work(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        topic(**keys)


# codes


@pytest.mark.parametrize("value", [2, 2.0, "2", " 2 ", "2.0"])
def test_numeric_codes_are_one_code_however_they_are_written(value: Any) -> None:
    assert topic(map={"2": "sport"}).labels_of({"topic": value}) == ["sport"]


@pytest.mark.parametrize("value", [2.5, "02", "2.00", "v2.0", True])
def test_what_is_another_code_is_not_taken_for_it(value: Any) -> None:
    assert value_key(value) != "2"


@pytest.mark.parametrize("code", ["-1", "-1.0"])
def test_a_code_may_be_negative_and_written_either_way_in_the_map(code: str) -> None:
    assert topic(map={code: "war"}).labels_of({"topic": -1.0}) == ["war"]


def test_values_beside_the_map_are_labels_themselves() -> None:
    assert topic(map={"s": "sport"}).labels_of({"topic": "art"}) == ["art"]


def test_a_map_may_be_written_with_numbers_and_truth_values() -> None:
    read = topic(map={2: "war", -1.0: "art", True: "sport"}).labels_of
    assert [read({"topic": value}) for value in ("2.0", -1, "TRUE", True)] == [["war"], ["art"], ["sport"], ["sport"]]


@pytest.mark.parametrize("value", [Decimal("2"), Decimal("2.00")])
def test_a_decimal_is_the_code_of_its_number(value: Any) -> None:
    assert value_key(value) == "2"


def test_a_blank_cell_may_be_a_label() -> None:
    read = topic(map={"": "art"}).labels_of
    assert read({"topic": " "}) == read({}) == ["art"]


def test_labels_that_yaml_took_for_truth_values_are_explained() -> None:
    error = error_of(topic(labels=["True", "False"]).labels_of, {"topic": "yes"})
    assert "YAML reads a bare yes" in str(error)
    assert topic(labels=["True", "False"]).labels_of({"topic": "true"}) == ["True"]
    assert topic(labels=["true", "false"]).labels_of({"topic": "true"}) == ["true"]


# one label


@pytest.mark.parametrize("row", [{}, {"topic": None}, {"topic": ""}, {"topic": "99"}, {"topic": 99.0}, {"topic": []}])
def test_absent_null_empty_and_missing_codes_are_not_labelled(row: dict[str, Any]) -> None:
    assert topic(missing=["99"]).labels_of(row) is None


def test_a_value_to_drop_is_set_aside_on_purpose() -> None:
    error = error_of(topic(drop=["No agreement"]).labels_of, {"topic": "No agreement"})
    assert error.expected_drop
    assert (error.field, error.value) == ("topic", "No agreement")


@pytest.mark.parametrize("value", ["Sport", "sprot", "sports"])
def test_an_unknown_label_gets_a_hint(value: str) -> None:
    error = error_of(topic().labels_of, {"topic": value})
    assert not error.expected_drop
    assert (error.field, error.value) == ("topic", value)
    assert str(error) == "unknown label; expected one of art, sport, war; did you mean 'sport'?"


def test_an_unknown_label_like_no_other_gets_no_hint() -> None:
    assert str(error_of(topic().labels_of, {"topic": "xyz"})) == "unknown label; expected one of art, sport, war"


def test_a_long_label_set_is_shortened() -> None:
    message = str(error_of(reader("topic", columns=["topic"]).labels_of, {"topic": "economy business and finance"}))
    assert "(17 labels); did you mean 'economy_business_and_finance'?" in message


@pytest.mark.parametrize(("value", "meant"), [("Foreign", False), ("sprot", True)])
def test_where_no_labels_were_named_an_unknown_one_tells_how_to(value: str, meant: bool) -> None:
    message = str(error_of(reader("topic", columns=["topic"]).labels_of, {"topic": value}))
    assert "'corpus.topic.labels=[...]'" in message
    assert "'+corpus.topic.map={<word>: <label>}'" in message
    assert ("did you mean" in message) == meant


@pytest.mark.parametrize("value", [["art", "war"], "art;war"])
def test_several_labels_for_one_are_refused(value: Any) -> None:
    error = error_of(topic(separator=";").labels_of, {"topic": value})
    assert str(error) == "several labels where the task takes one"
    assert error.value == ["art", "war"]


def test_a_list_of_one_is_one_label() -> None:
    assert topic().labels_of({"topic": ["art"]}) == ["art"]


@pytest.mark.parametrize("value", [{"label": "art"}, [["art"]]])
def test_a_label_inside_something_is_refused(value: Any) -> None:
    assert str(error_of(topic().labels_of, {"topic": value})) == "a single label was expected"


# several labels


def test_an_empty_list_is_labelled_with_none() -> None:
    assert framing().labels_of({"frames": []}) == []
    assert framing().labels_of({"frames": None}) is None


@pytest.mark.parametrize("cell", ["art;war", " art ; war; ", "art;war;art"])
def test_a_separator_splits_a_cell(cell: str) -> None:
    assert framing(separator=";").labels_of({"frames": cell}) == ["art", "war"]


def test_a_blank_cell_is_not_labelled() -> None:
    assert framing(separator=";").labels_of({"frames": " "}) is None


@pytest.mark.parametrize("cell", ['["art", "war"]', "['art', 'war']", ["art", "war"]])
def test_a_list_may_be_written_in_a_cell(cell: Any) -> None:
    assert framing().labels_of({"frames": cell}) == ["art", "war"]


def test_several_columns_are_joined_without_their_missing_codes() -> None:
    read = framing(columns=["f1", "f2"], missing=["99"], map={"1": "art", "2": "war"}).labels_of
    assert read({"f1": "1", "f2": "2"}) == ["art", "war"]
    assert read({"f1": "1", "f2": "99"}) == ["art"]
    assert read({"f1": "2", "f2": 2.0}) == ["war"]
    assert read({"f1": None, "f2": None}) is None


@pytest.mark.parametrize(("yes", "no"), [(1, 0), ("1", "0"), (1.0, 0.0), (True, False), ("TRUE", "false")])
def test_indicators_are_one_column_a_label(yes: Any, no: Any) -> None:
    read = framing(columns=["art", "s", "war"], map={"s": "sport"}, indicators=True).labels_of
    assert read({"art": yes, "s": yes, "war": no}) == ["art", "sport"]
    assert read({"art": no, "s": no, "war": no}) == []


@pytest.mark.parametrize("value", ["2", "maybe", 0.5, "", None])
def test_an_indicator_that_is_neither_is_refused(value: Any) -> None:
    error = error_of(framing(columns=["art", "war"], indicators=True).labels_of, {"art": 1, "war": value})
    assert (error.field, error.value) == ("war", value)
    assert str(error).startswith("0 or 1 was expected")


def test_empty_indicators_are_0_where_an_empty_cell_is_a_missing_label() -> None:
    read = framing(columns=["art", "war"], indicators=True, missing=[""]).labels_of
    assert read({"art": "x", "war": ""}) == ["art"]
    assert read({"art": "", "war": None}) == []


def test_a_row_whose_indicators_are_all_empty_is_not_labelled() -> None:
    assert framing(columns=["art", "war"], indicators=True).labels_of({"art": "", "war": None}) is None


def test_an_indicator_column_that_is_no_label_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\['oops'\]"):
        framing(columns=["art", "oops"], indicators=True)


def test_indicators_of_a_task_of_one_label() -> None:
    read = topic(columns=["art", "war"], indicators=True).labels_of
    assert read({"art": 0, "war": 1}) == ["war"]
    assert read({"art": 0, "war": 0}) is None
    assert str(error_of(read, {"art": 1, "war": 1})) == "several labels where the task takes one"


# stances


def test_a_row_is_one_stance() -> None:
    assert stance().stances_of({"target": "  Harbour\n Plan ", "stance": "favor"}) == [
        {"target": "Harbour Plan", "stance": "favor", "start": None, "end": None}
    ]


@pytest.mark.parametrize("row", [{"target": "x"}, {"target": "x", "stance": ""}, {"target": "x", "stance": None}])
def test_a_row_without_stance_is_not_labelled(row: dict[str, Any]) -> None:
    assert stance().stances_of(row) is None


@pytest.mark.parametrize("target", [None, "", "  ", 7])
def test_a_stance_without_target_is_refused(target: Any) -> None:
    error = error_of(stance().stances_of, {"target": target, "stance": "favor"})
    assert (error.field, error.value, str(error)) == ("target", target, "the target is missing")


def test_one_target_for_all_rows() -> None:
    (found,) = stance(target=None, target_name="the tax").stances_of({"stance": "against"}) or []
    assert (found["target"], found["stance"]) == ("the tax", "against")


NESTED = {"nested": "targets", "target": "mention", "columns": ["polarity"], "start": "from", "end": "to"}


def test_a_column_may_be_named_as_the_target_that_its_stances_are_towards() -> None:
    read = stance(columns=["tax", "city council"], target=None, map={"+": "favor"}).stances_of
    assert [(s["target"], s["stance"]) for s in read({"tax": "+", "city council": "neutral"}) or []] == [
        ("tax", "favor"),
        ("city council", "neutral"),
    ]
    assert [s["target"] for s in read({"tax": "", "city council": "neutral"}) or []] == ["city council"]
    assert read({"tax": "", "city council": None}) is None


@pytest.mark.parametrize("key", ["nested", "target", "target_name"])
def test_several_columns_of_stances_name_their_targets_themselves(key: str) -> None:
    with pytest.raises(ConfigurationError, match="named as it is"):
        make_task("stance", LabelsConfig(columns=["a", "b"], **{key: "x"}))


def test_nested_stances_may_stand_in_objects_of_their_own_or_in_a_cell() -> None:
    read = stance(nested="e", target="who.name", columns=["label.sent"], start="span.0", end="span.1").stances_of
    entries = [{"who": {"name": "Ann"}, "label": {"sent": "favor"}, "span": [3, 6]}]
    wanted = [{"target": "Ann", "stance": "favor", "start": 3, "end": 6}]
    assert read({"e": entries}) == read({"e": json.dumps(entries)}) == wanted


def test_nested_stances_carry_their_spans() -> None:
    read = stance(**NESTED, map={"2": "against", "6": "favor"}).stances_of
    entries = [
        {"mention": "Ann", "polarity": 6.0, "from": 0, "to": 3},
        {"mention": "Bo", "polarity": 2.0, "from": 9, "to": 11},
    ]
    assert read({"targets": entries}) == [
        {"target": "Ann", "stance": "favor", "start": 0, "end": 3},
        {"target": "Bo", "stance": "against", "start": 9, "end": 11},
    ]


@pytest.mark.parametrize("value", [4, 4.0, "4"])
def test_a_span_may_come_from_a_csv_cell(value: Any) -> None:
    (found,) = stance(start="start").stances_of({"target": "x", "stance": "favor", "start": value}) or []
    assert found["start"] == 4
    assert isinstance(found["start"], int)


@pytest.mark.parametrize("value", ["four", 4.5, -1])
def test_a_span_that_is_no_position_is_refused(value: Any) -> None:
    error = error_of(stance(start="start").stances_of, {"target": "x", "stance": "favor", "start": value})
    assert (error.field, error.value, str(error)) == ("start", value, "a character position was expected")


@pytest.mark.parametrize("entries", [None, "", [], [{"mention": "Ann", "polarity": None}]])
def test_no_nested_stance_is_not_labelled(entries: Any) -> None:
    assert stance(**NESTED).stances_of({"targets": entries}) is None


@pytest.mark.parametrize("entries", ["Ann", {"mention": "Ann"}, ["Ann"]])
def test_nested_stances_must_be_a_list_of_objects(entries: Any) -> None:
    error = error_of(stance(**NESTED).stances_of, {"targets": entries})
    assert (error.field, str(error)) == ("targets", "a list of objects was expected")


def test_an_unknown_nested_stance_names_the_key_within_the_column() -> None:
    error = error_of(stance(**NESTED).stances_of, {"targets": [{"mention": "Ann", "polarity": "favour"}]})
    assert error.field == "targets.polarity"
    assert "did you mean 'favor'?" in str(error)


# values outside the label set, rows without a label


def test_values_outside_the_label_set_may_count_as_none() -> None:
    read = framing(ignore_unknown=True).labels_of
    assert read({"frames": ["art", "opera"]}) == ["art"]
    assert read({"frames": ["opera"]}) == []
    assert topic(ignore_unknown=True).labels_of({"topic": "opera"}) is None


@pytest.mark.parametrize("row", [{"frames": []}, {"frames": None}, {}, {"frames": ["opera"]}])
def test_rows_without_a_label_may_be_set_aside(row: dict[str, Any]) -> None:
    error = error_of(framing(ignore_unknown=True, drop_unlabelled=True).labels_of, row)
    assert error.expected_drop
    assert (error.field, error.value) == ("frames", row.get("frames"))


def test_rows_without_a_stance_may_be_set_aside() -> None:
    assert error_of(stance(drop_unlabelled=True).stances_of, {"target": "x", "stance": ""}).expected_drop
    assert error_of(stance(**NESTED, drop_unlabelled=True).stances_of, {"targets": []}).field == "targets"


# the largest of several shares


SHARES = {"columns": ["pro", "con", "neutral"], "largest": True, "map": {"pro": "favor", "con": "against"}}


def test_the_largest_share_is_the_label() -> None:
    read = stance(**SHARES, target=None, target_name="x").stances_of
    (found,) = read({"pro": "0.25", "con": "5e-1", "neutral": 0}) or []
    assert found["stance"] == "against"
    assert read({"pro": "", "con": None}) is None
    read_topic = topic(columns=["art", "war"], largest=True).labels_of
    assert read_topic({"art": 3, "war": 2}) == ["art"]


def test_a_tie_of_shares_is_set_aside() -> None:
    error = error_of(topic(columns=["art", "war", "sport"], largest=True).labels_of, {"art": 2, "war": 2, "sport": "1"})
    assert error.expected_drop
    assert str(error) == "a tie between art and war"


@pytest.mark.parametrize("value", ["", None, "many", "nan", float("inf"), [1]])
def test_a_share_that_is_no_number_is_refused(value: Any) -> None:
    error = error_of(topic(columns=["art", "war"], largest=True).labels_of, {"art": 2, "war": value})
    assert not error.expected_drop
    assert (error.field, str(error)) == ("war", "a number was expected")


# annotators


def annotated(**keys: Any) -> LabelReader:
    return topic(**{"columns": [], "annotators": ["a1", "a2", "a3"], "missing": ["?"], **keys})


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"a1": "art", "a2": "war", "a3": "art"}, ["art"]),
        ({"a1": "?", "a2": "war", "a3": ""}, ["war"]),
        ({"a1": "?", "a2": None}, None),
    ],
)
def test_the_label_is_the_one_that_most_annotators_gave(row: dict[str, Any], label: list[str] | None) -> None:
    assert annotated().labels_of(row) == label


def test_a_tie_of_annotators_is_set_aside() -> None:
    error = error_of(annotated().labels_of, {"a1": "art", "a2": "war", "a3": "?"})
    assert error.expected_drop
    assert (error.field, error.value) == ("a1", {"art": 1, "war": 1})


def test_the_annotations_may_stand_in_one_cell() -> None:
    read = annotated(annotators=["all"], separator="|")
    assert read.labels_of({"all": "art|war|art"}) == ["art"]
    assert read.labels_of({"all": ["art", "war", "war"]}) == ["war"]
    assert read.ratings_of({"all": "art|war|?"}) == [["art", "war"]]


def test_a_given_label_wins_over_the_annotators() -> None:
    read = annotated(columns=["topic"])
    row = {"topic": "sport", "a1": "art", "a2": "art", "a3": "war"}
    assert read.labels_of(row) == ["sport"]
    assert read.ratings_of(row) == [["art", "art", "war"]]


def test_an_annotation_that_is_no_label_is_refused() -> None:
    error = error_of(annotated().labels_of, {"a1": "art", "a2": "wars", "a3": "art"})
    assert (error.field, error.value, error.expected_drop) == ("a2", "wars", False)


def test_every_nested_stance_has_its_annotations() -> None:
    read = stance(nested="targets", target="mention", annotators=["votes"], columns=[])
    row = {"targets": [{"mention": "Ann", "votes": ["favor", "favor"]}, {"mention": "Bo", "votes": ["against"]}]}
    assert [(s["target"], s["stance"]) for s in read.stances_of(row) or []] == [("Ann", "favor"), ("Bo", "against")]
    assert read.ratings_of(row) == [["favor", "favor"], ["against"]]


# several labels from each annotator


@pytest.mark.parametrize(
    ("separator", "row"),
    [
        ("|", {"a1": "art|war", "a2": "none", "a3": "art"}),
        (None, {"a1": ["art", "war"], "a2": [], "a3": "['art']"}),
    ],
)
def test_of_several_labels_those_of_more_than_half_of_the_annotators_hold(
    separator: str | None, row: dict[str, Any]
) -> None:
    read = annotated_frames(annotators=["a1", "a2", "a3"], separator=separator)
    assert read.labels_of(row) == ["art"]
    assert read.labels_of(row | {"a3": ""}) == []  # one of two is no majority
    assert read.labels_of({"a1": "", "a2": None}) is None
    assert read.ratings_of(row) == [["yes", "no", "yes"], ["no", "no", "no"], ["yes", "no", "no"]]


@pytest.mark.parametrize("cell", [[["art", "war"], ["art"], []], ["art|war", "art", "none"]])
def test_one_column_may_hold_the_labels_of_each_annotator(cell: Any) -> None:
    assert annotated_frames(annotators=["all"]).shares_of({"all": cell}) == [pytest.approx([2 / 3, 0, 1 / 3])]


def annotated_frames(**keys: Any) -> LabelReader:
    return framing(**{"columns": [], "separator": "|", "missing": ["none"], "soft": True, **keys})


# shares for training


def test_shares_are_those_of_the_annotators_in_the_order_of_the_labels() -> None:
    read = annotated(soft=True, labels=["war", "art", "sport"])
    assert read.shares_of({"a1": "art", "a2": "art", "a3": "war"}) == [pytest.approx([1 / 3, 2 / 3, 0])]
    assert read.shares_of({"a1": "?", "a2": ""}) is None
    assert annotated().shares_of({"a1": "art"}) is None


def test_shares_of_a_given_label_come_from_the_annotators() -> None:
    read = annotated(columns=["topic"], soft=True, labels=["art", "war"])
    assert read.shares_of({"topic": "war", "a1": "art", "a2": "art"}) == [[1.0, 0.0]]
    assert read.shares_of({"topic": "war", "a1": ""}) == [None]


def test_shares_of_columns_add_up_to_one_and_are_none_below_zero() -> None:
    read = stance(**SHARES, target=None, target_name="x", soft=True)
    assert read.shares_of({"pro": 1, "con": "3", "neutral": 0}) == [[0.25, 0.75, 0.0]]
    assert not error_of(read.shares_of, {"pro": -1, "con": 3, "neutral": 0}).expected_drop


def test_every_nested_stance_has_its_shares() -> None:
    read = stance(nested="targets", target="mention", annotators=["votes"], columns=[], soft=True)
    row = {"targets": [{"mention": "Ann", "votes": ["favor", "neutral", "favor"]}, {"mention": "Bo", "votes": []}]}
    assert [s["target"] for s in read.stances_of(row) or []] == ["Ann"]
    assert read.shares_of(row) == [pytest.approx([2 / 3, 0, 1 / 3])]


def units(observers: list[str]) -> list[list[str]]:
    return [[value for value in unit if value != "."] for unit in zip(*observers, strict=True)]


def test_alpha_of_the_published_example_with_missing_values() -> None:
    # four observers of twelve units: Krippendorff (2011), section C
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    assert krippendorff_alpha(units(observers)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_the_published_example_of_two_observers() -> None:
    assert krippendorff_alpha(units(["0100000010", "1110010000"])) == pytest.approx(0.095, abs=5e-4)


def test_alpha_is_one_where_all_agree_and_below_zero_where_none_do() -> None:
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"]]) == 1
    assert (krippendorff_alpha([["a", "b"], ["a", "b"]]) or 0) < 0


@pytest.mark.parametrize("ratings", [[], [["a"], []], [["a", "a"], ["a", "a"]]])
def test_alpha_of_nothing_or_of_one_label_is_not_defined(ratings: list[list[str]]) -> None:
    assert krippendorff_alpha(ratings) is None
