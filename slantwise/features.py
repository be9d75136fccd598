"""Features of the linear classifier: sparse TF-IDF blocks, and for a target, what relates it to the text.

Blocks, each a TF-IDF matrix with rows of length one (Salton and Buckley 1988):

    word, char          n-grams of the text, the target's mentions masked
    side, window        words within k words left and right of a mention, marked with their side; n-grams across it
    sentence            words of the sentences that hold a mention
    target, target_char n-grams of the target itself
    relation            how much of the target the text holds and where: cosines, shares, positions, cue words
    own                 a copy of word and char for each frequent target, so that it has weights of its own beside the
                        shared ones (Daumé III 2007, "Frustratingly easy domain adaptation")

Each distinct document is analysed once, however many targets are asked of one text.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from slantwise.article import Example
from slantwise.mentions import FUNCTION_WORDS, IndexedText, Mentions, find_mentions, word_key
from slantwise.ngrams import NgramIndex
from slantwise.polarity import count_polarity

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Tokens = Sequence[str]
Arrays = dict[str, npt.NDArray[Any]]
Item = TypeVar("Item", bound=Hashable)

TOKEN = re.compile(r"\w+(?:'\w+)*|[!?]")
MASK = "_target_"

# Words by which a text disputes what it reports, and words by which it leaves it open.
REFUTING = frozenset(
    "fake fraud hoax false falsely untrue not never nope no deny denies denied denying denial despite doubt doubts "
    "doubtful bogus debunk debunked debunks debunking prank pranked satire satirical retract retracted retraction "
    "refute refuted refutes reject rejects rejected dismiss dismissed dismisses wrong incorrect inaccurate myth lie "
    "lied fabricated fabrication made-up misleading contrary however but actually didnt isnt wasnt doesnt hasnt wont "
    "cant photoshopped staged fooled duped mistaken baseless unfounded disputed disputes contradict contradicts "
    "correction corrected apologized apologised".split()
)
HEDGING = frozenset(
    "alleged allegedly allege alleges apparent apparently appear appears appeared claim claims claimed claiming could "
    "evidently likely may maybe might perhaps possible possibly potential potentially purported purportedly reported "
    "reportedly reports report rumor rumors rumored rumour rumours rumoured say says said saying seem seems seemed "
    "source sources speculate speculated speculation suggest suggests suggested suspect suspected supposed supposedly "
    "told unconfirmed unverified unclear unknown according believed believe believes probably whether if "
    "would".split()
)


@dataclass(frozen=True)
class FeatureSettings:
    """Which blocks are built. Ranges are (shortest, longest) n-gram; (0, 0) leaves the block out."""

    word_ngrams: tuple[int, int] = (1, 2)
    char_ngrams: tuple[int, int] = (2, 5)
    min_df: int = 1
    max_features: int = 200_000
    sublinear: bool = True
    mask: bool = True
    window: int = 7
    sentence: bool = True
    target: bool = False
    relation: bool = True
    per_target: int = 50

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> FeatureSettings:
        ranges = {name: tuple(state[name]) for name in ("word_ngrams", "char_ngrams")}
        return cls(**{**state, **ranges})


# Of Latin-1 all that TOKEN does not keep as a blank. What else most texts hold parts words too.
_PARTED = bytes(code if chr(code).isalnum() or chr(code) in "_'!?" else 32 for code in range(256))
_TYPOGRAPHIC = re.compile("[“”–—…‘•]")


def words(text: str) -> list[str]:
    """Lower-case words, inner apostrophes kept, and the marks ! and ?: what TOKEN finds, but faster."""
    text = text.lower().replace("’", "'")
    try:
        plain = (text if text.isascii() else _TYPOGRAPHIC.sub(" ", text)).encode("latin-1")
    except UnicodeEncodeError:
        return TOKEN.findall(text)
    text = plain.translate(_PARTED).decode("latin-1")
    for mark in "!?":
        if mark in text:
            text = text.replace(mark, f" {mark} ")
    found = text.split()
    if "'" in text and any(word[0] == "'" or word[-1] == "'" or "''" in word for word in found if "'" in word):
        return [word for part in found for word in (TOKEN.findall(part) if "'" in part else (part,))]
    return found


def ngrams(tokens: Tokens, shortest: int, longest: int) -> list[str]:
    """The n-grams of all lengths from `shortest` to `longest`, words joined by a blank."""
    found: list[str] = []
    for n in range(shortest, longest + 1):
        found += tokens if n == 1 else map(" ".join, zip(*(tokens[i:] for i in range(n)), strict=False))
    return found


def split_token(token: str, shortest: int, longest: int) -> tuple[str, ...]:
    """Character n-grams of one token between blanks, a token shorter than n once as a whole."""
    padded = f" {token} "
    found: list[str] = []
    for n in range(shortest, longest + 1):
        found += [padded[i : i + n] for i in range(max(len(padded) - n + 1, 1))]
        if n >= len(padded):
            break
    return tuple(found)


char_ngrams = lru_cache(maxsize=200_000)(split_token)


def distinct(items: Iterable[Item]) -> tuple[list[Item], Rows]:
    """The distinct items in order of first sight, and for each item the row of its like among them."""
    index: dict[Item, int] = {}
    rows = [index.setdefault(item, len(index)) for item in items]
    return list(index), np.array(rows, dtype=np.int64)


def count(documents: Iterable[Tokens], index: dict[str, int] | None = None) -> tuple[sparse.csr_array, list[str]]:
    """Term counts, float32 (n_documents, n_terms), and the terms; given an index, terms outside of it are left out."""
    grown: defaultdict[str, int] = defaultdict()
    grown.default_factory = grown.__len__
    columns = array("i")
    pointers = [0]
    for document in documents:
        if index is None:
            columns.extend([grown[term] for term in document])
        else:
            columns.extend([i for i in map(index.get, document) if i is not None])
        pointers.append(len(columns))
    terms = list(grown if index is None else index)
    shape = (len(pointers) - 1, len(terms))
    matrix = sparse.csr_array((np.ones(len(columns), np.float32), np.array(columns, np.int32), pointers), shape=shape)
    matrix.sum_duplicates()
    return matrix, terms


def unit_rows(matrix: sparse.csr_array) -> sparse.csr_array:
    """Rows scaled to length one, in place; empty rows stay."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    norms = np.sqrt(np.bincount(rows, matrix.data.astype(np.float64) ** 2, minlength=matrix.shape[0]))
    matrix.data /= norms[rows].astype(np.float32)
    return matrix


