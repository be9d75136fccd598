"""Shortcut probes: how far the label is told by something other than what the text means.

A probe is a small model that sees one thing alone: the outlet, the target, the removed page furniture, the length, the
date or, for stance, the text without its target. Beside them stand chance and a plain bag-of-words model of the text.
Every probe learns from the articles outside the test split, decides as its own cross-validation on those articles
says, and is scored on the test split, with folds on all of them pooled.

What is reachable by a shortcut is told as a share of the score above chance, (probe - chance) / (model - chance).
Chance is the better of two answers that look at nothing: the same one for every example, and a draw by the label shares
of training. (Of two equally frequent labels the constant answer gets a weighted F1 of 1/3, the draw 1/2.)
See Kaushik et al. (2021), "tWT-WT: A Dataset to Assert the Role of Target Entities for Detecting Stance of Tweets",
for target-blind models, and Gururangan et al. (2018), "Annotation Artifacts in Natural Language Inference Data", for
models of a part of the input.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from data.columns import View, stored
from data.examples import LabelledExamples
from data.prepare import CleanCorpus
from data.splitting import LEFT_OUT, TEST, Split
from evaluation.intervals import Estimate, estimate, evaluate, resample
from evaluation.metrics import compute, indicators, select
from evaluation.predictions import Predictions
from evaluation.report import LOWER_IS_BETTER, interval, metric_name, number
from slantwise.cleaning import Removed

Index = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Gold = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
Counts: TypeAlias = "sparse.csr_array[np.float64, tuple[int, int]]"
Model = Callable[[Index, Index], Floats]  # training examples, others -> probabilities of the others (n, n_labels)

MOST_TRAINING_EXAMPLES = 10_000  # a probe need not see more to show what it can reach
MOST_HELD_OUT_EXAMPLES = 5_000
MOST_KEPT_EXAMPLES = 20_000  # whose n-grams are counted once and kept; those of others are counted when asked for
BATCH = 4096  # examples whose n-grams are in memory at once beside the kept ones
COLUMNS, MOST_FEATURES, LEAST_ARTICLES = 2**20, 30_000, 2
STRENGTH, ITERATIONS = 10.0, 20  # C of the logistic regression, and its passes over the examples at most
INNER_FOLDS, LEAST_GROUPS = 3, 3
DRAWS = 20_000  # examples to answer by chance, at least, where the test split has fewer
HELD_OUT_FOLDS = 5
PRIOR_POWERS = (0.0, 0.5, 1.0)
NOTABLE = 0.25  # a share of the score above chance that the verdict names


@dataclass(frozen=True)
class Shortcut:
    """How a probe is named in a table and in a sentence, and what to do about it."""

    title: str
    phrase: str
    advice: str


SHORTCUTS = {
    "text": Shortcut("text", "the text", ""),
    "source": Shortcut("outlet alone", "the outlet alone", "split by source (split.group_by=[source])"),
    "target": Shortcut(
        "target alone, its words", "the target's words alone", "hold targets out (split.group_by=[target])"
    ),
    "target_majority": Shortcut(
        "target alone, its majority", "the target alone", "hold targets out (split.group_by=[target])"
    ),
    "target_blind": Shortcut(
        "text without the target",
        "the text without the target",
        "compare with this figure, not with chance, and hold targets out (split.group_by=[target])",
    ),
    "furniture": Shortcut(
        "page furniture alone", "the page furniture alone", "keep it out of the text (cleaning=default)"
    ),
    "length": Shortcut("length alone", "the length of the text alone", "compare labels at equal lengths"),
    "date": Shortcut("date alone", "the date alone", "split by time (split=temporal)"),
}


@dataclass(frozen=True)
class ProbeData:
    """All labelled examples of a corpus and what stands beside their texts; aligned, one entry for each example.

    articles    the number of the example's article in the cleaned corpus, int64 (n,)
    clusters    the number of its near-duplicate cluster, int64 (n,)
    furniture   the lines that cleaning removed from the article, but for its title
    published   the date as the corpus gives it
    """

    labelled: LabelledExamples
    articles: Index
    clusters: Index
    furniture: Sequence[str]
    published: Sequence[str | None]

    @property
    def gold(self) -> Gold:
        return self.labelled.gold

    @property
    def texts(self) -> Sequence[str]:
        return self.labelled.texts

    @cached_property
    def targets(self) -> list[str]:
        return self.labelled.targets

    @cached_property
    def noise(self) -> npt.NDArray[np.uint64]:
        """A number that depends on the article and its target alone: choices made by it ignore the rows' order."""
        keys = zip(self.labelled.ids, self.targets, strict=True)
        return np.array([_digest(f"{id_}\n{target}") for id_, target in keys], dtype=np.uint64)

    @cached_property
    def kept(self) -> Index:
        """The examples that samples to learn from are drawn from first: all of them where they are not too many."""
        return _sample(self, np.arange(len(self.labelled)), MOST_KEPT_EXAMPLES)

    @cached_property
    def words(self) -> Block:
        """The words and word pairs of the texts."""
        return word_block(self.texts, self.kept)


