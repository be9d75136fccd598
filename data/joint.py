"""Several tasks on one corpus are split together: an article that one of them tests on, none of them learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.config import SplitConfig
from data.duplicates import cluster
from data.prepare import CleanCorpus, items_of, split_corpus
from data.splitting import Items, Split, make_splits, without_test

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Union:
    """The articles that are labelled for any of the tasks, in the order in which the tasks bring them."""

    parts: Sequence[CleanCorpus]

    @cached_property
    def place(self) -> dict[str, int]:
        ids = (id_ for part in self.parts for id_ in part.column("id"))
        return {id_: number for number, id_ in enumerate(dict.fromkeys(ids))}

    def rows(self, part: CleanCorpus) -> Ints:
        """The place of each of the part's articles."""
        return np.array([self.place[id_] for id_ in part.column("id")], dtype=np.int64)

    @cached_property
    def whole(self) -> CleanCorpus:
        """The articles with the columns that the tasks share; its task means nothing."""
        table = pa.concat_tables([part.table for part in self.parts])
        places = np.concatenate([self.rows(part) for part in self.parts])
        first = np.unique(places, return_index=True)[1]
        return replace(self.parts[0], table=table.take(first))

    def items(self, clusters: Ints) -> Items:
        labels: list[npt.NDArray[np.float64]] = []
        first_labels: list[str | None] = [None] * len(self.place)
        for part in self.parts:
            rows, own = self.rows(part), items_of(part, np.arange(len(part)))
            counts = np.zeros((len(self.place), own.labels.shape[1]))
            counts[rows] = own.labels
            labels.append(counts)
            for row, label in zip(rows.tolist(), own.first_labels, strict=True):
                first_labels[row] = first_labels[row] or label
        return items_of(self.whole, clusters, np.hstack(labels), first_labels)

    def share(self, split: Split, part: CleanCorpus) -> Split:
        """The split of one task's articles."""
        rows = self.rows(part)
        units = [split.units[i] for i in rows] if len(split.units) else ()
        return replace(split, assignment=[split.assignment[i] for i in rows], units=units)


def split_corpora(parts: Sequence[CleanCorpus], config: SplitConfig) -> list[tuple[list[Split], Ints]]:
    """For each task what `split_corpus` gives for one, with every article on the same side in all tasks."""
    if len(parts) == 1:
        return [split_corpus(parts[0], config)]
    union = _Union(parts)
    clusters = cluster(union.whole.bodies, config.near_duplicates)
    splits = make_splits(union.items(clusters), config)
    return [([union.share(split, part) for split in splits], _renumbered(clusters[union.rows(part)])) for part in parts]


def split_corpora_without_test(parts: Sequence[CleanCorpus], config: SplitConfig) -> list[Split]:
    """All articles divided into train and validation, alike in all tasks."""
    union = _Union(parts)
    clusters = cluster(union.whole.bodies, config.near_duplicates)
    split = without_test(union.items(clusters), config)
    return [union.share(split, part) for part in parts]


def _renumbered(clusters: Ints) -> Ints:
    """A cluster bears the number of its first article among those that are there."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)
