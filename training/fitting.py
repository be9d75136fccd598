"""What every backend's `fit` takes and gives.

A backend is a module with `fit_all(parts, config, workspace) -> {task name: Fitted}`, and a dataclass for its
configuration with `settled(chosen)`: the same configuration with the choices that validation has made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

from data.examples import LabelledExamples
from slantwise.command import Progress
from slantwise.model import Classifier
from slantwise.task import Task

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """One task of a fit, and the splits that it may see."""

    task: Task
    train: LabelledExamples
    validation: LabelledExamples


@dataclass(frozen=True)
class Workspace:
    """
    metrics   by task: the primary metric, which early stopping goes by (of several tasks, by their mean)
    folder    where a fit keeps what it needs to go on after an interruption; None: it keeps nothing
    """

    metrics: Mapping[str, str]
    folder: Path | None = None
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))

    @contextmanager
    def files(self) -> Iterator[Path]:
        """The folder, or a temporary one where nothing is to be kept."""
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="slantwise-") as scratch:
                yield Path(scratch)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield self.folder

    def part(self, name: str) -> Workspace:
        """The same with a folder of its own, for one of several fits."""
        return self if self.folder is None else replace(self, folder=self.folder / name)


@dataclass(frozen=True)
class Fitted:
    """The classifier, and what the decision is fitted on: validation probabilities from before any refit.

    note       one line for a person: what validation chose
    chosen     the same for the record, with the scores it chose by
    history    the metrics of single steps, each with its `step`
    """

    classifier: Classifier
    validation_probabilities: Floats
    note: str
    chosen: Mapping[str, Any]
    history: Sequence[Mapping[str, float]] = ()


def score(task: Task, gold: npt.NDArray[Any], probabilities: Floats) -> float:
    """What validation chooses by: macro-F1 of the most probable label (multiclass), or micro-F1 at the best threshold
    that all labels share (multilabel): thresholds of their own are fitted later."""
    if task.kind == "multiclass":
        return float(f1_score(gold, probabilities.argmax(axis=1), average="macro", zero_division=0.0))
    thresholds = np.unique(np.quantile(probabilities, np.linspace(0.5, 1, 51)))
    return max(float(f1_score(gold, probabilities >= t, average="micro", zero_division=0.0)) for t in thresholds)
