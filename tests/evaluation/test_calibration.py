"""Risk against coverage, the calibration error of chance, and the facts that a report gives of a decision."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from evaluation import plots
from evaluation.calibration import ece_by_chance, risk_coverage
from evaluation.judge import decision_facts
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from slantwise.decision import Decision
from slantwise.task import Task

TOPIC = Task("topic", "multiclass", ("education", "health", "sport"))
FRAMING = Task("framing", "multilabel", ("economic", "morality"))


def predictions_of(task: Task, probabilities: np.ndarray, gold: np.ndarray, decision: Decision) -> Predictions:
    """As a head with this decision makes them, with the probabilities from before its calibration."""
    names = [f"a{i}" for i in range(len(gold))]
    p = probabilities.astype(np.float32)
    predicted = decision.decide(decision.calibrate(p, task), task)
    nothing = [None] * len(gold)
    return Predictions(task, "test", names, names, gold, p, predicted, names, nothing, nothing)


def drawn_topics(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that mean what they say."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.5] * 3, size=n)
    return p, np.array([rng.choice(3, p=row) for row in p])


# --- Risk and coverage ------------------------------------------------------------------------------------------------


def test_risk_is_the_share_of_wrong_answers_among_the_more_confident() -> None:
    curve = risk_coverage([0.6, 0.9, 0.8, 0.7], [False, True, False, True])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_answers_of_equal_confidence_enter_together_whatever_their_order() -> None:
    for right in ([True, False, True], [False, True, True]):
        curve = risk_coverage([0.5, 0.5, 0.9], right)
        assert curve.coverage == pytest.approx([1 / 3, 1])
        assert curve.risk == pytest.approx([0, 1 / 3])
        assert curve.aurc == pytest.approx(2 / 3 * 1 / 3)


def test_confidences_that_tell_right_from_wrong_have_less_area_than_those_that_do_not() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(5000) < 0.7
    told, blind = (risk_coverage(c, right).aurc for c in (right + rng.random(5000), rng.random(5000)))
    assert blind == pytest.approx(0.3, abs=0.03)
    assert told == pytest.approx(0.3 + 0.7 * np.log(0.7), abs=0.02)  # of a perfect order (Geifman et al. 2019)


def test_no_answers_have_no_curve() -> None:
    curve = risk_coverage([], [])
    assert np.isnan(curve.aurc)
    assert curve.thinned(10) == ([], [])


def test_a_thinned_curve_keeps_its_ends_and_lies_on_the_curve() -> None:
    rng = np.random.default_rng(1)
    curve = risk_coverage(rng.random(5000), rng.random(5000) < 0.7)
    coverage, risk = curve.thinned(50)
    assert 40 <= len(coverage) <= 50
    assert (coverage[0], coverage[-1]) == (curve.coverage[0], 1.0)
    on_curve = dict(zip(curve.coverage.tolist(), curve.risk.tolist(), strict=True))
    assert all(on_curve[c] == r for c, r in zip(coverage, risk, strict=True))


# --- Calibration error by chance --------------------------------------------------------------------------------------


def test_the_error_of_probabilities_that_are_right_is_the_one_by_chance() -> None:
    measured, chance = [], []
    for seed in range(10):
        predictions = predictions_of(TOPIC, *drawn_topics(400, seed), Decision())
        measured.append(compute(predictions, ["ece"])["ece"])
        chance.append(ece_by_chance(predictions, seed=seed))
    assert np.mean(chance) > 0.02
    assert np.mean(measured) == pytest.approx(np.mean(chance), rel=0.2)


def test_the_error_by_chance_falls_with_the_square_root_of_the_examples() -> None:
    few, many = (ece_by_chance(predictions_of(TOPIC, *drawn_topics(n), Decision())) for n in (500, 8000))
    assert few / many == pytest.approx(4, rel=0.3)


def test_the_error_by_chance_of_a_multilabel_task_is_that_of_its_label_decisions() -> None:
    rng = np.random.default_rng(2)
    p = rng.random((600, 2))
    predictions = predictions_of(FRAMING, p, rng.random((600, 2)) < p, Decision())
    assert ece_by_chance(predictions) == pytest.approx(compute(predictions, ["ece"])["ece"], rel=0.5)


# --- Facts ------------------------------------------------------------------------------------------------------------


def test_facts_of_a_temperature_hold_the_figures_from_before() -> None:
    p, gold = drawn_topics(800)
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    decision = Decision((1 / 3,) * 3, (0.0,) * 3, fitted={"calibration": "temperature"})
    predictions = predictions_of(TOPIC, sharp, gold, decision)
    facts = decision_facts(decision, TOPIC, predictions)
    assert facts["calibration"] == "temperature"
    assert facts["temperature"] == pytest.approx(3)
    assert facts["uncalibrated_ece"] == compute(predictions, ["ece"])["ece"] > 3 * facts["ece_by_chance"]
    assert facts["uncalibrated_ece_debiased"] == compute(predictions, ["ece_debiased"])["ece_debiased"]
    assert facts["fitted"] == {"calibration": "temperature"}
    json.dumps(facts, allow_nan=False)


def test_facts_say_which_share_is_left_out_and_how_often_the_rest_is_wrong() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]])
    decision = Decision(abstain_below=0.5)
    facts = decision_facts(decision, TOPIC, predictions_of(TOPIC, p, np.array([0, 1, 0, 2]), decision))
    selection = facts["selection"]
    assert (selection["abstained"], selection["risk"]) == (0.25, pytest.approx(1 / 3))
    assert selection["coverage"] == [0.25, 0.5, 0.75, 1.0]
    assert selection["risks"] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])  # the one left out would have been right


def test_facts_of_a_model_that_never_answers_have_no_risk() -> None:
    decision = Decision(abstain_below=1.0)
    p, gold = drawn_topics(20)
    facts = decision_facts(decision, TOPIC, predictions_of(TOPIC, p, gold, decision))
    assert (facts["selection"]["abstained"], facts["selection"]["risk"]) == (1.0, None)


def test_facts_of_costs_compare_the_labels_given_with_the_most_probable_ones() -> None:
    costs = ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (8.0, 8.0, 0.0))
    decision = Decision(costs=costs)
    p, gold = np.array([[0.6, 0.0, 0.4], [0.9, 0.1, 0.0]]), np.array([2, 0])
    facts = decision_facts(decision, TOPIC, predictions_of(TOPIC, p, gold, decision))
    assert facts["costs"]["sport"] == {"education": 8.0, "health": 8.0, "sport": 0.0}
    assert (facts["mean_cost"], facts["mean_cost_of_most_probable"]) == (0.0, 4.0)


def test_facts_of_pooled_folds_are_taken_from_the_probabilities_that_are_given() -> None:
    p, gold = drawn_topics(60)
    predictions = predictions_of(TOPIC, p, gold, Decision())
    other = replace(predictions, probabilities=predictions.probabilities[:, ::-1].copy())
    given = decision_facts(Decision((2.0,) * 3, (0.0,) * 3), TOPIC, predictions, other)
    assert given["selection"] == decision_facts(Decision(), TOPIC, other)["selection"]


def test_facts_of_a_multilabel_decision_are_its_thresholds() -> None:
    p = np.random.default_rng(3).random((50, 2))
    decision = Decision(thresholds=(0.3, 0.6))
    facts = decision_facts(decision, FRAMING, predictions_of(FRAMING, p, p > 0.5, decision))
    assert facts["thresholds"] == {"economic": 0.3, "morality": 0.6}
    assert "selection" not in facts


# --- Picture ----------------------------------------------------------------------------------------------------------


def test_the_picture_of_risk_and_coverage_shows_the_target_and_the_answers_given() -> None:
    curve = risk_coverage(np.linspace(0, 1, 200), np.arange(200) % 4 > 0).thinned(100)
    plain, full = (
        plots.risk_coverage(*curve, 200, chosen, target) for chosen, target in ((None, None), ((0.5, 0.2), 0.1))
    )
    texts = [
        "".join(element.itertext()).strip() for element in ET.fromstring(full).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"Risk and coverage (n = 200)", "target", "answered", "all answered"} <= set(texts)
    assert "target" not in plain
