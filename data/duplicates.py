"""Near-duplicates: clusters of texts that share most of their word triples.

MinHash with banded locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, chapter 3) proposes
pairs; the exact Jaccard similarity of their shingles decides. All of it runs on arrays: beside the texts, which may lie
in an Arrow column, each costs half a KiB for its signature, and time and space are linear in the texts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from data.corpus import fold_text

Integers = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]

SHINGLE_WORDS = 3
PERMUTATIONS = 128
MISSED = 0.005  # the share of the pairs right at the threshold that the bands may miss
NEIGHBOURS = 4  # texts that a text is compared with on either side in one bucket
DEVIATIONS = 3  # a pair is not compared exactly where its signatures agree this many standard errors too little
HASHES = (1 << 31) - 1  # shingles are hashed to less than this, so that they fit a sparse matrix with 32-bit indices
SETS_KEPT = 1 << 16  # of the texts that were compared exactly last
SHINGLE_BATCH = 1 << 16  # shingles hashed, and compared exactly times 32, in one step
PAIR_BATCH = 1 << 14  # pairs whose signatures are compared in one step

# Raw output of the bit generator is the same in every version of numpy. Odd multipliers permute the integers.
_random = np.random.PCG64(0).random_raw(SHINGLE_WORDS + 3 * PERMUTATIONS)
_places, _factors, _shifts, _mixers = np.split(_random, SHINGLE_WORDS + PERMUTATIONS * np.arange(3))
_places, _mixers = _places | np.uint64(1), _mixers | np.uint64(1)
_factors, _shifts = _factors.astype(np.uint32) | np.uint32(1), _shifts.astype(np.uint32)


def shingles(text: str) -> npt.NDArray[np.int32]:
    """Sorted distinct 31-bit hashes of the word triples of a text (of its words where it has fewer than three)."""
    return _shingles(fold_text(text))


def _shingles(folded: str) -> npt.NDArray[np.int32]:
    words = folded.split()
    hashes = np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))
    if len(words) >= SHINGLE_WORDS:
        hashes = np.convolve(hashes, _places, mode="valid")  # modulo 2 to the 64
    in_order = np.sort((hashes % np.uint64(HASHES)).astype(np.int32))
    distinct: npt.NDArray[np.int32] = in_order[np.diff(in_order, prepend=-1) != 0]
    return distinct


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def cluster(texts: Sequence[str], similarity: float) -> Integers:
    """For each text the index of the first text of its cluster, int64 (n,).

    Texts that are equal but for case and punctuation always share a cluster; others where a chain of pairs of at
    least `similarity` (Jaccard, of word triples) joins them. From a threshold of .05 on, hashing misses about one in
    two hundred of the pairs that are just at it, and practically none that are .05 above it. Where many texts share a
    passage, each is compared with those that resemble it most, so that time stays in proportion to their number: two
    of them that are just at the threshold may then be missed.
    """
    number: dict[bytes, int] = {}  # of each distinct text
    places: list[int] = []  # where each of them stands first
    copies = np.empty(len(texts), dtype=np.int64)
    sketches = _Sketches(len(texts) if similarity < 1 else 0)
    for i, text in enumerate(texts):
        folded = fold_text(text)
        copies[i] = number.setdefault(hashlib.blake2b(folded.encode(), digest_size=16).digest(), len(places))
        if copies[i] == len(places):
            places.append(i)
            if similarity < 1:
                sketches.add(_shingles(folded))
    if similarity < 1 and len(places) > 1:
        order = np.argsort(np.array(list(number)))
        copies = _components(sketches, lambda i: shingles(texts[places[i]]), order, similarity)[copies]
    _, first, members = np.unique(copies, return_index=True, return_inverse=True)
    return first[members].astype(np.int64)


class _Sketches:
    """The size and the MinHash signature of each set of shingles that was added; the sets themselves are not kept.

    signatures   uint32 (at_most, PERMUTATIONS); zeros for a text without shingles
    """

    def __init__(self, at_most: int) -> None:
        self.signatures: Signatures = np.zeros((at_most, PERMUTATIONS), dtype=np.uint32)
        self.sizes = array("i")
        self._waiting: list[npt.NDArray[np.int32]] = []
        self._waiting_shingles = 0

    def add(self, shingles: npt.NDArray[np.int32]) -> None:
        self.sizes.append(len(shingles))
        self._waiting.append(shingles)
        self._waiting_shingles += len(shingles)
        if self._waiting_shingles >= SHINGLE_BATCH:
            self.finish()

    def finish(self) -> None:
        """Make the signatures of the sets that were added since the last time."""
        start = len(self.sizes) - len(self._waiting)
        sizes = np.array(self.sizes[start:], dtype=np.int64)
        rows = start + np.flatnonzero(sizes)
        if len(rows):
            values = np.concatenate(self._waiting).astype(np.uint32)
            permuted, starts = np.empty_like(values), (np.cumsum(sizes) - sizes)[sizes > 0]
            for k in range(PERMUTATIONS):
                np.multiply(values, _factors[k], out=permuted)
                np.add(permuted, _shifts[k], out=permuted)
                self.signatures[rows, k] = np.minimum.reduceat(permuted, starts)
        self._waiting, self._waiting_shingles = [], 0


def _components(
    sketches: _Sketches, shingles_of: Callable[[int], npt.NDArray[np.int32]], order: Integers, similarity: float
) -> Integers:
    """The cluster of each distinct text, (n,), by any number. `order` is one that depends on the texts alone."""
    sketches.finish()
    signatures, sizes = sketches.signatures, np.array(sketches.sizes, dtype=np.int64)
    order = order[sizes[order] > 0]
    plausible = PERMUTATIONS * similarity - DEVIATIONS * np.sqrt(PERMUTATIONS * similarity * (1 - similarity))
    labels = np.arange(len(sizes))
    shingles_again = lru_cache(maxsize=SETS_KEPT)(shingles_of)
    for left, right in proposals(signatures, order, similarity):
        apart = labels[left] != labels[right]
        left, right = left[apart], right[apart]
        similar = np.count_nonzero(signatures[left] == signatures[right], axis=1) >= plausible
        left, right = left[similar], right[similar]
        similar = _jaccard_at_least(similarity, shingles_again, sizes, left, right)
        if similar.any():
            edges = (np.ones(similar.sum(), dtype=bool), (labels[left[similar]], labels[right[similar]]))
            labels = connected_components(coo_array(edges, shape=(len(labels),) * 2), directed=False)[1][labels]
    return labels


def proposals(signatures: Signatures, order: Integers, similarity: float) -> Iterator[tuple[Integers, Integers]]:
    """Pairs of texts that agree in a band of their signatures, at most PAIR_BATCH at a time.

    A bucket is sorted by the next band, and each text paired with its NEIGHBOURS. In a small bucket these are all
    pairs; in one that a shared passage makes large, similar texts stand side by side.
    """
    rows = _rows(similarity)
    bands = PERMUTATIONS // rows
    for band in range(bands):
        keys, following = (
            (signatures[order, b * rows : (b + 1) * rows] * _mixers[:rows]).sum(axis=1)
            for b in (band, (band + 1) % bands)
        )
        by_key = np.lexsort((following, keys))  # stable: what is equal stays in the order given
        keys, texts = keys[by_key], order[by_key]
        for distance in range(1, NEIGHBOURS + 1):
            places = np.flatnonzero(keys[distance:] == keys[:-distance])
            for at in range(0, len(places), PAIR_BATCH):
                here = places[at : at + PAIR_BATCH]
                yield texts[here], texts[here + distance]


def _rows(similarity: float) -> int:
    """The longest bands that miss no more than MISSED of the pairs of this similarity."""
    enough = (r for r in range(1, PERMUTATIONS + 1) if (1 - similarity**r) ** (PERMUTATIONS // r) <= MISSED)
    return max(enough, default=1)


def _jaccard_at_least(
    similarity: float, shingles_of: Callable[[int], npt.NDArray[np.int32]], sizes: Integers, left: Integers,
    right: Integers,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    total = sizes[left] + sizes[right]
    shared: Integers = np.zeros(len(left), dtype=np.int64)
    for start, stop in _batches(np.append(0, np.cumsum(total)), 32 * SHINGLE_BATCH):
        texts, rows = np.unique(np.concatenate([left[start:stop], right[start:stop]]), return_inverse=True)
        hashes = np.concatenate([shingles_of(text) for text in texts.tolist()])
        ends = np.append(0, np.cumsum(sizes[texts])).astype(np.int32)
        sets = csr_array((np.ones(len(hashes), dtype=bool), hashes, ends), shape=(len(texts), HASHES))
        first, second = np.split(rows, 2)
        shared[start:stop] = np.diff(sets[first].multiply(sets[second]).indptr)
    enough: npt.NDArray[np.bool_] = shared >= similarity * (total - shared)
    return enough


def _batches(ends: Integers, size: int) -> Iterator[tuple[int, int]]:
    """Slices of items of which item i takes ends[i + 1] - ends[i]: as many as fit into `size`, at least one."""
    start, count = 0, len(ends) - 1
    while start < count:
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + size, side="right")) - 1)
        yield start, stop
        start = stop