class Tfidf:
    """TF-IDF over documents that are lists of terms; with `parts`, over the parts of each term; with `lengths`, over
    n-grams of the terms, from the shortest to the longest.

    Counting terms first and then splitting each distinct term once is what makes character n-grams cheap. What a term
    is split into is kept for later documents, which have most of their words in common with earlier ones.
    """

    KEPT = 200_000  # split terms, some 50 MB

    def __init__(
        self,
        settings: FeatureSettings,
        parts: Callable[[str], Tokens] | None = None,
        lengths: tuple[int, int] | None = None,
    ) -> None:
        self.settings, self.parts, self.lengths = settings, parts, lengths
        self.terms: list[str] = []
        self.idf: Floats = np.zeros(0, np.float32)
        self._index: dict[str, int] = {}
        self._ngrams: NgramIndex | None = None
        self._split: dict[str, npt.NDArray[np.int32]] = {}

    def restore(self, terms: list[str], idf: Floats) -> Tfidf:
        self.terms, self.idf, self._index = terms, idf, {term: i for i, term in enumerate(terms)}
        self._ngrams, self._split = None, {}
        return self

    def fit_transform(self, documents: Iterable[Tokens]) -> sparse.csr_array:
        counts, terms = self._count(documents)
        frequency = np.bincount(counts.indices, minlength=len(terms))
        order = np.array(sorted(range(len(terms)), key=lambda i: (-frequency[i], terms[i])), dtype=np.int64)
        order = order[frequency[order] >= self.settings.min_df][: self.settings.max_features]
        idf = np.log((1 + counts.shape[0]) / (1 + frequency[order])) + 1
        self.restore([terms[i] for i in order], idf.astype(np.float32))
        return self._weigh(counts[:, order])

    def transform(self, documents: Iterable[Tokens]) -> sparse.csr_array:
        """float32 (n_documents, n_terms), rows of length one."""
        return self._weigh(self._count_known(documents))

    def _count(self, documents: Iterable[Tokens]) -> tuple[sparse.csr_array, list[str]]:
        if self.lengths is not None:
            return count(ngrams(document, *self.lengths) for document in documents)
        if self.parts is None:
            return count(documents)
        whole, tokens = count(documents)
        pieces, terms = count(map(self.parts, tokens))
        return sparse.csr_array(whole @ pieces), terms

    def _count_known(self, documents: Iterable[Tokens]) -> sparse.csr_array:
        """The counts of the fitted terms."""
        if self.lengths is not None:
            if self._ngrams is None:
                self._ngrams = NgramIndex(self.terms)
            return self._ngrams.count(documents)
        if self.parts is None:
            return count(documents, self._index)[0]
        whole, tokens = count(documents)
        if len(self._split) > self.KEPT:
            self._split = {}
        pieces = [self._split.get(token) for token in tokens]
        columns = [self._columns(token) if held is None else held for token, held in zip(tokens, pieces, strict=True)]
        pointers = np.concatenate([[0], np.cumsum([len(held) for held in columns])]).astype(np.int32)
        flat = np.concatenate([np.zeros(0, np.int32), *columns])
        shape = (len(columns), len(self.terms))
        return sparse.csr_array(whole @ sparse.csr_array((np.ones(len(flat), np.float32), flat, pointers), shape=shape))

    def _columns(self, token: str) -> npt.NDArray[np.int32]:
        """The columns of the token's parts."""
        assert self.parts is not None
        known = [column for column in map(self._index.get, self.parts(token)) if column is not None]
        return self._split.setdefault(token, np.array(known, np.int32))

    def _weigh(self, counts: sparse.csr_array) -> sparse.csr_array:
        counts = sparse.csr_array(counts)
        if self.settings.sublinear:
            counts.data = np.log(counts.data) + 1
        counts.data *= self.idf[counts.indices]
        return unit_rows(counts)


