"""One task's side of the corpus: cleaned, divided, and what is to be said against the division."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.corpus import Corpus
from data.examples import LabelledExamples
from data.joint import split_corpora
from data.prepare import CleanCorpus, clean_corpus, fit_cleaner
from data.splitting import Split
from evaluation.judge import headline_metrics, label_shares
from slantwise.cleaning import Cleaner
from slantwise.command import Progress
from slantwise.errors import CorpusError
from slantwise.task import Task
from training.config import TrainConfig
from training.fitting import Part

FEW_EXAMPLES = 30  # below this, a percentile bootstrap says more than the data do


@dataclass(frozen=True)
class TaskData:
    """One task's side of the corpus, cleaned and divided; `official` and `headline` are names of metrics."""

    task: Task
    clean: CleanCorpus
    splits: Sequence[Split]
    clusters: npt.NDArray[np.int64]
    official: Sequence[str]
    headline: Sequence[str]

    def part(self, split: Split, config: TrainConfig) -> Part:
        """Train and validation of a split; of test a fit learns the targets that it will have to read, no more."""
        train_part, validation = (
            self.clean.examples(split.rows(name), split.units) for name in ("train", "validation")
        )
        targets = {}
        if self.task.has_target:
            everything = self.clean.examples(range(len(self.clean)))
            pairs = zip(everything.examples, everything.ids, strict=True)
            targets = {str(example.target): id_ for example, id_ in pairs}
        if config.shuffle_train_labels:
            train_part = _shuffled(train_part, config.split.seed)
            validation = _shuffled(validation, config.split.seed + 1)
        return Part(self.task, train_part, validation, targets)


def prepare(
    config: TrainConfig, corpus: Corpus, tasks: Sequence[Task], progress: Progress
) -> tuple[Cleaner, list[TaskData]]:
    """The corpus cleaned and divided, for each task its side of it."""
    with progress.step("clean the articles") as notes:
        cleaner = fit_cleaner(corpus, config.cleaning)
        cleans = [clean_corpus(corpus, task, cleaner) for task in tasks]
        lines, articles = max((clean.furniture_lines, len(clean)) for clean in cleans)
        notes.append(f"{lines:,} lines of title and page furniture taken out of {articles:,} articles")
    with progress.step("split") as notes:
        divided = split_corpora(cleans, config.split)
        notes.append(split_counts(divided[0][0]))
    data = []
    for task, clean, (splits, clusters) in zip(tasks, cleans, divided, strict=True):
        official = corpus.metrics.get(task.name, [])
        data.append(TaskData(task, clean, splits, clusters, official, headline_metrics(task, official)))
    return cleaner, data


def split_counts(splits: Sequence[Split]) -> str:
    names = ("train", "validation", "test")
    counts = [{name: len(split.rows(name)) for name in names} for split in splits]
    folds = f" in the first of {len(splits)} folds" if len(splits) > 1 else ""
    return ", ".join(f"{counts[0][name]:,} {name}" for name in names) + folds


def size_warnings(data: TaskData) -> list[str]:
    """What is too small to be judged; raises CorpusError where there is nothing to learn."""
    clean, splits = data.clean, data.splits
    warnings = []
    for split in splits:
        train = label_shares(clean.examples(split.rows("train")))
        if clean.task.kind == "multiclass" and sum(share > 0 for share in train.values()) < 2:
            raise CorpusError("all training examples carry one label; a classifier needs two or more")
    for name in ("validation", "test"):
        n = min(len(clean.examples(split.rows(name))) for split in splits)
        if n < FEW_EXAMPLES:
            use = "the decision fitted on it is rough" if name == "validation" else "intervals of so few are too narrow"
            warnings.append(f"the {name} split has {n} examples: {use} (expected {FEW_EXAMPLES} or more)")
    return warnings


def leak_warnings(splits: Sequence[Split]) -> list[str]:
    straddling = sum(split.straddling for split in splits)
    if not straddling:
        return []
    return [
        f"{straddling:,} clusters of near-duplicate articles have members in more than one of train, validation and "
        "test, as this split is given: scores may be too good (split=stratified or split=kfold keep them together)"
    ]


def _shuffled(labelled: LabelledExamples, seed: int) -> LabelledExamples:
    order = np.random.default_rng(seed).permutation(len(labelled))
    return labelled.with_labels_of(order)


def write_split(data: TaskData, path: Path) -> None:
    """One row for each article; with folds, `split` names the fold in which the article is test."""
    splits = data.splits
    ids = data.clean.column("id")
    if len(splits) == 1:
        assignment = list(splits[0].assignment)
    else:
        folds = {i: f"fold {k}" for k, split in enumerate(splits, start=1) for i in split.rows("test")}
        assignment = [folds[i] for i in range(len(ids))]
    pq.write_table(pa.table({"id": ids, "split": assignment, "cluster": [ids[c] for c in data.clusters]}), path)
