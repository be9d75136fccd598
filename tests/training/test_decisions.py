"""Decisions are fitted on validation probabilities: calibration lowers the log loss, thresholds raise the metric, costs
and a wanted risk are kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from data.config import CleaningConfig, CorpusConfig, SplitConfig, SplitKind
from evaluation.judge import EvaluationConfig
from slantwise.command import Progress
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError
from slantwise.model import load
from slantwise.task import Task
from training.config import TaskConfig, TrackingConfig, TrainConfig
from training.decisions import DELTA, ISOTONIC_EXAMPLES, METHODS, DecisionConfig, fit_decision, select_confidence
from training.linear import LinearConfig
from training.run import train

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
    fitted = fit_decision(FRAMING, probabilities[:1500], gold[:1500], DecisionConfig(calibrate="none"), metric)
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


# --- Which calibration ------------------------------------------------------------------------------------------------


def steps(n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Three labels that hold with .05, .5 or .6 by thirds of the reported probability: a shape no sigmoid has."""
    rng = np.random.default_rng(2)
    reported = rng.random((n, 3))
    truth = np.select([reported < 0.33, reported < 0.67], [0.05, 0.5], 0.6)
    return reported.astype(np.float32), rng.random((n, 3)) < truth


def topics_of_other_shares(n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as of a classifier fitted with balanced weights: the odds of education and health are off by 1/8
    and 1/3."""
    rng = np.random.default_rng(3)
    truth = softmax(rng.normal(size=(n, 3)) + np.log([8.0, 3.0, 1.0]))
    gold = np.array([rng.choice(3, p=p) for p in truth])
    reported = truth / [8.0, 3.0, 1.0]
    return (reported / reported.sum(axis=1, keepdims=True)).astype(np.float32), gold


def honest_frames(n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    truth = rng.beta(1, 2, size=(n, 3))
    return truth.astype(np.float32), rng.random((n, 3)) < truth


@pytest.mark.parametrize(
    ("task", "data", "method"),
    [
        (TOPIC, overconfident_topics(), "temperature"),
        (TOPIC, topics_of_other_shares(), "sigmoid"),
        (FRAMING, skewed_frames(), "sigmoid"),
        (FRAMING, steps(), "isotonic"),
        (FRAMING, honest_frames(), "none"),
    ],
)
def test_the_method_that_fits_the_miscalibration_is_chosen_and_repairs_it(
    task: Task, data: tuple[np.ndarray, np.ndarray], method: str
) -> None:
    probabilities, gold = data
    half = len(gold) // 2
    decision = fit_decision(task, probabilities[:half], gold[:half], DecisionConfig(), "macro_f1")
    assert decision.calibration == decision.fitted["calibration"] == method
    calibrated = decision.calibrate(probabilities[half:], task)
    holds = gold[half:] if task is FRAMING else np.eye(3, dtype=bool)[gold[half:]]
    for k in range(3):
        for part in np.array_split(np.argsort(calibrated[:, k], kind="stable"), 4):
            expected, se = calibrated[part, k].mean(), 0.5 / math.sqrt(len(part))
            assert holds[part, k].mean() == pytest.approx(expected, abs=3 * se)


def test_a_vector_scaling_recovers_the_shares_of_the_labels() -> None:
    probabilities, gold = topics_of_other_shares(8000)
    decision = fit_decision(TOPIC, probabilities, gold, DecisionConfig(calibrate="sigmoid"), "macro_f1")
    assert decision.slopes == pytest.approx((1.0, 1.0, 1.0), abs=0.15)
    assert decision.intercepts is not None
    assert decision.intercepts[0] - decision.intercepts[2] == pytest.approx(math.log(8), abs=0.25)
    assert decision.intercepts[1] - decision.intercepts[2] == pytest.approx(math.log(3), abs=0.25)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("task", "data"), [(TOPIC, overconfident_topics(600)), (FRAMING, skewed_frames(600))])
def test_the_method_that_is_asked_for_is_fitted_and_survives_json(
    task: Task, data: tuple[np.ndarray, np.ndarray], method: str
) -> None:
    probabilities, gold = data
    decision = fit_decision(task, probabilities, gold, DecisionConfig(calibrate=method), "macro_f1")
    assert decision.calibration == method
    again = Decision.from_dict(json.loads(json.dumps(decision.to_dict())), task)
    assert again == decision
    np.testing.assert_array_equal(again.calibrate(probabilities, task), decision.calibrate(probabilities, task))
    if task is TOPIC:
        assert decision.calibrate(probabilities, task).sum(axis=1) == pytest.approx(np.ones(600), abs=1e-5)


@pytest.mark.parametrize(("task", "data"), [(TOPIC, overconfident_topics(1500)), (FRAMING, steps(1500))])
def test_isotonic_curves_never_fall_and_stay_off_0_and_1(task: Task, data: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, gold = data
    decision = fit_decision(task, probabilities, gold, DecisionConfig(calibrate="isotonic"), "macro_f1")
    assert decision.curves is not None
    for x, y in decision.curves:
        assert (np.diff(x) > 0).all()
        assert (np.diff(y) >= 0).all()
        assert y[0] > 0
        assert y[-1] < 1


def test_isotonic_curves_of_labels_that_are_told_apart_without_error_stay_off_0_and_1() -> None:
    gold = np.random.default_rng(0).random((300, 3)) < 0.5
    probabilities = np.where(gold, 0.9, 0.1).astype(np.float32)
    decision = fit_decision(FRAMING, probabilities, gold, DecisionConfig(calibrate="isotonic"), "macro_f1")
    calibrated = decision.calibrate(probabilities, FRAMING)
    assert 0 < calibrated.min() < 0.02
    assert 0.98 < calibrated.max() < 1


def test_isotonic_regression_is_compared_from_enough_examples_on() -> None:
    probabilities, gold = steps(ISOTONIC_EXAMPLES)
    enough = fit_decision(FRAMING, probabilities, gold, DecisionConfig(), "macro_f1")
    assert set(enough.fitted["held_out"]) == set(METHODS)
    few = fit_decision(FRAMING, probabilities[1:], gold[1:], DecisionConfig(), "macro_f1")
    assert set(few.fitted["held_out"]) == {"none", "temperature", "sigmoid"}
    assert few.fitted["not_compared"] == {"isotonic": "999 validation examples; compared from 1,000 on"}


def test_labels_with_few_validation_examples_share_one_curve() -> None:
    probabilities, gold = skewed_frames(200)
    config = DecisionConfig(calibrate="isotonic", min_positives=25)
    assert (gold.sum(axis=0) < 25).tolist() == [False, True, True]
    curves = fit_decision(FRAMING, probabilities, gold, config, "macro_f1").curves
    assert curves is not None
    assert curves[1] == curves[2] != curves[0]


def test_methods_are_compared_on_whole_groups() -> None:
    """Forty copies each of thirty examples: on rows of their own, isotonic regression would know the answers."""
    rng = np.random.default_rng(5)
    probabilities = np.repeat(rng.random((30, 3)).astype(np.float32), 40, axis=0)
    gold = np.repeat(rng.random((30, 3)) < 0.5, 40, axis=0)
    groups = np.repeat(np.arange(30).astype(str), 40).tolist()
    assert fit_decision(FRAMING, probabilities, gold, DecisionConfig(), "macro_f1").calibration == "isotonic"
    grouped = fit_decision(FRAMING, probabilities, gold, DecisionConfig(), "macro_f1", groups)
    assert grouped.calibration != "isotonic"


def test_with_one_group_nothing_is_compared_and_nothing_calibrated() -> None:
    probabilities, gold = overconfident_topics(50)
    decision = fit_decision(TOPIC, probabilities, gold, DecisionConfig(), "macro_f1", ["same"] * 50)
    assert decision.calibration == "none"
    assert "one group" in decision.fitted["not_compared"]["temperature"]


def test_of_methods_that_do_not_differ_clearly_the_simplest_is_taken() -> None:
    probabilities, gold = honest_frames(800)
    decision = fit_decision(FRAMING, probabilities, gold, DecisionConfig(), "macro_f1")
    held_out = decision.fitted["held_out"]
    best = min(figures["log_loss"] for figures in held_out.values())
    assert decision.calibration == "none"
    assert 0 < held_out["none"]["log_loss"] - best <= held_out["none"]["behind_best_se"]


def test_the_log_loss_before_calibration_is_that_of_the_probabilities() -> None:
    probabilities, gold = overconfident_topics(300)
    figures = fit_decision(TOPIC, probabilities, gold, DecisionConfig(), "macro_f1").fitted["held_out"]
    exact = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    assert figures["none"]["log_loss"] == pytest.approx(log_loss(gold, exact), abs=1e-5)
    assert figures["temperature"]["log_loss"] < figures["none"]["log_loss"]


def test_figures_after_calibration_are_of_examples_that_did_not_fit_it() -> None:
    """Isotonic regression of pure noise fits its own examples better than it fits others."""
    rng = np.random.default_rng(6)
    probabilities, gold = rng.random((200, 3)).astype(np.float32), rng.random((200, 3)) < 0.5
    decision = fit_decision(FRAMING, probabilities, gold, DecisionConfig(calibrate="isotonic"), "macro_f1")
    own = decision.calibrate(probabilities, FRAMING)
    own_loss = -np.log(np.where(gold, own, 1 - own)).mean()
    assert own_loss < math.log(2) < decision.fitted["held_out"]["isotonic"]["log_loss"]


# --- Costs ------------------------------------------------------------------------------------------------------------


def test_costs_change_the_label_at_the_point_that_theory_gives() -> None:
    config = DecisionConfig(calibrate="none", costs={"education": {"health": 3.0, "sport": 3.0}})
    probabilities, gold = overconfident_topics(100)
    decision = fit_decision(TOPIC, probabilities, gold, config, "macro_f1")
    assert decision.costs == ((0.0, 3.0, 3.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0))
    p = np.array([[0.24, 0.76, 0.0], [0.26, 0.74, 0.0]], np.float32)  # equal where 3 p = 1 - p
    assert decision.decide(p, TOPIC).tolist() == [1, 0]


def test_costs_of_a_multilabel_task_are_a_threshold_and_leave_other_labels_alone() -> None:
    probabilities, gold = skewed_frames(500)
    plain = fit_decision(FRAMING, probabilities, gold, DecisionConfig(), "micro_f1")
    costs = {"morality": {"false_positive": 1.0, "false_negative": 4.0}}
    decision = fit_decision(FRAMING, probabilities, gold, DecisionConfig(costs=costs), "micro_f1")
    assert plain.thresholds is not None
    assert decision.thresholds == (plain.thresholds[0], 0.2, plain.thresholds[2])
    assert decision.fitted["costs"] == costs


def test_costs_lower_the_mean_cost_on_unseen_examples() -> None:
    probabilities, gold = topics_of_other_shares()
    costs = {"sport": {"education": 20.0, "health": 20.0}}
    decision = fit_decision(TOPIC, probabilities[:2000], gold[:2000], DecisionConfig(costs=costs), "macro_f1")
    assert decision.costs is not None
    calibrated, matrix = decision.calibrate(probabilities[2000:], TOPIC), np.array(decision.costs)
    with_costs, without = (
        matrix[gold[2000:], given].mean() for given in (decision.decide(calibrated, TOPIC), calibrated.argmax(axis=1))
    )
    assert with_costs < 0.8 * without


@pytest.mark.parametrize(
    ("task", "costs", "messages"),
    [
        (
            TOPIC,
            {"weather": {"health": 1.0}},
            [r"decision\.costs\.weather: no label of task topic"],
        ),
        (
            TOPIC,
            {"sport": {"helth": 2.0, "health": -1.0}, "snow": {}},
            [r"costs\.snow", r"costs\.sport\.helth: expected education, health", r"costs\.sport\.health=-1"],
        ),
        (TOPIC, {"sport": {"health": math.nan}}, [r"costs\.sport\.health=nan; expected a number of 0 or more"]),
        (TOPIC, {"sport": 5}, [r"costs\.sport=5; expected a cost for education, health, sport"]),
        (TOPIC, {"sport": {"health": "dear"}}, [r"costs\.sport\.health='dear'; expected a number"]),
        (TOPIC, {"sport": {"sport": 2.0}}, [r"costs\.sport: the right answer costs 2, a wrong one 1"]),
        (
            FRAMING,
            {"morality": {"false_positive": 1.0}},
            [r"costs\.morality: expected false_positive and"],
        ),
        (FRAMING, {"morality": {"economic": 1.0}}, [r"costs\.morality\.economic: expected false_positive"]),
    ],
)
def test_costs_that_do_not_fit_the_task_are_all_named_at_once(
    task: Task, costs: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DecisionConfig(costs=costs).check(task)
    for message in messages:
        assert re.search(message, str(caught.value))


# --- Abstention -------------------------------------------------------------------------------------------------------


def test_abstention_is_taken_from_the_configuration() -> None:
    probabilities, gold = overconfident_topics(200)
    decision = fit_decision(TOPIC, probabilities, gold, DecisionConfig(abstain_below=0.99), "macro_f1")
    assert (decision.decide(decision.calibrate(probabilities, TOPIC), TOPIC) == -1).any()


def answers(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that are even between .5 and 1 and mean what they say: from c on, (1 - c) / 2 are wrong."""
    confidence = rng.uniform(0.5, 1, size=n)
    return confidence.astype(np.float32), rng.random(n) < confidence


def test_a_guaranteed_risk_is_kept_as_often_as_promised() -> None:
    rng, target, trials = np.random.default_rng(7), 0.15, 400
    true_risks = []
    for _ in range(trials):
        with suppress(ConfigurationError):  # no answer is no broken promise
            true_risks.append((1 - select_confidence(*answers(600, rng), target).confidence) / 2)
    assert len(true_risks) > 0.9 * trials
    assert sum(risk > target for risk in true_risks) <= DELTA * trials


def test_a_guaranteed_risk_costs_little_coverage_where_examples_are_many() -> None:
    chosen = select_confidence(*answers(20_000, np.random.default_rng(8)), 0.1)
    assert 0.34 < chosen.coverage < 0.41  # (1 - c) / 2 = .1 at c = .8, above which 40 % lie


def test_the_bound_of_answers_without_an_error_is_the_exact_one() -> None:
    chosen = select_confidence(np.full(200, 0.9, np.float32), np.ones(200, dtype=bool), 0.05, delta=0.05)
    assert chosen.bound == pytest.approx(1 - 0.05 ** (1 / 200))
    assert (chosen.accepted, chosen.errors, chosen.coverage) == (200, 0, 1.0)


def test_answers_of_equal_confidence_are_all_counted() -> None:
    """The half that is most confident is always right, and the rest, which shares one confidence, never."""
    confidence = np.where(np.arange(400) < 200, 0.9, 0.6).astype(np.float32)
    chosen = select_confidence(confidence, np.arange(400) < 200, 0.05)
    assert (chosen.confidence, chosen.accepted, chosen.errors) == (np.float32(0.9), 200, 0)


def test_a_risk_that_is_out_of_reach_is_an_error_that_says_how_far_it_is() -> None:
    rng = np.random.default_rng(9)
    confidence, right = rng.random(500).astype(np.float32), rng.random(500) < 0.6
    message = r"target_risk=0\.1 cannot be shown by the 500 validation examples: of the .* are wrong, the bound is 0\."
    with pytest.raises(ConfigurationError, match=message):
        select_confidence(confidence, right, 0.1)


def test_too_few_examples_for_a_risk_are_an_error_that_says_how_many_it_takes() -> None:
    with pytest.raises(
        ConfigurationError, match=r"by the 40 validation examples: \d+ of the most confident are needed"
    ):
        select_confidence(np.full(40, 0.9, np.float32), np.ones(40, dtype=bool), 0.05)
    with pytest.raises(ConfigurationError, match="by the 0 validation examples"):
        select_confidence(np.empty(0, np.float32), np.empty(0, dtype=bool), 0.05)


def test_a_target_risk_becomes_the_confidence_below_which_the_model_abstains() -> None:
    probabilities, gold = overconfident_topics(6000)
    config = DecisionConfig(target_risk=0.25)
    decision = fit_decision(TOPIC, probabilities[:3000], gold[:3000], config, "macro_f1")
    given = decision.decide(decision.calibrate(probabilities[3000:], TOPIC), TOPIC)
    answered = given >= 0
    assert 0.05 < answered.mean() < 0.95
    assert (given != gold[3000:])[answered].mean() <= 0.25
    assert decision.fitted["target_risk"]["bound"] <= 0.25
    assert decision.abstain_below == decision.fitted["target_risk"]["confidence"]


@pytest.mark.parametrize("option", ["abstain_below", "target_risk"])
def test_a_multilabel_task_does_not_abstain(option: str) -> None:
    probabilities, gold = skewed_frames(50)
    with pytest.raises(ConfigurationError, match=rf"decision\.{option}=0\.2; expected null for a multilabel task"):
        fit_decision(FRAMING, probabilities, gold, DecisionConfig(**{option: 0.2}), "micro_f1")


# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, False, "platt"])
def test_a_calibration_that_is_none_of_the_methods_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"decision\.calibrate={value}; expected auto, none, temperature"):
        DecisionConfig(calibrate=value)