class IdfTable:
    """Inverse document frequencies with a default for unseen terms, so that new names count as the rare words they are.

    The vectors of one call share their own vocabulary: only products among them mean anything.
    """

    def __init__(self, terms: list[str], idf: Floats, default: float) -> None:
        self.terms, self.idf, self.default = terms, idf, default
        self._known = dict(zip(terms, idf.tolist(), strict=True))

    @classmethod
    def fit(cls, documents: Sequence[Tokens], limit: int = 100_000) -> IdfTable:
        frequency = Counter(chain.from_iterable(map(set, documents)))
        kept = sorted((term for term, n in frequency.items() if n > 1), key=lambda term: (-frequency[term], term))
        kept = kept[:limit]
        n = np.array([frequency[term] for term in kept], dtype=np.float64)
        idf = np.log((1 + len(documents)) / (1 + n)) + 1
        return cls(kept, idf.astype(np.float32), float(np.log(1 + len(documents)) + 1))

    def weights(self, terms: Iterable[str]) -> Floats:
        return np.array([self._known.get(term, self.default) for term in terms], dtype=np.float32)

    def vectors(self, *collections: Sequence[Tokens]) -> list[sparse.csr_array]:
        """Unit TF-IDF rows of each collection over one vocabulary, that of the last, which is all a cosine needs.

        Lengths are those over all terms.
        """
        *others, last = collections
        counts, terms = count(last)
        index = {term: i for i, term in enumerate(terms)}
        idf = self.weights(terms)
        matrices = []
        for documents in others:
            norms = np.array([self._norm(document) for document in documents], dtype=np.float32)
            matrix = count(documents, index)[0]
            matrix.data = (1 + np.log(matrix.data)) * idf[matrix.indices]
            matrix.data /= np.repeat(norms, np.diff(matrix.indptr))
            matrices.append(matrix)
        counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
        return [*matrices, unit_rows(counts)]

    def _norm(self, document: Tokens) -> float:
        if not document:
            return 1.0
        counts = Counter(document)
        known, default = self._known, self.default
        weights = np.array([known.get(term, default) for term in counts])
        return float(np.linalg.norm((1 + np.log(np.fromiter(counts.values(), np.float64))) * weights))


def products(a: sparse.csr_array, a_rows: Rows, b: sparse.csr_array, b_rows: Rows, chunk: int = 8192) -> Floats:
    """Inner products of rows of `a` with rows of `b`, pair by pair, float32 (n_pairs,)."""
    parts = [
        np.asarray(a[a_rows[i : i + chunk]].multiply(b[b_rows[i : i + chunk]]).sum(axis=1)).ravel()
        for i in range(0, len(a_rows), chunk)
    ]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


