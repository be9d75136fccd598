"""The transformer classifier, prediction side: a body that may be shared with other tasks, and one linear head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from slantwise.article import Example
from slantwise.body import Body, Floats
from slantwise.errors import ModelError
from slantwise.linear import softmax
from slantwise.task import Task

HEAD = "head.safetensors"


class TransformerClassifier:
    """weights float32 (width of the body's vectors, n_labels); bias float32 (n_labels,)"""

    def __init__(self, task: Task, body: Body, weights: Floats, bias: Floats) -> None:
        assert weights.shape[1] == len(bias) == len(task.labels), (weights.shape, bias.shape, len(task.labels))
        self.task, self.body, self.weights, self.bias = task, body, weights, bias

    def predict_proba(self, examples: Sequence[Example]) -> Floats:
        """float32 (n_examples, n_labels), rows in input order, columns in the order of `task.labels`."""
        if not examples:
            return np.zeros((0, len(self.task.labels)), np.float32)
        return self.from_representation(self.body.represent(examples))

    def from_representation(self, vectors: Floats) -> Floats:
        """Probabilities from what the body gives for the examples."""
        scores: npt.NDArray[np.float32] = vectors @ self.weights + self.bias
        found: Floats = expit(scores) if self.task.kind == "multilabel" else softmax(scores)
        return found.astype(np.float32, copy=False)

    def save(self, directory: Path) -> None:
        """The head alone; the model saves the body once for all heads that share it."""
        save_file({"weights": np.ascontiguousarray(self.weights), "bias": self.bias}, directory / HEAD)

    @classmethod
    def load(cls, directory: Path, task: Task, body: Body) -> TransformerClassifier:
        """Raises ModelError where the file cannot be read or does not fit the task."""
        try:
            state = load_file(directory / HEAD)
            return cls(task, body, state["weights"], state["bias"])
        except (OSError, KeyError, IndexError, AssertionError, SafetensorError) as error:
            raise ModelError(f"{directory / HEAD}: cannot be loaded ({error})") from error
