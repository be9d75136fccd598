"""Measure near-duplicate detection: time, peak memory, and how many planted copies it finds.

    python -m benchmarks.duplicates [articles] [similarity] [seed]

The articles are made up: about 250 words in sentences of about 20, drawn independently from a vocabulary of 20,000
whose frequencies follow Zipf's law. Every twentieth is a copy of one before it with one to three sentences rewritten.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence

import numpy as np

from data.duplicates import cluster

VOCABULARY = 20_000
SENTENCES, SENTENCE_WORDS = 12, 21
COPY_EVERY = 20

Article = list[str]  # its sentences


def main() -> None:
    count, similarity, seed = (kind(given) for kind, given in zip((int, float, int), _arguments(), strict=True))
    articles, origins = made_up_articles(int(count), int(seed))
    texts = [" ".join(article) for article in articles]
    before, started = peak_mib(), time.perf_counter()
    clusters = cluster(texts, similarity)
    seconds, after = time.perf_counter() - started, peak_mib()

    copies = np.flatnonzero(origins != np.arange(len(texts)))
    found = clusters[copies] == clusters[origins[copies]]
    similar = np.array([jaccard(texts[i], texts[origins[i]]) >= similarity for i in copies], dtype=bool)
    print(f"{len(texts):,} articles of {np.mean([len(t.split()) for t in texts]):.0f} words, similarity {similarity}")
    print(f"time {seconds:.1f} s; peak memory {after:.0f} MiB, {after - before:.0f} MiB above the texts")
    print(f"planted pairs found: {found.sum():,} of {len(copies):,} ({found.mean():.2%})")
    print(f"planted pairs of at least that similarity found: {found[similar].sum():,} of {similar.sum():,}")
    print(
        f"planted pairs below it joined: {found[~similar].sum():,}; other false merges: {merges(clusters, origins):,}"
    )


def made_up_articles(count: int, seed: int) -> tuple[list[Article], np.ndarray]:
    """The articles, and of each the index of the article it goes back to: itself, or what it was copied from."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i:x}" for i in range(VOCABULARY)], dtype=object)
    share = 1 / np.arange(1, VOCABULARY + 1)
    steps = np.cumsum(share / share.sum())
    steps[-1] = 1

    def sentences(number: int) -> list[str]:
        lengths = rng.integers(SENTENCE_WORDS - 10, SENTENCE_WORDS + 11, number)
        drawn = words[np.searchsorted(steps, rng.random(lengths.sum()), side="right")]
        return [" ".join(part).capitalize() + "." for part in np.split(drawn, np.cumsum(lengths)[:-1])]

    articles: list[Article] = []
    origins = np.arange(count)
    for i in range(count):
        if i % COPY_EVERY != COPY_EVERY - 1:
            articles.append(sentences(SENTENCES))
            continue
        origins[i] = origins[rng.integers(i)]
        article = list(articles[origins[i]])
        for place in rng.choice(SENTENCES, rng.integers(1, 4), replace=False):
            article[place] = sentences(1)[0]
        articles.append(article)
    return articles, origins


def jaccard(first: str, second: str) -> float:
    """The similarity by its definition, of the word triples themselves."""
    a, b = (set(zip(w, w[1:], w[2:], strict=False)) for w in (_words(first), _words(second)))
    return len(a & b) / len(a | b)


def merges(clusters: Sequence[int] | np.ndarray, origins: np.ndarray) -> int:
    """How many joins of articles that do not go back to one article the clusters hold."""
    held = np.unique(np.stack([np.asarray(clusters), origins]), axis=1)[0]
    return int((np.unique(held, return_counts=True)[1] - 1).sum())


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def _words(text: str) -> list[str]:
    return text.lower().replace(".", "").split()


def _arguments() -> list[str]:
    defaults = ["100000", "0.5", "0"]
    return sys.argv[1:] + defaults[len(sys.argv) - 1 :]


if __name__ == "__main__":
    main()