@dataclass(frozen=True)
class TargetedBatch:
    """Examples with targets, each distinct text and each distinct (text, target, span) prepared once."""

    texts: list[IndexedText]
    text_rows: Rows
    targets: list[str]
    target_rows: Rows
    mentions: list[Mentions]
    mention_text: Rows
    mention_rows: Rows

    @classmethod
    def of(cls, examples: Sequence[Example]) -> TargetedBatch:
        texts, text_rows = distinct(example.text for example in examples)
        targets, target_rows = distinct(example.target or "" for example in examples)
        spans = [example.span for example in examples]
        pairs, rows = distinct(zip(text_rows.tolist(), target_rows.tolist(), spans, strict=True))
        indexed = [IndexedText(text) for text in texts]
        mentions = [find_mentions(indexed[text], targets[target], span) for text, target, span in pairs]
        mention_text = np.array([text for text, _, _ in pairs], dtype=np.int64)
        return cls(indexed, text_rows, targets, target_rows, mentions, mention_text, rows)

    def masked(self) -> tuple[list[str], Rows]:
        """Texts without the target's name, so that what is said of one target is learned for all."""
        return self._per_mention(lambda text, mentions: mask(text.text, mentions))

    def sentences(self) -> tuple[list[str], Rows]:
        """The sentences that hold a mention, masked."""
        return self._per_mention(mention_sentences)

    def windows(self, k: int) -> tuple[list[tuple[tuple[str, ...], ...]], Rows]:
        """For each mention of a pair: up to k words to its left, MASK, up to k words to its right."""
        return self._per_mention(lambda text, mentions: mention_windows(text, mentions, k))

    def _per_mention(self, view: Callable[[IndexedText, Mentions], Item]) -> tuple[list[Item], Rows]:
        views = (view(self.texts[i], found) for i, found in zip(self.mention_text, self.mentions, strict=True))
        documents, rows = distinct(views)
        return documents, rows[self.mention_rows]


def mask(text: str, mentions: Mentions, start: int = 0, end: int | None = None) -> str:
    """text[start:end] with MASK for each mention by name; single words of a target are not masked."""
    stop = len(text) if end is None else end
    if mentions.kind not in ("marked", "name"):
        return text[start:stop]
    parts, at = [], start
    for first, last in mentions.ranges:
        if start <= first and last <= stop:
            parts += [text[at:first], f" {MASK} "]
            at = last
    return "".join([*parts, text[at:stop]])


def mention_sentences(text: IndexedText, mentions: Mentions) -> str:
    held = [
        (start, end)
        for start, end in text.sentences
        if any(start <= first < end for first, _ in mentions.ranges)
    ]  # fmt: skip
    return " ".join(mask(text.text, mentions, start, end) for start, end in held)


def mention_windows(text: IndexedText, mentions: Mentions, k: int) -> tuple[tuple[str, ...], ...]:
    found = []
    for start, end in mentions.ranges:
        first, last = bisect_left(text.starts, start), bisect_left(text.starts, end)
        found.append((*text.keys[max(first - k, 0) : first], MASK, *text.keys[last : last + k]))
    return tuple(found)


def side_words(windows: Iterable[tuple[str, ...]]) -> list[str]:
    """Words of the windows, marked with the side of the mention on which they stand."""
    marked: list[str] = []
    for window in windows:
        middle = window.index(MASK)
        marked += [f"L {word}" for word in window[:middle]] + [f"R {word}" for word in window[middle + 1 :]]
    return marked


def window_ngrams(windows: Iterable[tuple[str, ...]]) -> list[str]:
    return [term for window in windows for term in ngrams(window, 1, 3)]


