"""The linear classifier, prediction side: probabilities from sparse features and one matrix of coefficients.

It needs neither scikit-learn nor pickle: settings and vocabularies are JSON, coefficients are plain arrays.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slantwise.article import Example
from slantwise.errors import ModelError
from slantwise.features import Arrays, Design, FeatureSpace, Floats
from slantwise.task import Kind, Task

FORMAT = 1
SETTINGS, VOCABULARIES, ARRAYS = "linear.json", "vocabularies.json", "arrays.npz"
# What a label gets that was never seen in training.
UNSEEN = 1e-4


@dataclass(frozen=True)
class Head:
    """Linear scores of some labels of the task, turned into probabilities.

    labels        columns of the task that the head knows
    coefficients  float32 (n_features, len(labels)); intercept float32 (len(labels),)
    """

    labels: tuple[int, ...]
    coefficients: Floats
    intercept: Floats

    def probabilities(self, scores: Floats, kind: Kind, n_labels: int) -> Floats:
        """float32 (n, n_labels) from `scores` = features @ coefficients, without the intercept."""
        scores = scores + self.intercept
        filled = np.full((len(scores), n_labels), UNSEEN, np.float32)
        if kind == "multilabel":
            filled[:, self.labels] = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
        elif self.labels:
            known = 1 - UNSEEN * (n_labels - len(self.labels))
            filled[:, self.labels] = known * softmax(scores)
        return filled


def softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


class LinearClassifier:
    """Probabilities of a task's labels.

    With `first`, one label of a multiclass task is decided first (`first_label`, a column of the task), and `head`
    shares what is left among the others: p(other) = (1 - p(first)) p(other | not first). The first stage sees the
    relation between target and text alone where there is one: whether a text has to do with a target is no matter of
    which words it uses.
    """

    def __init__(
        self, task: Task, space: FeatureSpace, head: Head, first: Head | None = None, first_label: int | None = None
    ) -> None:
        self.task, self.space, self.head, self.first, self.first_label = task, space, head, first, first_label

    def predict_proba(self, examples: Sequence[Example]) -> Floats:
        """float32 (n_examples, n_labels), rows in input order, columns in the order of `task.labels`."""
        if not examples:
            return np.zeros((0, len(self.task.labels)), np.float32)
        return self.from_design(self.space.transform(examples))

    def from_design(self, design: Design) -> Floats:
        n_labels = len(self.task.labels)
        rest = self.head.probabilities(design.times(self.head.coefficients), self.task.kind, n_labels)
        if self.first is None or self.first_label is None:
            return rest
        scores = first_stage_input(design) @ self.first.coefficients
        first = self.first.probabilities(scores, "multiclass", 2)[:, 1:]
        rest[:, self.first_label] = 0
        rest = (1 - first) * rest / rest.sum(axis=1, keepdims=True)
        rest[:, self.first_label] = first[:, 0]
        return rest

    def save(self, directory: Path) -> None:
        settings, vocabularies, arrays = self.space.state()
        settings |= {"format": FORMAT, "task": self.task.to_dict(), "labels": self.head.labels}
        arrays |= {"coefficients": self.head.coefficients, "intercept": self.head.intercept}
        if self.first is not None:
            settings |= {"first_label": self.first_label, "first_labels": self.first.labels}
            arrays |= {"first_coefficients": self.first.coefficients, "first_intercept": self.first.intercept}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SETTINGS).write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
        (directory / VOCABULARIES).write_text(json.dumps(vocabularies, ensure_ascii=False), encoding="utf-8")
        np.savez(directory / ARRAYS, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, directory: Path) -> LinearClassifier:
        """Raises ModelError, naming the file, where one is missing, damaged or of another format."""
        settings, vocabularies = _read_json(directory / SETTINGS), _read_json(directory / VOCABULARIES)
        if settings.get("format") != FORMAT:
            raise ModelError(f"{directory / SETTINGS}: format {settings.get('format')!r}; this release reads {FORMAT}")
        arrays = _read_arrays(directory / ARRAYS)
        try:
            task = Task.from_dict(settings["task"])
            space = FeatureSpace.from_state(settings, vocabularies, arrays)
            head = Head(tuple(settings["labels"]), arrays["coefficients"], arrays["intercept"])
            first = None
            if "first_label" in settings:
                parts = arrays["first_coefficients"], arrays["first_intercept"]
                first = Head(tuple(settings["first_labels"]), *parts)
        except (KeyError, ValueError, TypeError) as error:
            files = ", ".join((SETTINGS, VOCABULARIES, ARRAYS))
            raise ModelError(f"{directory}: {files} do not belong together ({error})") from error
        expected = (space.n_features, len(head.labels))
        if head.coefficients.shape != expected or head.intercept.shape != expected[1:]:
            raise ModelError(f"{directory / ARRAYS}: coefficients {head.coefficients.shape}; expected {expected}")
        return cls(task, space, head, first, settings.get("first_label"))


def first_stage_input(design: Design) -> Any:
    """What the first stage sees: the relation of target and text, or all features where there is no target."""
    return design.relation if design.relation is not None else design.take(np.arange(len(design)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return state


def _read_arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise ModelError(f"{path}: missing") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