def test_an_abstention_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"abstain_below=1\.5"):
        DecisionConfig(abstain_below=1.5)


def test_all_problems_of_a_configuration_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        DecisionConfig(calibrate="best", thresholds="best", target_risk=2.0, abstain_below=0.5, cross_fit=1)
    for name in ("calibrate=best", "thresholds=best", "target_risk=2.0", "only one of the two", "cross_fit=1"):
        assert name in str(caught.value)


# --- In a run ---------------------------------------------------------------------------------------------------------


def test_the_labels_of_the_test_split_have_no_part_in_the_decision(
    tmp_path: Path, tiny_rows: list[dict[str, Any]], write_jsonl: Callable[..., Path]
) -> None:
    splits = ["train", "train", "validation", "test"]
    rows = [{**row, "split": splits[i // 3 % 4]} for i, row in enumerate(tiny_rows)]
    shuffled = [{**row, "topic": "health"} if row["split"] == "test" else row for row in rows]
    decisions = []
    for name, corpus in (("honest", rows), ("shuffled", shuffled)):
        config = TrainConfig(
            task=TaskConfig("topic"),
            corpus=CorpusConfig(name="tiny", path=str(write_jsonl(corpus, f"{name}.jsonl"))),
            cleaning=CleaningConfig(),
            split=SplitConfig(kind=SplitKind.given),
            classifier=LinearConfig(C=[1.0], char_ngrams=[0, 0]),
            decision=DecisionConfig(),
            evaluation=EvaluationConfig(resamples=10),
            tracking=TrackingConfig(enabled=False),
            name=name,
            run_dir=str(tmp_path / name),
        )
        result = train(config, "name: test\n", Progress(quiet=True))
        decisions.append(load(result.directory).heads["topic"].decision)
    assert decisions[0].calibration != "none"
    assert decisions[0] == decisions[1]