class Relation:
    """Dense features of how a text relates to a target; all are 0 or more, most lie in [0, 1]."""

    TABLES = ("word", "bigram", "char")

    def __init__(self, tables: Mapping[str, IdfTable]) -> None:
        self.tables = dict(tables)

    @classmethod
    def fit(cls, batch: TargetedBatch) -> Relation:
        documents = [text.keys for text in batch.texts] + [_keys(target) for target in batch.targets]
        return cls({name: IdfTable.fit([_view(name, keys) for keys in documents]) for name in cls.TABLES})

    def transform(self, batch: TargetedBatch) -> Floats:
        """float32 (n_examples, n_features)."""
        pairs, rows = distinct(zip(batch.text_rows.tolist(), batch.target_rows.tolist(), strict=True))
        text = np.array([pair[0] for pair in pairs], dtype=np.int64)
        target = np.array([pair[1] for pair in pairs], dtype=np.int64)
        targets = [_keys(name) for name in batch.targets]
        pieces = _Sentences(batch.texts)
        columns = [column for name in self.TABLES for column in self._cosines(name, pieces, text, targets, target)]
        best = columns.pop(0)
        columns += self._shares(pieces, text, targets, target, best)
        columns += _cues(pieces, text, targets, target, best)
        columns.append((best - pieces.first[text]) / np.maximum(pieces.number[text], 1))
        return np.column_stack([*(column[rows] for column in columns), *_mention_columns(batch)]).astype(np.float32)

    def _cosines(
        self, name: str, pieces: _Sentences, text: Rows, targets: list[list[str]], target: Rows
    ) -> list[npt.NDArray[Any]]:
        """Cosines of the target with the text, its opening, its best and its second-best sentence.

        For words, the row of the best sentence comes first.
        """
        documents = [[_view(name, keys) for keys in part] for part in (pieces.texts, pieces.openings, pieces.sentences)]
        whole, opening, sentence, wanted = self.tables[name].vectors(*documents, [_view(name, k) for k in targets])
        number = pieces.number[text]
        offsets = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
        flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - pieces.first[text], number)
        cosines = products(sentence, flat, wanted, np.repeat(target, number))
        best, top, second = _top_two(cosines, offsets)
        columns = [products(whole, text, wanted, target), products(opening, text, wanted, target), top, second]
        return [best + pieces.first[text], *columns] if name == "word" else columns

    def _shares(
        self, pieces: _Sentences, text: Rows, targets: list[list[str]], target: Rows, best: Rows
    ) -> list[npt.NDArray[Any]]:
        """IDF-weighted shares of the target's content words in the text, its opening, its best sentence; its rarest."""
        wanted = [_content(keys) for keys in targets]
        counts, terms = count(wanted)
        idf = self.tables["word"].weights(terms)
        index = {term: i for i, term in enumerate(terms)}
        counts.data = idf[counts.indices]
        total = np.maximum(np.asarray(counts.sum(axis=1)).ravel()[target], 1e-6)
        columns = []
        for documents, rows in ((pieces.texts, text), (pieces.openings, text), (pieces.sentences, best)):
            present = count([list(set(document)) for document in documents], index)[0]
            columns.append(products(present, rows, counts, target) / total)
        rarest = np.array([max(idf[[index[term] for term in keys]], default=0.0) for keys in wanted])
        return [*columns, rarest[target] / max(self.tables["word"].default, 1.0)]


class _Sentences:
    """Keys of the distinct texts, of their openings and of their sentences; first and number locate a text's own."""

    OPENING = 3

    def __init__(self, texts: Sequence[IndexedText]) -> None:
        self.texts = [text.keys for text in texts]
        self.sentences: list[list[str]] = []
        self.openings: list[list[str]] = []
        first = []
        for text in texts:
            first.append(len(self.sentences))
            bounds = [(bisect_left(text.starts, start), bisect_left(text.starts, end)) for start, end in text.sentences]
            held = [text.keys[start:end] for start, end in bounds if end > start] or [text.keys]
            self.sentences += held
            self.openings.append([key for keys in held[: self.OPENING] for key in keys])
        self.first = np.array(first, dtype=np.int64)
        self.number = np.diff(np.append(self.first, len(self.sentences)))


def _keys(text: str) -> list[str]:
    return [word_key(word) for word in IndexedText(text).keys]


def _content(keys: Iterable[str]) -> list[str]:
    return [key for key in dict.fromkeys(keys) if key not in FUNCTION_WORDS]


def _view(name: str, keys: Sequence[str]) -> Tokens:
    if name == "word":
        return [key for key in keys if key not in FUNCTION_WORDS]
    if name == "bigram":
        return ngrams(keys, 2, 2)
    return [part for key in keys if key not in FUNCTION_WORDS for part in char_ngrams(key, 4, 4)]


def _top_two(values: Floats, offsets: Rows) -> tuple[Rows, Floats, Floats]:
    """Place and value of the greatest of each segment, and the value of the second greatest (0 where there is one)."""
    segments = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    # Descending within each segment; of equal values the first sentence comes first.
    order = np.lexsort((np.arange(len(values)), -values, segments))
    first = order[offsets[:-1]]
    several = np.diff(offsets) > 1
    second = np.zeros(len(first), np.float32)
    second[several] = values[order[offsets[:-1][several] + 1]]
    return first - offsets[:-1], values[first], second


