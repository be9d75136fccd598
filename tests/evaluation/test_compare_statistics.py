"""Paired statistics: tests that are right as often as they say, intervals that hold what they should, honest counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from evaluation.intervals import evaluate, resample
from evaluation.metrics import compute
from evaluation.paired import (
    Contestant,
    Spread,
    bootstrap_p,
    compare,
    examples_needed,
    excludes_zero,
    flips,
    holm,
    mcnemar,
    needs_probabilities,
    permutation_test,
    resample_contestant,
    slices,
    spread,
)
from evaluation.predictions import Predictions
from slantwise.errors import ConfigurationError
from slantwise.task import Task

TOPIC = Task("topic", "multiclass", ("a", "b", "c"))
FRAMING = Task("framing", "multilabel", ("a", "b", "c"))
Random = np.random.Generator


def predictions_of(
    task: Task,
    gold: npt.ArrayLike,
    predicted: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    probabilities: npt.NDArray[Any] | None = None,
    sources: Sequence[str | None] | None = None,
) -> Predictions:
    dtype = np.int64 if task.kind == "multiclass" else np.bool_
    gold, predicted = np.asarray(gold, dtype), np.asarray(predicted, dtype)
    n, ids = len(gold), [f"e{i}" for i in range(len(gold))]
    given = np.full((n, len(task.labels)), 1 / 3) if probabilities is None else probabilities
    return Predictions(
        task, "test", ids, [f"text {i}" for i in range(n)], gold, given.astype(np.float32), predicted,
        ids if groups is None else groups, [None] * n, [None] * n if sources is None else sources,
    )  # fmt: skip


class World:
    """Articles with `size` examples each, some harder than others; models are right or wrong about them."""

    def __init__(self, rng: Random, n_groups: int, size: int = 1) -> None:
        self.rng, self.n_groups, self.size = rng, n_groups, size
        self.gold = rng.choice(3, size=n_groups * size, p=[0.5, 0.3, 0.2])
        self.groups = [f"g{i}" for i in np.repeat(np.arange(n_groups), size)]
        self.ease = np.repeat(rng.normal(size=n_groups), size)

    def model(self, skill: float = 0.0) -> Predictions:
        """Right about two examples in three; `skill` in standard deviations. It has its own luck with each article."""
        luck = np.repeat(self.rng.normal(size=self.n_groups), self.size)
        ease = self.rng.normal(size=len(self.gold)) + 0.7 * self.ease + 0.7 * luck
        wrong = (self.gold + self.rng.integers(1, 3, size=len(self.gold))) % 3
        return predictions_of(TOPIC, self.gold, np.where(ease + skill > -0.6, self.gold, wrong), self.groups)


def contestants(*models: Predictions) -> list[Contestant]:
    return [Contestant(name, [model]) for name, model in zip("abcd", models, strict=False)]


# --- The permutation test ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_groups", "size"), [(150, 1), (60, 3)], ids=["single", "grouped"])
def test_equal_models_are_told_apart_in_one_test_of_twenty(n_groups: int, size: int) -> None:
    rng = np.random.default_rng(2)
    repeats = 2000  # the share of false alarms then has a standard error of .005
    alarms = 0
    for seed in range(repeats):
        world = World(rng, n_groups, size)
        p_values, _ = permutation_test(world.model(), world.model(), ["macro_f1"], 199, seed)
        alarms += (p_values["macro_f1"] or 0.0) <= 0.05
    assert 0.04 <= alarms / repeats <= 0.06


def test_a_test_that_ignored_the_groups_would_raise_false_alarms() -> None:
    """So the test above can fail: examples of one article are not independent of each other."""
    rng = np.random.default_rng(3)
    alarms = 0
    for seed in range(300):
        world = World(rng, 40, 8)
        world.groups = [f"e{i}" for i in range(len(world.gold))]
        alarms += (
            permutation_test(world.model(), world.model(), ["accuracy"], 199, seed)[0]["accuracy"] or 0.0
        ) <= 0.05
    assert alarms / 300 > 0.1


def test_a_better_model_is_found() -> None:
    world = World(np.random.default_rng(4), 400)
    result = compare(contestants(world.model(), world.model(skill=0.6)), ["macro_f1", "accuracy"], 500, 999, 0)
    difference = result.differences["b"]["macro_f1"]
    assert difference.shown
    assert difference.p is not None
    assert difference.p <= 0.005
    assert difference.estimate.low is not None
    assert difference.estimate.low > 0


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy", "mcc"])
def test_p_value_of_a_tiny_case_is_that_of_all_swaps(metric: str) -> None:
    world = World(np.random.default_rng(5), 7, 2)
    a, b = world.model(), world.model(skill=1.0)
    codes = np.repeat(np.arange(7), 2)

    def difference(swapped: npt.NDArray[np.bool_]) -> float:
        old = predictions_of(TOPIC, world.gold, np.where(swapped, b.predicted, a.predicted))
        new = predictions_of(TOPIC, world.gold, np.where(swapped, a.predicted, b.predicted))
        return compute(new, [metric])[metric] - compute(old, [metric])[metric]

    every = [difference(np.array(swaps, dtype=bool)[codes]) for swaps in product((0, 1), repeat=7)]
    found = difference(np.zeros(14, dtype=bool))
    expected = np.mean([abs(each) >= abs(found) - 1e-12 for each in every])
    p_values, exact = permutation_test(a, b, [metric], 1000, 0)
    assert exact
    assert p_values[metric] == pytest.approx(expected)


def test_random_swaps_come_close_to_all_swaps() -> None:
    world = World(np.random.default_rng(6), 18)
    a, b = world.model(), world.model(skill=0.8)
    exact, all_taken = permutation_test(a, b, ["macro_f1"], 2**18, 0)
    drawn, drawn_all = permutation_test(a, b, ["macro_f1"], 100, 0)
    assert all_taken
    assert not drawn_all
    assert drawn["macro_f1"] == pytest.approx(exact["macro_f1"], abs=0.15)


@pytest.mark.parametrize("metric", ["mean_average_precision", "log_loss", "micro_f1"])
def test_swaps_carry_the_scores_along(metric: str) -> None:
    """Average precision of swapped examples has thresholds from both models."""
    rng = np.random.default_rng(7)
    gold = rng.random((8, 3)) < 0.4
    scores = [rng.random((8, 3)), 0.6 * rng.random((8, 3)) + 0.4 * gold]
    a, b = (predictions_of(FRAMING, gold, each > 0.5, probabilities=each) for each in scores)

    def difference(swapped: npt.NDArray[np.bool_]) -> float:
        old, new = (np.where(swapped[:, None], *pair) for pair in ((scores[1], scores[0]), (scores[0], scores[1])))
        values = [
            compute(predictions_of(FRAMING, gold, each > 0.5, probabilities=each), [metric])[metric]
            for each in (old, new)
        ]
        return values[1] - values[0]

    every = [difference(np.array(swaps, dtype=bool)) for swaps in product((0, 1), repeat=8)]
    expected = np.mean([abs(each) >= abs(every[0]) - 1e-9 for each in every])
    p_values, exact = permutation_test(a, b, [metric], 1000, 0)
    assert exact
    assert p_values[metric] == pytest.approx(expected)


def test_fewer_than_one_permutation_is_refused() -> None:
    world = World(np.random.default_rng(0), 5)
    with pytest.raises(ConfigurationError, match="permutations=0"):
        permutation_test(world.model(), world.model(), ["accuracy"], 0, 0)


def test_holm_corrects_as_the_worked_example_does() -> None:
    """Four p values, .01 .04 .03 .005: times 4, 3, 2, 1 in their order, never falling."""
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def test_challengers_are_corrected_for_their_number() -> None:
    world = World(np.random.default_rng(8), 100)
    models = [world.model(), world.model(0.3), world.model(0.4)]
    found = compare(contestants(*models), ["accuracy"], 100, 999, 0).differences
    p, corrected = ([getattr(found[name]["accuracy"], key) for name in "bc"] for key in ("p", "p_holm"))
    assert corrected == holm(p)
    assert corrected != p


# --- Intervals --------------------------------------------------------------------------------------------------------


def test_differences_are_those_of_the_same_resamples() -> None:
    world = World(np.random.default_rng(9), 80, 2)
    a, b = world.model(), world.model(0.5)
    found = compare(contestants(a, b), ["macro_f1"], 400, 19, 3).differences["b"]["macro_f1"].estimate
    drawn = resample(b, ["macro_f1"], 400, 3)[1]["macro_f1"] - resample(a, ["macro_f1"], 400, 3)[1]["macro_f1"]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.value == pytest.approx(compute(b)["macro_f1"] - compute(a)["macro_f1"])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)  # a little wider: 80 groups are not many


def test_a_single_run_gets_the_estimate_of_evaluate() -> None:
    world = World(np.random.default_rng(10), 60)
    a, b = world.model(), world.model()
    found = compare(contestants(a, b), ["macro_f1", "ece"], 200, 19, 0).estimates["a"]
    assert found == evaluate(a, ["macro_f1", "ece"], 200, 0)


def test_a_model_compared_with_itself_does_not_differ() -> None:
    model = World(np.random.default_rng(11), 60).model()
    difference = compare(contestants(model, model), ["macro_f1"], 200, 99, 0).differences["b"]["macro_f1"]
    assert (difference.estimate.value, difference.p, difference.shown, difference.needed) == (0.0, 1.0, False, None)


def test_swaps_of_a_model_with_itself_leave_its_calibration_error() -> None:
    rng = np.random.default_rng(13)
    gold, given = rng.integers(3, size=60), rng.dirichlet(np.ones(3), 60)
    model = predictions_of(TOPIC, gold, given.argmax(axis=1), [f"g{i // 2}" for i in range(60)], given)
    assert permutation_test(model, model, ["ece", "ece_debiased"], 99, 0) == ({"ece": 1.0, "ece_debiased": 1.0}, True)


def test_the_calibration_error_of_several_runs_lies_in_its_interval() -> None:
    rng = np.random.default_rng(14)
    for seed in range(20):
        given = rng.dirichlet(np.ones(3), 90)
        gold = np.array([rng.choice(3, p=p / p.sum()) for p in given])
        runs = []
        for _ in range(3):
            again = given * np.exp(0.1 * rng.normal(size=given.shape))
            again /= again.sum(axis=1, keepdims=True)
            runs.append(predictions_of(TOPIC, gold, again.argmax(axis=1), None, again))
        several = [Contestant("a", runs[:1]), Contestant("b", runs)]
        found = compare(several, ["ece"], 200, 19, seed).estimates["b"]["ece"]
        assert found.value == pytest.approx(np.mean([compute(run)["ece"] for run in runs]))
        assert 0 <= found.low < found.value < found.high  # type: ignore[operator]


def test_one_group_gives_neither_interval_nor_a_difference() -> None:
    rng = np.random.default_rng(12)
    gold = rng.integers(3, size=20)
    a = predictions_of(TOPIC, gold, rng.integers(3, size=20), ["one"] * 20)
    b = predictions_of(TOPIC, gold, gold, ["one"] * 20)
    difference = compare(contestants(a, b), ["accuracy"], 100, 99, 0).differences["b"]["accuracy"]
    assert difference.estimate.low is None
    assert difference.p == 1.0  # two swaps, and both are as large
    assert not difference.shown


def test_examples_needed_follow_the_formula_and_show_the_difference() -> None:
    found = Spread(value=0.02, resampled=None, example_variance=0.01**2, run_variance=0.0)
    expected = 500 * 0.01**2 / (0.02 / (1.959964 + 0.841621)) ** 2
    assert examples_needed(500, found) == math.ceil(expected)
    assert examples_needed(500, Spread(0.02, None, 0.01**2, 0.02**2)) is None  # the runs alone vary too much
    assert examples_needed(500, Spread(0.0, None, 0.01**2, 0.0)) is None


def test_as_many_examples_as_are_said_to_be_needed_show_it_four_times_in_five() -> None:
    world = World(np.random.default_rng(13), 4000)
    found = compare(contestants(world.model(), world.model(0.25)), ["accuracy"], 200, 19, 0).differences["b"][
        "accuracy"
    ]
    assert found.needed is not None
    rng, shown = np.random.default_rng(14), 0
    for seed in range(200):
        world = World(rng, found.needed)
        p_values, _ = permutation_test(world.model(), world.model(0.25), ["accuracy"], 199, seed)
        shown += (p_values["accuracy"] or 1.0) <= 0.05
    assert 0.65 <= shown / 200 <= 0.95  # the size was estimated too


# --- Several runs -----------------------------------------------------------------------------------------------------


def runs(world: World, n: int, deviation: float) -> list[Predictions]:
    return [world.model(skill=deviation * world.rng.normal()) for _ in range(n)]


def test_equal_configurations_whose_runs_vary_are_rarely_told_apart() -> None:
    rng, alarms, repeats = np.random.default_rng(15), 0, 250
    for seed in range(repeats):
        world = World(rng, 120)
        a, b = (Contestant(name, runs(world, 4, deviation=0.3)) for name in "ab")
        pair = (resample_contestant(each, ["accuracy"], 200, seed, i) for i, each in enumerate((a, b)))
        alarms += (bootstrap_p(spread("accuracy", *pair)) or 0.0) <= 0.05
    assert alarms / repeats <= 0.08  # the standard error is .014; without the runs' variance it would be above .3


def test_swapping_answers_of_single_runs_tells_equal_configurations_apart() -> None:
    """Why several runs are needed: the same configurations, one run of each."""
    rng, alarms = np.random.default_rng(15), 0
    for seed in range(150):
        world = World(rng, 500)
        p_values, _ = permutation_test(*runs(world, 2, deviation=0.3), ["accuracy"], 99, seed)
        alarms += (p_values["accuracy"] or 0.0) <= 0.05
    assert alarms / 150 > 0.3


def test_the_value_of_several_runs_is_their_mean_and_their_variance_widens_the_interval() -> None:
    world = World(np.random.default_rng(16), 300)
    several = runs(world, 5, deviation=0.6)
    alike = [several[0]] * 5
    names = ["accuracy"]
    found = compare(
        [Contestant("varied", several), Contestant("alike", alike), Contestant("one", several[:1])], names, 400, 19, 0
    )
    varied, same, one = (found.estimates[name]["accuracy"] for name in ("varied", "alike", "one"))
    assert varied.value == pytest.approx(np.mean([compute(run, names)["accuracy"] for run in several]))

    def width(estimate: Any) -> float:
        return float(estimate.high - estimate.low)

    assert width(varied) > 1.5 * width(one)
    assert width(same) == pytest.approx(width(one), rel=0.1)
    assert found.differences["one"]["accuracy"].test == "bootstrap"


def test_answers_of_several_runs_are_decided_by_the_majority() -> None:
    gold = [0, 1, 2, 0]
    votes = [[0, 1, 0, 0], [0, 2, 2, 1], [1, 1, 1, 2]]
    ensemble = Contestant("new", [predictions_of(TOPIC, gold, each) for each in votes])
    wrong = Contestant("old", [predictions_of(TOPIC, gold, [1, 0, 0, 1])])
    assert [(flip["id"], flip["challenger"]) for flip in flips(wrong, ensemble)] == [("e0", ["a"]), ("e1", ["b"])]
    assert mcnemar(wrong, ensemble).fixed == 2


# --- Undefined probabilities ------------------------------------------------------------------------------------------


def test_which_metrics_need_probabilities() -> None:
    model = World(np.random.default_rng(17), 10).model()
    needing = {name for name in compute(model) if needs_probabilities(model, name)}
    assert {"log_loss", "brier", "ece", "average_precision/a"} <= needing
    assert not {"macro_f1", "accuracy", "mcc", "f1/a", "precision/a", "recall/a"} & needing


def test_a_side_without_probabilities_has_no_log_loss_and_says_so() -> None:
    world = World(np.random.default_rng(18), 30)
    bare = Contestant("bare", [world.model()], has_probabilities=False)
    result = compare([Contestant("a", [world.model()]), bare], ["accuracy", "log_loss"], 50, 19, 0)
    assert result.estimates["a"]["log_loss"].value is not None
    for found in (result.estimates["bare"]["log_loss"], result.differences["bare"]["log_loss"].estimate):
        assert (found.value, found.reason) == (None, "bare has no probabilities")
    assert result.differences["bare"]["accuracy"].p is not None


# --- Slices and flips -------------------------------------------------------------------------------------------------


def test_a_slice_holds_the_difference_on_its_own_examples() -> None:
    rng = np.random.default_rng(19)
    gold = rng.integers(3, size=120)
    sources = ["north" if i % 3 else "south" for i in range(120)]
    south = np.array([source == "south" for source in sources])
    wrong = (gold + 1) % 3
    old = np.where(rng.random(120) < 0.5, gold, wrong)
    new = np.where(south, gold, old)
    a, b = contestants(*(predictions_of(TOPIC, gold, each, sources=sources) for each in (old, new)))
    found = {(s.kind, s.value): s for s in slices(a, b, 300, 0)}
    expected = 1 - (old == gold)[south].mean()
    mine = found["source", "south"]
    assert (mine.n, mine.metric, mine.broken) == (40, "accuracy", 0)
    assert mine.fixed == (old != gold)[south].sum()
    assert mine.estimate.value == pytest.approx(expected)
    assert excludes_zero(mine.estimate)
    assert (found["source", "north"].estimate.value, found["source", "north"].fixed) == (0.0, 0)
    assert next(iter(slices(a, b, 300, 0))).value == "south"


def test_slices_of_fewer_than_ten_examples_are_left_out() -> None:
    gold = [0] * 9 + [1] * 20
    sources = ["rare"] * 9 + ["common"] * 20
    a = Contestant("a", [predictions_of(TOPIC, gold, gold, sources=sources)])
    assert {s.value for s in slices(a, a, 20, 0)} == {"b", "common"}


def test_multilabel_decisions_flip_one_by_one() -> None:
    gold = np.array([[1, 0, 0], [0, 1, 1]])
    old, new = np.array([[1, 1, 0], [0, 1, 0]]), np.array([[1, 0, 0], [0, 0, 1]])
    a, b = contestants(predictions_of(FRAMING, gold, old), predictions_of(FRAMING, gold, new))
    found = [(flip["id"], flip["label"], flip["change"]) for flip in flips(a, b)]
    assert found == [("e0", "b", "fixed"), ("e1", "b", "broken"), ("e1", "c", "fixed")]
    counts = mcnemar(a, b)
    assert (counts.both_right, counts.broken, counts.fixed, counts.both_wrong) == (3, 1, 2, 0)
