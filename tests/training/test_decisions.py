"""Decisions are fitted on validation probabilities: calibration lowers the log loss, thresholds raise the metric."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from slantwise.errors import ConfigurationError
from slantwise.task import Task
from training.decisions import DecisionConfig, fit_decision

TOPIC = Task("topic", "multiclass", ("education", "health", "sport"))
FRAMING = Task("framing", "multilabel", ("economic", "morality", "political"))


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def overconfident_topics(n: int = 2000, factor: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(n, 3))
    gold = np.array([rng.choice(3, p=p) for p in softmax(scores)])
    return softmax(factor * scores).astype(np.float32), gold


def test_temperature_recovers_the_factor_by_which_scores_were_inflated() -> None:
    probabilities, gold = overconfident_topics(factor=4.0)
    decision = fit_decision(TOPIC, probabilities, gold, DecisionConfig(), "macro_f1")
    assert decision.slopes is not None
    assert 1 / decision.slopes[0] == pytest.approx(4.0, rel=0.15)


def test_a_handful_of_right_answers_does_not_make_the_model_certain() -> None:
    probabilities = np.full((6, 3), 0.3, np.float32)
    probabilities[np.arange(6), np.arange(6) % 3] = 0.4
    decision = fit_decision(TOPIC, probabilities, np.arange(6) % 3, DecisionConfig(), "macro_f1")
    assert decision.calibrate(probabilities, TOPIC).max() < 0.95


def test_temperature_changes_no_label() -> None:
    probabilities, gold = overconfident_topics()
    decision = fit_decision(TOPIC, probabilities, gold, DecisionConfig(), "macro_f1")
    calibrated = decision.calibrate(probabilities, TOPIC)
    assert (decision.decide(calibrated, TOPIC) == probabilities.argmax(axis=1)).all()


def test_calibration_lowers_the_log_loss_of_unseen_examples() -> None:
    probabilities, gold = overconfident_topics(4000)
    decision = fit_decision(TOPIC, probabilities[:2000], gold[:2000], DecisionConfig(), "macro_f1")
    before, after = (
        log_loss(gold[2000:], p) for p in (probabilities[2000:], decision.calibrate(probabilities[2000:], TOPIC))
    )
    assert after < before - 0.1


def skewed_frames(n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 30 %, 10 % and 3 %, with scores that are right in order but far too low."""
    rng = np.random.default_rng(1)
    gold = rng.random((n, 3)) < [0.3, 0.1, 0.03]
    logits = np.where(gold, 0.0, -3.0) + rng.normal(size=(n, 3)) - 2.0
    return (1 / (1 + np.exp(-logits))).astype(np.float32), gold


@pytest.mark.parametrize(("metric", "average"), [("micro_f1", "micro"), ("macro_f1", "macro")])
def test_thresholds_beat_one_half_on_the_metric_they_were_fitted_for(metric: str, average: str) -> None:
    probabilities, gold = skewed_frames()
    fitted = fit_decision(FRAMING, probabilities[:1500], gold[:1500], DecisionConfig(calibrate=False), metric)
    predicted = fitted.decide(probabilities[1500:], FRAMING)
    with_half = f1_score(gold[1500:], probabilities[1500:] >= 0.5, average=average, zero_division=0.0)
    assert f1_score(gold[1500:], predicted, average=average, zero_division=0.0) > with_half + 0.1


def test_labels_with_few_validation_examples_share_one_threshold() -> None:
    probabilities, gold = skewed_frames(200)
    config = DecisionConfig(min_positives=15)
    rare = gold.sum(axis=0) < config.min_positives
    assert rare.sum() == 1
    alone = fit_decision(FRAMING, probabilities, gold, config, "micro_f1").thresholds
    together = fit_decision(
        FRAMING, probabilities, gold, DecisionConfig(thresholds="global", min_positives=15), "micro_f1"
    )
    assert alone is not None
    assert together.thresholds is not None
    assert alone[2] == together.thresholds[2]
    assert len(set(together.thresholds)) == 1


def test_a_label_that_validation_never_shows_is_left_uncalibrated_and_does_not_crash() -> None:
    probabilities, gold = skewed_frames(100)
    gold[:, 2] = False
    decision = fit_decision(FRAMING, probabilities, gold, DecisionConfig(), "micro_f1")
    assert np.isfinite(decision.calibrate(probabilities, FRAMING)).all()


def test_abstention_is_taken_from_the_configuration() -> None:
    probabilities, gold = overconfident_topics(200)
    decision = fit_decision(TOPIC, probabilities, gold, DecisionConfig(abstain_below=0.99), "macro_f1")
    assert (decision.decide(decision.calibrate(probabilities, TOPIC), TOPIC) == -1).any()


def test_an_abstention_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"abstain_below=1\.5"):
        DecisionConfig(abstain_below=1.5)
