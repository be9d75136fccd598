"""Decision: probabilities become calibrated probabilities and labels. Fitted on validation (training.decisions)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from slantwise.errors import ModelError
from slantwise.task import Task

FloatArray = npt.NDArray[np.float32]
ABSTAINED = -1
TINY = 1e-12


@dataclass(frozen=True)
class Decision:
    """How a task's probabilities are calibrated and turned into labels.

    slopes, intercepts  (n_labels,): multiclass: one temperature, softmax(slope * log p + intercept) (Guo et al. 2017;
                        the intercepts are 0 unless fitted); multilabel: Platt's sigmoid for each label,
                        sigmoid(slope * logit p + intercept). None: the classifier's probabilities as they are.
    thresholds          (n_labels,): multilabel: a label holds from this calibrated probability on
    abstain_below       multiclass: no label where the largest calibrated probability is smaller
    """

    slopes: tuple[float, ...] | None = None
    intercepts: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    abstain_below: float | None = None

    def calibrate(self, probabilities: FloatArray, task: Task) -> FloatArray:
        """Calibrated probabilities, float32 (n, n_labels)."""
        if self.slopes is None or self.intercepts is None:
            return probabilities
        p = np.clip(probabilities.astype(np.float64), TINY, 1 - TINY)
        if task.kind == "multilabel":
            logits = np.log(p) - np.log1p(-p)
            calibrated: FloatArray = expit(np.array(self.slopes) * logits + self.intercepts).astype(np.float32)
            return calibrated
        scores = np.array(self.slopes) * np.log(p) + self.intercepts
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)

    def decide(self, calibrated: FloatArray, task: Task) -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
        """Labels: int64 (n,), ABSTAINED where the model abstains, or bool (n, n_labels) for multilabel."""
        if task.kind == "multilabel":
            thresholds = np.full(len(task.labels), 0.5) if self.thresholds is None else np.array(self.thresholds)
            return calibrated >= thresholds.astype(np.float32)
        labels = calibrated.argmax(axis=1).astype(np.int64)
        if self.abstain_below is not None:
            labels[calibrated.max(axis=1) < self.abstain_below] = ABSTAINED
        return labels

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], task: Task) -> Decision:
        """Raises ModelError where a list does not fit the task's labels or a value is no finite number."""
        values: dict[str, Any] = {}
        for name in ("slopes", "intercepts", "thresholds"):
            value = state.get(name)
            if value is not None and len(value) != len(task.labels):
                raise ModelError(f"decision of task {task.name}: {len(value)} {name} for {len(task.labels)} labels")
            values[name] = None if value is None else tuple(_number(v, name, task) for v in value)
        abstain = state.get("abstain_below")
        return cls(**values, abstain_below=None if abstain is None else _number(abstain, "abstain_below", task))


def _number(value: Any, name: str, task: Task) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ModelError(f"decision of task {task.name}: {name} holds {value!r}; expected a number")
    return float(value)
