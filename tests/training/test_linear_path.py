"""Fits of the linear classifier that share features and solutions give what fits give that share nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from data.examples import LabelledExamples
from slantwise.article import Example
from slantwise.features import FeatureSpace
from slantwise.task import Task
from training.cache import ArrayCache, Memory, StepCache
from training.fitting import Part
from training.linear import Fold, LinearConfig, Rotation, fit

TOPIC = Task("topic", "multiclass", ("sport", "weather", "health"))
FRAMING = Task("framing", "multilabel", ("economic", "morality"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
WORDS = (("goal", "match", "striker"), ("storm", "rain", "frost"), ("nurse", "clinic", "vaccine"))
STRENGTHS = [0.1, 1.0, 10.0, 0.3]  # not in order


def labelled(task: Task, n: int, seed: int, length: int = 6) -> LabelledExamples:
    """Texts whose words give the label away, some of them wrongly; half of the targets are named."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(3, size=n)
    texts = [
        " ".join(
            [
                *rng.choice(WORDS[label if rng.random() > 0.2 else 0], 3),
                *(f"w{i}" for i in rng.integers(40, size=length)),
            ]
        )
        for label in gold
    ]
    target = [f"Mayor {'AB'[i % 2]}" if task.has_target else None for i in range(n)]
    examples = [Example(f"{t or ''} {text}".strip(), t) for text, t in zip(texts, target, strict=True)]
    wanted: Any = np.stack([gold == 0, gold != 1], axis=1) if task.kind == "multilabel" else gold.astype(np.int64)
    ids = [str(i) for i in range(n)]
    return LabelledExamples(task, ids, examples, wanted, ids, [None] * n)


def cache(folder: Path, max_bytes: int = 10**9) -> StepCache:
    def fail(text: str) -> None:
        raise AssertionError(text)

    return StepCache(ArrayCache(folder, 10**9, fail), Memory(max_bytes))


def shared(part: Part, config: LinearConfig, steps: StepCache) -> Any:
    return fit(part.task, part.train, part.validation, config, steps, part.key).validation_probabilities


@pytest.mark.parametrize("task", [TOPIC, FRAMING, STANCE], ids=lambda task: task.name)
@pytest.mark.parametrize("class_weight", ["balanced", "none"])
@pytest.mark.parametrize("length", [6, 300], ids=["more rows than a rotation pays for", "few long texts"])
def test_probabilities_along_c_are_those_of_fits_that_share_nothing(
    task: Task, class_weight: str, length: int, tmp_path: Path
) -> None:
    part = Part(task, labelled(task, 60, 0, length), labelled(task, 20, 1, length)).with_key()
    steps = cache(tmp_path)
    for c in STRENGTHS:
        config = LinearConfig(C=[c], refit=False, class_weight=class_weight)
        alone = fit(task, part.train, part.validation, config).validation_probabilities
        np.testing.assert_allclose(shared(part, config, steps), alone, atol=0.01)


def test_features_are_built_once_for_all_of_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(TOPIC, labelled(TOPIC, 40, 0), labelled(TOPIC, 10, 1)).with_key()
    built = []
    whole = FeatureSpace.fit_transform
    monkeypatch.setattr(FeatureSpace, "fit_transform", lambda self, x: built.append(1) or whole(self, x))
    steps = cache(tmp_path)
    for c in STRENGTHS:
        shared(part, LinearConfig(C=[c], refit=False), steps)
    assert len(built) == 1
    shared(part, LinearConfig(C=[1.0], refit=False, min_df=2), steps)
    assert len(built) == 2


def test_another_process_finds_the_features_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(STANCE, labelled(STANCE, 40, 0), labelled(STANCE, 10, 1)).with_key()
    config = LinearConfig(C=[1.0], refit=False, per_target=5)
    first = shared(part, config, cache(tmp_path))
    monkeypatch.setattr(FeatureSpace, "fit_transform", None)
    np.testing.assert_array_equal(shared(part, config, cache(tmp_path)), first)


@pytest.mark.parametrize("change", ["text", "label", "target", "code"])
def test_features_of_other_data_or_code_are_not_taken(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part(STANCE, labelled(STANCE, 40, 0), labelled(STANCE, 10, 1)).with_key()
    steps, config = cache(tmp_path), LinearConfig(C=[1.0], refit=False)
    shared(part, config, steps)
    if change == "code":
        monkeypatch.setattr("training.linear.code_of", lambda *modules: b"another release")
    elif change == "label":
        part.train.gold[0] = (part.train.gold[0] + 1) % 3
    else:
        first = part.train.examples[0]
        other = Example(first.text + "!", first.target) if change == "text" else Example(first.text, "Mayor C")
        part.train.examples[0] = other  # type: ignore[index]
    shared(part.with_key(), config, steps)
    assert len(list((tmp_path / "features").glob("*.npz"))) == 2


def test_a_memory_that_is_too_small_changes_nothing_but_the_time(tmp_path: Path) -> None:
    parts = [Part(TOPIC, labelled(TOPIC, 40, s), labelled(TOPIC, 10, 9)).with_key() for s in (0, 1)]
    small, large = cache(tmp_path / "a", max_bytes=1), cache(tmp_path / "b")
    for c in STRENGTHS:
        for part in parts:
            config = LinearConfig(C=[c], refit=False)
            np.testing.assert_allclose(shared(part, config, small), shared(part, config, large), atol=0.01)
    assert len(small.memory.held) == 1


def test_a_rotated_problem_has_the_same_solution() -> None:
    rng = np.random.default_rng(0)
    rows = sparse.random_array((20, 300), density=0.3, rng=rng, format="csr", dtype=np.float32)
    rows = sparse.csr_array(sparse.vstack([rows, rows[:3]]))  # equal rows: the products are singular
    gold = np.arange(23) % 3
    rotation = Rotation(rows)
    model = LogisticRegression(C=5, tol=1e-8, max_iter=10_000)
    whole = model.fit(rows, gold).coef_.T
    np.testing.assert_allclose(rotation.turned_back(model.fit(rotation.matrix, gold).coef_.T), whole, atol=2e-3)


def test_a_fold_of_a_fold_is_what_the_solver_sees() -> None:
    fold = Fold(sparse.csr_array(np.eye(4, dtype=np.float32)))
    assert fold.matrix.shape == (4, 4)
