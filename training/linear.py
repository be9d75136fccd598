"""Fitting the linear classifier: features once, then a path of regularisation strengths judged on validation.

Fits that share a cache (the trials of a sweep) build the features of a distinct (data, settings) once, and those that
differ in C alone are one path for the solver, which starts each where the one before ended.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from data.examples import LabelledExamples
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.features import Design, FeatureSettings, FeatureSpace, Floats
from slantwise.linear import Head, LinearClassifier, first_stage_input
from slantwise.task import Task
from training.cache import Arrays, StepCache, code_of, key_of
from training.fitting import Fitted, Part, Workspace, score

LOSSES = ("logistic", "svm")
CLASS_WEIGHTS = ("balanced", "none")
FEATURE_CODE = ("slantwise.features", "slantwise.mentions", "slantwise.polarity", "training.linear")
STRICTER_FROM = 20.0  # C; up to it fold scores are within .004 of those solved to 1e-8, beyond it they drift away
FORESIGHT = 0.7  # of the step that the last solutions of a path make; the whole of it overshoots where it bends
DENSE_SHARE = 0.05  # a column that more of the rows fill is multiplied faster as a dense one


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
    return {
        part.task.name: fit(part.task, part.train, part.validation, config, workspace.cache, part.key)
        for part in parts
    }  # fmt: skip


def fit(
    task: Task, train: LabelledExamples, validation: LabelledExamples, config: LinearConfig,
    cache: StepCache | None = None, key: bytes | None = None,
) -> Fitted:  # fmt: skip
    """Fit on train, choose C on validation; with `refit`, fit again on both with the chosen C.

    C is chosen by macro-F1 of the most probable label (multiclass), or by micro-F1 at the best common threshold
    (multilabel). Where examples have shares, each is learned from once for every label, with its share as the weight.
    Deterministic in `config.seed`. With a `cache` and the `key` of the data, features and solutions are shared with
    other fits: what comes out is the same within the solver's tolerance.
    """
    if not len(train) or not len(validation):
        raise CorpusError(f"the linear classifier needs both: {len(train)} train and {len(validation)} validation rows")
    first_label = _first_label(task, config)
    # The solvers' many small products lose more by handing work to threads than they gain.
    with threadpool_limits(1):
        if cache is None or key is None:
            path = _path(train, validation, config, first_label)
        else:
            path = _shared_path(train, validation, config, first_label, cache, key)
        fitted = _choose(task, validation, config, path)
        if config.refit:
            both = train + validation
            space = FeatureSpace(config.features(), task.has_target)
            trainer = _Trainer(both, space.fit_transform(both.examples), config, first_label)
            fitted = replace(fitted, classifier=trainer.classifier(space, fitted.chosen["C"]))
    return fitted


@dataclass(frozen=True)
class _Features:
    """Of train and validation, in the space that was fitted on train."""

    space: FeatureSpace
    design: Design
    judged: Design

    @classmethod
    def of(cls, train: LabelledExamples, validation: LabelledExamples, config: LinearConfig) -> _Features:
        space = FeatureSpace(config.features(), train.task.has_target)
        return cls(space, space.fit_transform(train.examples), space.transform(validation.examples))

    def arrays(self) -> Arrays:
        settings, vocabularies, arrays = self.space.state()
        texts = json.dumps([settings, vocabularies], ensure_ascii=False).encode(errors="surrogatepass")
        packed = {f"space.{name}": array for name, array in arrays.items()}
        packed["texts"] = np.frombuffer(texts, np.uint8)
        for name, design in (("design", self.design), ("judged", self.judged)):
            packed |= {f"{name}.{part}": array for part, array in _unpicked(design).items()}
        return packed

    @classmethod
    def restored(cls, arrays: Arrays) -> _Features:
        settings, vocabularies = json.loads(arrays["texts"].tobytes().decode(errors="surrogatepass"))
        own = {name.removeprefix("space."): array for name, array in arrays.items() if name.startswith("space.")}
        space = FeatureSpace.from_state(settings, vocabularies, own)
        return cls(space, _picked(arrays, "design"), _picked(arrays, "judged"))


def _nbytes(design: Design) -> int:
    return sum(matrix.data.nbytes + matrix.indices.nbytes for matrix, _ in design.parts)


def _unpicked(design: Design) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {} if design.relation is None else {"relation": design.relation}
    for number, (matrix, rows) in enumerate(design.parts):
        arrays |= {f"{number}.{name}": getattr(matrix, name) for name in ("data", "indices", "indptr")}
        arrays |= {f"{number}.shape": np.array(matrix.shape), f"{number}.rows": rows}
    return arrays


def _picked(arrays: Arrays, name: str) -> Design:
    parts: list[tuple[sparse.csr_array, npt.NDArray[np.int64]]] = []
    while f"{name}.{len(parts)}.data" in arrays:
        data, indices, indptr, shape, rows = (
            arrays[f"{name}.{len(parts)}.{part}"] for part in ("data", "indices", "indptr", "shape", "rows")
        )
        parts.append((sparse.csr_array((data, indices, indptr), shape=tuple(shape.tolist())), rows))
    return Design(parts, arrays.get(f"{name}.relation"))


@dataclass(frozen=True)
class _Path:
    """Classifiers along C of one distinct (data, settings of the features, loss)."""

    space: FeatureSpace
    judged: Design
    trainer: _Trainer

    def at(self, c: float) -> tuple[LinearClassifier, Floats]:
        """The classifier and its probabilities on validation."""
        classifier = self.trainer.classifier(self.space, c)
        return classifier, classifier.from_design(self.judged)


def _path(
    train: LabelledExamples, validation: LabelledExamples, config: LinearConfig, first_label: int | None
) -> _Path:
    found = _Features.of(train, validation, config)
    return _Path(found.space, found.judged, _Trainer(train, found.design, config, first_label))


def _shared_path(
    train: LabelledExamples, validation: LabelledExamples, config: LinearConfig, first_label: int | None,
    cache: StepCache, key: bytes,
) -> _Path:  # fmt: skip
    """The path of this configuration but for C: one that is in memory, or a new one on features from the cache."""
    settings = json.dumps([asdict(config.features()), train.task.has_target])
    features = key_of(key, settings.encode(), code_of(*FEATURE_CODE))

    def make() -> _Path:
        built: list[_Features] = []

        def compute() -> Arrays:
            built.append(_Features.of(train, validation, config))
            return built[0].arrays()

        arrays = cache.disk.get("features", features, compute)
        found = built[0] if built else _Features.restored(arrays)
        trainer = _Trainer(train, found.design, config, first_label, many=True)
        return _Path(found.space, found.judged, trainer)

    kept = ("path", features, config.loss, config.class_weight, first_label, config.seed)
    return cache.memory.get(kept, make, lambda path: path.trainer.nbytes + _nbytes(path.judged))


def _choose(task: Task, validation: LabelledExamples, config: LinearConfig, path: _Path) -> Fitted:
    """The best of the path of C; of equal ones the smallest C."""
    scores: dict[str, float] = {}
    best: Fitted | None = None
    for c in sorted(config.C):
        classifier, probabilities = path.at(c)
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
    """Solvers over one design; along a path of C each starts where it stopped. many: more C than a few will come."""

    def __init__(
        self, labelled: LabelledExamples, design: Design, config: LinearConfig, first_label: int | None,
        many: bool = False,
    ) -> None:  # fmt: skip
        self.task, self.config, self.first_label = labelled.task, config, first_label
        self.first: Head | None = None
        gold, shares = labelled.gold, labelled.shares
        rows = np.arange(len(design))
        if first_label is not None:
            is_first = (gold == first_label).astype(np.int64)
            first_shares = None if shares is None else _no_and_yes(shares[:, first_label])
            # Not balanced: the share of the first label is known, and its probability multiplies the others.
            model = LogisticRegression(max_iter=1000)
            self.first = _Solver(_problem(first_stage_input(design)), is_first, model, first_shares).head(1.0)
            shares = None if shares is None else np.where(np.arange(shares.shape[1]) == first_label, 0, shares)
            rows = np.flatnonzero(is_first == 0) if shares is None else np.flatnonzero(shares.any(axis=1))
        self.problem = _problem(design.take(rows), rotate=many and config.loss == "logistic")
        if self.task.kind == "multiclass":
            kept = None if shares is None else shares[rows]
            self.solvers = [_Solver(self.problem, gold[rows].astype(np.int64), self._model(), kept, many)]
        else:
            self.solvers = [
                _Solver(self.problem, gold[:, i].astype(np.int64), self._model(),
                        None if shares is None else _no_and_yes(shares[:, i]), many)
                for i in range(gold.shape[1])
            ]  # fmt: skip

    def _model(self) -> Any:
        weight = "balanced" if self.config.class_weight == "balanced" else None
        if self.config.loss == "svm":
            return LinearSVC(class_weight=weight, random_state=self.config.seed, max_iter=5000)
        return LogisticRegression(
            solver="newton-cg", class_weight=weight, warm_start=True, max_iter=100, random_state=self.config.seed
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Of the matrices, and of the solutions that a path keeps."""
        width, n_solutions = self.problem.matrix.shape[1], 3 * sum(len(solver.classes) for solver in self.solvers)
        return self.problem.nbytes + 8 * width * n_solutions

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


