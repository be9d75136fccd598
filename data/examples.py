"""Labelled examples of one task: the bridge from a split corpus to a classifier's fit and to evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slantwise.article import Example
from slantwise.task import Task


@dataclass(frozen=True)
class LabelledExamples:
    """Aligned lists, one entry for each example.

    gold    multiclass: int64 (n,), index into task.labels; multilabel: bool (n, n_labels)
    ids     the article's id (a stance article occurs once for each target)
    groups  what the bootstrap resamples together: the corpus's group column, or the article's id
    """

    task: Task
    ids: Sequence[str]
    examples: Sequence[Example]
    gold: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    groups: Sequence[str]
    sources: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Iterable[int]) -> LabelledExamples:
        """The given rows, in the given order."""
        index = list(rows)
        return LabelledExamples(
            self.task,
            [self.ids[i] for i in index],
            [self.examples[i] for i in index],
            self.gold[np.array(index, dtype=np.int64)],
            [self.groups[i] for i in index],
            [self.sources[i] for i in index],
        )

    def __add__(self, other: LabelledExamples) -> LabelledExamples:
        return LabelledExamples(
            self.task,
            [*self.ids, *other.ids],
            [*self.examples, *other.examples],
            np.concatenate([self.gold, other.gold]),
            [*self.groups, *other.groups],
            [*self.sources, *other.sources],
        )
