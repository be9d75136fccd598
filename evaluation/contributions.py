"""What each sentence adds to the answer of a linear classifier, exactly.

A linear score is a sum over features, and a feature's value belongs to the places where its n-gram stands: each of them
holds an equal share of value times coefficient, and of an n-gram that runs over the end of a sentence each of its words
does. So a score comes apart into sentences without a rest.

"Exact" means: the shares of all sentences, of what no sentence holds and a constant add up to the log-odds of the
label's calibrated probability (before calibration where that is isotonic: a step has no slope). Nothing is sampled, and
nothing approximated. Two things are held at what they are for this text: the number by which an n-gram's count is
weighed (its logarithm, and the length to which a TF-IDF row is scaled), and, for one label of several, how the other
labels share what is left of the probability. Hence a share is not by how much the log-odds would fall without the
sentence: then these change, too. How close the two come is measured by `evaluation.evidence.faithfulness`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import expit, logsumexp, softmax

from slantwise.article import Example
from slantwise.decision import Decision
from slantwise.features import MASK, TOKEN, FeatureSpace, char_ngrams
from slantwise.linear import UNSEEN, Head, LinearClassifier
from slantwise.mentions import IndexedText, Mentions, Range, find_mentions
from slantwise.model import Head as ModelHead

Doubles: TypeAlias = npt.NDArray[np.float64]
Token: TypeAlias = tuple[str, int]  # a word and the place in the text where it begins
Term: TypeAlias = tuple[str, tuple[int, ...]]  # an n-gram and the places of its words
OWN = "own "  # before the name of the block that a target has a copy of


@dataclass(frozen=True)
class Contributions:
    """Shares of one label's log-odds: `sentences` (n_sentences,); `relation`, of how target and text relate as a whole;
    `target`, of the target's own words; `constant`, of nothing in the text: the intercept and the other labels."""

    sentences: Doubles
    relation: float
    target: float
    constant: float

    @property
    def log_odds(self) -> float:
        return float(self.sentences.sum()) + self.relation + self.target + self.constant


def contributions(
    head: ModelHead, classifier: LinearClassifier, example: Example, sentences: Sequence[Range], labels: Sequence[int]
) -> list[Contributions]:
    """For each of the labels (columns of the task) what each of the sentences adds to its log-odds.

    `classifier` is the head's. The sentences are character ranges of the example's text in their order; all words lie
    in one of them.
    """
    places = _Places(classifier.space, example, sentences)
    held, last = classifier.head.coefficients, classifier.first
    first = None if last is None else (last.coefficients[:, -1] - last.coefficients[:, 0]).astype(np.float64)
    design = classifier.space.transform([example])
    n = len(sentences)
    parts = np.zeros((n + 2, held.shape[1] + 1))  # sentences, relation, target; by label, and the first stage's score
    at = 0
    for name, (matrix, rows) in zip(places.names, design.parts, strict=True):
        row = sparse.csr_array(matrix[[int(rows[0])]])
        span = slice(at, at + matrix.shape[1])
        slopes = np.zeros((row.nnz, parts.shape[1]))
        slopes[:, :-1] = held[span][row.indices]
        if first is not None and design.relation is None:
            slopes[:, -1] = first[span][row.indices]
        parts += places.shares(name, row.indices).T @ (row.data[:, np.newaxis] * slopes)
        at += matrix.shape[1]
    if first is not None and design.relation is not None:
        parts[n, -1] += float(design.relation[0].astype(np.float64) @ first)
    total = parts.sum(axis=0)
    scores = total[:-1] + classifier.head.intercept
    odds = float(total[-1]) + (0.0 if last is None else _intercept(last))
    found = []
    for label in labels:
        mix, log_odds = _log_odds(head.decision, classifier, scores, odds, label)
        shares = parts @ mix
        found.append(Contributions(shares[:n], float(shares[n]), float(shares[n + 1]), log_odds - float(shares.sum())))
    return found


def _intercept(first: Head) -> float:
    """The first label's log-odds before any feature; all there is where training has only this label, or never."""
    if len(first.labels) == 1:
        return float(np.log1p(-UNSEEN) - np.log(UNSEEN)) * (1 if first.labels == (1,) else -1)
    return float(first.intercept[-1]) - float(first.intercept[0])


