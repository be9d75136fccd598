"""Prepare: a corpus and a task become cleaned, split, labelled examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.columns import POOL, RemovedLines, Rows, Texts, inner, lengths, removed_array, values
from data.config import CleaningConfig, SplitConfig
from data.corpus import FURTHER, ROWS_OF_A_BATCH, Corpus
from data.duplicates import cluster
from data.examples import Examples, LabelledExamples, certain
from data.splitting import Items, Split, make_splits, without_test
from slantwise.article import Article, classifier_text, read_article
from slantwise.cleaning import Cleaner, Removed
from slantwise.task import Task


@dataclass(frozen=True)
class CleanCorpus:
    """The articles of a corpus that are labelled for one task, cleaned.

    `table` has one row for each of them: the columns of the corpus table but for the text as it was received, and

        cleaned   what the classifier sees: title and body
        body      where in that the body begins, in characters, int32
        removed   the lines that cleaning took out, of the type data.columns.REMOVED

    The properties are its columns as sequences, aligned; what they give is made when it is asked for and not kept.
    """

    task: Task
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        return Rows(self.table)

    @cached_property
    def texts(self) -> Sequence[str]:
        """What the classifier sees."""
        return Texts(self.table["cleaned"])

    @cached_property
    def bodies(self) -> Sequence[str]:
        """The same without the title: what duplicates are found by."""
        return Texts(self.table["cleaned"], self.table["body"])

    @cached_property
    def removed(self) -> Sequence[tuple[Removed, ...]]:
        """What cleaning took out of each article."""
        return RemovedLines(self.table["removed"])

    @property
    def furniture_lines(self) -> int:
        return RemovedLines(self.table["removed"]).total

    def column(self, name: str) -> list[Any]:
        """One of the columns with short strings."""
        return values(self.table[name])

    @cached_property
    def example_counts(self) -> npt.NDArray[np.int64]:
        """How many examples each article makes: one, or one a target. int64 (n,)."""
        return lengths(self.table["stance"]) if self.task.has_target else np.ones(len(self), dtype=np.int64)

    def examples(self, rows: Iterable[int], units: Sequence[int] = ()) -> LabelledExamples:
        """The labelled examples of the given articles: one an article, or one a target.

        `units` (of a Split; one for each article of the corpus) says what further folds must keep together.
        """
        index = np.fromiter(rows, dtype=np.int64)
        if self.task.has_target:
            counts = self.example_counts[index]
            first = (np.cumsum(self.example_counts) - self.example_counts)[index]
            index = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        chosen = self._examples.select(index)
        if not len(units):
            return chosen
        of_example = np.repeat(np.asarray(units), self.example_counts)
        return replace(chosen, units=[str(unit) for unit in of_example[index]])

    @cached_property
    def _examples(self) -> LabelledExamples:
        """Of all articles."""
        articles = np.repeat(np.arange(len(self)), self.example_counts)
        of_example = articles.tolist()
        ids, sources = self.column("id"), self.column("source")
        groups = [group or id_ for group, id_ in zip(self.column("group"), ids, strict=True)]
        if self.task.has_target:
            stances = self.table["stance"]
            examples = Examples(self.texts, articles, inner(stances, "target"), inner(stances, "start"))
            gold = encode([[stance] for stance in inner(stances, "stance")], self.task)
        else:
            examples = Examples(self.texts, articles)
            gold = encode(self.table[self.task.name].to_pylist(), self.task)
        return LabelledExamples(
            self.task,
            [ids[i] for i in of_example],
            examples,
            gold,
            [groups[i] for i in of_example],
            [sources[i] for i in of_example],
            shares=_shares(self.table[f"{self.task.name}_shares"], self.example_counts, gold, self.task),
            columns={name: [given[i] for i in of_example] for name, given in self._slice_columns().items()},
        )

    def _slice_columns(self) -> dict[str, list[str | None]]:
        """What the corpus says of each article beside its text, source and labels."""
        further = [name for name in self.table.column_names if name.startswith(FURTHER)]
        return {name.removeprefix(FURTHER): self.column(name) for name in ("language", "published", *further)}


def _shares(
    column: pa.ChunkedArray, counts: npt.NDArray[np.int64], gold: npt.NDArray[Any], task: Task
) -> npt.NDArray[np.float32] | None:
    """(n, n_labels), with 1 for the labels of an example without shares; None where no example has them."""
    if column.null_count == len(column):
        return None
    given = (list_ or [None] * count for list_, count in zip(column.to_pylist(), counts.tolist(), strict=True))
    found = certain(gold, task)
    for i, shares in enumerate(chain.from_iterable(given)):
        if shares is not None:
            found[i] = shares
    return found


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
    return Cleaner.fit(_Pages(corpus.table), furniture=config.furniture, min_articles=config.min_articles)


@dataclass(frozen=True)
class _Pages:
    """Source and text of the articles of a corpus table."""

    table: pa.Table

    def __iter__(self) -> Iterator[tuple[str | None, str]]:
        for batch in self.table.select(["source", "text"]).to_batches(max_chunksize=ROWS_OF_A_BATCH):
            yield from zip(batch["source"].to_pylist(), batch["text"].to_pylist(), strict=True)


def clean_corpus(corpus: Corpus, task: Task, cleaner: Cleaner) -> CleanCorpus:
    """Clean the articles that are labelled for the task."""
    batches = corpus.table.to_batches(max_chunksize=ROWS_OF_A_BATCH)
    labelled = (b.filter(b[task.name].is_valid()) if b[task.name].null_count else b for b in batches)
    return CleanCorpus(task, pa.Table.from_batches([_cleaned(batch, cleaner) for batch in labelled]))


def _cleaned(batch: pa.RecordBatch, cleaner: Cleaner) -> pa.RecordBatch:
    """Rows of a corpus table as rows of CleanCorpus.table."""
    texts, starts, removed = [], [], []
    for row in batch.select([field.name for field in fields(Article)]).to_pylist():
        found, page = read_article(Article(**row), cleaner)
        texts.append(classifier_text(found))
        starts.append(len(texts[-1]) - len(found.text))
        removed.append(page.removed)
    kept = {name: batch[name] for name in batch.schema.names if name != "text"}
    added = {
        "cleaned": pa.array(texts, pa.string(), memory_pool=POOL),
        "body": pa.array(starts, pa.int32()),
        "removed": removed_array(removed),
    }
    return pa.RecordBatch.from_pydict(kept | added)


def split_corpus(clean: CleanCorpus, config: SplitConfig) -> tuple[list[Split], npt.NDArray[np.int64]]:
    """The split (one for each fold) of a cleaned corpus, and the near-duplicate cluster of each article."""
    clusters = cluster(clean.bodies, config.near_duplicates)
    return make_splits(items_of(clean, clusters), config), clusters


def split_without_test(clean: CleanCorpus, clusters: npt.NDArray[np.int64], config: SplitConfig) -> Split:
    """All articles divided into train and validation."""
    return without_test(items_of(clean, clusters), config)


def items_of(
    clean: CleanCorpus, clusters: npt.NDArray[np.int64], labels: npt.NDArray[np.float64] | None = None,
    first_labels: Sequence[str | None] | None = None,
) -> Items:  # fmt: skip
    """What a splitter may look at; label counts and first labels are those of the task where they are not given."""
    target_of = iter(inner(clean.table["stance"], "target"))
    return Items(
        ids=clean.column("id"),
        clusters=clusters,
        labels=_label_counts(clean) if labels is None else labels,
        first_labels=_first_labels(clean) if first_labels is None else first_labels,
        sources=clean.column("source"),
        targets=[list(islice(target_of, count)) for count in lengths(clean.table["stance"]).tolist()],
        groups=clean.column("group"),
        published=clean.column("published"),
        given=clean.column("split"),
    )


def _first_labels(clean: CleanCorpus) -> list[str | None]:
    """The label that each article's row names first; a stance article has one for each target."""
    column = clean.table[clean.task.name]
    labels = inner(column, "stance" if clean.task.has_target else None)
    counts = lengths(column)
    first = (np.cumsum(counts) - counts).tolist()
    return [labels[at] if count else None for at, count in zip(first, counts.tolist(), strict=True)]


def _label_counts(clean: CleanCorpus) -> npt.NDArray[np.float64]:
    """(n_articles, n_labels): how often an article carries each label (a stance article: over its targets)."""
    gold = clean.examples(range(len(clean))).gold
    matrix = gold if gold.ndim == 2 else gold[:, None] == np.arange(len(clean.task.labels))
    counts = np.zeros((len(clean), matrix.shape[1]))
    np.add.at(counts, np.repeat(np.arange(len(clean)), clean.example_counts), matrix)
    return counts
