"""Word n-grams counted without making them: documents are numbered words, and longer terms are found by their parts.

Joining words to n-grams and looking each up in a dictionary is most of what a TF-IDF vectoriser does. Here a word is
looked up once; an n-gram is the number of what it begins with and the number of its last word, looked up for all
documents at a time in an open-addressing hash table (Knuth, The Art of Computer Programming, vol. 3, 6.4) of numpy
arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
ABSENT = -1


class PairTable:
    """Distinct keys, 0 or more, and their places among them; linear probing, at most half full."""

    def __init__(self, keys: Longs) -> None:
        bits = max(int(np.ceil(np.log2(2 * len(keys) + 1))), 1)
        self._shift, self._last = np.uint64(64 - bits), (1 << bits) - 1
        self._keys = np.full(1 << bits, ABSENT, np.int64)
        self._places = np.full(1 << bits, ABSENT, np.int32)
        waiting, slots = np.arange(len(keys), dtype=np.int32), self._slots(keys)
        while len(waiting):
            free = self._places[slots] == ABSENT
            self._places[slots[free]] = waiting[free]  # of several for one slot the last has it
            lost = self._places[slots] != waiting
            waiting, slots = waiting[lost], (slots[lost] + 1) & self._last
        filled = self._places != ABSENT
        self._keys[filled] = keys[self._places[filled]]

    def _slots(self, keys: Longs) -> Longs:
        # Fibonacci hashing: the high bits of the product with 2^64 divided by the golden ratio
        return ((keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> self._shift).astype(np.int64)

    def find(self, keys: Longs) -> Ints:
        """The place of each key, or ABSENT."""
        slots = self._slots(keys)
        held = self._keys[slots]
        found = np.where(held == keys, self._places[slots], np.int32(ABSENT))
        waiting = np.flatnonzero((held != keys) & (held != ABSENT))
        slots = slots[waiting]
        while len(waiting):
            slots = (slots + 1) & self._last
            held, wanted = self._keys[slots], keys[waiting]
            hit = held == wanted
            found[waiting[hit]] = self._places[slots[hit]]
            on = ~hit & (held != ABSENT)
            waiting, slots = waiting[on], slots[on]
        return found


class NgramIndex:
    """The columns of terms that are words joined by blanks."""

    def __init__(self, terms: Sequence[str]) -> None:
        split = [tuple(term.split(" ")) for term in terms]
        self._words: dict[str, int] = {}
        for word in chain.from_iterable(split):
            self._words.setdefault(word, len(self._words))
        # Level n: the n-grams that are terms or begin some, by the place of what they begin with and their last word;
        # and the column of each, where it is a term.
        self._levels: list[tuple[PairTable | None, Ints]] = []
        columns = {gram: column for column, gram in enumerate(split)}
        held: dict[tuple[str, ...], int] = {(word,): place for word, place in self._words.items()}
        longest = max(map(len, split), default=0)
        for n in range(1, longest + 1):
            table = None
            if n > 1:
                grams = dict.fromkeys(gram[:n] for gram in split if len(gram) >= n)
                keys = np.array([self._key(held[gram[:-1]], self._words[gram[-1]]) for gram in grams], np.int64)
                table, held = PairTable(keys), {gram: place for place, gram in enumerate(grams)}
            self._levels.append((table, np.array([columns.get(gram, ABSENT) for gram in held], np.int32)))
        self._n_terms = len(terms)

    def _key(self, before: Any, word: Any) -> Any:
        return before * len(self._words) + word

    def count(self, documents: Iterable[Sequence[str]]) -> sparse.csr_array:
        """How often each term stands in each document, float32 (n_documents, n_terms)."""
        flat: list[int] = []
        sizes = []
        for document in documents:
            before = len(flat)
            flat.extend(map(self._words.get, document, repeat(ABSENT)))
            sizes.append(len(flat) - before)
        words = np.array(flat, dtype=np.int64)
        owner = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        found: list[tuple[Ints, Ints]] = []
        start = np.flatnonzero(words != ABSENT)  # where an n-gram may begin
        place = words[start]
        for n, (table, columns) in enumerate(self._levels, start=1):
            if table is not None:
                end = start + n - 1
                inside = end < len(words)
                start, place, end = start[inside], place[inside], end[inside]
                whole = (owner[start] == owner[end]) & (words[end] != ABSENT)
                start, place = start[whole], place[whole]
                place = table.find(self._key(place, words[end[whole]])).astype(np.int64)
                start, place = start[place != ABSENT], place[place != ABSENT]
            column = columns[place]
            known = column != ABSENT
            found.append((owner[start[known]], column[known]))
        return self._matrix(found, len(sizes))

    def _matrix(self, found: list[tuple[Ints, Ints]], n_documents: int) -> sparse.csr_array:
        owners = np.concatenate([np.zeros(0, np.int32), *(owner for owner, _ in found)])
        columns = np.concatenate([np.zeros(0, np.int32), *(column for _, column in found)])
        shape = (n_documents, self._n_terms)
        matrix = sparse.coo_array((np.ones(len(columns), np.float32), (owners, columns)), shape=shape)
        return matrix.tocsr()  # which adds up what stands twice
