"""Near-duplicates: which texts share a cluster, whatever their order."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.duplicates import NEIGHBOURS, PERMUTATIONS, cluster, proposals, shingles

VOCABULARY = [f"word{i}" for i in range(400)]


def text_of(seed: int, length: int = 120) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=length)


def changed(words: list[str], count: int, seed: int = 0) -> str:
    """The text with its last `count` words replaced by words of no other text."""
    return " ".join(words[: -count or None] + [f"new{seed}x{i}" for i in range(count)])


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of word triples, by definition."""
    first, second = (set(zip(w, w[1:], w[2:], strict=False)) for w in (a.split(), b.split()))
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
    assert clusters.shape == (0,)
    assert clusters.dtype == np.int64


def test_shingles_are_the_distinct_word_triples() -> None:
    assert len(shingles("a b c d a b c")) == 4  # abc bcd cda dab
    assert len(shingles("a b")) == 2
    assert np.array_equal(shingles("A, b c."), shingles("a b c"))


def pairs_at(least: float) -> list[tuple[str, str]]:
    """100 pairs of texts whose similarity is just above `least`."""
    pairs = []
    for seed in range(100):
        words = text_of(seed)
        whole = " ".join(words)
        pairs.append(
            (whole, next(t for n in range(99, 0, -1) if similarity(whole, t := changed(words, n, seed)) >= least))
        )
    return pairs


def found(pairs: list[tuple[str, str]], threshold: float) -> int:
    clusters = cluster([text for pair in pairs for text in pair], threshold).reshape(-1, 2)
    return int((clusters[:, 0] == clusters[:, 1]).sum())


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_no_pair_below_the_threshold_is_joined(threshold: float) -> None:
    pairs = pairs_at(threshold)
    assert found(pairs, max(similarity(*pair) for pair in pairs) + 0.001) == 0


def test_pairs_above_the_threshold_are_found() -> None:
    assert found(pairs_at(0.65), 0.5) == 100


def test_hashing_misses_few_pairs_right_at_the_threshold() -> None:
    assert found(pairs_at(0.5), 0.5) >= 97


def in_one_template(families: int, copies: int = 2) -> list[str]:
    """Texts of which half the words are a template, in families that differ in few words."""
    template = text_of(1000, 100)
    return [
        " ".join(template) + " " + changed(text_of(family, 100), 3 * copy, family * copies + copy)
        for family in range(families)
        for copy in range(copies)
    ]


def test_copies_are_found_among_many_texts_that_share_a_template() -> None:
    texts = in_one_template(1000)
    assert 0.3 < similarity(texts[0], texts[2]) < 0.4
    assert cluster(texts, 0.5).tolist() == [i - i % 2 for i in range(2000)]


def test_texts_that_share_a_template_similar_enough_are_one_cluster() -> None:
    assert not cluster(in_one_template(500), 0.3).any()


def test_work_is_linear_where_all_texts_agree_in_every_band() -> None:
    alike = np.ones((2000, PERMUTATIONS), dtype=np.uint32)
    compared = sum(len(left) for left, _ in proposals(alike, np.arange(2000), 0.5))
    assert compared <= 2000 * NEIGHBOURS * PERMUTATIONS / 3


def test_every_pair_that_agrees_in_a_band_is_proposed_from_a_small_bucket() -> None:
    signatures = np.random.default_rng(0).integers(0, 1 << 32, (20, PERMUTATIONS), dtype=np.uint32)
    signatures[:5, 3:6] = 7
    proposed = np.concatenate([np.stack(pair, axis=1) for pair in proposals(signatures, np.arange(20), 0.5)])
    pairs = {frozenset(pair) for pair in proposed.tolist()}
    assert pairs == {frozenset(pair) for pair in itertools.combinations(range(5), 2)}


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_does_not_matter_among_texts_that_share_a_template_at_the_threshold(order: random.Random) -> None:
    texts = in_one_template(100)
    threshold = similarity(texts[0], texts[2])
    names = [str(i) for i in range(len(texts))]
    shuffled = order.sample(names, len(names))
    parts = partition(cluster(texts, threshold), names)
    assert 1 < len(parts) < 100
    assert parts == partition(cluster([texts[int(name)] for name in shuffled], threshold), shuffled)


def test_a_long_text_and_its_copy_share_a_cluster_with_short_texts_around_them() -> None:
    words = [f"{a} {b}" for a, b in zip(text_of(1, 60_000), text_of(2, 60_000), strict=True)]
    texts = ["short one here", " ".join(words), "", " ".join(words[:50_000]), "another short one"]
    assert cluster(texts, 0.5).tolist() == [0, 1, 2, 1, 4]


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