def _log_odds(
    decision: Decision, classifier: LinearClassifier, scores: Doubles, first: float, label: int
) -> tuple[Doubles, float]:
    """Weights (n_head_labels + 1,) of the scores and of the first stage's, and the log-odds, which differ from the
    weighted sum by a constant.

    Two identities make it so. For probabilities p, the other labels' shares q_j = p_j / (1 - p_k) of what is left and
    their entropy H, log(p_k / (1 - p_k)) = log p_k - sum_j q_j log p_j - H(q). And for scores s with p = softmax(s),
    log sum_j exp(s_j) = sum_j p_j s_j + H(p).
    """
    head, task = classifier.head, classifier.task
    mix = np.zeros(len(scores) + 1)
    scaled = decision.slopes is not None and decision.curves is None
    slopes = np.array(decision.slopes if scaled else [1.0] * len(task.labels))
    intercepts = np.array(decision.intercepts if scaled else [0.0] * len(task.labels))
    if task.kind == "multilabel":
        column = head.labels.index(label)
        mix[column] = slopes[label]
        return mix, float(slopes[label] * scores[column] + intercepts[label])
    logs = slopes * _log_probabilities(classifier, scores, first) + intercepts
    others = np.delete(logs, label)
    rest = float(logsumexp(others))
    slope = -slopes * np.insert(np.exp(others - rest), label, -1.0)  # of the classifier's own log-probabilities
    known = list(head.labels)
    if known:
        mix[:-1] = slope[known] - slope[known].sum() * softmax(scores)
    if classifier.first_label is not None:
        mix[-1] = slope[classifier.first_label] - slope.sum() * expit(first)
    return mix, float(logs[label]) - rest


def _log_probabilities(classifier: LinearClassifier, scores: Doubles, first: float) -> Doubles:
    """(n_labels,): as `LinearClassifier.from_design` has them for a multiclass task, to the full precision."""
    head, n_labels, stage = classifier.head, len(classifier.task.labels), classifier.first_label
    logs = np.full(n_labels, np.log(UNSEEN))
    if head.labels:
        logs[list(head.labels)] = np.log1p(-UNSEEN * (n_labels - len(head.labels))) + scores - logsumexp(scores)
    if stage is not None:
        logs[stage] = -np.inf
        logs -= np.logaddexp(0, first) + logsumexp(logs)
        logs[stage] = -np.logaddexp(0, -first)
    return logs


