"""Sentence shares of a linear classifier are exact: against its own probabilities, its slopes and a count by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.contributions import _log_odds, contributions
from slantwise.article import Example
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.features import FeatureSettings, FeatureSpace
from slantwise.linear import Head as Scores
from slantwise.linear import LinearClassifier
from slantwise.mentions import sentences
from slantwise.model import Head
from slantwise.task import Task

TOPIC = Task("topic", "multiclass", ("a", "b", "c", "d"))
FRAMING = Task("framing", "multilabel", ("a", "b", "c"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral", "unrelated"), has_target=True)
TEXTS = (
    "The mayor praised the Harbour Plan. It isn’t cheap! Mayor Ruth Oak (aka RO) said so.\n\nRO left; the plan stays?",
    "A storm met the Tram Line. The tram line lost. Trams, trams and no end of trams: Émile’s ΟΔΟΣ İş.",
    "One sentence about Ruth Oak",
    "HARBOUR PLAN\n\nNobody condemned it. The harbour plan was fake, they said.",
)
TARGETS = ("Harbour Plan", "Tram Line", "Ruth Oak", "Nobody Else")
DECISIONS = {
    "none": Decision(),
    "temperature": Decision(slopes=(1.7,) * 4, intercepts=(0.0,) * 4),
    "vector scaling": Decision(slopes=(0.4, 1.1, 2.0, 0.9), intercepts=(0.3, -0.2, 0.0, 0.1)),
}


def make(
    task: Task, decision: Decision = DECISIONS["none"], *, known: tuple[int, ...] | None = None,
    first: int | None = None, seed: int = 0, **changes: object,
) -> Head:  # fmt: skip
    """A head of random coefficients over features fitted on TEXTS; no solver, so that every block counts."""
    draw = np.random.default_rng(seed)
    space = FeatureSpace(replace(FeatureSettings(per_target=1, target=True), **changes), task.has_target)
    space.fit_transform(examples(task))
    labels = known or tuple(i for i in range(len(task.labels)) if i != first)

    def scores(n_features: int, columns: tuple[int, ...]) -> Scores:
        coefficients = 0.4 * draw.normal(size=(n_features, len(columns))).astype(np.float32)
        return Scores(columns, coefficients, draw.normal(size=len(columns)).astype(np.float32))

    stage = None
    if first is not None:
        hats = space.hats
        stage = scores(sum(map(len, hats.knots)) if hats is not None else space.n_features, (0, 1))
    classifier = LinearClassifier(task, space, scores(space.n_features, labels), stage, first)
    return Head(task, classifier, decision, Cleaner())


def examples(task: Task) -> list[Example]:
    return [Example(text, target) for text in TEXTS for target in (TARGETS if task.has_target else (None,))]


def of(head: Head, example: Example) -> list:
    assert isinstance(head.classifier, LinearClassifier)
    held = sentences(example.text)
    return contributions(head, head.classifier, example, held, range(len(head.task.labels)))


def assert_adds_up(head: Head, example: Example) -> None:
    p = head.predict([example])[0].astype(np.float64)
    found = np.array([each.log_odds for each in of(head, example)])
    np.testing.assert_allclose(found, np.log(p) - np.log1p(-p), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS.keys())
@pytest.mark.parametrize("known", [None, (0, 2, 3)], ids=["all labels", "a label training never saw"])
def test_shares_and_constant_add_up_to_the_log_odds(decision: Decision, known: tuple[int, ...] | None) -> None:
    head = make(TOPIC, decision, known=known)
    for example in examples(TOPIC):
        assert_adds_up(head, example)


@pytest.mark.parametrize("first", [None, 3], ids=["one stage", "unrelated first"])
@pytest.mark.parametrize("relation", [True, False])
@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS.keys())
def test_shares_add_up_for_targets_and_with_a_first_label(
    decision: Decision, relation: bool, first: int | None
) -> None:
    head = make(STANCE, decision, first=first, relation=relation)
    for example in examples(STANCE):
        assert_adds_up(head, example)


def test_of_an_isotonic_calibration_the_log_odds_are_those_before_it() -> None:
    curve = ((0.0, 1.0), (0.1, 0.6))
    plain, isotonic = make(FRAMING), make(FRAMING, Decision(curves=(curve,) * 3))
    example = examples(FRAMING)[0]
    assert [each.log_odds for each in of(isotonic, example)] == [each.log_odds for each in of(plain, example)]


def test_nothing_is_left_over_for_the_constant_of_a_label_on_its_own() -> None:
    """Multilabel: what no feature holds is the intercept, calibrated, whatever the text."""
    decision = Decision((1.5, 0.5, 2.0), (0.1, -0.2, 0.3), thresholds=(0.5,) * 3)
    head = make(FRAMING, decision)
    assert isinstance(head.classifier, LinearClassifier)
    expected = np.array(decision.slopes) * head.classifier.head.intercept + decision.intercepts
    for example in examples(FRAMING):
        np.testing.assert_allclose([each.constant for each in of(head, example)], expected, atol=1e-5)
        assert all(each.relation == each.target == 0 for each in of(head, example))


@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS.keys())
@pytest.mark.parametrize(("task", "first"), [(TOPIC, None), (STANCE, 3), (STANCE, 0)])
def test_the_weights_of_the_scores_are_the_slopes_of_the_log_odds(
    decision: Decision, task: Task, first: int | None
) -> None:
    head = make(task, decision, first=first)
    classifier = head.classifier
    assert isinstance(classifier, LinearClassifier)
    scores, stage, step = np.array([0.3, -1.2, 0.8, 0.1])[: 4 - (first is not None)], 0.4, 1e-6

    def log_odds(change: np.ndarray, label: int) -> float:
        return _log_odds(decision, classifier, scores + change[:-1], stage + change[-1], label)[1]

    for label in range(4):
        mix, _ = _log_odds(decision, classifier, scores, stage, label)
        changes = step * np.eye(len(mix))
        slopes = [(log_odds(change, label) - log_odds(-change, label)) / (2 * step) for change in changes]
        moved = len(mix) - (first is None)  # without a first stage its score counts for nothing
        np.testing.assert_allclose(mix[:moved], slopes[:moved], atol=1e-6)


def test_a_word_counts_where_it_stands_and_a_pair_across_a_full_stop_counts_for_both_sentences() -> None:
    task = Task("framing", "multilabel", ("a",))
    head = make(task, word_ngrams=(1, 2), char_ngrams=(0, 0))
    classifier = head.classifier
    assert isinstance(classifier, LinearClassifier)
    text = "The tram line. The tram line lost."
    matrix = classifier.space.transform([Example(text)]).parts[0][0].toarray()[0]
    value = dict(zip(classifier.space.blocks["word"].terms, matrix * classifier.head.coefficients[:, 0], strict=True))
    both = sum(value[term] for term in ("the", "tram", "line", "the tram", "tram line")) / 2
    first = both + value["line the"] / 2
    second = both + value["line the"] / 2 + value["lost"] + value["line lost"]
    assert value["line the"] != 0
    [found] = of(head, Example(text))
    np.testing.assert_allclose(found.sentences, [first, second], rtol=1e-5)


def test_a_mention_counts_for_the_sentence_that_holds_it() -> None:
    """Only the words around the target are seen, so that sentences away from it have no share."""
    head = make(STANCE, word_ngrams=(0, 0), char_ngrams=(1, 1), relation=False, target=False, window=1, sentence=True)
    assert isinstance(head.classifier, LinearClassifier)
    head.classifier.head.coefficients[: len(head.classifier.space.blocks["char"].terms)] = 0
    for name in head.classifier.space.own_columns:
        head.classifier.head.coefficients[-len(head.classifier.space.own_columns[name]) :] = 0
    text = "Nothing here at all. A storm met the Tram Line today. Nothing there either."
    for each in of(head, Example(text, "Tram Line")):
        assert each.sentences[[0, 2]].tolist() == [0, 0]
        assert each.sentences[1] != 0


LETTERS = st.sampled_from(
    [*"aAbtrm .!?’'\n", "İ", "Σ", "é", "Tram Line ", "tram line. ", "Ruth Oak’s ", "(aka RO) ", "ß"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=40).map("".join), st.sampled_from(TARGETS))
def test_every_word_of_any_text_finds_its_sentence(text: str, target: str) -> None:
    if text.strip():
        assert_adds_up(FUZZED, Example(text.strip(), target))


FUZZED = make(STANCE, DECISIONS["vector scaling"], first=3)