@dataclass(frozen=True)
class Fold:
    """Numbers of the examples that a probe learns from and of those that it is scored on."""

    train: Index
    test: Index


@dataclass(frozen=True)
class ProbeResult:
    """What one probe reaches; every figure is of `metric` on the same `n` examples.

    estimate     the probe's score; its value is None, with the reason, where the corpus has nothing to probe
    baseline     the score of the best constant answer: the most frequent label
    chance       the better of that and of drawing labels by their shares
    share        of the model's score above chance, how much the probe reaches; None where that is not clearly above
    difference   the model's score minus the probe's, the interval from paired resamples
    """

    name: str
    metric: str
    n: int
    estimate: Estimate
    baseline: Estimate
    chance: float | None
    share: float | None = None
    difference: Estimate | None = None


# --- What is probed ---------------------------------------------------------------------------------------------------


def gather(clean: CleanCorpus, clusters: Index, removed: Sequence[Sequence[Removed]]) -> ProbeData:
    """The data of all articles of a cleaned corpus; `removed` holds the lines that each article lost to cleaning."""
    labelled = clean.examples(range(len(clean)))
    articles = np.repeat(np.arange(len(clean)), clean.example_counts)
    furniture = stored("\n".join(line.text for line in lines if line.reason != "title") for lines in removed)
    published = clean.column("published")
    return ProbeData(
        labelled, articles, clusters[articles], View(furniture, articles), [published[i] for i in articles]
    )


def folds_of(data: ProbeData, splits: Sequence[Split]) -> list[Fold]:
    """A fold for each split: test examples in the order of the articles, and training examples from all the others.

    Validation is for choosing, and a probe chooses by its own cross-validation; so it may learn from validation too.
    """
    folds = []
    for split in splits:
        part = np.array(split.assignment)[data.articles]
        train = np.flatnonzero((part != TEST) & (part != LEFT_OUT))
        folds.append(Fold(_sample(data, train, MOST_TRAINING_EXAMPLES), np.flatnonzero(part == TEST)))
    return folds


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _sample(data: ProbeData, rows: Index, at_most: int) -> Index:
    """At most so many of the rows, in their order, chosen by chance but always the same."""
    return np.sort(rows[np.argsort(data.noise[rows], kind="stable")[:at_most]])


# --- Probes -----------------------------------------------------------------------------------------------------------


def probe(
    data: ProbeData,
    folds: Sequence[Fold],
    metric: str,
    model: Predictions | None = None,
    resamples: int = 1000,
    seed: int = 0,
    interval: str = "bca",
) -> list[ProbeResult]:
    """Every probe that the task can have, the text first.

    Shares and differences are against `model`, whose predictions must be of the folds' test examples in their order;
    without one they are against the text probe. The test examples are scored, never learned from.
    """
    words = by_words(data, text_blocks(data))
    text = run_probe(data, folds, words, metric)
    judged = model or text
    assert list(judged.ids) == list(text.ids), "the model's predictions are not of the folds' test examples"
    constant, drawn = run_constant(data, folds, metric), draw_labels(data, folds)
    against = Against(judged, constant, drawn, metric, resamples, seed, interval)
    results = [against.result("text", text)]
    for name, make in PROBES.items():
        if (name.startswith("target")) and not data.labelled.task.has_target:
            continue
        made = make(data)
        results.append(
            against.absent(name, made)
            if isinstance(made, str)
            else against.result(name, run_probe(data, folds, made, metric, name == "target_majority"))
        )
    return results


