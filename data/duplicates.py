"""Near-duplicates: clusters of texts that share most of their word triples.

MinHash with banded locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, chapter 3) proposes
pairs; the exact Jaccard similarity of their shingles decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from data.corpus import fold_text

PERMUTATIONS = 64
SHINGLE_WORDS = 3


def shingles(text: str) -> npt.NDArray[np.uint32]:
    """Sorted distinct 32-bit hashes of the word triples of a text (of its words where it has fewer than three)."""
    words = fold_text(text).split()
    grams = [" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)] or words
    hashes = {int.from_bytes(hashlib.blake2b(g.encode(), digest_size=4).digest(), "little") for g in grams}
    return np.array(sorted(hashes), dtype=np.uint32)


def cluster(texts: Sequence[str], similarity: float) -> npt.NDArray[np.int64]:
    """For each text the index of the first text of its cluster, int64 (n,).

    Texts that are equal but for case and punctuation always share a cluster; others where a chain of pairs of at
    least `similarity` (Jaccard, of word triples) joins them. Hashing misses about one in ten of the pairs that are just
    at the threshold, and practically none that are .15 above it.
    """
    parent = np.arange(len(texts))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        parent[i] = first.setdefault(fold_text(text), i)
    if similarity < 1:
        for i, j in _similar_pairs([texts[i] for i in first.values()], list(first.values()), similarity):
            a, b = sorted((find(i), find(j)))
            parent[b] = a
    return np.array([find(i) for i in range(len(texts))], dtype=np.int64)


def _similar_pairs(texts: Sequence[str], indices: Sequence[int], similarity: float) -> list[tuple[int, int]]:
    # A lower threshold for the proposal: near the threshold, banding misses about half of the pairs.
    lsh = MinHashLSH(threshold=max(0.1, similarity - 0.15), num_perm=PERMUTATIONS)
    sets = [shingles(text) for text in texts]
    pairs = []
    for i, hashes in enumerate(sets):
        if not len(hashes):
            continue
        minhash = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
        minhash.update_batch(hashes.tolist())
        for j in lsh.query(minhash):
            shared = len(np.intersect1d(hashes, sets[j], assume_unique=True))
            if shared >= similarity * (len(hashes) + len(sets[j]) - shared):
                pairs.append((indices[j], indices[i]))
        lsh.insert(i, minhash)
    return pairs
