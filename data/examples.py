"""Labelled examples of one task: the bridge from a split corpus to a classifier's fit and to evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data.columns import Lazy, View
from slantwise.article import Example
from slantwise.task import Task


class Examples(Lazy[Example]):
    """Examples whose texts stay where they are until they are asked for.

    texts      of the articles
    articles   the number of each example's article, int64 (n,)
    targets    of each example, or None for a task without
    starts     where each example's mention of its target was marked, before cleaning
    """

    def __init__(
        self,
        texts: Sequence[str],
        articles: npt.NDArray[np.int64],
        targets: Sequence[str] | None = None,
        starts: Sequence[int | None] = (),
    ) -> None:
        self.texts, self.articles, self.targets, self.starts = texts, articles, targets, starts

    def __len__(self) -> int:
        return len(self.articles)

    def _at(self, number: int) -> Example:
        return self._example(number, self.texts[int(self.articles[number])])

    def __iter__(self) -> Iterator[Example]:
        last, text = -1, ""
        for number, article in enumerate(self.articles.tolist()):
            if article != last:  # the examples of an article share its text
                last, text = article, self.texts[article]
            yield self._example(number, text)

    def _example(self, number: int, text: str) -> Example:
        if self.targets is None:
            return Example(text)
        target = self.targets[number]
        return Example(text, target, _span(text, target, self.starts[number]))

    def take(self, index: npt.NDArray[np.int64]) -> Examples:
        articles = self.articles[index]
        if self.targets is None:
            return Examples(self.texts, articles)
        return Examples(self.texts, articles, [self.targets[i] for i in index], [self.starts[i] for i in index])

    def followed_by(self, other: Examples) -> Examples:
        """Both; `other` has the same articles."""
        articles = np.concatenate([self.articles, other.articles])
        if self.targets is None or other.targets is None:
            return Examples(self.texts, articles)
        return Examples(self.texts, articles, [*self.targets, *other.targets], [*self.starts, *other.starts])


def _span(text: str, target: str, start: int | None) -> tuple[int, int] | None:
    """The marked mention; cleaning may have moved it, so it is the occurrence nearest to the marked start."""
    if start is None:
        return None
    places = [m.start() for m in re.finditer(re.escape(target), text)]
    if not places:
        return None
    nearest = min(places, key=lambda place: abs(place - start))
    return nearest, nearest + len(target)


@dataclass(frozen=True)
class LabelledExamples:
    """Aligned sequences, one entry for each example.

    gold    multiclass: int64 (n,), index into task.labels; multilabel: bool (n, n_labels)
    ids     the article's id (a stance article occurs once for each target)
    groups  what the bootstrap resamples together: the corpus's group column, or the article's id
    units   what must not be parted in further folds: near-duplicates and groups; without a split the groups
    shares  float32 (n, n_labels): how far each label holds by the annotators or the corpus, where training is to learn
            from that; `gold` is the label with the largest share, and what evaluation goes by
    columns what else is known of each example, by name: what evaluation slices by
    """

    task: Task
    ids: Sequence[str]
    examples: Sequence[Example]
    gold: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    groups: Sequence[str]
    sources: Sequence[str | None]
    units: Sequence[str] = ()
    shares: npt.NDArray[np.float32] | None = None
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.units):
            object.__setattr__(self, "units", self.groups)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def texts(self) -> Sequence[str]:
        if isinstance(self.examples, Examples):
            return View(self.examples.texts, self.examples.articles)
        return [example.text for example in self.examples]

    @property
    def targets(self) -> list[str]:
        """Empty strings for a task without."""
        if isinstance(self.examples, Examples):
            return [""] * len(self) if self.examples.targets is None else list(self.examples.targets)
        return [example.target or "" for example in self.examples]

    def select(self, rows: Iterable[int]) -> LabelledExamples:
        """The given rows, in the given order."""
        index = list(rows)
        numbers = np.array(index, dtype=np.int64)
        chosen = self.examples
        return LabelledExamples(
            self.task,
            [self.ids[i] for i in index],
            chosen.take(numbers) if isinstance(chosen, Examples) else [chosen[i] for i in index],
            self.gold[numbers],
            [self.groups[i] for i in index],
            [self.sources[i] for i in index],
            [self.units[i] for i in index],
            None if self.shares is None else self.shares[numbers],
            {name: [column[i] for i in index] for name, column in self.columns.items()},
        )

    def with_labels_of(self, rows: Iterable[int]) -> LabelledExamples:
        """The same examples with the labels, and their shares, of the given rows."""
        index = np.array(list(rows), dtype=np.int64)
        return replace(self, gold=self.gold[index], shares=None if self.shares is None else self.shares[index])

    def __add__(self, other: LabelledExamples) -> LabelledExamples:
        mine, theirs = self.examples, other.examples
        joined: Sequence[Example]
        if isinstance(mine, Examples) and isinstance(theirs, Examples) and mine.texts is theirs.texts:
            joined = mine.followed_by(theirs)
        else:
            joined = [*mine, *theirs]
        return LabelledExamples(
            self.task,
            [*self.ids, *other.ids],
            joined,
            np.concatenate([self.gold, other.gold]),
            [*self.groups, *other.groups],
            [*self.sources, *other.sources],
            [*self.units, *other.units],
            None if self.shares is None and other.shares is None else np.concatenate([_shares(self), _shares(other)]),
            {name: [*self.columns[name], *other.columns[name]] for name in self.columns if name in other.columns},
        )


def _shares(labelled: LabelledExamples) -> npt.NDArray[np.float32]:
    return certain(labelled.gold, labelled.task) if labelled.shares is None else labelled.shares


def certain(gold: npt.NDArray[Any], task: Task) -> npt.NDArray[np.float32]:
    """The shares (n, n_labels) where nobody doubts the labels: 1 for those that hold."""
    if gold.ndim == 2:
        return gold.astype(np.float32)
    return np.eye(len(task.labels), dtype=np.float32)[gold]
