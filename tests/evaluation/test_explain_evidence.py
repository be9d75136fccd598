"""Evidence and how it is judged, on made-up models whose answers can be told from the text."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import pytest

from evaluation.evidence import DRAWS, choose_evidence, faithfulness, occlusion, random_choices, without
from slantwise.article import Example
from slantwise.mentions import sentences

TEXT = "Title here\n\nA goal fell. Rain came. The crowd sang.\n\nGoal again. Home."
HELD = sentences(TEXT)


def by_goals(examples: Sequence[Example]) -> np.ndarray:
    """.2, and .3 more for each goal in the text."""
    return np.array([0.2 + 0.3 * example.text.lower().count("goal") for example in examples])


def test_a_sentence_that_is_left_out_leaves_the_others_as_they_are() -> None:
    assert [TEXT[a:b].strip() for a, b in HELD] == [
        "Title here", "A goal fell.", "Rain came.", "The crowd sang.", "Goal again.", "Home."
    ]  # fmt: skip
    assert without(Example(TEXT, "Home"), HELD, {2, 5}) == Example(
        "Title here\n\nA goal fell. The crowd sang.\n\nGoal again.", "Home"
    )


def test_occlusion_weighs_a_sentence_by_the_fall_without_it() -> None:
    np.testing.assert_allclose(occlusion(by_goals, Example(TEXT), HELD), [0, 0.3, 0, 0, 0.3, 0], atol=1e-12)


def test_occlusion_of_a_single_sentence_is_undefined() -> None:
    assert np.isnan(occlusion(by_goals, Example("Goal"), [(0, 4)])).all()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.1, 0.5, -2.0, 0.2, 0.4, 0.3], [1, 4]),  # a fifth of six, rounded up
        ([0.0, 0.5, -2.0, 0.04, 0.0, 0.0], [1]),  # less than a tenth of the strongest is none
        ([-0.1, -0.5, 0.0, 0.0, 0.0, 0.0], []),
        ([0.2], [0]),
        ([float("nan")], []),
        ([], []),
    ],
)
def test_evidence_is_what_speaks_most_for_a_label(weights: list[float], expected: list[int]) -> None:
    assert choose_evidence(np.array(weights)) == expected


def test_faithfulness_of_the_right_evidence() -> None:
    found = faithfulness(by_goals, Example(TEXT), HELD, [4, 1])
    assert found is not None
    assert found.probability == pytest.approx(0.8)
    assert found.comprehensiveness == pytest.approx(0.6)
    assert found.sufficiency == pytest.approx(0)
    # of the 14 other pairs of sentences, 6 hold neither goal and 8 one of the two
    assert sorted(found.random_falls) == pytest.approx([0] * 6 + [0.3] * 8)
    assert found.beaten == 14


def test_faithfulness_of_the_wrong_evidence() -> None:
    found = faithfulness(by_goals, Example(TEXT), HELD, [0, 2])
    assert found is not None
    assert found.comprehensiveness == pytest.approx(0)
    assert found.sufficiency == pytest.approx(0.6)
    assert found.beaten == 0


@pytest.mark.parametrize("evidence", [[], range(6)], ids=["none", "all"])
def test_without_evidence_or_without_anything_else_there_is_nothing_to_compare(evidence: Sequence[int]) -> None:
    assert faithfulness(by_goals, Example(TEXT), HELD, evidence) is None


def test_draws_differ_from_each_other_and_from_the_evidence_and_repeat_with_the_seed() -> None:
    drawn = random_choices(30, [4, 2, 9], seed=0)
    assert len(set(drawn)) == DRAWS
    assert all(len(set(each)) == 3 for each in drawn)
    assert (2, 4, 9) not in drawn
    assert drawn == random_choices(30, [9, 4, 2], seed=0)
    assert drawn != random_choices(30, [9, 4, 2], seed=1)


def test_where_there_are_few_choices_all_of_them_are_taken() -> None:
    assert random_choices(4, [1], seed=0) == [(0,), (2,), (3,)]
    assert len(random_choices(7, [0, 1], seed=0)) == comb(7, 2) - 1