def _cues(pieces: _Sentences, text: Rows, targets: list[list[str]], target: Rows, best: Rows) -> list[npt.NDArray[Any]]:
    """Logarithmic counts of refuting and hedging words in text, opening, best sentence and target, and the lengths."""
    parts = ((pieces.texts, text), (pieces.openings, text), (pieces.sentences, best), (targets, target))
    columns = []
    for documents, rows in parts:
        columns += [
            np.log1p([sum(key in cues for key in keys) for keys in documents])[rows] for cues in (REFUTING, HEDGING)
        ]
        columns.append(np.log1p([len(keys) for keys in documents])[rows] / 5)
    return columns


def _mention_columns(batch: TargetedBatch) -> list[npt.NDArray[Any]]:
    """Kind, number and first place of the mentions, cue words near them, praise and blame near and far."""
    rows = batch.mention_rows
    texts = [batch.texts[i] for i in batch.mention_text]
    first = [
        m.ranges[0][0] / max(len(t.text), 1) if m.ranges else 1.0 for m, t in zip(batch.mentions, texts, strict=True)
    ]
    near = [
        [word for window in mention_windows(t, m, 10) for word in window]
        for m, t in zip(batch.mentions, texts, strict=True)
    ]
    columns = [
        np.array([float(m.kind in ("marked", "name")) for m in batch.mentions]),
        np.array([float(m.kind == "words") for m in batch.mentions]),
        np.log1p([len(m.ranges) for m in batch.mentions]),
        np.array(first),
        *(np.log1p([sum(word in cues for word in keys) for keys in near]) for cues in (REFUTING, HEDGING)),
        *_polarity_columns(near),
        *_polarity_columns([_held_keys(t, m) for t, m in zip(texts, batch.mentions, strict=True)]),
    ]
    whole = [column[batch.text_rows] for column in _polarity_columns([text.keys for text in batch.texts])]
    return [*(column[rows] for column in columns), *whole]


def _held_keys(text: IndexedText, mentions: Mentions) -> list[str]:
    """The words of the sentences that hold a mention."""
    held = []
    for start, end in text.sentences:
        if any(start <= first < end for first, _ in mentions.ranges):
            held += text.keys[bisect_left(text.starts, start) : bisect_left(text.starts, end)]
    return held


def _polarity_columns(documents: Sequence[Tokens]) -> list[npt.NDArray[Any]]:
    """How much praise outweighs blame, and blame praise, both in [0, 1): 0 where neither does."""
    counts = np.array([count_polarity(words) for words in documents], dtype=np.float64).reshape(-1, 2)
    balance = (counts[:, 0] - counts[:, 1]) / (counts.sum(axis=1) + 1)
    return [np.maximum(balance, 0), np.maximum(-balance, 0)]


class Hats:
    """Piecewise-linear basis of dense features, knots at their quantiles: a linear model of it bends at each knot.

    These are B-splines of degree one.
    """

    def __init__(self, knots: list[Floats]) -> None:
        self.knots = knots

    @classmethod
    def fit(cls, dense: Floats, number: int = 10) -> Hats:
        quantiles = np.linspace(0, 1, number)
        return cls([np.unique(np.quantile(column, quantiles)).astype(np.float32) for column in dense.T])

    def transform(self, dense: Floats) -> Floats:
        """float32 (n, n_basis)."""
        columns = [
            np.interp(column, knots, unit)
            for column, knots in zip(dense.T, self.knots, strict=True)
            for unit in np.eye(len(knots))
        ]
        return np.column_stack(columns).astype(np.float32)


@dataclass(frozen=True)
class Design:
    """A feature matrix in parts, side by side: each part has one row for each distinct document, and the examples'
    rows among them. It is multiplied without being laid out in full.
    """

    parts: list[tuple[sparse.csr_array, Rows]]
    relation: Floats | None = None

    def __len__(self) -> int:
        return len(self.parts[0][1])

    def take(self, rows: Rows) -> sparse.csr_array:
        """The full matrix of the given examples."""
        return sparse.csr_array(sparse.hstack([matrix[held[rows]] for matrix, held in self.parts], format="csr"))

    def times(self, coefficients: npt.NDArray[Any]) -> Floats:
        """Full matrix times `coefficients` (n_features, k): float32 (n_examples, k).

        Thousands of products are added up in double precision: single would lose the sixth digit of a probability.
        """
        total = np.zeros((len(self), coefficients.shape[1]))
        at = 0
        for matrix, held in self.parts:
            total += (matrix @ coefficients[at : at + matrix.shape[1]].astype(np.float64, copy=False))[held]
            at += matrix.shape[1]
        return total.astype(np.float32)


