"""Decisions: calibration keeps order and range, thresholds and abstention decide as they say, states are checked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slantwise.decision import ABSTAINED, Decision
from slantwise.errors import ModelError
from slantwise.task import Task

TOPIC = Task("topic", "multiclass", ("a", "b", "c"))
FRAMING = Task("framing", "multilabel", ("a", "b", "c"))

probability = st.floats(0, 1, width=32)
matrices = st.integers(0, 5).flatmap(lambda n: arrays(np.float32, (n, 3), elements=probability))
slopes = st.tuples(*[st.floats(1e-3, 50)] * 3)
intercepts = st.tuples(*[st.floats(-50, 50)] * 3)


def matrix(*rows: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(rows, dtype=np.float32)


def test_a_temperature_of_two_takes_square_roots() -> None:
    p = matrix([0.64, 0.32, 0.04])
    roots = np.sqrt(p) / np.sqrt(p).sum()
    assert Decision((0.5,) * 3, (0.0,) * 3).calibrate(p, TOPIC) == pytest.approx(roots, abs=1e-6)


def test_an_intercept_multiplies_the_odds_of_its_class() -> None:
    calibrated = Decision((1.0,) * 3, (np.log(2), 0.0, 0.0)).calibrate(matrix([0.2, 0.4, 0.4]), TOPIC)
    assert calibrated == pytest.approx(matrix([1 / 3, 1 / 3, 1 / 3]), abs=1e-6)


def test_a_sigmoid_scales_and_shifts_the_log_odds_of_its_label() -> None:
    p = matrix([0.8, 0.5, 0.2])
    expected = matrix([1 / (1 + np.exp(-2 * np.log(4))), 1 / (1 + np.exp(-1)), 0.2])
    assert Decision((2.0, 3.0, 1.0), (0.0, 1.0, 0.0)).calibrate(p, FRAMING) == pytest.approx(expected, abs=1e-6)


@given(matrices, slopes, intercepts)
def test_calibrated_probabilities_are_probabilities(p: Any, a: Any, b: Any) -> None:
    for task in (TOPIC, FRAMING):
        calibrated = Decision(a, b).calibrate(p, task)
        assert calibrated.dtype == np.float32
        assert calibrated.shape == p.shape
        assert ((calibrated >= 0) & (calibrated <= 1)).all()
        if task is TOPIC:
            assert calibrated.sum(axis=1) == pytest.approx(np.ones(len(p)), abs=1e-5)


@given(matrices, st.floats(0.05, 20))
def test_a_temperature_never_changes_which_label_is_most_probable(p: Any, slope: float) -> None:
    calibrated = Decision((slope,) * 3, (0.0,) * 3).calibrate(p, TOPIC)
    rows = np.arange(len(p))
    assert (calibrated[rows, p.argmax(axis=1)] >= calibrated.max(axis=1) - 1e-6).all()


CURVES = (((0.1, 0.4), (0.2, 0.6)), ((0.5,), (0.3,)), ((0.0, 0.5, 1.0), (0.01, 0.5, 0.9)))


def test_a_curve_is_linear_between_its_points_and_level_beyond_them() -> None:
    p = matrix([0.0, 0.9, 0.25], [0.25, 0.1, 1.0], [0.7, 0.5, 0.75])
    expected = matrix([0.2, 0.3, 0.255], [0.4, 0.3, 0.9], [0.6, 0.3, 0.7])
    assert Decision(curves=CURVES).calibrate(p, FRAMING) == pytest.approx(expected, abs=1e-6)


def test_the_curves_of_a_multiclass_task_are_divided_by_their_sum() -> None:
    calibrated = Decision(curves=CURVES).calibrate(matrix([0.25, 0.25, 0.5]), TOPIC)
    assert calibrated == pytest.approx(matrix([0.4, 0.3, 0.5]) / 1.2, abs=1e-6)


@given(matrices)
def test_curves_give_probabilities_and_never_fall(p: Any) -> None:
    for task in (TOPIC, FRAMING):
        calibrated = Decision(curves=CURVES).calibrate(p, task)
        assert calibrated.dtype == np.float32
        assert calibrated.shape == p.shape
        assert ((calibrated >= 0) & (calibrated <= 1)).all()
        if task is TOPIC:
            assert calibrated.sum(axis=1) == pytest.approx(np.ones(len(p)), abs=1e-5)
        else:
            for k in range(3):
                assert (np.diff(calibrated[np.argsort(p[:, k]), k]) >= 0).all()


def test_curves_that_are_0_everywhere_still_give_probabilities() -> None:
    nothing = (((0.0, 1.0), (0.0, 0.0)),) * 3
    assert Decision(curves=nothing).calibrate(matrix([0.2, 0.5, 0.3]), TOPIC) == pytest.approx(matrix([1 / 3] * 3))


@pytest.mark.parametrize(
    ("decision", "name"),
    [
        (Decision(), "none"),
        (Decision((2.0,) * 3, (0.0,) * 3), "temperature"),
        (Decision((2.0,) * 3, (0.1, 0.0, 0.0)), "sigmoid"),
        (Decision((2.0, 1.0, 1.0), (0.0,) * 3), "sigmoid"),
        (Decision(curves=CURVES), "isotonic"),
    ],
)
def test_a_decision_names_its_calibration(decision: Decision, name: str) -> None:
    assert decision.calibration == name


@given(matrices)
def test_no_calibration_leaves_probabilities_alone(p: Any) -> None:
    assert Decision().calibrate(p, TOPIC) is p


def test_multiclass_takes_the_most_probable_label() -> None:
    assert Decision().decide(matrix([0.1, 0.7, 0.2], [0.5, 0.2, 0.3]), TOPIC).tolist() == [1, 0]


def test_a_confidence_below_the_limit_abstains_and_one_at_the_limit_does_not() -> None:
    decided = Decision(abstain_below=0.5).decide(matrix([0.49, 0.26, 0.25], [0.5, 0.25, 0.25]), TOPIC)
    assert decided.tolist() == [ABSTAINED, 0]


def test_costs_change_the_label_where_the_expected_costs_are_equal() -> None:
    # a missed a costs 4, anything else 1: a is given from 4 p(a) = p(b) on, where p(c) = 0, that is from 1/5 on
    costs = ((0.0, 4.0, 4.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
    p = matrix([0.19, 0.81, 0.0], [0.21, 0.79, 0.0], [0.0, 0.4, 0.6])
    assert Decision(costs=costs).decide(p, TOPIC).tolist() == [1, 0, 2]


def test_costs_of_0_and_1_give_the_most_probable_label() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=200).astype(np.float32)
    assert (Decision(costs=((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))).best(p) == p.argmax(axis=1)).all()


def test_with_costs_the_confidence_is_that_of_the_label_given() -> None:
    costs = ((0.0, 9.0, 9.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
    decision = Decision(costs=costs, abstain_below=0.3)
    assert decision.decide(matrix([0.2, 0.8, 0.0], [0.35, 0.65, 0.0]), TOPIC).tolist() == [ABSTAINED, 0]


def test_a_label_holds_from_its_own_threshold_on() -> None:
    decided = Decision(thresholds=(0.3, 0.5, 0.9)).decide(matrix([0.3, 0.49, 0.89], [0.29, 0.5, 0.9]), FRAMING)
    assert decided.tolist() == [[True, False, False], [False, True, True]]


def test_a_threshold_that_float32_cannot_hold_is_met_by_its_own_value() -> None:
    assert Decision(thresholds=(0.1, 0.7, 0.9)).decide(matrix([0.1, 0.7, 0.9]), FRAMING).all()


def test_without_thresholds_a_label_holds_from_one_half_on() -> None:
    assert Decision().decide(matrix([0.5, 0.499, 1.0]), FRAMING).tolist() == [[True, False, True]]


@pytest.mark.parametrize("task", [TOPIC, FRAMING])
def test_no_rows_give_no_decisions(task: Task) -> None:
    none = np.zeros((0, 3), np.float32)
    decision = Decision((1.0,) * 3, (0.0,) * 3, (0.5,) * 3, 0.4)
    assert len(decision.decide(decision.calibrate(none, task), task)) == 0


@pytest.mark.parametrize(
    "decision",
    [
        Decision(),
        Decision((2.0,) * 3, (0.5,) * 3, (0.1, 0.2, 0.3)),
        Decision(abstain_below=0.7),
        Decision(curves=CURVES, costs=((0.0, 1.0, 2.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))),
        Decision(fitted={"calibration": "none", "held_out": {"none": {"log_loss": 0.5}}}),
    ],
)
def test_a_decision_survives_json(decision: Decision) -> None:
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict())), TOPIC) == decision


def test_the_state_of_an_older_release_is_read() -> None:
    old = {"slopes": [2.0] * 3, "intercepts": [0.0] * 3, "thresholds": None, "abstain_below": 0.4}
    assert Decision.from_dict(old, TOPIC) == Decision((2.0,) * 3, (0.0,) * 3, abstain_below=0.4)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"slopes": [1.0, 1.0]}, "2 slopes for 3 labels"),
        ({"intercepts": [1.0] * 4}, "4 intercepts for 3 labels"),
        ({"thresholds": []}, "0 thresholds for 3 labels"),
        ({"thresholds": [0.5, "high", 0.5]}, "thresholds holds 'high'"),
        ({"slopes": [1.0, float("nan"), 1.0]}, "slopes holds nan"),
        ({"intercepts": [1.0, None, 1.0]}, "intercepts holds None"),
        ({"abstain_below": "often"}, "abstain_below holds 'often'"),
        ({"slopes": [1.0] * 3}, "slopes and intercepts belong together"),
        ({"slopes": 1.0}, "slopes holds 1.0; expected a list"),
        ({"curves": [[[0, 1], [0, 1]]] * 2}, "2 curves for 3 labels"),
        ({"curves": [[[0, 1], [0]]] * 3}, "1 curve values for 2 curve points"),
        ({"curves": [[0.5, 0.5]] * 3}, "curve points holds 0.5; expected a list"),
        ({"curves": [[[0, 1], [0.9, 0.1]]] * 3}, "curves holds one that is empty, falls or leaves 0 to 1"),
        ({"curves": [[[1, 0], [0.1, 0.9]]] * 3}, "curves holds one that is empty, falls or leaves 0 to 1"),
        ({"curves": [[[0, 1], [0.1, 1.1]]] * 3}, "curves holds one that is empty, falls or leaves 0 to 1"),
        ({"curves": [[[], []]] * 3}, "curves holds one that is empty, falls or leaves 0 to 1"),
        ({"costs": [[0, 1, 1]] * 2}, "2 costs for 3 labels"),
        ({"costs": [[0, 1]] * 3}, "2 costs of a label for 3 labels"),
        ({"gates": [1.0] * 3}, "gates is unknown here"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"decision of task topic: .*{message}"):
        Decision.from_dict(state, TOPIC)
