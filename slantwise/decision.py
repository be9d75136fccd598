"""Decision: probabilities become calibrated probabilities and labels. Fitted on validation (training.decisions)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from slantwise.errors import ModelError
from slantwise.task import Task

FloatArray = npt.NDArray[np.float32]
Curve = tuple[tuple[float, ...], tuple[float, ...]]
ABSTAINED = -1
TINY = 1e-12


@dataclass(frozen=True)
class Decision:
    """How a task's probabilities are calibrated and turned into labels.

    slopes, intercepts  (n_labels,): multiclass: softmax(slope * log p + intercept): one temperature where the slopes
                        are equal and the intercepts 0, vector scaling otherwise (Guo et al. 2017); multilabel: Platt's
                        sigmoid for each label, sigmoid(slope * logit p + intercept) (Platt 1999)
    curves              a piecewise linear function for each label, (probabilities, calibrated probabilities), level
                        beyond its ends (isotonic regression); multiclass: the results are divided by their sum
                        (Zadrozny and Elkan 2002). Without slopes and curves: the classifier's probabilities as they are
    costs               multiclass: costs[gold][predicted]; the label of smallest expected cost is given (Elkan 2001)
    thresholds          (n_labels,): multilabel: a label holds from this calibrated probability on
    abstain_below       multiclass: no label where that of the label to be given is smaller
    fitted              what the fit chose and what it saw, JSON-ready; for readers, it decides nothing
    """

    slopes: tuple[float, ...] | None = None
    intercepts: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    abstain_below: float | None = None
    curves: tuple[Curve, ...] | None = None
    costs: tuple[tuple[float, ...], ...] | None = None
    fitted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def calibration(self) -> str:
        """none, temperature, sigmoid or isotonic."""
        if self.curves is not None:
            return "isotonic"
        if self.slopes is None:
            return "none"
        return "sigmoid" if len(set(self.slopes)) > 1 or any(self.intercepts or ()) else "temperature"

    def calibrate(self, probabilities: FloatArray, task: Task) -> FloatArray:
        """Calibrated probabilities, float32 (n, n_labels)."""
        p = probabilities.astype(np.float64)
        if self.curves is not None:
            p = np.column_stack([np.interp(p[:, k], *curve) for k, curve in enumerate(self.curves)])
            if task.kind == "multiclass":
                p = np.maximum(p, TINY)
                p /= p.sum(axis=1, keepdims=True)
        elif self.slopes is not None and self.intercepts is not None:
            p = np.clip(p, TINY, 1 - TINY)
            if task.kind == "multilabel":
                p = expit(np.array(self.slopes) * (np.log(p) - np.log1p(-p)) + self.intercepts)
            else:
                p = softmax(np.array(self.slopes) * np.log(p) + self.intercepts, axis=1)
        else:
            return probabilities
        return p.astype(np.float32)

    def decide(self, calibrated: FloatArray, task: Task) -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
        """Labels: int64 (n,), ABSTAINED where the model abstains, or bool (n, n_labels) for multilabel."""
        if task.kind == "multilabel":
            thresholds = np.full(len(task.labels), 0.5) if self.thresholds is None else np.array(self.thresholds)
            return calibrated >= thresholds.astype(np.float32)
        labels = self.best(calibrated)
        if self.abstain_below is not None:
            labels[calibrated[np.arange(len(labels)), labels] < np.float32(self.abstain_below)] = ABSTAINED
        return labels

    def best(self, calibrated: FloatArray) -> npt.NDArray[np.int64]:
        """Multiclass: the label that is given unless the model abstains, (n,): of equals the first."""
        if self.costs is None:
            return calibrated.argmax(axis=1).astype(np.int64)
        return (calibrated.astype(np.float64) @ np.array(self.costs)).argmin(axis=1).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        return {name: _lists(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], task: Task) -> Decision:
        """Raises ModelError where a list does not fit the task's labels, a value is no finite number, a curve is not
        monotone, or a key is of a newer release."""
        if unknown := sorted(set(state) - {f.name for f in fields(cls)}):
            raise _damaged(task, f"{', '.join(unknown)} is unknown here; use the release that wrote the model")
        n, values = len(task.labels), dict[str, Any]()
        for name in ("slopes", "intercepts", "thresholds"):
            values[name] = None if state.get(name) is None else _numbers(state[name], name, task, n)
        if state.get("curves") is not None:
            values["curves"] = tuple(_curve(curve, task) for curve in _sized(state["curves"], "curves", task, n))
        if state.get("costs") is not None:
            rows = _sized(state["costs"], "costs", task, n)
            values["costs"] = tuple(_numbers(row, "costs of a label", task, n) for row in rows)
        if state.get("abstain_below") is not None:
            values["abstain_below"] = _number(state["abstain_below"], "abstain_below", task)
        if (values["slopes"] is None) != (values["intercepts"] is None):
            raise _damaged(task, "slopes and intercepts belong together; expected both or neither")
        return cls(**values, fitted=dict(state.get("fitted") or {}))


def _lists(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def _damaged(task: Task, message: str) -> ModelError:
    return ModelError(f"decision of task {task.name}: {message}")


def _sized(values: Any, name: str, task: Task, n: int, of: str = "labels") -> Sequence[Any]:
    if not isinstance(values, list | tuple):
        raise _damaged(task, f"{name} holds {values!r}; expected a list")
    if len(values) != n:
        raise _damaged(task, f"{len(values)} {name} for {n} {of}")
    return values


def _numbers(values: Any, name: str, task: Task, n: int) -> tuple[float, ...]:
    return tuple(_number(value, name, task) for value in _sized(values, name, task, n))


def _curve(value: Any, task: Task) -> Curve:
    first, second = _sized(value, "lists of a curve", task, 2, "axes")
    if not isinstance(first, list | tuple):
        raise _damaged(task, f"curve points holds {first!r}; expected a list")
    x = tuple(_number(v, "curves", task) for v in first)
    y = tuple(_number(v, "curves", task) for v in _sized(second, "curve values", task, len(x), "curve points"))
    rising = all(a < b for a, b in pairwise(x)) and all(a <= b for a, b in pairwise(y))
    if not x or not rising or y[0] < 0 or y[-1] > 1:
        raise _damaged(task, "curves holds one that is empty, falls or leaves 0 to 1")
    return x, y


def _number(value: Any, name: str, task: Task) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise _damaged(task, f"{name} holds {value!r}; expected a number")
    return float(value)
