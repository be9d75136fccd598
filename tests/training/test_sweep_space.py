"""Search spaces: what they draw, what they refuse, and what becomes of it in the classifier's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from slantwise.errors import ConfigurationError
from training.encoder_config import TransformerConfig
from training.linear import LinearConfig
from training.space import Dimension, Space, decoded, in_words
from training.sweep import check_fixed


def test_dimensions_become_distributions_of_their_kind() -> None:
    space = Space(
        {"C": Dimension(0.1, 10, log=True), "min_df": Dimension(1, 4), "class_weight": Dimension(choices=["none"])},
        LinearConfig(),
    )
    assert space.distributions() == {
        "C": FloatDistribution(0.1, 10, log=True),
        "min_df": IntDistribution(1, 4),
        "class_weight": CategoricalDistribution(['"none"']),
    }


def test_drawn_options_come_into_the_configuration() -> None:
    space = Space({"C": Dimension(0.1, 10), "word_ngrams": Dimension(choices=[[1, 1], [1, 3]])}, LinearConfig(min_df=3))
    found = space.applied({"C": 2.5, "word_ngrams": "[1, 3]"})
    assert found == LinearConfig(C=[2.5], word_ngrams=[1, 3], min_df=3)


def test_options_are_told_as_the_configuration_has_them() -> None:
    drawn = {"word_ngrams": "[1, 3]", "class_weight": '"none"', "C": 2.34567}
    assert decoded(drawn) == {"word_ngrams": [1, 3], "class_weight": "none", "C": 2.34567}
    assert in_words(drawn) == "word_ngrams [1, 3], class_weight none, C 2.346"


def test_a_grid_changes_c_fastest_and_upwards() -> None:
    space = Space({"C": Dimension(choices=[10, 1]), "min_df": Dimension(1, 2)}, LinearConfig())
    grid = space.grid()
    assert grid is not None
    assert [(one["min_df"], one["C"]) for one in grid] == [(1, "1"), (1, "10"), (2, "1"), (2, "10")]


@pytest.mark.parametrize(
    ("dimension", "is_finite"),
    [(Dimension(1, 2), False), (Dimension(1, 2, step=0.25), True), (Dimension(1, 2, log=True), False)],
)
def test_a_range_of_floats_is_a_grid_with_a_step_alone(dimension: Dimension, is_finite: bool) -> None:
    assert (Space({"C": dimension}, LinearConfig()).grid() is not None) == is_finite


@pytest.mark.parametrize(
    ("dimensions", "named"),
    [
        ({}, "empty"),
        ({"c": Dimension(1, 2)}, "c: no option of this classifier; expected some of loss, C"),
        ({"C": Dimension(1)}, "C: expected choices, or low and high"),
        ({"C": Dimension("a", 1)}, "low='a' is no number"),  # type: ignore[arg-type]
        ({"C": Dimension(2, 1)}, "low=2 is not below high=1"),
        ({"C": Dimension(0, 1, log=True)}, "log wants a low above 0"),
        ({"C": Dimension(0, 1)}, "expected one or more numbers above 0"),
        ({"C": Dimension(choices=[1, 1])}, "distinct"),
        ({"C": Dimension(1, 2, choices=[1])}, "choices stand alone"),
        ({"loss": Dimension(choices=["logistic", "hinge"])}, "loss='hinge'"),
        ({"min_df": Dimension(choices=["many"])}, "min_df"),
    ],
)
def test_a_space_that_cannot_work_is_refused_and_named(dimensions: dict[str, Dimension], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Space(dimensions, LinearConfig())


@pytest.mark.parametrize("value", [1e-5, 3e-4])
def test_floats_of_the_transformer_stay_floats(value: Any) -> None:
    space = Space({"learning_rate": Dimension(1e-5, 3e-4, log=True)}, TransformerConfig())
    assert space.applied({"learning_rate": value}).learning_rate == value


@pytest.mark.parametrize("argument", ["classifier.C=[1.0]", "+classifier.C=3", "++classifier.C=3"])
def test_an_option_that_is_given_and_varied_is_refused_with_how_to_fix_it(argument: str) -> None:
    with pytest.raises(ConfigurationError, match=r"classifier\.C is given, .*'~sweep\.space\.C'"):
        check_fixed(["task=topic", argument], {"C": Dimension(0.1, 1.0)})


def test_an_option_that_is_given_and_not_varied_is_not_refused() -> None:
    check_fixed(["classifier.min_df=2", "classifier=linear", "sweep.space.C.low=0.2"], {"C": Dimension(0.1, 1.0)})