def held_out(
    data: ProbeData, metric: str, resamples: int = 1000, seed: int = 0, interval: str = "bca"
) -> list[ProbeResult]:
    """What remains of the text model when it meets only sources, or only targets, that it has not learned from.

    Cross-validation over all examples (a sample of a large corpus), so that the figures are of the same examples:
    "text" with near-duplicates kept together, then "source" and "target" with all examples of one kept together, each
    with the difference from the first. A value is None, with the reason, where there are fewer than three of them.
    """
    rows = _sample(data, np.arange(len(data.labelled)), MOST_HELD_OUT_EXAMPLES)
    words = by_words(data, text_blocks(data))
    clusters = [str(data.clusters[i]) for i in rows]
    folds = _group_folds(rows, clusters)
    if isinstance(folds, str):
        return []
    text = run_probe(data, folds, words, metric)
    constant, drawn = run_constant(data, folds, metric), draw_labels(data, folds)
    against = Against(text, constant, drawn, metric, resamples, seed, interval)
    results = [against.result("text", text)]
    kinds: dict[str, Sequence[str | None]] = {"source": data.labelled.sources}
    if data.labelled.task.has_target:
        kinds["target"] = data.targets
    for name, values in kinds.items():
        chosen = [values[i] for i in rows]
        missing = sum(value is None for value in chosen)
        grouped = (
            f"{missing:,} of {len(rows):,} examples have no {name}"
            if 2 * missing > len(rows)
            else _group_folds(rows, [value or f"\n{cluster}" for value, cluster in zip(chosen, clusters, strict=True)])
        )
        results.append(
            against.absent(name, grouped.replace("group", name))
            if isinstance(grouped, str)
            else against.result(name, _aligned(run_probe(data, grouped, words, metric), grouped, folds))
        )
    return results


def _group_folds(rows: Index, groups: Sequence[str]) -> list[Fold] | str:
    """Folds of about equal size, each group whole; or why there are none."""
    sizes = Counter(groups)
    if len(sizes) < LEAST_GROUPS:
        return f"only {len(sizes)} group{'s' * (len(sizes) != 1)}; holding out takes at least {LEAST_GROUPS}"
    load = [0] * min(HELD_OUT_FOLDS, len(sizes))
    part: dict[str, int] = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], _digest(group))):
        part[group] = int(np.argmin(load))
        load[part[group]] += sizes[group]
    number_ = np.array([part[group] for group in groups])
    return [Fold(rows[number_ != k], rows[number_ == k]) for k in range(len(load))]


def _aligned(predictions: Predictions, folds: Sequence[Fold], order: Sequence[Fold]) -> Predictions:
    """Predictions pooled over `folds`, in the order of those pooled over `order`; both cover the same examples."""
    have = np.argsort(np.concatenate([fold.test for fold in folds]))
    want = np.argsort(np.argsort(np.concatenate([fold.test for fold in order])))
    return predictions.select(have[want])


@dataclass(frozen=True)
class Against:
    """Sets a probe's score beside those of chance and of the model that is judged."""

    model: Predictions
    constant: Predictions
    drawn: Predictions
    metric: str
    resamples: int
    seed: int
    interval: str  # of scores; that of a paired difference is always percentile

    @cached_property
    def score(self) -> Estimate:
        return self._estimate(self.model)

    @cached_property
    def baseline(self) -> Estimate:
        return self._estimate(self.constant)

    @cached_property
    def chance(self) -> float | None:
        values = [self.baseline.value, compute(self.drawn, [self.metric])[self.metric]]
        defined = [value for value in values if value is not None and not np.isnan(value)]
        return max(defined, key=lambda value: _sign(self.metric) * value, default=None)

    def result(self, name: str, predictions: Predictions) -> ProbeResult:
        found = self._estimate(predictions)
        clear = _is_clear(self.score, self.chance, self.metric)
        share = share_above(found.value, self.chance, self.score.value, self.metric) if clear else None
        difference = None if predictions is self.model else self._difference(predictions)
        return ProbeResult(name, self.metric, len(self.model), found, self.baseline, self.chance, share, difference)

    def absent(self, name: str, reason: str) -> ProbeResult:
        nothing = Estimate(None, None, None, reason)
        return ProbeResult(name, self.metric, len(self.model), nothing, self.baseline, self.chance)

    def _estimate(self, predictions: Predictions) -> Estimate:
        return evaluate(predictions, [self.metric], self.resamples, self.seed, interval=self.interval)[self.metric]

    @cached_property
    def _resampled_model(self) -> tuple[float, Floats | None]:
        on_all, resampled = resample(self.model, [self.metric], self.resamples, self.seed)
        return on_all[self.metric], resampled.get(self.metric)

    def _difference(self, predictions: Predictions) -> Estimate:
        on_all, resampled = resample(predictions, [self.metric], self.resamples, self.seed)
        value, drawn = self._resampled_model
        theirs = resampled.get(self.metric)
        paired = None if drawn is None or theirs is None else drawn - theirs
        undefined = select(self.model.task, [self.metric])[self.metric].undefined
        return estimate(value - on_all[self.metric], paired, 0.95, undefined)


