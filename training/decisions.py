"""Fitting a decision: calibration, thresholds, costs and abstention from validation, and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp
from scipy.stats import beta
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

from data.examples import LabelledExamples
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from slantwise.decision import TINY, Curve, Decision
from slantwise.errors import ConfigurationError
from slantwise.task import Task

FloatArray = npt.NDArray[np.float32]
Gold = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
GRID = np.linspace(0.02, 0.98, 97)
METHODS = ("none", "temperature", "sigmoid", "isotonic")  # the simplest first: of equal ones it is taken
FOLDS = 5  # of validation, when methods are compared
# Below about this many examples isotonic regression overfits and sigmoids do better (Niculescu-Mizil and Caruana 2005,
# figure 5), and five folds of fewer are too noisy to tell.
ISOTONIC_EXAMPLES = 1000
DELTA = 0.05  # how often a guaranteed risk may be missed
COVERAGES = np.linspace(0.1, 1, 46)  # shares of examples answered that are tested for it, in this order
PRIOR = 1.0  # precision of the normal prior that holds a vector scaling near a temperature


@dataclass
class DecisionConfig:
    """How probabilities become labels; see configs/decision/default.yaml."""

    calibrate: str = "auto"
    thresholds: str = "per_label"
    min_positives: int = 12
    costs: dict[str, Any] = field(default_factory=dict)  # label -> name -> number; OmegaConf refuses 1 for a float here
    abstain_below: float | None = None
    target_risk: float | None = None
    cross_fit: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.calibrate not in ("auto", *METHODS):
            problems.append(
                f"decision.calibrate={self.calibrate}; expected auto, {', '.join(METHODS[:-1])} or {METHODS[-1]} "
                "(auto for what was true, none for false)"
            )
        if self.thresholds not in ("per_label", "global", "half"):
            problems.append(f"decision.thresholds={self.thresholds}; expected per_label, global or half")
        if self.min_positives < 0:
            problems.append(f"decision.min_positives={self.min_positives}; expected 0 or more")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            problems.append(f"decision.abstain_below={self.abstain_below}; expected a probability")
        if self.target_risk is not None and not 0 < self.target_risk < 1:
            problems.append(f"decision.target_risk={self.target_risk}; expected a share of errors between 0 and 1")
        if self.target_risk is not None and self.abstain_below is not None:
            problems.append("decision.target_risk chooses decision.abstain_below; expected only one of the two")
        if self.cross_fit < 0 or self.cross_fit == 1:
            problems.append(f"decision.cross_fit={self.cross_fit}; expected 0, or 2 folds or more")
        if problems:
            raise ConfigurationError("; ".join(problems))

    def check(self, task: Task) -> None:
        """Raises ConfigurationError with all that does not fit the task."""
        problems = [
            f"decision.{name}={getattr(self, name)}; expected null for a multilabel task"
            for name in ("abstain_below", "target_risk")
            if task.kind == "multilabel" and getattr(self, name) is not None
        ]
        problems += _cost_problems(self.costs, task)
        if problems:
            raise ConfigurationError("; ".join(problems))


def _cost_problems(costs: Mapping[str, Any], task: Task) -> list[str]:
    """What is wrong with `decision.costs`."""
    names = ("false_positive", "false_negative") if task.kind == "multilabel" else task.labels
    problems = []
    for label, row in costs.items():
        where = f"decision.costs.{label}"
        if label not in task.labels:
            problems.append(f"{where}: no label of task {task.name}; expected {', '.join(task.labels)}")
        elif not isinstance(row, Mapping):
            problems.append(f"{where}={row!r}; expected a cost for {', '.join(names)}")
        else:
            problems += [f"{where}.{name}: expected {', '.join(names)}" for name in row if name not in names]
            problems += [
                f"{where}.{name}={value!r}; expected a number of 0 or more"
                for name, value in row.items()
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
            ]
    if problems or not costs:
        return problems
    if task.kind == "multilabel":
        return [
            f"decision.costs.{label}: expected false_positive and false_negative, both above 0"
            for label, row in costs.items()
            if not all(row.get(name, 0) > 0 for name in names)
        ]
    matrix = np.array(_cost_matrix(costs, task))
    if (matrix == matrix[:, :1]).all():
        return ["decision.costs: every answer costs the same; there is nothing to decide"]
    return [
        f"decision.costs.{label}: the right answer costs {row[k]:g}, a wrong one {row.min():g}"
        for k, (label, row) in enumerate(zip(task.labels, matrix, strict=True))
        if row[k] > row.min()
    ]


def _cost_matrix(costs: Mapping[str, Any], task: Task) -> tuple[tuple[float, ...], ...]:
    """costs[gold][predicted]; what is not named costs 0 where it is right and 1 where it is wrong."""
    return tuple(
        tuple(float(costs.get(gold, {}).get(given, gold != given)) for given in task.labels) for gold in task.labels
    )


def held_out_probabilities(
    fit: Callable[[LabelledExamples, LabelledExamples], FloatArray], labelled: LabelledExamples, folds: int, seed: int
) -> FloatArray:
    """Probabilities (n, n_labels) of every example by a classifier that did not see it; `labelled.units` (near-
    duplicates, groups) are kept together.

    `fit(rest, part)` gives the probabilities of `part` by a classifier fitted on `rest`. On a small corpus this is far
    steadier than one validation split, at the price of `folds` more fits. Raises ConfigurationError where there are
    fewer units than folds.
    """
    if len(set(labelled.units)) < folds:
        raise ConfigurationError(
            f"decision.cross_fit={folds}, but train and validation hang together in {len(set(labelled.units))} groups "
            "of near-duplicates; expected fewer folds"
        )
    splitter = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    probabilities = np.empty((len(labelled), len(labelled.task.labels)), dtype=np.float32)
    for rest, part in splitter.split(labelled.gold, groups=labelled.units):
        probabilities[part] = fit(labelled.select(rest), labelled.select(part))
    return probabilities


def fit_decision(
    task: Task,
    probabilities: FloatArray,
    gold: Gold,
    config: DecisionConfig,
    metric: str,
    groups: Sequence[str] | None = None,
) -> Decision:
    """The decision that fits validation: `probabilities` (n, n_labels), `gold` and `groups` as in LabelledExamples;
    without groups each example is its own.

    Calibration minimises the log loss; thresholds maximise `metric` (macro_f1, else micro-F1), or where costs are given
    minimise the expected cost. Raises ConfigurationError where the configuration does not fit the task, or no
    confidence reaches `config.target_risk`.
    """
    config.check(task)
    method, fitted = _choose(task, probabilities, gold, groups or [str(i) for i in range(len(gold))], config)
    decision = replace(_calibration(method, task, probabilities, gold, config.min_positives), fitted=fitted)
    calibrated = decision.calibrate(probabilities, task)
    if task.kind == "multilabel":
        rare = gold.sum(axis=0) < config.min_positives
        thresholds = _thresholds(calibrated, gold, rare, config.thresholds, macro=metric == "macro_f1")
        if config.costs:
            thresholds = _cost_thresholds(thresholds, config.costs, task)
            decision = replace(decision, fitted={**fitted, "costs": config.costs})
        return replace(decision, thresholds=thresholds)
    decision = replace(decision, abstain_below=config.abstain_below)
    if config.costs:
        decision = replace(decision, costs=_cost_matrix(config.costs, task))
    if config.target_risk is not None:
        given = decision.best(calibrated)
        chosen = select_confidence(calibrated[np.arange(len(gold)), given], given == gold, config.target_risk)
        fitted = {**fitted, "target_risk": {"target": config.target_risk, "delta": DELTA, **vars(chosen)}}
        decision = replace(decision, abstain_below=chosen.confidence, fitted=fitted)
    return decision


# --- Calibration ------------------------------------------------------------------------------------------------------


def _choose(
    task: Task, probabilities: FloatArray, gold: Gold, groups: Sequence[str], config: DecisionConfig
) -> tuple[str, dict[str, Any]]:
    """The calibration for these validation examples, and what is known of it (`Decision.fitted`).

    Methods are compared by the log loss of probabilities on held-out folds, groups kept together: the simplest one
    within a standard error of the best is taken (the rule of Breiman et al. 1984), since the difference of two good
    ones is mostly noise, and a temperature leaves the classifier's labels as they are. `held_out` holds the figures of
    each method's held-out probabilities, so that before (none) and after can be compared.
    """
    left_out = {}
    offered = list(METHODS) if config.calibrate == "auto" else list(dict.fromkeys(("none", config.calibrate)))
    if config.calibrate == "auto" and len(gold) < ISOTONIC_EXAMPLES:
        offered.remove("isotonic")
        left_out["isotonic"] = f"{len(gold):,} validation examples; compared from {ISOTONIC_EXAMPLES:,} on"
    codes = np.unique(np.array(groups), return_inverse=True)[1]
    if codes.max(initial=0) < 1:
        left_out = dict.fromkeys(offered[1:], "all validation examples are of one group; two are needed to compare")
        offered = ["none"]
    held_out = {method: _held_out(method, task, probabilities, gold, codes, config) for method in offered}
    losses = {method: _losses(found, gold) for method, found in held_out.items()}
    best = min(losses, key=lambda method: losses[method].mean())
    errors = {method: _standard_error(loss - losses[best], codes) for method, loss in losses.items()}
    close = [method for method in offered if losses[method].mean() - losses[best].mean() <= errors[method]]
    method = close[0] if config.calibrate == "auto" else config.calibrate
    figures = {
        name: {"log_loss": float(losses[name].mean()), "behind_best_se": errors[name], "ece": _ece(task, found, gold)}
        for name, found in held_out.items()
    }
    return method, {"calibration": method, "examples": len(gold), "held_out": figures, "not_compared": left_out}


def _held_out(
    method: str,
    task: Task,
    probabilities: FloatArray,
    gold: Gold,
    groups: npt.NDArray[np.int64],
    config: DecisionConfig,
) -> FloatArray:
    """The probabilities of each fold of validation, calibrated by what the other folds gave."""
    if method == "none":
        return probabilities
    found = np.empty_like(probabilities)
    splitter = GroupKFold(n_splits=min(FOLDS, int(groups.max()) + 1), shuffle=True, random_state=0)
    for rest, part in splitter.split(gold, groups=groups):
        fitted = _calibration(method, task, probabilities[rest], gold[rest], config.min_positives)
        found[part] = fitted.calibrate(probabilities[part], task)
    return found


def _losses(probabilities: FloatArray, gold: Gold) -> npt.NDArray[np.float64]:
    """The log loss of each example, (n,); multilabel: the mean over labels."""
    p = probabilities.astype(np.float64)
    given = p[np.arange(len(gold)), gold][:, None] if gold.ndim == 1 else np.where(gold, p, 1 - p)
    epsilon = np.finfo(np.float32).eps
    losses: npt.NDArray[np.float64] = -np.log(np.clip(given, epsilon, 1 - epsilon)).mean(axis=1)
    return losses


def _standard_error(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> float:
    """Of the mean of values that depend on each other within a group."""
    return float(np.linalg.norm(np.bincount(groups, weights=values - values.mean())) / len(values))


def _ece(task: Task, probabilities: FloatArray, gold: Gold) -> float:
    blank, nothing = [""] * len(gold), [None] * len(gold)
    made = Predictions(task, "validation", blank, blank, gold, probabilities, gold, blank, nothing, nothing)
    return compute(made, ["ece"])["ece"]


def _calibration(method: str, task: Task, probabilities: FloatArray, gold: Gold, min_positives: int) -> Decision:
    """A decision that calibrates by `method` and does nothing else."""
    n = len(task.labels)
    if method == "none":
        return Decision()
    if method == "temperature":
        return Decision((_inverse_temperature(probabilities, gold),) * n, (0.0,) * n)
    if method == "sigmoid" and task.kind == "multiclass":
        return Decision(*_vector_scaling(probabilities, gold))
    holds = gold if task.kind == "multilabel" else gold[:, None] == np.arange(n)
    rare = holds.sum(axis=0) < min_positives
    if method == "sigmoid":
        return Decision(*_sigmoids(probabilities, holds, rare))
    return Decision(curves=_curves(probabilities, holds, rare))


def _log_odds(probabilities: FloatArray) -> npt.NDArray[np.float64]:
    p = np.clip(probabilities.astype(np.float64), TINY, 1 - TINY)
    return np.log(p) - np.log1p(-p)


def _wanted(gold: npt.NDArray[np.generic], n_labels: int) -> npt.NDArray[np.float64]:
    """What the probabilities of a multiclass task should be, (n, n_labels).

    Smoothed as Platt (1999) smooths his: with n examples the label gets 1 - 1/(n + 2) and all share the rest, so that a
    handful of right answers does not make every probability 1.
    """
    n = len(gold)
    wanted = np.full((n, n_labels), 1 / ((n + 2) * n_labels))
    wanted[np.arange(n), gold] += 1 - 1 / (n + 2)
    return wanted


def _inverse_temperature(probabilities: FloatArray, gold: Gold) -> float:
    """1 / the temperature of Guo et al. (2017), which is between 1/20 and 20; multilabel: one for all labels."""
    if gold.ndim == 2:
        scores, wanted = _log_odds(probabilities).ravel(), _smoothed(gold.ravel())

        def loss(x: float) -> float:
            return float(np.mean(np.logaddexp(0, math.exp(x) * scores) - wanted * math.exp(x) * scores))

    else:
        scores = np.log(np.clip(probabilities.astype(np.float64), TINY, 1))
        wanted = _wanted(gold, probabilities.shape[1])

        def loss(x: float) -> float:
            scaled = math.exp(x) * scores
            return float(np.mean(logsumexp(scaled, axis=1) - (wanted * scaled).sum(axis=1)))

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded").x))


def _vector_scaling(probabilities: FloatArray, gold: Gold) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A slope and an intercept for each label of a multiclass task (Guo et al. 2017, vector scaling).

    A normal prior holds the logarithms of the slopes near their mean and the intercepts near 0: without evidence, as
    for a label of few examples, it is a temperature.
    """
    logs = np.log(np.clip(probabilities.astype(np.float64), TINY, 1))
    n, k = logs.shape
    wanted = _wanted(gold, k)

    def loss(x: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        slopes, intercepts, apart = np.exp(x[:k]), x[k:], x[:k] - x[:k].mean()
        scores = slopes * logs + intercepts
        normaliser = logsumexp(scores, axis=1, keepdims=True)
        error = np.exp(scores - normaliser) - wanted
        value = np.sum(normaliser) - np.sum(wanted * scores) + PRIOR / 2 * (apart @ apart + intercepts @ intercepts)
        slope = (error * logs).sum(axis=0) * slopes + PRIOR * apart
        return float(value) / n, np.concatenate([slope, error.sum(axis=0) + PRIOR * intercepts]) / n

    bounds = [(-np.log(20), np.log(20))] * k + [(-50, 50)] * k
    found = minimize(loss, np.zeros(2 * k), jac=True, method="L-BFGS-B", bounds=bounds)
    return tuple(np.exp(found.x[:k]).tolist()), tuple(found.x[k:].tolist())


def _sigmoids(
    probabilities: FloatArray, gold: npt.NDArray[np.generic], rare: npt.NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Platt's sigmoid for each label, one pooled sigmoid for those in `rare`."""
    logits = _log_odds(probabilities)
    pooled = _sigmoid(logits.ravel(), gold.ravel())
    fitted = [pooled if rare[k] else _sigmoid(logits[:, k], gold[:, k]) for k in range(gold.shape[1])]
    return tuple(a for a, _ in fitted), tuple(b for _, b in fitted)


def _smoothed(holds: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Platt's targets (1999), which keep few examples from overfitting: (n,) flags to values just inside of 0 and 1."""
    positives = int(holds.sum())
    return np.where(holds, (positives + 1) / (positives + 2), 1 / (len(holds) - positives + 2))


def _sigmoid(logits: npt.NDArray[np.float64], gold: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Slope and intercept, by maximum likelihood with Platt's smoothed targets."""
    if gold.all() or not gold.any():
        return 1.0, 0.0
    wanted = _smoothed(gold)

    def loss(x: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        z = x[0] * logits + x[1]
        error = expit(z) - wanted
        return float(np.mean(np.logaddexp(0, z) - wanted * z)), np.array([np.mean(error * logits), np.mean(error)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, 50), (-50, 50)])
    return float(found.x[0]), float(found.x[1])


def _curves(probabilities: FloatArray, gold: npt.NDArray[np.generic], rare: npt.NDArray[np.bool_]) -> tuple[Curve, ...]:
    """An isotonic regression for each label, one pooled for those in `rare` (Zadrozny and Elkan 2002)."""
    p = probabilities.astype(np.float64)
    pooled = _isotonic(p.ravel(), gold.ravel())
    return tuple(pooled if rare[k] else _isotonic(p[:, k], gold[:, k]) for k in range(gold.shape[1]))


def _isotonic(p: npt.NDArray[np.float64], gold: npt.NDArray[np.generic]) -> Curve:
    """The breakpoints of the non-decreasing function nearest to Platt's smoothed targets, which keep it off 0 and 1."""
    fitted = IsotonicRegression().fit(p, _smoothed(gold))
    return tuple(fitted.X_thresholds_.tolist()), tuple(np.round(fitted.y_thresholds_, 7).tolist())


# --- Labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The confidence from which on an answer is given, and what validation knows of the answers it lets through.

    bound     upper confidence bound of their risk (share of wrong answers)
    coverage  their share of all examples; accepted and errors are counts
    """

    confidence: float
    bound: float
    coverage: float
    accepted: int
    errors: int


def select_confidence(
    confidence: FloatArray, right: npt.NDArray[np.bool_], target: float, delta: float = DELTA
) -> Selection:
    """The smallest confidence whose answers are wrong less often than `target`, with probability 1 - delta.

    Selection with guaranteed risk by the exact binomial bound (Geifman and El-Yaniv 2017; Clopper and Pearson 1934).
    Where they bisect and share delta among the steps, the shares of examples answered are tested in a fixed order, the
    most confident first, until one fails: then each may use all of delta (fixed sequence testing, Angelopoulos et al.
    2021), and fewer examples are enough. The guarantee takes examples to be independent and to be like those to come.
    Raises ConfigurationError where the first test fails already.
    """
    n, enough = len(confidence), _enough(target, delta)
    falling = np.sort(confidence)[::-1]
    best: Selection | None = None
    why = f"{enough:,} of the most confident are needed at the least"
    for coverage in COVERAGES if n else ():
        threshold = falling[math.ceil(n * coverage) - 1]
        accepted = confidence >= threshold
        size, errors = int(accepted.sum()), int((accepted & ~right).sum())
        if size < enough:
            continue
        bound = _risk_bound(errors, size, delta)
        if bound > target:
            why = f"of the {size:,} most confident answers {errors:,} are wrong, the bound is {bound:.3f}"
            break
        best = Selection(float(threshold), bound, size / n, size, errors)
    if best is None:
        raise ConfigurationError(
            f"decision.target_risk={target:g} cannot be shown by the {n:,} validation examples: {why}; "
            "expected a larger risk, more validation examples, or decision.abstain_below in its place"
        )
    return best


def _risk_bound(errors: int, n: int, delta: float) -> float:
    """The share of errors that is not exceeded with probability 1 - delta, after `errors` among n."""
    return float(beta.ppf(1 - delta, errors + 1, n - errors)) if errors < n else 1.0


def _enough(target: float, delta: float) -> int:
    """How many answers show the target where half as many as it allows are wrong; on fewer no test is spent."""
    return next(n for n in count(1) if _risk_bound(int(n * target / 2), n, delta) <= target)


def _cost_thresholds(thresholds: tuple[float, ...], costs: Mapping[str, Any], task: Task) -> tuple[float, ...]:
    """The thresholds, and for labels with costs the one of smallest expected cost (Elkan 2001)."""
    return tuple(
        costs[label]["false_positive"] / (costs[label]["false_positive"] + costs[label]["false_negative"])
        if label in costs
        else threshold
        for label, threshold in zip(task.labels, thresholds, strict=True)
    )


def _thresholds(
    calibrated: FloatArray,
    gold: npt.NDArray[np.generic],
    rare: npt.NDArray[np.bool_],
    how: str,
    macro: bool,
) -> tuple[float, ...]:
    """One threshold a label. `rare` labels keep the one that is best for all labels together."""
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
            for k in np.flatnonzero(~rare):
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