class _Places:
    """For the features of one example, which sentences hold them; the blocks are those of `FeatureSpace`."""

    def __init__(self, space: FeatureSpace, example: Example, sentences: Sequence[Range]) -> None:
        self.space, self.example, self.sentences = space, example, sentences
        self.ends = [end for _, end in sentences]
        self.text = IndexedText(example.text)
        self.mentions = Mentions("none")
        if space.has_target:
            self.mentions = find_mentions(self.text, example.target or "", example.span)
        copied = [f"{OWN}{name}" for name in ("word", "char") if name in space.blocks and space.own_targets]
        self.names = [*space.blocks, *["relation"] * (space.hats is not None), *copied]
        self._tables: dict[str, tuple[dict[str, int], sparse.csr_array]] = {}

    def shares(self, name: str, columns: npt.NDArray[np.integer]) -> sparse.csr_array:
        """(len(columns), n_sentences + 2): of each column of the block the shares of the sentences, of the relation and
        of the target; those of a column sum to 1."""
        n = len(self.sentences)
        if name in ("relation", "target", "target_char"):
            where = np.full(len(columns), n if name == "relation" else n + 1)
            entries = (np.ones(len(columns)), (np.arange(len(columns)), where))
            return sparse.csr_array(entries, shape=(len(columns), n + 2))
        block = name.removeprefix(OWN)
        terms = self.space.blocks[block].terms
        if name.startswith(OWN):
            columns = self.space.own_columns[block][columns] % len(terms)
        if block not in self._tables:
            self._tables[block] = self._table(block)
        index, table = self._tables[block]
        return table[[index[terms[column]] for column in columns.tolist()]]

    def _table(self, block: str) -> tuple[dict[str, int], sparse.csr_array]:
        """The n-grams that stand in the text, and (n_ngrams, n_sentences + 2) where."""
        index: dict[str, int] = {}
        rows, columns = [], []
        for term, places in self._terms(block):
            row = index.setdefault(term, len(index))
            for place in places:
                rows.append(row)
                columns.append(bisect_right(self.ends, place))
        shape = (len(index), len(self.sentences) + 2)
        table = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
        return index, sparse.csr_array(table / table.sum(axis=1)[:, np.newaxis])

    def _terms(self, block: str) -> Iterator[Term]:
        """The n-grams of a block's document in the text, each time they stand there."""
        settings = self.space.settings
        if block in ("side", "window"):
            for window in self._windows():
                yield from _side(window) if block == "side" else _ngrams(window, 1, 3)
            return
        whole = [(0, len(self.example.text))]
        if block == "sentence":
            pieces = [
                (start, end) for start, end in self.text.sentences
                if any(start <= first < end for first, _ in self.mentions.ranges)
            ]  # fmt: skip
            yield from _ngrams(self._words(pieces, masked=True), 1, 2)
        elif block == "word":
            yield from _ngrams(self._words(whole, self.space.has_target and settings.mask), *settings.word_ngrams)
        else:
            for token, place in self._tokens(re.compile(r"\S+"), whole, self.space.has_target and settings.mask):
                yield from ((term, (place,)) for term in char_ngrams(token, *settings.char_ngrams))

    def _words(self, pieces: Sequence[Range], masked: bool) -> list[Token]:
        return [(word.replace("’", "'"), place) for word, place in self._tokens(WORDS, pieces, masked)]

    def _tokens(self, pattern: re.Pattern[str], pieces: Sequence[Range], masked: bool) -> Iterator[Token]:
        """The pattern's matches in lower-case text, the pieces joined by blanks."""
        parts = [part for piece in pieces for part in [*self._part(*piece, masked), (" ", [piece[1]])]]
        joined = "".join(text for text, _ in parts)
        lowered, origins = joined.lower(), [origin for _, held in parts for origin in held]
        if len(lowered) != len(joined):  # some letters have two in lower case
            origins = [origin for c, origin in zip(joined, origins, strict=True) for _ in c.lower()]
        return ((match.group(), origins[match.start()]) for match in pattern.finditer(lowered))

    def _part(self, start: int, end: int, masked: bool) -> Iterator[tuple[str, Sequence[int]]]:
        """text[start:end] in pieces, each with the place of each of its characters; see `features.mask`."""
        if masked and self.mentions.kind in ("marked", "name"):
            for first, last in self.mentions.ranges:
                if start <= first and last <= end:
                    yield self.example.text[start:first], range(start, first)
                    yield f" {MASK} ", [first] * (len(MASK) + 2)
                    start = last
        yield self.example.text[start:end], range(start, end)

    def _windows(self) -> Iterator[list[Token]]:
        """See `features.mention_windows`."""
        k, tokens = self.space.settings.window, list(zip(self.text.keys, self.text.starts, strict=True))
        for start, end in self.mentions.ranges:
            first, last = bisect_left(self.text.starts, start), bisect_left(self.text.starts, end)
            yield [*tokens[max(first - k, 0) : first], (MASK, start), *tokens[last : last + k]]


# `features.words` puts one apostrophe for the other before it looks for words
WORDS = re.compile(TOKEN.pattern.replace("'", "['’]"))


def _ngrams(tokens: Sequence[Token], shortest: int, longest: int) -> Iterable[Term]:
    for n in range(shortest, longest + 1):
        for run in zip(*(tokens[i:] for i in range(n)), strict=False):
            yield " ".join(word for word, _ in run), tuple(place for _, place in run)


def _side(window: Sequence[Token]) -> Iterable[Term]:
    middle = [word for word, _ in window].index(MASK)
    for i, (word, place) in enumerate(window):
        if i != middle:
            yield f"{'L' if i < middle else 'R'} {word}", (place,)
