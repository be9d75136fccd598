"""What every backend's `fit` takes and gives.

A backend is a module with `fit_all(parts, config, workspace) -> {task name: Fitted}`, and a dataclass for its
configuration with `settled(chosen)`: the same configuration with the choices that validation has made.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

from data.examples import LabelledExamples
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.report import LOWER_IS_BETTER
from slantwise.command import Progress
from slantwise.errors import CorpusError
from slantwise.model import Classifier
from slantwise.task import Task
from training.cache import StepCache

Floats = npt.NDArray[np.float32]
Record = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class Part:
    """One task of a fit, and the splits that it may see.

    targets   of all splits, each with the id of an article that names it: what the classifier must be able to read
    key       `fingerprint` of the splits, for a fit that shares steps
    """

    task: Task
    train: LabelledExamples
    validation: LabelledExamples
    targets: Mapping[str, str] = field(default_factory=dict)
    key: bytes | None = None

    def with_key(self) -> Part:
        return replace(self, key=fingerprint(self.train) + fingerprint(self.validation))


def fingerprint(labelled: LabelledExamples) -> bytes:
    """Of all that a classifier learns from: texts, targets, labels, shares, in their order."""
    digest = hashlib.blake2b(f"{labelled.task}".encode(), digest_size=16)
    for example in labelled.examples:
        text = example.text.encode(errors="surrogatepass")
        digest.update(f"{len(text)} {example.target!r} {example.span} ".encode(errors="surrogatepass") + text)
    digest.update(np.ascontiguousarray(labelled.gold).tobytes())
    digest.update(b"" if labelled.shares is None else np.ascontiguousarray(labelled.shares).tobytes())
    return digest.digest()


@dataclass(frozen=True)
class Workspace:
    """
    metrics   by task: the primary metric, which early stopping goes by (of several tasks, by their mean)
    folder    where a fit keeps what it needs to go on after an interruption; None: it keeps nothing
    record    takes the metrics of a step, as soon as they are there, and the step
    cache     what the fits of a sweep share: features, token windows, solutions; None: nothing is shared
    """

    metrics: Mapping[str, str]
    folder: Path | None = None
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    record: Record = lambda metrics, step: None
    cache: StepCache | None = None

    @contextmanager
    def files(self) -> Iterator[Path]:
        """The folder, or a temporary one where nothing is to be kept."""
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="slantwise-") as scratch:
                yield Path(scratch)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield self.folder

    def part(self, name: str, prefix: str | None = "") -> Workspace:
        """The same with a folder of its own, for one of several fits; its metrics are recorded with the prefix before
        their names, and not at all where it is None."""

        def record(metrics: Mapping[str, float], step: int) -> None:
            if prefix is not None:
                self.record({prefix + name: value for name, value in metrics.items()}, step)

        return replace(self, folder=None if self.folder is None else self.folder / name, record=record)


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


def primary_score(part: Part, probabilities: Floats, metric: str) -> float:
    """`metric` of the part's validation split, the higher the better; labels of a multilabel task at the best common
    threshold for micro-F1, since their own are fitted later."""
    validation, task = part.validation, part.task
    if task.kind == "multiclass":
        predicted: Any = probabilities.argmax(axis=1).astype(np.int64)
    else:
        predicted = probabilities >= _common_threshold(validation.gold, probabilities)
    predictions = Predictions(
        task, "validation", validation.ids, [""] * len(validation), validation.gold, probabilities, predicted,
        validation.groups, [e.target for e in validation.examples], validation.sources,
    )  # fmt: skip
    found = float(compute(predictions, [metric])[metric])
    if math.isnan(found):
        raise CorpusError(f"{metric} is not defined on the {len(validation)} validation examples of task {task.name}")
    return -found if metric in LOWER_IS_BETTER else found


def _common_threshold(gold: npt.NDArray[Any], probabilities: Floats) -> float:
    thresholds = np.unique(np.quantile(probabilities, np.linspace(0.5, 1, 51)))
    fired = probabilities[None] >= thresholds[:, None, None]
    hits = (fired & gold.astype(bool)).sum(axis=(1, 2))
    return float(thresholds[np.argmax(2 * hits / (fired.sum(axis=(1, 2)) + gold.sum()))])
