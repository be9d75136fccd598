from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from data.examples import LabelledExamples, certain
from slantwise.article import Example
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.task import Task
from training.linear import Fold, LinearConfig, fit

TOPIC = Task("topic", "multiclass", ("sport", "weather", "health"))
FRAMING = Task("framing", "multilabel", ("economic", "morality", "political"))
WORDS = (("goal", "match", "striker"), ("storm", "rain", "frost"), ("nurse", "clinic", "vaccine"))


def texts(n: int, seed: int) -> tuple[list[str], list[int]]:
    rng = np.random.default_rng(seed)
    gold = [i % 3 for i in range(n)]
    return [" ".join([*rng.choice(WORDS[label], 2), f"noise{rng.integers(50)}", "said"]) for label in gold], gold


def labelled(task: Task, written: Sequence[str], gold: Any) -> LabelledExamples:
    ids = [str(i) for i in range(len(written))]
    return LabelledExamples(task, ids, [Example(text) for text in written], np.array(gold), ids, [None] * len(ids))


def topics(n: int, seed: int) -> LabelledExamples:
    return labelled(TOPIC, *texts(n, seed))


def frames(n: int, seed: int) -> LabelledExamples:
    """Frame i is set where words of topic i occur; two topics a text."""
    (first, a), (second, b) = texts(n, seed), texts(n, seed + 1)
    shifted = [*second[1:], second[0]]
    gold = np.zeros((n, 3), dtype=bool)
    for i in range(n):
        gold[i, [a[i], b[(i + 1) % n]]] = True
    return labelled(FRAMING, [f"{x} {y}" for x, y in zip(first, shifted, strict=True)], gold)


@pytest.mark.parametrize("loss", ["logistic", "svm"])
def test_multiclass_labels_are_learned(loss: str) -> None:
    fitted = fit(TOPIC, topics(60, 0), topics(15, 1), LinearConfig(loss=loss))
    test = topics(30, 2)
    assert (fitted.classifier.predict_proba(test.examples).argmax(axis=1) == test.gold).all()


@pytest.mark.parametrize("loss", ["logistic", "svm"])
def test_multilabel_labels_are_learned(loss: str) -> None:
    fitted = fit(FRAMING, frames(60, 0), frames(15, 3), LinearConfig(loss=loss))
    test = frames(30, 6)
    assert ((fitted.classifier.predict_proba(test.examples) > 0.5) == test.gold).all()


def test_validation_probabilities_are_from_before_the_refit() -> None:
    train, validation = topics(30, 0), topics(15, 1)
    kept, refitted = (fit(TOPIC, train, validation, LinearConfig(refit=refit)) for refit in (False, True))
    np.testing.assert_array_equal(kept.validation_probabilities, refitted.validation_probabilities)
    assert not np.allclose(
        refitted.validation_probabilities, refitted.classifier.predict_proba(validation.examples), atol=1e-4
    )


def test_without_refit_the_classifier_gave_the_validation_probabilities() -> None:
    validation = topics(15, 1)
    fitted = fit(TOPIC, topics(30, 0), validation, LinearConfig(refit=False))
    np.testing.assert_allclose(
        fitted.validation_probabilities, fitted.classifier.predict_proba(validation.examples), atol=1e-6
    )


@pytest.mark.parametrize("first_label", [None, "health"])
@pytest.mark.parametrize("loss", ["logistic", "svm"])
def test_shares_that_say_what_the_labels_say_change_nothing(loss: str, first_label: str | None) -> None:
    config = LinearConfig(loss=loss, first_label=first_label, C=[1.0], refit=False)
    train, validation = topics(30, 0), topics(15, 1)
    plain, sure = (
        fit(TOPIC, given, validation, config) for given in (train, replace(train, shares=certain(train.gold, TOPIC)))
    )
    np.testing.assert_allclose(sure.validation_probabilities, plain.validation_probabilities, atol=2e-3)


@pytest.mark.parametrize("first_label", [None, "weather"])
def test_training_on_shares_draws_probabilities_towards_them(first_label: str | None) -> None:
    config = LinearConfig(C=[10.0], class_weight="none", first_label=first_label, refit=False)
    train, validation = topics(60, 0), topics(15, 1)
    shares = certain(train.gold, TOPIC)
    shares[train.gold == 0] = (0.6, 0.1, 0.3)  # the majority's label stays "sport"
    soft = fit(TOPIC, replace(train, shares=shares), validation, config).classifier.predict_proba(validation.examples)
    hard = fit(TOPIC, train, validation, config).classifier.predict_proba(validation.examples)
    sport, health = validation.gold == 0, validation.gold == 2
    assert (soft[sport].argmax(axis=1) == 0).all()
    np.testing.assert_allclose(soft[sport].mean(axis=0), [0.6, 0.1, 0.3], atol=0.2)
    assert hard[sport, 0].min() > soft[sport, 0].max()
    assert (soft[health].argmax(axis=1) == 2).all()