@dataclass(frozen=True)
class _Problem:
    """What a solver sees in place of the features; its solutions are turned back into theirs.

    matrix   (n, width): sparse, or dense after a rotation
    """

    fold: Fold
    rotation: Rotation | None = None

    @property
    def matrix(self) -> Any:
        return self.fold.matrix if self.rotation is None else self.rotation.matrix

    def tolerance(self, c: float) -> float:
        """Of the solver's gradient. What is solved in milliseconds is solved to the end.

        The penalty's part of the gradient shrinks as 1/C: of large C, scikit-learn's 1e-4 calls any start solved.
        """
        return 1e-4 * min(1.0, STRICTER_FROM / c) if self.rotation is None else 1e-6

    def turned_back(self, coefficients: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(n_features, k) from a solution (width, k)."""
        return self.fold.unfold(coefficients if self.rotation is None else self.rotation.turned_back(coefficients))

    @property
    def nbytes(self) -> int:
        rotated = 0 if self.rotation is None else self.rotation.nbytes
        return self.fold.matrix.data.nbytes + self.fold.matrix.indices.nbytes + rotated


def _problem(matrix: sparse.csr_array | Floats, rotate: bool = False) -> _Problem:
    fold = Fold(sparse.csr_array(matrix))
    n = fold.matrix.shape[0]
    return _Problem(fold, Rotation(fold.matrix) if rotate and 0 < n * n <= fold.matrix.nnz else None)


class _Solver:
    """One scikit-learn model as a Head: one column of coefficients for each class that occurs in `gold`.

    With `shares` (n, n_classes) an example enters once for each class in which it has a share, in place of its `gold`,
    with the share as its weight. With `many`, a solution is foreseen from the last two of a path.
    """

    def __init__(
        self, problem: _Problem, gold: npt.NDArray[np.int64], model: Any, shares: Floats | None = None,
        many: bool = False,
    ) -> None:  # fmt: skip
        self.problem, self.gold, self.weights, self.model, self.many = problem, gold, None, model, many
        self.matrix = problem.matrix
        if shares is not None:
            rows, self.gold = np.nonzero(shares)
            self.matrix, self.weights = self.matrix[rows], shares[rows, self.gold]
        self.classes = np.unique(self.gold)
        self.solved: list[tuple[float, Any, Any]] = []  # the last two: log(C), coefficients, intercept

    def head(self, c: float) -> Head:
        labels = tuple(int(label) for label in self.classes)
        if len(labels) < 2:
            return self._constant(labels)
        self.model.set_params(C=c)
        if isinstance(self.model, LogisticRegression):
            self.model.set_params(tol=self.problem.tolerance(c))
        self._foresee(float(np.log(c)))
        with warnings.catch_warnings():
            # A path of C holds values too large to be solved exactly; validation judges what comes of them.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self.matrix, self.gold, self.weights)
        self.solved = [*self.solved[-1:], (float(np.log(c)), self.model.coef_, self.model.intercept_)]
        coefficients, intercept = self.problem.turned_back(self.model.coef_.T), self.model.intercept_
        if isinstance(self.model, LinearSVC):
            # The squared hinge estimates 2 p - 1 (Zhang 2004); sigmoid(2 m) has the same slope at m = 0 as (1 + m) / 2.
            coefficients, intercept = 2 * coefficients, 2 * intercept
        if len(labels) == 2:
            coefficients = np.hstack([np.zeros_like(coefficients), coefficients])
            intercept = np.append(np.zeros_like(intercept), intercept)
        return Head(labels, coefficients.astype(np.float32), intercept.astype(np.float32))

    def _foresee(self, at: float) -> None:
        """Start where the path leads: the step between the last two solutions, most of it, once more."""
        if not self.many or len(self.solved) < 2 or isinstance(self.model, LinearSVC):
            return
        (x0, w0, b0), (x1, w1, b1) = self.solved
        step = (at - x1) / (x1 - x0) if x1 != x0 else 0.0
        if 0 < step <= 2:
            share = FORESIGHT * min(step, 1.0)
            self.model.coef_, self.model.intercept_ = w1 + share * (w1 - w0), b1 + share * (b1 - b0)

    def _constant(self, labels: tuple[int, ...]) -> Head:
        """One class or none to learn from; a multilabel column is then sure in the measure of its examples."""
        odds = float(np.log(2 * len(self.gold) + 1))
        intercept = np.array([odds if label else -odds for label in labels], dtype=np.float32)
        return Head(labels, np.zeros((self.problem.fold.width, len(labels)), np.float32), intercept)


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


class Rotation:
    """Of few long documents: a square matrix (n, n) in place of one with many more columns, for the same solutions.

    A solution with an L2 penalty is a sum of rows (the representer theorem; Kimeldorf and Wahba 1970), and depends on
    their products alone: on X X' = L L'. Solved on L, u stands for the coefficients X' L'^-1 u.
    """

    JITTER = 1e-6  # of the mean length: equal rows would leave the products singular

    def __init__(self, rows: sparse.csr_array) -> None:
        self.rows = rows
        products = _products(rows).astype(np.float64)
        products[np.diag_indices_from(products)] += self.JITTER * np.trace(products) / len(products)
        self.matrix = np.linalg.cholesky(products)
        self.nbytes = self.matrix.nbytes

    def turned_back(self, coefficients: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(n_columns, k) from a solution (n, k)."""
        shares = solve_triangular(self.matrix, coefficients, lower=True, trans="T")
        found: npt.NDArray[np.float64] = self.rows.T @ shares
        return found


def _products(rows: sparse.csr_array, chunk: int = 4096) -> Floats:
    """float32 (n, n): the products of all rows; columns that many rows fill are multiplied as dense ones."""
    columns = sparse.csc_array(rows)
    is_dense = np.diff(columns.indptr) > DENSE_SHARE * rows.shape[0]
    thin = sparse.csr_array(columns[:, ~is_dense])
    total = np.asarray((thin @ thin.T).toarray(), np.float32)
    dense = columns[:, is_dense]
    for start in range(0, dense.shape[1], chunk):
        block = dense[:, start : start + chunk].toarray()
        total += block @ block.T
    return total
