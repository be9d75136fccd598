"""Measure time and peak memory of reading, cleaning, splitting and auditing a large corpus.

    python -m benchmarks.memory [megabytes] [load|audit ...] [seed]
    python -m benchmarks.memory 1000 load audit

Makes up a JSONL file of that size (default 200) in a temporary folder, then runs in a process of its own each of

    load    the first steps of `slantwise train`: read, clean, split
    audit   `slantwise audit`

The articles have sources, titles, dates, topics, page furniture, near-duplicates and a little text outside ASCII; their
words are drawn from a vocabulary of 40,000 whose frequencies follow Zipf's law, and lean towards the article's topic.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

TOPICS = ("education", "health", "sport", "weather")
SOURCES, VOCABULARY = 40, 40_000
WORDS = 220  # of a typical article
COPY_EVERY, COPY_FROM = 20, 500  # every twentieth article is a copy of one of the last 500, but for a paragraph
STEPS = ("load", "audit")


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--load"]:
        load(Path(arguments[1]))
        return
    steps = [argument for argument in arguments if argument in STEPS] or list(STEPS)
    megabytes, seed = (int(n) for n in [*[a for a in arguments if a.isdecimal()], "200", "0"][:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "articles.jsonl"
        count = write_articles(path, megabytes, seed)
        print(f"{path.stat().st_size / 1e6:,.0f} MB, {count:,} articles")
        for step in steps:
            command = (
                ["-m", "benchmarks.memory", "--load", str(path)] if step == "load"
                else ["-m", "slantwise", "audit", *overrides(path), f"output={folder}/audit"]
            )  # fmt: skip
            seconds, mebibytes = measure([sys.executable, *command])
            print(f"{step:<6} {seconds:6.1f} s  {megabytes / seconds:5.2f} MB/s  peak memory {mebibytes:,.0f} MiB")


def overrides(path: Path) -> list[str]:
    """How the command is told of the file."""
    return ["task=topic", "corpus=file", f"corpus.path={path}", f"corpus.topic.labels=[{','.join(TOPICS)}]"]


def load(path: Path) -> None:
    """Read, clean and split, as `slantwise train` does first."""
    from data.config import CleaningConfig, CorpusConfig, LabelsConfig, SplitConfig
    from data.corpus import load_corpus
    from data.prepare import clean_corpus, fit_cleaner, split_corpus

    corpus = load_corpus(CorpusConfig(path=str(path), topic=LabelsConfig(columns=["topic"], labels=list(TOPICS))))
    clean = clean_corpus(corpus, corpus.task("topic"), fit_cleaner(corpus, CleaningConfig()))
    (split,), clusters = split_corpus(clean, SplitConfig())
    parts = ", ".join(f"{len(split.rows(name)):,} {name}" for name in ("train", "validation", "test"))
    print(f"{len(clean):,} articles: {parts}; {len(set(clusters.tolist())):,} clusters", file=sys.stderr)


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident memory in MiB of a command: of its process, and of the largest child of that."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=sys.stderr)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started, used.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def write_articles(path: Path, megabytes: int, seed: int = 0) -> int:
    """Write articles until the file has this size; how many."""
    written = count = 0
    with path.open("w", encoding="utf-8") as file:
        for article in articles(seed):
            if written >= 1e6 * megabytes:
                return count
            line = json.dumps(article, ensure_ascii=False) + "\n"
            file.write(line)
            written, count = written + len(line.encode()), count + 1
    raise AssertionError("there is no last article")


def articles(seed: int) -> Iterator[dict[str, Any]]:
    """Made-up articles, without end."""
    writer = _Writer(seed)
    earlier: deque[tuple[str, list[str]]] = deque(maxlen=COPY_FROM)
    for number in range(10**9):
        topic = number % len(TOPICS)
        if number % COPY_EVERY == COPY_EVERY - 1:
            name, paragraphs = earlier[int(writer.rng.integers(len(earlier)))]
            paragraphs = [*paragraphs]
            paragraphs[int(writer.rng.integers(len(paragraphs)))] = writer.paragraph(topic)
        else:
            name, paragraphs = TOPICS[topic], writer.paragraphs(topic)
        earlier.append((name, paragraphs))
        outlet = int(writer.rng.integers(SOURCES)) if number % 5 else topic  # an outlet leans towards a topic
        headline = writer.headline(topic)
        yield {
            "id": f"a{number:07d}",
            "text": writer.page(headline, paragraphs, outlet),
            "title": headline,
            "source": f"outlet{outlet}.example",
            "published": str(date(2018, 1, 1) + timedelta(days=int(writer.rng.integers(2000)))),
            "language": "en",
            "topic": name,
        }


class _Writer:
    """Words, sentences, paragraphs and pages of a made-up language."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        syllables = np.array([c + v for c in "bcdfghklmnprstvz" for v in "aeiou"])
        words = {"".join(rng.choice(syllables, rng.integers(1, 6))) for _ in range(3 * VOCABULARY)}
        self.words = np.array(sorted(words), dtype=object)
        lengths = np.array([len(word) for word in self.words])
        self.words = self.words[np.argsort(lengths + rng.exponential(3, len(lengths)))][:VOCABULARY]  # short ones first
        self.steps = np.cumsum(1 / (np.arange(len(self.words)) + 3.0))
        self.steps /= self.steps[-1]
        self.own = [self.words[2000 + 500 * i : 2500 + 500 * i] for i in range(len(TOPICS))]

    def draw(self, count: int, topic: int) -> list[str]:
        """Words of which one in thirty is one of the topic's own."""
        drawn = self.words[np.searchsorted(self.steps, self.rng.random(count))]
        own = self.rng.random(count) < 1 / 30
        drawn[own] = self.rng.choice(self.own[topic], int(own.sum()))
        return list(drawn)

    def paragraphs(self, topic: int) -> list[str]:
        length = int(np.clip(WORDS * self.rng.lognormal(0, 0.5), 40, 3000))
        return [self.paragraph(topic) for _ in range(max(1, length // 45))]

    def paragraph(self, topic: int) -> str:
        """Three sentences, one paragraph in four with a quotation in curly quotes."""
        words = self.draw(int(self.rng.integers(35, 55)), topic)
        third = len(words) // 3
        sentences = [" ".join(part).capitalize() + "." for part in (words[:third], words[third:-third], words[-third:])]
        if len(words) % 4 == 0:
            sentences[1] = f"“{sentences[1]}”"
        return " ".join(sentences)

    def headline(self, topic: int) -> str:
        return " ".join(self.draw(int(self.rng.integers(6, 11)), topic)).capitalize()

    def page(self, headline: str, paragraphs: list[str], outlet: int) -> str:
        """The paragraphs between the furniture of an outlet's pages: share bar, credit, byline, links and notices."""
        if outlet % 4 == 0:
            return "\n\n".join(paragraphs)
        first, last = (word.capitalize() for word in self.draw(2, 0))
        below = ["Subscribe to our newsletter", f"Read more: {self.headline(0)}"]
        if outlet % 4 == 2:
            below += [f"© {outlet} Media Group", "This story was set in our own town"]
        above = ["Facebook Twitter WhatsApp", headline, f"By {first} {last}", f"(Image: {last})"]
        return "\n\n".join([*above, *paragraphs, *below])


if __name__ == "__main__":
    main()