def test_training_several_labels_on_shares_draws_probabilities_towards_them() -> None:
    train, validation = frames(60, 0), frames(15, 3)
    shares = np.where(train.gold, np.float32(0.7), np.float32(0.0))
    config = LinearConfig(C=[10.0], class_weight="none", refit=False)
    soft = fit(FRAMING, replace(train, shares=shares), validation, config).classifier.predict_proba(validation.examples)
    assert soft[validation.gold].mean() == pytest.approx(0.7, abs=0.1)
    assert soft[~validation.gold].mean() < 0.15


def test_c_with_the_best_validation_score_is_chosen() -> None:
    train = topics(30, 0)
    # The rare class needs weak regularisation when classes are not balanced.
    train = train.select([i for i, label in enumerate(train.gold) if label or i < 6])
    chosen = fit(TOPIC, train, topics(15, 1), LinearConfig(C=[0.001, 10.0], class_weight="none")).chosen
    assert chosen["C"] == 10.0
    assert chosen["validation_scores"]["10.0"] > chosen["validation_scores"]["0.001"]


def test_label_missing_from_train_gets_a_low_probability() -> None:
    train = topics(30, 0)
    train = train.select(np.flatnonzero(train.gold != 2))
    probabilities = fit(TOPIC, train, topics(15, 1), LinearConfig()).validation_probabilities
    assert (probabilities[:, 2] < 0.001).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_train_of_one_class_predicts_that_class() -> None:
    train = topics(30, 0)
    train = train.select(np.flatnonzero(train.gold == 1))
    probabilities = fit(TOPIC, train, topics(15, 1), LinearConfig(refit=False)).classifier.predict_proba([Example("x")])
    assert probabilities[0, 1] > 0.99


def test_train_of_the_first_label_alone_predicts_it() -> None:
    train = topics(30, 0)
    train = train.select(np.flatnonzero(train.gold == 2))
    probabilities = fit(TOPIC, train, topics(15, 1), LinearConfig(first_label="health")).validation_probabilities
    assert (probabilities.argmax(axis=1) == 2).all()


@pytest.mark.parametrize(("value", "low", "high"), [(False, 0.0, 0.05), (True, 0.95, 1.0)])
def test_multilabel_column_of_one_value_is_constant(value: bool, low: float, high: float) -> None:
    train, validation = frames(30, 0), frames(15, 3)
    for examples in (train, validation):
        examples.gold[:, 1] = value
    column = fit(FRAMING, train, validation, LinearConfig()).validation_probabilities[:, 1]
    assert low <= column.min() == column.max() <= high


def test_first_label_without_a_target_is_decided_on_the_text() -> None:
    test = topics(30, 2)
    fitted = fit(TOPIC, topics(60, 0), topics(15, 1), LinearConfig(first_label="health", C=[10.0]))
    assert (fitted.classifier.predict_proba(test.examples).argmax(axis=1) == test.gold).all()


@pytest.mark.parametrize("loss", ["logistic", "svm"])
def test_fit_is_deterministic_in_the_seed(loss: str) -> None:
    config = LinearConfig(loss=loss, seed=3)
    one, two = (fit(TOPIC, topics(30, 0), topics(15, 1), config) for _ in range(2))
    np.testing.assert_array_equal(one.validation_probabilities, two.validation_probabilities)


def test_folding_columns_of_one_row_does_not_change_the_solution() -> None:
    rng = np.random.default_rng(0)
    dense = np.hstack([rng.random((12, 3)), np.diag(rng.random(12)), np.diag(rng.random(12)), np.zeros((12, 2))])
    gold = np.arange(12) % 2
    model = LogisticRegression(C=5, tol=1e-10, max_iter=10_000)
    whole = model.fit(dense, gold).coef_.T
    fold = Fold(sparse.csr_array(dense))
    assert fold.matrix.shape == (12, 3 + 12)
    np.testing.assert_allclose(fold.unfold(model.fit(fold.matrix, gold).coef_.T), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"loss": "hinge"}, "loss"),
        ({"class_weight": "auto"}, "class_weight"),
        ({"C": []}, "C="),
        ({"C": [0.0]}, "C="),
        ({"word_ngrams": [2, 1]}, "word_ngrams"),
        ({"word_ngrams": [0, 0], "char_ngrams": [0, 0]}, "needs one"),
        ({"min_df": 0}, "min_df"),
        ({"window": -1}, "window"),
    ],
)
def test_option_that_cannot_work_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        LinearConfig(**options)


def test_first_label_outside_the_task_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="first_label='politics'"):
        fit(TOPIC, topics(6, 0), topics(6, 1), LinearConfig(first_label="politics"))


def test_empty_validation_is_refused() -> None:
    with pytest.raises(CorpusError, match="0 validation"):
        fit(TOPIC, topics(6, 0), topics(6, 1).select([]), LinearConfig())