def share_above(value: float | None, chance: float | None, score: float | None, metric: str) -> float | None:
    """(value - chance) / (score - chance); None where one is undefined or the score is not above chance."""
    if value is None or chance is None or score is None:
        return None
    gain = _sign(metric) * (score - chance)
    return _sign(metric) * (value - chance) / gain if gain > 1e-9 else None


def _sign(metric: str) -> int:
    return -1 if metric in LOWER_IS_BETTER else 1


# --- Running a model over folds ---------------------------------------------------------------------------------------


def run_probe(
    data: ProbeData, folds: Sequence[Fold], model: Model, metric: str, most_probable: bool = False
) -> Predictions:
    """The predictions on the test examples of all folds, pooled. `most_probable`: always the most probable label, as
    the name of a majority promises, instead of what scores best in training (multiclass)."""
    parts = []
    for fold in folds:
        plain = most_probable and data.labelled.task.kind == "multiclass"
        decision = _most_probable if plain else _choose_decision(data, fold.train, model, metric)
        probabilities = model(fold.train, fold.test)
        parts.append(_predictions(data, fold.test, probabilities, decision(probabilities)))
    return _pooled(parts)


def run_constant(data: ProbeData, folds: Sequence[Fold], metric: str) -> Predictions:
    """The same answer for every example: the most frequent label of the training examples, or for a multilabel task
    the most frequent ones, as many as score best on the training examples."""
    parts = []
    for fold in folds:
        frequency = label_shares(data, fold.train)
        parts.append(_constant(data, fold.test, frequency, _best_constant(data, fold.train, frequency, metric)))
    return _pooled(parts)


def _best_constant(data: ProbeData, train: Index, frequency: Floats, metric: str) -> int:
    """How many of the most frequent labels to answer."""
    if data.labelled.task.kind == "multiclass":
        return 1
    tried = range(1, len(frequency) + 1)
    return max(tried, key=lambda most: _value(_constant(data, train, frequency, most), metric))


def _constant(data: ProbeData, rows: Index, frequency: Floats, most: int) -> Predictions:
    order = np.argsort(-frequency, kind="stable")
    probabilities = np.tile(frequency, (len(rows), 1))
    if data.labelled.task.kind == "multiclass":
        return _predictions(data, rows, probabilities, np.full(len(rows), order[0]))
    predicted = np.zeros(probabilities.shape, dtype=bool)
    predicted[:, order[:most]] = True
    return _predictions(data, rows, probabilities, predicted)


