"""Fitting the linear classifier: features once, then a path of regularisation strengths judged on validation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from data.examples import LabelledExamples
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.features import Design, FeatureSettings, FeatureSpace, Floats
from slantwise.linear import Head, LinearClassifier, first_stage_input
from slantwise.task import Task
from training.fitting import Fitted, Part, Workspace, score

LOSSES = ("logistic", "svm")
CLASS_WEIGHTS = ("balanced", "none")


@dataclass
class LinearConfig:
    """See configs/classifier/linear.yaml for what each option does."""

    _target_: str = "training.linear.fit_all"
    loss: str = "logistic"
    C: list[float] = field(default_factory=lambda: [0.3, 1.0, 3.0, 10.0])
    class_weight: str = "balanced"
    word_ngrams: list[int] = field(default_factory=lambda: [1, 2])
    char_ngrams: list[int] = field(default_factory=lambda: [2, 5])
    min_df: int = 1
    max_features: int = 200_000
    sublinear: bool = True
    mask: bool = True
    window: int = 7
    sentence: bool = True
    target: bool = False
    relation: bool = True
    per_target: int = 50
    first_label: str | None = None
    refit: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.loss not in LOSSES:
            problems.append(f"loss={self.loss!r}; expected one of {', '.join(LOSSES)}")
        if self.class_weight not in CLASS_WEIGHTS:
            problems.append(f"class_weight={self.class_weight!r}; expected one of {', '.join(CLASS_WEIGHTS)}")
        if not self.C or min(self.C) <= 0:
            problems.append(f"C={self.C}; expected one or more numbers above 0")
        for name in ("word_ngrams", "char_ngrams"):
            value = getattr(self, name)
            if len(value) != 2 or not (1 <= value[0] <= value[1] or list(value) == [0, 0]):
                problems.append(f"{name}={value}; expected [shortest, longest], or [0, 0] to leave them out")
        if list(self.word_ngrams) == list(self.char_ngrams) == [0, 0]:
            problems.append("word_ngrams and char_ngrams are both [0, 0]; a classifier needs one of them")
        for name, least in (("min_df", 1), ("max_features", 1), ("window", 0), ("per_target", 0)):
            if getattr(self, name) < least:
                problems.append(f"{name}={getattr(self, name)}; expected {least} or more")
        if problems:
            raise ConfigurationError("classifier: " + "; ".join(problems))

    def settled(self, chosen: Mapping[str, Any]) -> LinearConfig:
        """The same with the choices that validation has made: for further fits that must be like the first."""
        return replace(self, C=[chosen["C"]], refit=False)

    def features(self) -> FeatureSettings:
        words, chars = self.word_ngrams, self.char_ngrams
        return FeatureSettings(
            (words[0], words[1]), (chars[0], chars[1]), self.min_df, self.max_features, self.sublinear, self.mask,
            self.window, self.sentence, self.target, self.relation, self.per_target,
        )  # fmt: skip


def fit_all(parts: Sequence[Part], config: LinearConfig, workspace: Workspace) -> dict[str, Fitted]:
    """One classifier for each part, fitted for itself; see `fit`."""
    return {part.task.name: fit(part.task, part.train, part.validation, config) for part in parts}


def fit(task: Task, train: LabelledExamples, validation: LabelledExamples, config: LinearConfig) -> Fitted:
    """Fit on train, choose C on validation; with `refit`, fit again on both with the chosen C.

    C is chosen by macro-F1 of the most probable label (multiclass), or by micro-F1 at the best common threshold
    (multilabel). Where examples have shares, each is learned from once for every label, with its share as the weight.
    Deterministic in `config.seed`.
    """
    if not len(train) or not len(validation):
        raise CorpusError(f"the linear classifier needs both: {len(train)} train and {len(validation)} validation rows")
    first_label = _first_label(task, config)
    # The solvers' many small products lose more by handing work to threads than they gain.
    with threadpool_limits(1):
        fitted = _choose(task, train, validation, config, first_label)
        if config.refit:
            both = train + validation
            space = FeatureSpace(config.features(), task.has_target)
            trainer = _Trainer(both, space.fit_transform(both.examples), config, first_label)
            fitted = replace(fitted, classifier=trainer.classifier(space, fitted.chosen["C"]))
    return fitted


def _choose(
    task: Task, train: LabelledExamples, validation: LabelledExamples, config: LinearConfig, first_label: int | None
) -> Fitted:
    """The best of the path of C; of equal ones the smallest C."""
    space = FeatureSpace(config.features(), task.has_target)
    design, judged = space.fit_transform(train.examples), space.transform(validation.examples)
    trainer = _Trainer(train, design, config, first_label)
    scores: dict[str, float] = {}
    best: Fitted | None = None
    for c in sorted(config.C):
        classifier = trainer.classifier(space, c)
        probabilities = classifier.from_design(judged)
        scores[str(c)] = score(task, validation.gold, probabilities)
        if best is None or scores[str(c)] > scores[str(best.chosen["C"])]:
            best = Fitted(classifier, probabilities, f"C {c:g}", {"C": c, "validation_scores": scores})
    assert best is not None
    return best


def _first_label(task: Task, config: LinearConfig) -> int | None:
    if config.first_label is None:
        return None
    if task.kind != "multiclass" or config.first_label not in task.labels or len(task.labels) < 3:
        raise ConfigurationError(
            f"classifier.first_label={config.first_label!r}; expected a label of a multiclass task with three or "
            f"more, here: {task.kind}, {', '.join(task.labels)}"
        )
    return task.labels.index(config.first_label)


class _Trainer:
    """Solvers over one design; along a path of C each starts where it stopped."""

    def __init__(
        self, labelled: LabelledExamples, design: Design, config: LinearConfig, first_label: int | None
    ) -> None:
        self.task, self.config, self.first_label = labelled.task, config, first_label
        self.first: Head | None = None
        gold, shares = labelled.gold, labelled.shares
        rows = np.arange(len(design))
        if first_label is not None:
            is_first = (gold == first_label).astype(np.int64)
            first_shares = None if shares is None else _no_and_yes(shares[:, first_label])
            # Not balanced: the share of the first label is known, and its probability multiplies the others.
            model = LogisticRegression(max_iter=1000)
            self.first = _Solver(first_stage_input(design), is_first, model, first_shares).head(1.0)
            shares = None if shares is None else np.where(np.arange(shares.shape[1]) == first_label, 0, shares)
            rows = np.flatnonzero(is_first == 0) if shares is None else np.flatnonzero(shares.any(axis=1))
        matrix = design.take(rows)
        if self.task.kind == "multiclass":
            kept = None if shares is None else shares[rows]
            self.solvers = [_Solver(matrix, gold[rows].astype(np.int64), self._model(), kept)]
        else:
            self.solvers = [
                _Solver(matrix, gold[:, i].astype(np.int64), self._model(),
                        None if shares is None else _no_and_yes(shares[:, i]))
                for i in range(gold.shape[1])
            ]  # fmt: skip

    def _model(self) -> Any:
        weight = "balanced" if self.config.class_weight == "balanced" else None
        if self.config.loss == "svm":
            return LinearSVC(class_weight=weight, random_state=self.config.seed, max_iter=5000)
        return LogisticRegression(
            solver="newton-cg", class_weight=weight, warm_start=True, tol=1e-4, max_iter=100,
            random_state=self.config.seed,
        )  # fmt: skip

    def classifier(self, space: FeatureSpace, c: float) -> LinearClassifier:
        heads = [solver.head(c) for solver in self.solvers]
        if self.task.kind == "multiclass":
            head = heads[0]
        else:
            # Of each label's pair of scores, the first is zero.
            coefficients = np.column_stack([one.coefficients[:, -1] for one in heads])
            intercept = np.array([one.intercept[-1] for one in heads], dtype=np.float32)
            head = Head(tuple(range(len(heads))), coefficients, intercept)
        return LinearClassifier(self.task, space, head, self.first, self.first_label)


def _no_and_yes(share: Floats) -> Floats:
    """(n, 2): how far a label does not hold, and how far it does."""
    return np.column_stack([1 - share, share])


class _Solver:
    """One scikit-learn model as a Head: one column of coefficients for each class that occurs in `gold`.

    With `shares` (n, n_classes) an example enters once for each class in which it has a share, in place of its `gold`,
    with the share as its weight.
    """

    def __init__(
        self, matrix: sparse.csr_array | Floats, gold: npt.NDArray[np.int64], model: Any, shares: Floats | None = None
    ) -> None:
        self.fold = Fold(sparse.csr_array(matrix))
        self.matrix, self.gold, self.weights, self.model = self.fold.matrix, gold, None, model
        if shares is not None:
            rows, self.gold = np.nonzero(shares)
            self.matrix, self.weights = self.matrix[rows], shares[rows, self.gold]
        self.classes = np.unique(self.gold)

    def head(self, c: float) -> Head:
        labels = tuple(int(label) for label in self.classes)
        if len(labels) < 2:
            return self._constant(labels)
        self.model.set_params(C=c)
        with warnings.catch_warnings():
            # A path of C holds values too large to be solved exactly; validation judges what comes of them.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self.matrix, self.gold, self.weights)
        coefficients, intercept = self.fold.unfold(self.model.coef_.T), self.model.intercept_
        if isinstance(self.model, LinearSVC):
            # The squared hinge estimates 2 p - 1 (Zhang 2004); sigmoid(2 m) has the same slope at m = 0 as (1 + m) / 2.
            coefficients, intercept = 2 * coefficients, 2 * intercept
        if len(labels) == 2:
            coefficients = np.hstack([np.zeros_like(coefficients), coefficients])
            intercept = np.append(np.zeros_like(intercept), intercept)
        return Head(labels, coefficients.astype(np.float32), intercept.astype(np.float32))

    def _constant(self, labels: tuple[int, ...]) -> Head:
        """One class or none to learn from; a multilabel column is then sure in the measure of its examples."""
        odds = float(np.log(2 * len(self.gold) + 1))
        intercept = np.array([odds if label else -odds for label in labels], dtype=np.float32)
        return Head(labels, np.zeros((self.fold.width, len(labels)), np.float32), intercept)


class Fold:
    """A matrix with one column for each row in place of all columns that are filled in that row alone.

    This changes no solution with an L2 penalty: such a solution is a sum of rows (the representer theorem), so that the
    weights of one row's own columns are in proportion to their values. Columns that are never filled have weight 0. Of
    n-grams, most columns are of these kinds.
    """

    def __init__(self, matrix: sparse.csr_array) -> None:
        n, self.width = matrix.shape
        columns = sparse.csc_array(matrix)
        filled = np.diff(columns.indptr)
        self.kept = np.flatnonzero(filled > 1)
        self.single = np.flatnonzero(filled == 1)
        self.values = columns.data[columns.indptr[self.single]]
        self.rows = columns.indices[columns.indptr[self.single]]
        self.norms = np.sqrt(np.bincount(self.rows, self.values.astype(np.float64) ** 2, minlength=n))
        own = sparse.diags_array(self.norms.astype(columns.dtype))
        folded = sparse.csr_array(sparse.hstack([columns[:, self.kept], own], format="csr"))
        folded.indices, folded.indptr = folded.indices.astype(np.int32), folded.indptr.astype(np.int32)
        self.matrix = folded

    def unfold(self, coefficients: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(n_columns, k) from the solution of the folded problem."""
        full = np.zeros((self.width, coefficients.shape[1]))
        full[self.kept] = coefficients[: len(self.kept)]
        share = (self.values / self.norms[self.rows])[:, np.newaxis]
        full[self.single] = coefficients[len(self.kept) :][self.rows] * share
        return full
