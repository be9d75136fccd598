"""Fitting a decision: calibration and thresholds from validation probabilities, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from sklearn.model_selection import GroupKFold

from data.examples import LabelledExamples
from slantwise.decision import TINY, Decision
from slantwise.errors import ConfigurationError
from slantwise.task import Task

FloatArray = npt.NDArray[np.float32]
GRID = np.linspace(0.02, 0.98, 97)


@dataclass
class DecisionConfig:
    """How probabilities become labels."""

    calibrate: bool = True  # multiclass: a temperature; multilabel: a sigmoid for each label
    thresholds: str = "per_label"  # multilabel: per_label, global (one for all labels) or half (0.5)
    min_positives: int = 12  # a label with fewer validation examples shares the common sigmoid and threshold
    abstain_below: float | None = None  # multiclass: no label where the calibrated probability is smaller
    cross_fit: int = 0  # folds of train + validation whose held-out probabilities it is fitted on; 0: validation alone

    def __post_init__(self) -> None:
        if self.thresholds not in ("per_label", "global", "half"):
            raise ConfigurationError(f"decision.thresholds={self.thresholds}; expected per_label, global or half")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise ConfigurationError(f"decision.abstain_below={self.abstain_below}; expected a probability")
        if self.cross_fit < 0 or self.cross_fit == 1:
            raise ConfigurationError(f"decision.cross_fit={self.cross_fit}; expected 0, or 2 folds or more")


def held_out_probabilities(
    fit: Callable[[LabelledExamples, LabelledExamples], FloatArray], labelled: LabelledExamples, folds: int, seed: int
) -> FloatArray:
    """Probabilities (n, n_labels) of every example by a classifier that did not see it; articles, or the corpus's
    groups, are kept together.

    `fit(rest, part)` gives the probabilities of `part` by a classifier fitted on `rest`. On a small corpus this is far
    steadier than one validation split, at the price of `folds` more fits.
    """
    splitter = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    probabilities = np.empty((len(labelled), len(labelled.task.labels)), dtype=np.float32)
    for rest, part in splitter.split(labelled.gold, groups=labelled.groups):
        probabilities[part] = fit(labelled.select(rest), labelled.select(part))
    return probabilities


def fit_decision(
    task: Task,
    probabilities: FloatArray,
    gold: npt.NDArray[np.int64] | npt.NDArray[np.bool_],
    config: DecisionConfig,
    metric: str,
) -> Decision:
    """The decision that fits validation: `probabilities` (n, n_labels), `gold` as in LabelledExamples.

    Calibration minimises the log loss; thresholds maximise `metric` (macro_f1, else micro-F1).
    """
    if task.kind == "multiclass":
        temperature = _temperature(probabilities, gold) if config.calibrate else None
        n = len(task.labels)
        return Decision(
            slopes=None if temperature is None else (1 / temperature,) * n,
            intercepts=None if temperature is None else (0.0,) * n,
            abstain_below=config.abstain_below,
        )
    positives = gold.sum(axis=0)
    common = positives < config.min_positives
    slopes, intercepts = _sigmoids(probabilities, gold, common) if config.calibrate else (None, None)
    calibrated = Decision(slopes, intercepts).calibrate(probabilities, task)
    thresholds = _thresholds(calibrated, gold, common, config.thresholds, macro=metric == "macro_f1")
    return Decision(slopes, intercepts, thresholds)


def _temperature(probabilities: FloatArray, gold: npt.NDArray[np.generic]) -> float:
    """The temperature of Guo et al. (2017), between 1/20 and 20.

    The wanted probabilities are smoothed as Platt (1999) smooths his: with n examples the label gets 1 - 1/(n + 2) and
    the others share the rest, so that a handful of right answers does not make every probability 1.
    """
    n, n_labels = probabilities.shape
    logs = np.log(np.clip(probabilities.astype(np.float64), TINY, 1))
    wanted = np.full((n, n_labels), 1 / ((n + 2) * n_labels))
    wanted[np.arange(n), gold] += 1 - 1 / (n + 2)

    def loss(log_temperature: float) -> float:
        scores = logs / np.exp(log_temperature)
        scores -= scores.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - (wanted * scores).sum(axis=1)))

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def _sigmoids(
    probabilities: FloatArray, gold: npt.NDArray[np.generic], common: npt.NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Platt's sigmoid for each label, one pooled sigmoid for those in `common`."""
    p = np.clip(probabilities.astype(np.float64), TINY, 1 - TINY)
    logits = np.log(p) - np.log1p(-p)
    pooled = _sigmoid(logits.ravel(), gold.ravel())
    fitted = [pooled if common[k] else _sigmoid(logits[:, k], gold[:, k]) for k in range(gold.shape[1])]
    return tuple(a for a, _ in fitted), tuple(b for _, b in fitted)


def _sigmoid(logits: npt.NDArray[np.float64], gold: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Slope and intercept with Platt's smoothed targets (Platt 1999), which keep few examples from overfitting."""
    positives = int(gold.sum())
    if positives in (0, len(gold)):
        return 1.0, 0.0
    high, low = (positives + 1) / (positives + 2), 1 / (len(gold) - positives + 2)
    wanted = np.where(gold, high, low)

    def loss(x: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        z = x[0] * logits + x[1]
        error = 1 / (1 + np.exp(-np.clip(z, -50, 50))) - wanted
        return float(np.mean(np.logaddexp(0, z) - wanted * z)), np.array([np.mean(error * logits), np.mean(error)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, 50), (-50, 50)])
    return float(found.x[0]), float(found.x[1])


def _thresholds(
    calibrated: FloatArray,
    gold: npt.NDArray[np.generic],
    common: npt.NDArray[np.bool_],
    how: str,
    macro: bool,
) -> tuple[float, ...]:
    """One threshold a label. `common` labels keep the one that is best for all labels together."""
    n_labels = gold.shape[1]
    if how == "half":
        return (0.5,) * n_labels
    truth = gold.astype(bool)
    # (grid, label) counts of true and false positives, and (label,) positives
    fired = calibrated[None, :, :] >= GRID[:, None, None].astype(np.float32)
    tp, fp = (fired & truth).sum(axis=1).astype(float), (fired & ~truth).sum(axis=1).astype(float)
    positives = truth.sum(axis=0).astype(float)
    overall = 2 * tp.sum(axis=1) / np.maximum(tp.sum(axis=1) + fp.sum(axis=1) + positives.sum(), 1)
    chosen = np.full(n_labels, _middle_of_best(overall))
    if how == "per_label":
        for _ in range(1 if macro else 5):  # micro-F1: coordinate ascent, label by label
            for k in np.flatnonzero(~common):
                if macro:
                    score = 2 * tp[:, k] / np.maximum(tp[:, k] + fp[:, k] + positives[k], 1)
                else:
                    others = [j for j in range(n_labels) if j != k]
                    hits, false = tp[chosen[others], others].sum(), fp[chosen[others], others].sum()
                    score = 2 * (hits + tp[:, k]) / (hits + tp[:, k] + false + fp[:, k] + positives.sum())
                chosen[k] = _middle_of_best(score)
    return tuple(float(t) for t in GRID[chosen])


def _middle_of_best(score: npt.NDArray[np.float64]) -> int:
    """The middle of the grid points that share the best score: an edge of a plateau would be a matter of chance."""
    best = np.flatnonzero(score >= score.max() - 1e-12)
    return int(best[len(best) // 2])