class FeatureSpace:
    """The blocks that the settings ask for, fitted on training examples."""

    # At most so many targets get weights of their own: each costs a copy of the text blocks' weights.
    OWN_TARGETS = 20

    def __init__(self, settings: FeatureSettings, has_target: bool) -> None:
        self.settings, self.has_target = settings, has_target
        chars = settings.char_ngrams[1] > 0
        names = ["word"] * (settings.word_ngrams[1] > 0) + ["char"] * chars
        if has_target:
            names += ["side", "window"] * (settings.window > 0) + ["sentence"] * settings.sentence
            names += ["target", *["target_char"] * chars] * settings.target
        self.blocks = {name: Tfidf(settings, self._parts(name), self._lengths(name)) for name in names}
        self.relation: Relation | None = None
        self.hats: Hats | None = None
        self.own_targets: list[str] = []
        self.own_columns: dict[str, Rows] = {}

    def _parts(self, name: str) -> Callable[[str], Tokens] | None:
        shortest, longest = self.settings.char_ngrams
        return (lambda token: split_token(token, shortest, longest)) if name in ("char", "target_char") else None

    def _lengths(self, name: str) -> tuple[int, int] | None:
        return {"word": self.settings.word_ngrams, "sentence": (1, 2), "target": (1, 2)}.get(name)

    def fit_transform(self, examples: Sequence[Example]) -> Design:
        batch = TargetedBatch.of(examples) if self.has_target else None
        documents = self._documents(examples, batch)
        parts = {name: (self.blocks[name].fit_transform(held), rows) for name, (held, rows) in documents.items()}
        dense = None
        if batch is not None:
            self.own_targets = self._frequent_targets(batch)
            if self.settings.relation:
                self.relation = Relation.fit(batch)
                dense = self.relation.transform(batch)
                self.hats = Hats.fit(dense)
        return self._design(parts, batch, dense)

    def transform(self, examples: Sequence[Example]) -> Design:
        batch = TargetedBatch.of(examples) if self.has_target else None
        documents = self._documents(examples, batch)
        parts = {name: (self.blocks[name].transform(held), rows) for name, (held, rows) in documents.items()}
        dense = self.relation.transform(batch) if self.relation is not None and batch is not None else None
        return self._design(parts, batch, dense)

    def _documents(
        self, examples: Sequence[Example], batch: TargetedBatch | None
    ) -> dict[str, tuple[Iterable[Tokens], Rows]]:
        """For each block its distinct documents as terms or words, and the examples' rows among them."""
        settings = self.settings
        # Iterators: the words of all documents at once would take many times the memory of the texts.
        if batch is not None and settings.mask:
            texts, rows = batch.masked()
        else:
            texts, rows = distinct(example.text for example in examples)
        found: dict[str, tuple[Iterable[Tokens], Rows]] = {}
        if "word" in self.blocks:
            found["word"] = (map(words, texts), rows)
        if "char" in self.blocks:
            found["char"] = ((text.lower().split() for text in texts), rows)
        if batch is None:
            return found
        if "side" in self.blocks:
            windows, rows = batch.windows(settings.window)
            found["side"] = (map(side_words, windows), rows)
            found["window"] = (map(window_ngrams, windows), rows)
        if "sentence" in self.blocks:
            sentences, rows = batch.sentences()
            found["sentence"] = (map(words, sentences), rows)
        if "target" in self.blocks:
            found["target"] = (map(words, batch.targets), batch.target_rows)
        if "target_char" in self.blocks:
            found["target_char"] = ((target.lower().split() for target in batch.targets), batch.target_rows)
        return found

    def _frequent_targets(self, batch: TargetedBatch) -> list[str]:
        least = self.settings.per_target
        if not least:
            return []
        common = Counter(batch.target_rows.tolist()).most_common(self.OWN_TARGETS)
        return [batch.targets[i] for i, n in common if n >= least]

    def _design(
        self, parts: dict[str, tuple[sparse.csr_array, Rows]], batch: TargetedBatch | None, dense: Floats | None
    ) -> Design:
        laid = list(parts.values())
        basis = None
        if dense is not None and self.hats is not None:
            basis = self.hats.transform(dense)
            # Hats of one column sum to 1: at this weight the whole row is about as long as that of a TF-IDF block.
            weight = np.float32(1 / np.sqrt(len(self.hats.knots)))
            laid.append((sparse.csr_array(basis * weight), np.arange(len(basis))))
        if batch is not None and self.own_targets:
            index = {target: i for i, target in enumerate(self.own_targets)}
            own = np.array([index.get(target, -1) for target in batch.targets], dtype=np.int64)[batch.target_rows]
            for name in ("word", "char"):
                if name in parts:
                    copies, rows, columns = own_copies(*parts[name], own, self.own_columns.get(name))
                    self.own_columns.setdefault(name, columns)
                    laid.append((copies, rows))
        return Design(laid, basis)

    def state(self) -> tuple[dict[str, Any], dict[str, list[str]], Arrays]:
        """Settings, vocabularies and arrays: all that `from_state` needs."""
        settings: dict[str, Any] = {
            "features": asdict(self.settings), "has_target": self.has_target, "own_targets": self.own_targets
        }  # fmt: skip
        vocabularies = {name: block.terms for name, block in self.blocks.items()}
        arrays: Arrays = {f"idf.{name}": block.idf for name, block in self.blocks.items()}
        arrays |= {f"own.{name}": columns for name, columns in self.own_columns.items()}
        if self.relation is not None and self.hats is not None:
            settings["unseen"] = {name: table.default for name, table in self.relation.tables.items()}
            vocabularies |= {f"relation.{name}": table.terms for name, table in self.relation.tables.items()}
            arrays |= {f"idf.relation.{name}": table.idf for name, table in self.relation.tables.items()}
            arrays["knots"] = np.concatenate(self.hats.knots)
            arrays["knot_counts"] = np.array([len(knots) for knots in self.hats.knots])
        return settings, vocabularies, arrays

    @classmethod
    def from_state(
        cls, settings: Mapping[str, Any], vocabularies: Mapping[str, list[str]], arrays: Mapping[str, Any]
    ) -> FeatureSpace:
        """Raises KeyError or ValueError where the parts do not fit together."""
        space = cls(FeatureSettings.from_dict(settings["features"]), settings["has_target"])
        for name, block in space.blocks.items():
            _check_lengths(name, vocabularies[name], arrays[f"idf.{name}"])
            block.restore(vocabularies[name], arrays[f"idf.{name}"])
        if "unseen" in settings:
            tables = {}
            for name, default in settings["unseen"].items():
                terms, idf = vocabularies[f"relation.{name}"], arrays[f"idf.relation.{name}"]
                _check_lengths(name, terms, idf)
                tables[name] = IdfTable(terms, idf, default)
            space.relation = Relation(tables)
            space.hats = Hats(np.split(arrays["knots"], np.cumsum(arrays["knot_counts"])[:-1]))
        space.own_targets = list(settings["own_targets"])
        space.own_columns = {name: arrays[f"own.{name}"] for name in ("word", "char") if f"own.{name}" in arrays}
        return space

    @property
    def n_features(self) -> int:
        basis = sum(map(len, self.hats.knots)) if self.hats is not None else 0
        return (
            sum(len(block.terms) for block in self.blocks.values()) + basis + sum(map(len, self.own_columns.values()))
        )


