"""What a reader needs to judge an answer: the place of the text that matters, the words that misled the model, the
sentences that carry a label, and how far these can be believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluation.predictions import Predictions
from slantwise.article import Example
from slantwise.linear import LinearClassifier
from slantwise.mentions import Range, find_mentions
from slantwise.model import Head

Doubles: TypeAlias = npt.NDArray[np.float64]
EXCERPT = 600  # characters
WORDS = 6
EVIDENCE = 0.2  # of a text's sentences; DeYoung et al. (2020) take the same share among others
LEAST_WEIGHT = 0.1  # of the strongest sentence's; what weighs less is no evidence
CHUNK = 64  # shortened texts that are asked about at once: memory stays bounded for long ones
DRAWS = 20  # random choices of sentences that the evidence is held against
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


@dataclass(frozen=True)
class Faithfulness:
    """How far a label's probability falls without its evidence (DeYoung et al. 2020, "ERASER").

    probability  of the label, from the whole text
    without      from the text without the evidence
    alone        from the evidence alone
    drawn        from the text without as many sentences drawn at random: one probability for each draw
    """

    probability: float
    without: float
    alone: float
    drawn: tuple[float, ...]

    @property
    def comprehensiveness(self) -> float:
        """The fall without the evidence; the larger the better."""
        return self.probability - self.without

    @property
    def sufficiency(self) -> float:
        """The fall where there is nothing but the evidence; the smaller the better."""
        return self.probability - self.alone

    @property
    def random_falls(self) -> tuple[float, ...]:
        return tuple(self.probability - p for p in self.drawn)

    @property
    def beaten(self) -> int:
        """The number of draws whose removal costs less than that of the evidence."""
        return sum(fall < self.comprehensiveness for fall in self.random_falls)


def choose_evidence(weights: Doubles) -> list[int]:
    """The sentences that speak most for a label, strongest first: at most EVIDENCE of all (rounded up), and none that
    does not speak for it or weighs less than LEAST_WEIGHT of the strongest."""
    order = np.argsort(-weights, kind="stable")[: math.ceil(EVIDENCE * len(weights))]
    return [int(i) for i in order if weights[i] > 0 and weights[i] >= LEAST_WEIGHT * weights[order[0]]]


def occlusion(
    log_odds: Callable[[Sequence[Example]], Doubles], example: Example, sentences: Sequence[Range]
) -> Doubles:
    """(n_sentences,): by how much the log-odds of a label fall without each of the sentences.

    `log_odds` gives (n,) for n examples. Where the text is but one sentence, without it there is nothing to ask about:
    its weight is undefined, and nan.
    """
    if len(sentences) < 2:
        return np.full(len(sentences), np.nan)
    left: list[Doubles] = []
    for start in range(0, len(sentences), CHUNK):
        places = range(start, min(start + CHUNK, len(sentences)))
        left.append(log_odds([without(example, sentences, {i}) for i in places]))
    return log_odds([example]) - np.concatenate(left)


def faithfulness(
    probability: Callable[[Sequence[Example]], Doubles],
    example: Example,
    sentences: Sequence[Range],
    evidence: Collection[int],
    seed: int = 0,
) -> Faithfulness | None:
    """What removing the evidence does to a probability, against removing as many sentences drawn at random; None where
    there is no evidence, or nothing but it. `probability` gives (n,) for n examples."""
    if not evidence or len(evidence) == len(sentences):
        return None
    others = [without(example, sentences, drawn) for drawn in random_choices(len(sentences), evidence, seed)]
    rest = set(range(len(sentences))).difference(evidence)
    asked = [example, without(example, sentences, evidence), without(example, sentences, rest), *others]
    whole, removed, alone, *drawn = probability(asked).tolist()
    return Faithfulness(whole, removed, alone, tuple(drawn))


def random_choices(n: int, evidence: Collection[int], seed: int) -> list[tuple[int, ...]]:
    """DRAWS different choices of as many of the n sentences as the evidence has, the evidence itself left out; all that
    there are where they are fewer."""
    chosen = tuple(sorted(evidence))
    if math.comb(n, len(chosen)) - 1 <= DRAWS:
        return [drawn for drawn in combinations(range(n), len(chosen)) if drawn != chosen]
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < DRAWS:
        drawn = tuple(sorted(rng.choice(n, len(chosen), replace=False).tolist()))
        if drawn != chosen:
            found[drawn] = None
    return list(found)


def without(example: Example, sentences: Sequence[Range], removed: Collection[int]) -> Example:
    """The example without some of its sentences; the target's mentions are found anew."""
    kept = "".join(example.text[start:end] for i, (start, end) in enumerate(sentences) if i not in removed)
    return Example(kept.strip(), example.target)
