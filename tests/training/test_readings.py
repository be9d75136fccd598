"""What another way of reading long articles costs and gains, told by the classifier that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.judge import EvaluationConfig, predict
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.model import Head
from tests.training.test_transformer_fit import TOPIC, buried, fit, topic
from training.fitting import Part
from training.readings import read_each_way, reading_facts, reading_in_words


@pytest.fixture(scope="module")
def head(tiny_encoder: Path) -> Head:
    """It reads the ends of articles, which alone tell the topic."""
    fitted = fit(tiny_encoder, Part(TOPIC, buried(60, 0), buried(24, 1)), epochs=6, long="head_tail")["topic"]
    return Head(TOPIC, fitted.classifier, Decision(), Cleaner())


def test_each_way_is_told_with_what_it_reads_and_what_it_scores(head: Head) -> None:
    test = buried(30, 2)
    own, _ = predict(head, test, "test")
    readings = read_each_way(head, test, own, 20)
    facts = reading_facts([readings], lambda parts: parts[0], "accuracy", EvaluationConfig(resamples=50))
    by_way = {each["long"]: each for each in facts}
    assert list(by_way) == ["head_tail", "windows", "head"]
    assert {each["n"] for each in facts} == {20}
    assert by_way["head_tail"]["difference"] is None
    assert by_way["head_tail"]["estimate"].value > 0.9
    assert by_way["head"]["estimate"].value < 0.6
    assert by_way["head"]["difference"].high < 0
    assert (by_way["head"]["tokens"], by_way["head_tail"]["tokens"]) == (64, 64)
    assert by_way["windows"]["tokens"] > 200
    assert by_way["windows"]["cut_tokens"] == 0
    assert by_way["head"]["cut_tokens"] == pytest.approx(1 - 62 / 200)
    told = reading_in_words(by_way["head"], by_way["head_tail"])
    assert told.startswith("read with long=head: 100% of the tokens, accuracy .")
    assert told.endswith("from long=head_tail")


def test_the_classifiers_own_way_has_the_predictions_of_the_run(head: Head) -> None:
    test = buried(30, 2)
    own, _ = predict(head, test, "test")
    first = read_each_way(head, test, own, 7)[0]
    assert first.long == "head_tail"
    assert list(first.predictions.ids) == ["0", "5", "10", "14", "19", "24", "29"]
    assert (first.predictions.probabilities == own.select([0, 5, 10, 14, 19, 24, 29]).probabilities).all()


def test_where_every_example_fits_into_one_window_all_ways_are_the_same_and_none_is_told(head: Head) -> None:
    test = topic(9)
    own, _ = predict(head, test, "test")
    assert read_each_way(head, test, own, 100) == []
    assert reading_facts([[]], lambda parts: parts[0], "accuracy", EvaluationConfig()) == []


def test_of_several_folds_those_with_long_articles_are_told(head: Head) -> None:
    test = buried(12, 2)
    own, _ = predict(head, test, "test")
    some = read_each_way(head, test, own, 100)
    alone, beside = (
        reading_facts(folds, lambda parts: parts[0], "accuracy", EvaluationConfig(resamples=20))
        for folds in ([some], [[], some])
    )
    assert alone == beside
