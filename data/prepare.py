"""Prepare: a corpus and a task become cleaned, split, labelled examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.config import CleaningConfig, SplitConfig
from data.corpus import Corpus
from data.duplicates import cluster
from data.examples import LabelledExamples
from data.splitting import Items, Split, make_splits, without_test
from slantwise.article import Example, classifier_text, read_article
from slantwise.cleaning import Cleaner, Removed
from slantwise.task import Task


@dataclass(frozen=True)
class CleanCorpus:
    """The articles of a corpus that are labelled for one task, cleaned; all lists are aligned."""

    task: Task
    rows: list[dict[str, Any]]  # the articles' rows of the corpus table, labels included
    texts: list[str]  # what the classifier sees
    bodies: list[str]  # the same without the title: what duplicates are found by
    removed: list[tuple[Removed, ...]]  # what cleaning took out of each article

    @property
    def furniture_lines(self) -> int:
        return sum(map(len, self.removed))

    def __len__(self) -> int:
        return len(self.rows)

    def examples(self, rows: Iterable[int]) -> LabelledExamples:
        """The labelled examples of the given articles: one an article, or one a target."""
        ids: list[str] = []
        examples: list[Example] = []
        gold: list[list[str]] = []
        groups: list[str] = []
        sources: list[str | None] = []
        for i in rows:
            row = self.rows[i]
            entries = row["stance"] if self.task.has_target else [None]
            for entry in entries:
                ids.append(row["id"])
                examples.append(self._example(self.texts[i], entry))
                gold.append([entry["stance"]] if entry else row[self.task.name])
                groups.append(row["group"] or row["id"])
                sources.append(row["source"])
        return LabelledExamples(self.task, ids, examples, encode(gold, self.task), groups, sources)

    @staticmethod
    def _example(text: str, entry: dict[str, Any] | None) -> Example:
        if entry is None:
            return Example(text)
        return Example(text, entry["target"], _span(text, entry["target"], entry["start"]))


def _span(text: str, target: str, start: int | None) -> tuple[int, int] | None:
    """The marked mention; cleaning may have moved it, so it is the occurrence nearest to the marked start."""
    if start is None:
        return None
    places = [m.start() for m in re.finditer(re.escape(target), text)]
    if not places:
        return None
    nearest = min(places, key=lambda place: abs(place - start))
    return nearest, nearest + len(target)


def encode(labels: list[list[str]], task: Task) -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
    """Label names -> int64 (n,) for multiclass, bool (n, n_labels) for multilabel."""
    index = {label: i for i, label in enumerate(task.labels)}
    if task.kind == "multiclass":
        return np.array([index[row[0]] for row in labels], dtype=np.int64)
    matrix = np.zeros((len(labels), len(task.labels)), dtype=bool)
    for i, row in enumerate(labels):
        matrix[i, [index[label] for label in row]] = True
    return matrix


def fit_cleaner(corpus: Corpus, config: CleaningConfig) -> Cleaner:
    """A cleaner that knows the corpus's recurring lines. It sees no label, so it may see every split."""
    pages = zip(corpus.table["source"].to_pylist(), corpus.table["text"].to_pylist(), strict=True)
    return Cleaner.fit(pages, furniture=config.furniture, min_articles=config.min_articles)


def clean_corpus(corpus: Corpus, task: Task, cleaner: Cleaner) -> CleanCorpus:
    """Clean the articles that are labelled for the task."""
    rows, texts, bodies, removed = [], [], [], []
    for article, row in zip(corpus.articles(), corpus.table.to_pylist(), strict=True):
        if row[task.name] is None:
            continue
        found, page = read_article(article, cleaner)
        rows.append(row)
        texts.append(classifier_text(found))
        bodies.append(found.text)
        removed.append(page.removed)
    return CleanCorpus(task, rows, texts, bodies, removed)


def split_corpus(clean: CleanCorpus, config: SplitConfig) -> tuple[list[Split], npt.NDArray[np.int64]]:
    """The split (one for each fold) of a cleaned corpus, and the near-duplicate cluster of each article."""
    clusters = cluster(clean.bodies, config.near_duplicates)
    return make_splits(_items(clean, clusters), config), clusters


def split_without_test(clean: CleanCorpus, clusters: npt.NDArray[np.int64], config: SplitConfig) -> Split:
    """All articles divided into train and validation."""
    return without_test(_items(clean, clusters), config)


def _items(clean: CleanCorpus, clusters: npt.NDArray[np.int64]) -> Items:
    return Items(
        ids=[row["id"] for row in clean.rows],
        clusters=clusters,
        labels=_label_counts(clean),
        first_labels=[next(iter(_labels(row, clean.task)), None) for row in clean.rows],
        sources=[row["source"] for row in clean.rows],
        targets=[[s["target"] for s in row["stance"]] if row["stance"] else [] for row in clean.rows],
        groups=[row["group"] for row in clean.rows],
        published=[row["published"] for row in clean.rows],
        given=[row["split"] for row in clean.rows],
    )


def _labels(row: Mapping[str, Any], task: Task) -> list[str]:
    """The labels of an article in the order of its row; a stance article has one for each target."""
    return [entry["stance"] for entry in row["stance"]] if task.has_target else row[task.name]


def _label_counts(clean: CleanCorpus) -> npt.NDArray[np.float64]:
    """(n_articles, n_labels): how often an article carries each label (a stance article: over its targets)."""
    index = {label: i for i, label in enumerate(clean.task.labels)}
    counts = np.zeros((len(clean.rows), len(index)))
    for i, row in enumerate(clean.rows):
        for label in _labels(row, clean.task):
            counts[i, index[label]] += 1
    return counts
