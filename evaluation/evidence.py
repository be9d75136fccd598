"""What a reader needs to judge a mistake: the place of the text that matters, and the words that misled the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from evaluation.predictions import Predictions
from slantwise.article import Example
from slantwise.linear import LinearClassifier
from slantwise.mentions import find_mentions
from slantwise.model import Head

EXCERPT = 600  # characters
WORDS = 6
# For a mistake, by its row and label, the words that spoke for the wrong answer, each with its weight.
Evidence: TypeAlias = Mapping[tuple[int, str], Sequence[tuple[str, float]]]


def excerpt(text: str, target: str | None) -> list[tuple[str, bool]]:
    """The beginning of the text, or the place where it first speaks of its target, in pieces: (text, whether it is a
    mention of the target)."""
    ranges = find_mentions(text, target).ranges if target else ()
    start = 0
    if ranges and ranges[0][1] > EXCERPT:
        start = ranges[0][0] - EXCERPT // 3
        start = max(start, text.find(" ", start, ranges[0][0]) + 1)  # at the beginning of a word, if there is one
    end = min(len(text), start + EXCERPT)
    pieces, at = [("… " if start else "", False)], start
    for low, high in ranges:
        if high <= end:
            pieces += [(text[at:low], False), (text[low:high], True)]
            at = high
    rest = text[at:end]
    pieces.append((rest if end == len(text) else rest.rstrip() + " …", False))
    return [piece for piece in pieces if piece[0]]


def misleading_words(
    predictions: Predictions, mistakes: Sequence[Mapping[str, Any]], heads: Sequence[tuple[Head, int]]
) -> dict[tuple[int, str], list[tuple[str, float]]]:
    """For the mistakes of linear classifiers the words and word pairs that spoke most for the wrong answer.

    A word's weight is its share of the log-odds of the wrong label against the gold one; multilabel: of the label being
    given, or missed. It counts the words themselves, not their letters nor what relates them to a target. `heads` are
    those that made the predictions, each with the number of its rows, in the order of the rows; of another kind of
    classifier there is nothing to tell.
    """
    found: dict[tuple[int, str], list[tuple[str, float]]] = {}
    start = 0
    for head, n in heads:
        own = [m for m in mistakes if start <= m["row"] < start + n]
        start += n
        classifier = head.classifier
        if own and isinstance(classifier, LinearClassifier) and "word" in classifier.space.blocks:
            weights = _word_weights(classifier, predictions, own)
            found |= {(m["row"], m["label"]): words for m, words in zip(own, weights, strict=True)}
    return found


def _word_weights(
    classifier: LinearClassifier, predictions: Predictions, mistakes: Sequence[Mapping[str, Any]]
) -> list[list[tuple[str, float]]]:
    examples = [Example(predictions.texts[m["row"]], predictions.targets[m["row"]]) for m in mistakes]
    matrix, rows = classifier.space.transform(examples).parts[0]  # the words come first
    terms, place = classifier.space.blocks["word"].terms, {label: i for i, label in enumerate(classifier.head.labels)}
    coefficients = classifier.head.coefficients[: len(terms)]
    labels = predictions.task.labels
    found: list[list[tuple[str, float]]] = []
    for m, row in zip(mistakes, rows.tolist(), strict=True):
        wrong, right = place.get(labels.index(m["label"])), None
        if predictions.task.kind == "multiclass":
            right = place.get(labels.index(m["gold"][0]))
        if wrong is None or (right is None and predictions.task.kind == "multiclass"):
            found.append([])  # a label that training has not, or that a stage of its own decides
            continue
        sign = -1 if predictions.task.kind == "multilabel" and m["label"] in m["gold"] else 1
        span = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns = matrix.indices[span]
        slope = coefficients[columns, wrong] - (0 if right is None else coefficients[columns, right])
        weight = sign * matrix.data[span] * slope
        best = np.argsort(-weight, kind="stable")[:WORDS]
        found.append([(terms[columns[i]], float(weight[i])) for i in best if weight[i] > 0])
    return found