def draw_labels(data: ProbeData, folds: Sequence[Fold]) -> Predictions:
    """Answers drawn by the label shares of training, the test examples repeated where they are few."""
    rng, parts = np.random.default_rng(0), []
    copies = -(-DRAWS // max(1, sum(len(fold.test) for fold in folds)))
    for fold in folds:
        rows, shares = np.repeat(fold.test, copies), label_shares(data, fold.train)
        if data.labelled.task.kind == "multiclass":
            drawn: Gold = rng.choice(len(shares), size=len(rows), p=shares / shares.sum())
        else:
            drawn = np.asarray(rng.random((len(rows), len(shares))) < shares)
        parts.append(_predictions(data, rows, np.tile(shares, (len(rows), 1)), drawn))
    return _pooled(parts)


def label_shares(data: ProbeData, rows: Index) -> Floats:
    """The share of the examples that carry each label, (n_labels,)."""
    return np.asarray(_indicators(data)[rows].mean(axis=0), dtype=np.float64)


def _indicators(data: ProbeData) -> Floats:
    return indicators(data.gold, data.labelled.task).astype(np.float64)


def _predictions(data: ProbeData, rows: Index, probabilities: Floats, predicted: Gold) -> Predictions:
    part = data.labelled.select(rows)
    texts = [""] * len(part)  # no score depends on them
    return Predictions(
        part.task, TEST, part.ids, texts, part.gold, probabilities.astype(np.float32), predicted, part.groups,
        part.targets, part.sources,
    )  # fmt: skip


def _pooled(parts: Sequence[Predictions]) -> Predictions:
    def joined(name: str) -> list[str]:
        return [value for part in parts for value in getattr(part, name)]

    return Predictions(
        parts[0].task, TEST, joined("ids"), joined("texts"), np.concatenate([p.gold for p in parts]),
        np.concatenate([p.probabilities for p in parts]), np.concatenate([p.predicted for p in parts]),
        joined("groups"), joined("targets"), joined("sources"),
    )  # fmt: skip


Decision = Callable[[Floats], Gold]


def _choose_decision(data: ProbeData, train: Index, model: Model, metric: str) -> Decision:
    """How probabilities become labels: what scores best on out-of-fold probabilities of the training examples."""
    groups = np.array([_digest(group) % INNER_FOLDS for group in map(data.labelled.groups.__getitem__, train)])
    probabilities = np.zeros((len(train), len(data.labelled.task.labels)))
    prior = label_shares(data, train)
    multiclass = data.labelled.task.kind == "multiclass"
    for k in range(INNER_FOLDS):
        inside = groups == k
        if inside.any() and not inside.all():
            probabilities[inside] = model(train[~inside], train[inside])
        else:
            probabilities[inside] = prior
    candidates: list[Decision]
    if multiclass:
        candidates = [_prior_corrected(prior, power) for power in PRIOR_POWERS]
    else:
        grid = np.unique(np.quantile(probabilities, np.linspace(0.02, 0.98, 49)))
        candidates = [_thresholds(np.full(len(prior), at)) for at in (0.5, *grid)]
        candidates.append(_thresholds(_best_thresholds(probabilities, data.gold[train].astype(bool))))
    return max(
        candidates, key=lambda decide: _value(_predictions(data, train, probabilities, decide(probabilities)), metric)
    )


def _value(predictions: Predictions, metric: str) -> float:
    """The metric, larger is better, an undefined one worst."""
    value = compute(predictions, [metric])[metric]
    return -np.inf if np.isnan(value) else _sign(metric) * value


def _most_probable(probabilities: Floats) -> Gold:
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def _prior_corrected(prior: Floats, power: float) -> Decision:
    """The label with the largest p / prior^power: 0 for the most probable label, 1 to make up for rare ones."""
    weights = np.where(prior > 0, np.maximum(prior, 1e-12) ** -power, 0.0)
    return lambda probabilities: np.asarray((probabilities * weights).argmax(axis=1), dtype=np.int64)


def _thresholds(at: Floats) -> Decision:
    return lambda probabilities: np.asarray(probabilities >= at, dtype=bool)


def _best_thresholds(probabilities: Floats, gold: npt.NDArray[np.bool_]) -> Floats:
    """For each label the threshold with the best F1, .5 for one that does not occur."""
    found = np.full(gold.shape[1], 0.5)
    for label in np.flatnonzero(gold.any(axis=0)):
        order = np.argsort(-probabilities[:, label], kind="stable")
        p, hits = probabilities[order, label], np.cumsum(gold[order, label])
        last = np.append(p[1:] != p[:-1], True)  # a threshold cuts only between different probabilities
        f1 = 2 * hits / (np.arange(1, len(p) + 1) + hits[-1])
        found[label] = p[np.argmax(np.where(last, f1, -1.0))]
    return found


# --- Models -----------------------------------------------------------------------------------------------------------


def by_category(data: ProbeData, values: Iterable[object]) -> Model:
    """The label shares of an example's category in training, drawn a little to those of all examples (as if one more
    example carried them); a category that is not in training has just those."""
    number_of: dict[object, int] = {}
    codes = np.array([number_of.setdefault(value, len(number_of)) for value in values], dtype=np.int64)
    carries = _indicators(data)

    def model(train: Index, others: Index) -> Floats:
        prior = label_shares(data, train)
        counts, n = np.zeros((len(number_of), len(prior))), np.bincount(codes[train], minlength=len(number_of))
        np.add.at(counts, codes[train], carries[train])
        return np.asarray(((counts + prior) / (n[:, None] + 1))[codes[others]], dtype=np.float64)

    return model


@dataclass(frozen=True)
class Block:
    """Counts of the n-grams of texts, of one for each example.

    kept     the counts of distinct texts
    row_of   the row of each example's text in `kept`; -1 where its n-grams are counted when they are asked for
    """

    texts: Sequence[str]
    vectorizer: HashingVectorizer
    kept: Counts
    row_of: Index

    def counts(self, examples: Index) -> Counts:
        rows = self.row_of[examples]
        if (rows >= 0).all():
            return self.kept[rows]
        counts, rows = _count(self.vectorizer, [self.texts[i] for i in examples])
        return counts[rows]


def word_block(texts: Sequence[str], kept: Index, longest: int = 2, whole: bool = False) -> Block:
    """The words and word pairs of the texts, or with `whole` each text as one feature.

    Hashing needs no vocabulary, so nothing is learned from test texts and each of the `kept` ones is taken apart only
    once.
    """
    vectorizer = HashingVectorizer(
        n_features=COLUMNS, alternate_sign=False, norm=None, ngram_range=(1, longest), dtype=np.float32,
        analyzer=(lambda text: [text]) if whole else "word",
    )  # fmt: skip
    row_of = np.full(len(texts), -1, dtype=np.int64)
    counts, row_of[kept] = _count(vectorizer, [texts[i] for i in kept])
    return Block(texts, vectorizer, counts, row_of)


def _count(vectorizer: HashingVectorizer, texts: Sequence[str]) -> tuple[Counts, Index]:
    """The counts of the distinct texts, and the row of each text in them."""
    row_of = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    counts = sparse.csr_array(vectorizer.transform(row_of))
    return counts, np.fromiter((row_of[text] for text in texts), dtype=np.int64, count=len(texts))


def text_blocks(data: ProbeData) -> list[Block]:
    """What a plain model of the text sees: its words; for stance also the target and how much of it the text holds."""
    blocks = [data.words]
    if data.labelled.task.has_target:
        blocks += [word_block(data.targets, data.kept), word_block(_overlaps(data), data.kept, whole=True)]
    return blocks


def _overlaps(data: ProbeData) -> list[str]:
    """The share of the target's words that stand in the text, in tenths."""
    target_words = {target: frozenset(re.findall(r"\w+", target.lower())) for target in set(data.targets)}
    found, last, words = [], "", frozenset[str]()
    for text, target in zip(data.texts, data.targets, strict=True):
        if text != last:  # the examples of an article stand together
            last, words = text, frozenset(re.findall(r"\w+", text.lower()))
        sought = target_words[target]
        found.append(f"{10 * len(words & sought) // max(1, len(sought))}")
    return found


def by_words(data: ProbeData, blocks: Sequence[Block]) -> Model:
    """Logistic regression on TF-IDF: the usual first thing to try on a text."""

    def model(train: Index, others: Index) -> Floats:
        counts = [block.counts(train) for block in blocks]
        scales = [_tfidf(each) for each in counts]
        x = sparse.hstack([scale(each) for scale, each in zip(scales, counts, strict=True)], format="csr")
        regression = _regress(x, _indicators(data)[train] > 0)
        parts = []
        for start in range(0, len(others), BATCH):
            batch = others[start : start + BATCH]
            scaled = [scale(block.counts(batch)) for scale, block in zip(scales, blocks, strict=True)]
            parts.append(regression(sparse.hstack(scaled, format="csr")))
        probabilities = np.vstack(parts)
        if data.labelled.task.kind == "multiclass":
            probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12)
        return probabilities

    return model