def own_copies(
    matrix: sparse.csr_array, rows: Rows, own: Rows, columns: Rows | None, least: int = 2
) -> tuple[sparse.csr_array, Rows, Rows]:
    """The document of each example in columns of its own target, the examples' rows, and the columns that there are.

    `own` is the number of each example's target, -1 for none. Column c of target t is t * n_columns + c; the copy holds
    those of `columns`, sorted, or those that `least` documents fill where it is None.
    """
    pairs, held = distinct(zip(rows.tolist(), own.tolist(), strict=True))
    document = np.array([pair[0] for pair in pairs], dtype=np.int64)
    target = np.array([pair[1] for pair in pairs], dtype=np.int64)
    taken = matrix[document]
    owner = np.repeat(np.arange(len(pairs)), np.diff(taken.indptr))
    wanted = taken.indices.astype(np.int64) + matrix.shape[1] * target[owner]
    if columns is None:
        columns, filled = np.unique(wanted[target[owner] >= 0], return_counts=True)
        columns = columns[filled >= least]
    place = np.searchsorted(columns, wanted)
    known = place < len(columns)
    known[known] = (columns[place[known]] == wanted[known]) & (target[owner[known]] >= 0)
    entries = (taken.data[known], (owner[known], place[known]))
    return sparse.csr_array(entries, shape=(len(pairs), len(columns))), held, columns


def _check_lengths(name: str, terms: Sequence[str], idf: npt.NDArray[Any]) -> None:
    if len(terms) != len(idf):
        raise ValueError(f"block {name}: {len(terms)} terms but {len(idf)} weights")
