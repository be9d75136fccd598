"""Monitoring: words that training never saw, and label shares that move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slantwise.errors import ModelError
from slantwise.monitoring import LARGE, Reference, Vocabulary, drift, stability

KNOWN = [f"word{i}" for i in range(400)]


def text(draw: np.random.Generator, vocabulary: list[str], n: int = 60) -> str:
    return " ".join(draw.choice(vocabulary, n))


@pytest.fixture
def vocabulary() -> Vocabulary:
    draw = np.random.default_rng(0)
    train = [text(draw, KNOWN) for _ in range(100)]
    validation = [text(draw, [*KNOWN, *(f"new{i}" for i in range(40))]) for _ in range(200)]
    return Vocabulary.of(train, validation)


def test_a_training_text_has_no_unknown_word(vocabulary: Vocabulary) -> None:
    assert vocabulary.unknown(text(np.random.default_rng(0), KNOWN)) == 0
    assert vocabulary.unknown("") == 0


def test_unknown_words_are_taken_for_known_in_fewer_than_one_of_sixteen_cases(vocabulary: Vocabulary) -> None:
    assert vocabulary.unknown(" ".join(f"stranger{i}" for i in range(2000))) > 15 / 16


def test_about_one_in_a_hundred_articles_like_those_of_validation_is_far(vocabulary: Vocabulary) -> None:
    draw = np.random.default_rng(1)
    like = [text(draw, [*KNOWN, *(f"new{i}" for i in range(40))]) for _ in range(2000)]
    assert 0.001 < np.mean([vocabulary.far(one) for one in like]) < 0.03


def test_another_language_is_far(vocabulary: Vocabulary) -> None:
    assert vocabulary.far("der rat der stadt hat am montag beschlossen dass die neue bahn gebaut wird")


def test_too_few_validation_articles_leave_far_open(vocabulary: Vocabulary) -> None:
    small = Vocabulary.of(["a b c"], ["a b d"] * 5)
    assert small.far_above is None
    assert not small.far("x y z")


def test_a_reference_is_read_as_it_was_written(vocabulary: Vocabulary, tmp_path: Path) -> None:
    reference = Reference({"scored": 3, "labels": {"a": 3}}, vocabulary)
    reference.save(tmp_path / "reference.json")
    again = Reference.load(tmp_path / "reference.json")
    assert again.summary == reference.summary
    assert again.vocabulary.far_above == vocabulary.far_above
    np.testing.assert_array_equal(again.vocabulary.bits, vocabulary.bits)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "summary": {}, "vocabulary": {}}'])
def test_a_damaged_reference_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "reference.json").write_text(content)
    with pytest.raises(ModelError, match=r"reference\.json"):
        Reference.load(tmp_path / "reference.json")


def test_the_index_is_that_of_a_worked_example() -> None:
    # shares .2 .3 .5 and .4 .3 .3 : .2 ln 2 + 0 + (-.2) ln .6; with a million rows chance and halves are nothing
    found = stability([200_000, 300_000, 500_000], [400_000, 300_000, 300_000])
    assert found == pytest.approx(0.2 * np.log(2) - 0.2 * np.log(0.6), abs=1e-4)


def test_without_a_change_the_index_is_near_nothing_whatever_the_sizes() -> None:
    draw = np.random.default_rng(0)
    shares = [0.5, 0.3, 0.15, 0.05]
    found = [stability(draw.multinomial(150, shares), draw.multinomial(400, shares)) for _ in range(500)]
    assert np.mean(np.array(found) > 0.1) < 0.01


def summary(counts: dict[str, int], abstained: int = 0, sure: float = 0.8) -> dict[str, object]:
    n = sum(counts.values()) + abstained
    return {"scored": n, "labels": counts, "abstained": abstained, "confidence_sum": sure * n}


def test_shares_confidence_and_abstentions_are_set_side_by_side() -> None:
    found = drift("topic", summary({"a": 500, "b": 500}), summary({"a": 100, "b": 800}, 100, 0.6))
    assert found is not None
    assert found.labels == {"a": (0.5, 0.1), "b": (0.5, 0.8)}
    assert found.sure == pytest.approx((0.8, 0.6))
    assert found.left == pytest.approx((0.0, 0.1))
    assert found.index > LARGE
    assert found.verdict == "large"


def test_the_worst_label_of_a_multilabel_task_counts() -> None:
    before = {"scored": 1000, "labels": {"a": 500, "b": 10}}
    now = {"scored": 1000, "labels": {"a": 500, "b": 300}}
    found = drift("framing", before, now)
    assert found is not None
    assert found.sure is None
    assert found.index == stability([10, 990], [300, 700])


def test_without_scores_there_is_nothing_to_compare() -> None:
    assert drift("topic", summary({"a": 5}), summary({"a": 0})) is None


def test_of_few_scores_no_drift_is_told() -> None:
    found = drift("topic", summary({"a": 50, "b": 50}), summary({"a": 0, "b": 4}))
    assert found is not None
    assert found.verdict == "unknown"
