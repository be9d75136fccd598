"""What it costs and gains to read long articles in another way: one classifier, its test examples read in each way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from data.examples import LabelledExamples
from evaluation.compare_page import signed
from evaluation.judge import EvaluationConfig, predict
from evaluation.paired import Contestant, compare
from evaluation.predictions import Predictions
from evaluation.report import interval, metric_name
from slantwise.model import Head

MOST = 1000  # test examples that are read again, of all folds together
PERMUTATIONS = 99  # of a p value that is not shown


@dataclass(frozen=True)
class Reading:
    """Predictions of test examples that were read in one way.

    long     of classifier.long
    tokens   what the encoder computes of them, special tokens and targets included, padding aside
    article  the tokens of all articles; cut: those of them that no window holds
    """

    long: str
    predictions: Predictions
    tokens: int
    article: int
    cut: int


def read_each_way(head: Head, test: LabelledExamples, own: Predictions, most: int) -> list[Reading]:
    """At most `most` examples, evenly spread over the test split, read in the classifier's way, of which `own` has the
    predictions, and then in the others; none where all fit into one window, so that every way is the same."""
    if head.body is None or not len(test):
        return []
    from slantwise.transformer import TransformerClassifier  # not where a linear run is to do without its libraries
    from slantwise.windows import LONG

    classifier = head.classifier
    assert isinstance(classifier, TransformerClassifier)
    way = classifier.body.windowing
    rows = own.spread(most)
    sample, predictions = test.select(rows.tolist()), own.select(rows)
    found = []
    for long in sorted(LONG, key=lambda long: long != way.long):
        body = replace(classifier.body, windowing=replace(way, long=long))
        encoded = body.encode(sample.examples)
        if long != way.long:
            again = TransformerClassifier(head.task, body, classifier.weights, classifier.bias)
            predictions, _ = predict(replace(head, classifier=again), sample, "test")
        elif encoded.n == len(encoded.second) and not encoded.cut_articles:
            return []
        found.append(Reading(long, predictions, int(encoded.lengths.sum()), encoded.tokens, encoded.cut_tokens))
    return found


def reading_facts(
    folds: Sequence[Sequence[Reading]], pool: Callable[[Sequence[Predictions]], Predictions], metric: str,
    sure: EvaluationConfig,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each way, the classifier's own first: `long`, `n`, `tokens` an example, `cut_tokens` (a share), `metric`,
    `estimate`, and `difference` from the own way; `pool` makes one Predictions of those of the folds."""
    readings = {ways[0].long: ways for ways in zip(*filter(None, folds), strict=True)}
    if not readings:
        return []
    contestants = [Contestant(long, [pool([each.predictions for each in ways])]) for long, ways in readings.items()]
    found = compare(contestants, [metric], sure.resamples, PERMUTATIONS, sure.seed, sure.interval)
    facts = []
    for contestant in contestants:
        ways, n = readings[contestant.name], len(contestant.examples)
        difference = found.differences.get(contestant.name)
        facts.append(
            {
                "long": contestant.name,
                "n": n,
                "tokens": sum(each.tokens for each in ways) / n,
                "cut_tokens": sum(each.cut for each in ways) / max(sum(each.article for each in ways), 1),
                "metric": metric,
                "estimate": found.estimates[contestant.name][metric],
                "difference": None if difference is None else difference[metric].estimate,
            }
        )
    return facts


def reading_in_words(each: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """One line for a person."""
    return (
        f"read with long={each['long']}: {each['tokens'] / own['tokens']:.0%} of the tokens, "
        f"{metric_name(each['metric'])} {interval(asdict(each['estimate']))}, "
        f"{signed(asdict(each['difference']))} from long={own['long']}"
    )
