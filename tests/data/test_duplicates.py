"""Near-duplicates: which texts share a cluster, whatever their order."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.duplicates import cluster, shingles

VOCABULARY = [f"word{i}" for i in range(400)]


def text_of(seed: int, length: int = 120) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=length)


def changed(words: list[str], count: int) -> str:
    """The text with `count` adjacent words replaced: count + 2 of its triples differ."""
    return " ".join(words[: -count or None] + [f"new{i}" for i in range(count)])


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of word triples, by definition."""
    first, second = ({tuple(t.split()[i : i + 3]) for i in range(len(t.split()) - 2)} for t in (a, b))
    return len(first & second) / len(first | second)


def partition(clusters: np.ndarray, names: list[str]) -> set[frozenset[str]]:
    parts = {c: frozenset(n for n, d in zip(names, clusters, strict=True) if c == d) for c in clusters}
    return set(parts.values())


def test_unrelated_texts_stand_alone() -> None:
    assert cluster([" ".join(text_of(i)) for i in range(20)], 0.5).tolist() == list(range(20))


def test_texts_that_differ_in_case_and_punctuation_share_a_cluster_at_any_similarity() -> None:
    texts = ["One, two three four!", "one two; THREE four", "One two three five"]
    assert cluster(texts, 1).tolist() == [0, 0, 2]


@pytest.mark.parametrize("text", ["", "...", "one", "One two"])
def test_short_and_empty_texts(text: str) -> None:
    assert cluster([text, "other words", text], 0.5).tolist() == [0, 1, 0]


def test_no_text_at_all() -> None:
    clusters = cluster([], 0.5)
    assert (clusters.shape, clusters.dtype) == ((0,), np.int64)


def test_shingles_are_the_distinct_word_triples() -> None:
    assert len(shingles("a b c d a b c")) == 4  # abc bcd cda dab
    assert len(shingles("a b")) == 2
    assert np.array_equal(shingles("A, b c."), shingles("a b c"))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
@pytest.mark.parametrize("above", [True, False])
def test_the_exact_similarity_decides_on_either_side_of_the_threshold(threshold: float, above: bool) -> None:
    words = text_of(1)
    counts = [n for n in range(1, 100) if (similarity(" ".join(words), changed(words, n)) >= threshold) == above]
    edge = max(counts) if above else min(counts)
    clusters = cluster([" ".join(words), changed(words, edge)], threshold)
    # the proposal by hashing may miss a pair at the very edge, never invent one
    assert (clusters[0] == clusters[1]) in ({True, False} if above else {False})


def test_nine_in_ten_pairs_at_the_threshold_are_found() -> None:
    found = 0
    for seed in range(100):
        words = text_of(seed)
        n = max(n for n in range(1, 100) if similarity(" ".join(words), changed(words, n)) >= 0.5)
        found += len(set(cluster([" ".join(words), changed(words, n)], 0.5).tolist())) == 1
    assert found >= 90


def test_a_chain_of_pairs_is_one_cluster() -> None:
    words = text_of(3)
    chain = [" ".join(words[i : i + 80]) for i in (0, 20, 40)]
    assert similarity(chain[0], chain[2]) < 0.5 <= similarity(chain[0], chain[1])
    assert cluster(chain, 0.5).tolist() == [0, 0, 0]
    assert cluster(chain[::2], 0.5).tolist() == [0, 1]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_order_does_not_matter_and_the_first_text_names_the_cluster(order: random.Random, threshold: float) -> None:
    texts = [changed(text_of(seed, 40), n) for seed, n in itertools.product(range(5), (0, 0, 4, 10, 25))]
    names = [str(i) for i in range(len(texts))]
    clusters = cluster(texts, threshold)
    shuffled = order.sample(names, len(names))
    again = cluster([texts[int(name)] for name in shuffled], threshold)
    assert partition(clusters, names) == partition(again, shuffled)
    assert all(clusters[c] == c <= i for i, c in enumerate(clusters.tolist()))
