"""What confidence is worth: risk against coverage, and the calibration error that chance alone makes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluation.metrics import compute
from evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers among the most confident ones, for every share of examples that are answered.

    coverage, risk  (m,), one point for each distinct confidence, the highest first
    aurc            area under the curve: the mean risk over all coverages (Geifman, Uziel and El-Yaniv 2019); lower is
                    better, and confidences that say nothing reach the risk of all answers
    """

    coverage: Floats
    risk: Floats
    aurc: float

    def thinned(self, points: int) -> tuple[list[float], list[float]]:
        """Coverage and risk at up to that many points, the ends among them; for pictures and JSON."""
        if not len(self.coverage):
            return [], []
        wanted = np.linspace(self.coverage[0], 1, points)
        keep = np.unique(np.searchsorted(self.coverage, wanted - 1e-12))
        return self.coverage[keep].tolist(), self.risk[keep].tolist()


def risk_coverage(confidence: npt.ArrayLike, right: npt.ArrayLike) -> RiskCoverage:
    """The curve of answers with these confidences, (n,), of which `right` says whether they are right, bool (n,).

    Answers of equal confidence enter together, so that the order of the examples does not matter. Without examples it
    has no points and the area is NaN.
    """
    values, step = np.unique(-np.asarray(confidence, np.float64), return_inverse=True)
    if not len(values):
        return RiskCoverage(np.empty(0), np.empty(0), float("nan"))
    entering = np.bincount(step)
    wrong = np.bincount(step, weights=~np.asarray(right, dtype=bool))
    risk = wrong.cumsum() / entering.cumsum()
    coverage = entering.cumsum() / len(step)
    return RiskCoverage(coverage, risk, float((risk * entering).sum() / len(step)))


def ece_by_chance(predictions: Predictions, draws: int = 20, seed: int = 0) -> float:
    """The calibration error that is to be expected of these probabilities if they were exactly right.

    The measured error of perfect probabilities is above 0: the gold labels of a bin scatter around its mean probability
    (Bröcker and Smith 2007; Kumar et al. 2019). Here gold labels are drawn from the probabilities themselves; a
    measured error near the mean of `draws` such draws is no sign of miscalibration.
    """
    rng = np.random.default_rng(seed)
    p = predictions.probabilities.astype(np.float64)

    def drawn() -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
        if predictions.task.kind == "multilabel":
            return rng.random(p.shape) < p
        ends = p.cumsum(axis=1)
        return (rng.random((len(p), 1)) * ends[:, -1:] >= ends[:, :-1]).sum(axis=1)

    return float(np.mean([compute(replace(predictions, gold=drawn()), ["ece"])["ece"] for _ in range(draws)]))
