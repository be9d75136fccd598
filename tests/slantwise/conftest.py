"""One small model with the three tasks, fitted once on a dozen short texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.examples import LabelledExamples
from slantwise.article import Example
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.model import Head, Model
from slantwise.task import Task
from training.linear import LinearConfig, fit

TOPIC = Task("topic", "multiclass", ("health", "sport", "weather"))
FRAMING = Task("framing", "multilabel", ("economic", "morality"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
WORDS = {"health": "clinic nurse vaccine", "sport": "goal referee league", "weather": "storm frost gale"}
VERBS = {"favor": "praised", "against": "condemned", "neutral": "met"}
TARGETS = ("Harbour Plan", "Tram Line")


def text(number: int) -> str:
    """Text `number`, from which its labels can be told: topic, one frame or both or none, and a stance."""
    topic, verb = list(WORDS)[number % 3], list(VERBS.values())[number // 2 % 3]
    cost, duty = (" The cost is high." if number % 2 else ""), (" It is a duty." if number // 2 % 2 else "")
    return f"The council {verb} the {TARGETS[number % 2]} on day {number}. Talk was of {WORDS[topic]}.{cost}{duty}"


def labelled(task: Task, numbers: range) -> LabelledExamples:
    gold = {
        "topic": np.array([n % 3 for n in numbers]),
        "framing": np.array([[n % 2 == 1, n // 2 % 2 == 1] for n in numbers]),
        "stance": np.array([n // 2 % 3 for n in numbers]),
    }[task.name]
    examples = [Example(text(n), TARGETS[n % 2] if task.has_target else None) for n in numbers]
    ids = [str(n) for n in numbers]
    return LabelledExamples(task, ids, examples, gold, ids, [None] * len(ids))


def head(task: Task, decision: Decision, cleaner: Cleaner) -> Head:
    config = LinearConfig(C=[1.0], refit=False)
    fitted = fit(task, labelled(task, range(12)), labelled(task, range(12, 18)), config)
    return Head(task, fitted.classifier, decision, cleaner, {"run": "tiny", "corpus": "a dozen texts"})


@pytest.fixture(scope="session")
def model() -> Model:
    """Topic, framing and stance: a temperature, sigmoids with thresholds, and no calibration; two cleaners."""
    recurring = Cleaner(recurring={"north.example": frozenset({"the north, first thing"})})
    return Model(
        {
            "topic": head(TOPIC, Decision(slopes=(2.0,) * 3, intercepts=(0.0,) * 3), recurring),
            "framing": head(FRAMING, Decision((1.5, 0.5), (0.1, -0.2), thresholds=(0.4, 0.6)), recurring),
            "stance": head(STANCE, Decision(abstain_below=0.2), Cleaner(furniture=False)),
        }
    )


@pytest.fixture(scope="session")
def model_directory(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, saved; tests that change files work on a copy."""
    directory = tmp_path_factory.mktemp("saved") / "model"
    model.save(directory)
    return directory