def _tfidf(train: Counts) -> Callable[[Counts], Counts]:
    """Rows of length one (or zero), 1 + ln count times ln((1 + n) / (1 + df)) + 1, of the most frequent features."""
    frequency = np.bincount(train.indices, minlength=train.shape[1])
    kept = np.argsort(-frequency, kind="stable")[:MOST_FEATURES]
    least = LEAST_ARTICLES if frequency[kept[0]] >= LEAST_ARTICLES else 1
    kept = np.sort(kept[frequency[kept] >= least])
    idf = np.log((1 + train.shape[0]) / (1 + frequency[kept])) + 1

    def scaled(counts: Counts) -> Counts:
        chosen = sparse.csr_array(counts[:, kept], dtype=np.float64)
        chosen.data = (1 + np.log(chosen.data)) * idf[chosen.indices]
        return sparse.csr_array(normalize(chosen, copy=False))

    return scaled


def _regress(x: Counts, gold: npt.NDArray[np.bool_]) -> Callable[[Counts], Floats]:
    """From rows to their probabilities (n, n_labels), each label against the rest; those of training where it holds for
    all of it or none."""
    regressions = {}
    for label in np.flatnonzero(gold.any(axis=0) & ~gold.all(axis=0)):
        # The dual form: features by the ten thousand cost nothing, as they would in the steps of L-BFGS.
        regression = LogisticRegression(
            C=STRENGTH, solver="liblinear", dual=True, tol=0.1, max_iter=ITERATIONS, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a probe need not be polished
            regressions[label] = regression.fit(x, gold[:, label])

    def predict(z: Counts) -> Floats:
        probabilities = np.tile(gold.mean(axis=0), (z.shape[0], 1))
        for label, regression in regressions.items():
            probabilities[:, label] = regression.predict_proba(z)[:, 1]
        return probabilities

    return predict


# --- The probes by name: a model, or why the corpus has nothing to probe ----------------------------------------------


def _source(data: ProbeData) -> Model | str:
    known = {source for source in data.labelled.sources if source}
    if len(known) < 2:
        return f"all articles are of one source, {known.pop()}" if known else "no article names its source"
    return by_category(data, data.labelled.sources)


def _target(data: ProbeData) -> Model | str:
    return _one_target(data) or by_words(
        data, [word_block(data.targets, data.kept), word_block(data.targets, data.kept, whole=True)]
    )


def _target_majority(data: ProbeData) -> Model | str:
    return _one_target(data) or by_category(data, data.targets)


def _one_target(data: ProbeData) -> str | None:
    return None if len(set(data.targets)) > 1 else "all examples have one target"


def _target_blind(data: ProbeData) -> Model | str:
    return by_words(data, [data.words])


def _furniture(data: ProbeData) -> Model | str:
    if not any(data.furniture):
        return "cleaning removed nothing"
    return by_words(data, [word_block(data.furniture, data.kept)])


def _length(data: ProbeData) -> Model | str:
    """Words in steps of a quarter of an octave, about 19 % each."""
    return by_category(data, (int(4 * np.log2(max(1, len(text.split())))) for text in data.texts))


def _date(data: ProbeData) -> Model | str:
    """Year, month and weekday."""
    parts_of = {published: date_parts(published) for published in set(data.published)}
    parts = [parts_of[published] for published in data.published]
    dated = sum(bool(part) for part in parts)
    if 2 * dated < len(parts):
        return f"{len(parts) - dated:,} of {len(parts):,} examples have no date (YYYY-MM-DD)"
    return by_words(data, [word_block(parts, data.kept, longest=1)])


def date_parts(published: str | None) -> str:
    """ "y2024 m202403 d1" for 4 or 5 March 2024 (Monday is d0); empty for what is no ISO 8601 date."""
    try:
        day = date.fromisoformat((published or "")[:10])
    except ValueError:
        return ""
    return f"y{day.year} m{day.year}{day.month:02} d{day.weekday()}"


PROBES: dict[str, Callable[[ProbeData], Model | str]] = {
    "source": _source,
    "target": _target,
    "target_majority": _target_majority,
    "target_blind": _target_blind,
    "furniture": _furniture,
    "length": _length,
    "date": _date,
}


# --- Verdict ----------------------------------------------------------------------------------------------------------


def verdict(results: Sequence[ProbeResult], score: Estimate, subject: str = "the text model") -> list[str]:
    """What the probes say of a model with this score, in sentences; the strongest shortcut first."""
    if not results or score.value is None or results[0].chance is None:
        return []
    metric, chance = results[0].metric, results[0].chance
    warning = unbeaten(results, score, subject)
    sentences = [text for text in (behind_words(results, score, subject), warning) if text]
    if not _is_clear(score, chance, metric):
        text = (
            f"{_capital(subject)} ({metric_name(metric)} {_shown(score)}) does not clearly beat chance "
            f"({number(chance)}): no share of its score can be told."
        )
        return [text, *sentences]
    notable = notable_shortcuts(results)
    sentences += [_sentence(r, score, subject) for r in notable]
    if not notable:
        sentences.append(f"No shortcut clearly reaches {NOTABLE:.0%} of the score above chance.")
    return [re.sub(r"(\d)%", r"\1 %", sentence) for sentence in sentences]


def notable_shortcuts(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    """The probes clearly above chance that reach a quarter or more of the model's score above it, best first.

    Of the two that see the target alone only the better one.
    """
    found = sorted(
        (
            r
            for r in results
            if r.name != "text" and (r.share or 0) >= NOTABLE and _is_clear(r.estimate, r.chance, r.metric)
        ),
        key=lambda r: -(r.share or 0),
    )
    alone = [r.name for r in found if r.name in ("target", "target_majority")]
    return [r for r in found if r.name not in alone[1:]]


def unbeaten(results: Sequence[ProbeResult], score: Estimate, subject: str = "the text model") -> str | None:
    """A warning where the model does not clearly beat the best shortcut; None where it does, or where that shortcut
    is not clearly above chance itself."""
    rivals = [r for r in results if r.name != "text" and r.estimate.value is not None and r.difference is not None]
    if not rivals or score.value is None:
        return None
    best = max(rivals, key=lambda r: _sign(r.metric) * (r.estimate.value or 0.0))
    if not _is_clear(best.estimate, best.chance, best.metric):
        return None
    difference, sign = best.difference, _sign(best.metric)
    if difference is None or difference.value is None:
        return None
    worst = difference.low if sign > 0 else difference.high
    if (worst if worst is not None else difference.value) * sign > 0:
        return None
    return (
        f"{_capital(subject)} ({metric_name(best.metric)} {_shown(score)}) does not clearly beat "
        f"{SHORTCUTS[best.name].phrase} ({_shown(best.estimate)})."
    )


def behind_words(results: Sequence[ProbeResult], score: Estimate, subject: str = "the model") -> str | None:
    """A warning where a plain bag of words is clearly better than the model; None where it is not."""
    words = next((r for r in results if r.name == "text" and r.difference is not None), None)
    if words is None or words.difference is None or words.difference.low is None or words.difference.high is None:
        return None
    best = words.difference.high if _sign(words.metric) > 0 else -words.difference.low
    if best >= 0:
        return None
    return (
        f"A plain bag of words ({metric_name(words.metric)} {_shown(words.estimate)}) is clearly better than {subject} "
        f"({_shown(score)})."
    )


def held_out_verdict(results: Sequence[ProbeResult]) -> list[str]:
    """How much of the text model is lost on sources or targets that it has not learned from."""
    sentences = []
    for r in results[1:]:
        whole, gap = results[0].estimate, r.difference
        if gap is None or r.estimate.value is None:
            continue
        clear = gap.low is not None and gap.high is not None and (gap.low > 0 or gap.high < 0)
        change = (
            f"falls from {number(whole.value)} to {_shown(r.estimate)}" if clear and (gap.value or 0) > 0
            else f"goes from {number(whole.value)} to {_shown(r.estimate)}"
        )  # fmt: skip
        kept = "" if r.share is None else f", {max(0.0, r.share):.0%} of what was above chance"
        sentences.append(f"On {r.name}s it has not learned from, {metric_name(r.metric)} of the text {change}{kept}.")
    return [re.sub(r"(\d)%", r"\1 %", sentence) for sentence in sentences]


def _is_clear(value: Estimate, chance: float | None, metric: str) -> bool:
    """Whether the whole interval of `value` is better than chance."""
    if value.value is None or chance is None:
        return False
    worst = value.low if _sign(metric) > 0 else value.high
    return _sign(metric) * ((value.value if worst is None else worst) - chance) > 0


def _sentence(r: ProbeResult, score: Estimate, subject: str) -> str:
    shortcut, share = SHORTCUTS[r.name], r.share or 0.0
    figures = f"{metric_name(r.metric)} {_shown(r.estimate)}, {subject} {number(score.value)}, "
    figures += f"chance {number(r.chance)}"
    reach = f"{share:.0%}" if share < 1 else "All"
    return f"{reach} of the score above chance is reachable from {shortcut.phrase} ({figures}); {shortcut.advice}."


def _shown(value: Estimate) -> str:
    return interval(vars(value))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
