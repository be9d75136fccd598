"""Predictions: what evaluation judges, whoever made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from slantwise.errors import CorpusError
from slantwise.task import Task


@dataclass(frozen=True)
class Predictions:
    """One row for each example, aligned lists and arrays.

    gold          multiclass: int64 (n,), index into task.labels; multilabel: bool (n, n_labels)
    probabilities float32 (n, n_labels), columns in the order of task.labels, after calibration
    predicted     like gold; multiclass: -1 where the decision abstained
    groups        what is resampled together by the bootstrap: the article, or the group column of the corpus
    """

    task: Task
    split: str
    ids: Sequence[str]
    texts: Sequence[str]
    gold: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    groups: Sequence[str]
    targets: Sequence[str | None]
    sources: Sequence[str | None]

    def __post_init__(self) -> None:
        n, shape = len(self.ids), (len(self.ids), len(self.task.labels))
        gold_shape = shape if self.task.kind == "multilabel" else (n,)
        assert self.probabilities.shape == shape, (self.probabilities.shape, shape)
        assert self.gold.shape == self.predicted.shape == gold_shape, (
            self.gold.shape,
            self.predicted.shape,
            gold_shape,
        )
        assert np.isfinite(self.probabilities).all(), "a probability is not a number"
        assert len(self.texts) == len(self.groups) == len(self.targets) == len(self.sources) == n

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: npt.NDArray[np.int64]) -> Predictions:
        """The given rows, in the given order."""

        def pick(column: Sequence[str | None]) -> list[str | None]:
            return [column[i] for i in rows]

        return replace(
            self,
            ids=[self.ids[i] for i in rows],
            texts=[self.texts[i] for i in rows],
            groups=[self.groups[i] for i in rows],
            targets=pick(self.targets),
            sources=pick(self.sources),
            gold=self.gold[rows],
            probabilities=self.probabilities[rows],
            predicted=self.predicted[rows],
        )

    def write(self, path: Path) -> None:
        """One Parquet file; the task and the split are in its schema metadata."""
        labels = np.array(self.task.labels)

        def names(values: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> list[list[str]]:
            if self.task.kind == "multilabel":
                return [labels[row].tolist() for row in values]
            return [[str(labels[i])] if i >= 0 else [] for i in values]

        table = pa.table(
            {
                "id": pa.array(self.ids, pa.string()),
                "target": pa.array(self.targets, pa.string()),
                "gold": pa.array(names(self.gold), pa.list_(pa.string())),
                "predicted": pa.array(names(self.predicted), pa.list_(pa.string())),
                "probabilities": pa.array(list(self.probabilities), pa.list_(pa.float32())),
                "group": pa.array(self.groups, pa.string()),
                "source": pa.array(self.sources, pa.string()),
                "text": pa.array(self.texts, pa.string()),
            }
        )
        metadata = {"task": json.dumps(self.task.to_dict()), "split": self.split}
        pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Raises CorpusError where the file is not one that `write` made."""
        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata or {}
            task, split = Task.from_dict(json.loads(metadata[b"task"])), metadata[b"split"].decode()
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise CorpusError(f"{path}: not a predictions file of slantwise ({error})") from error
        columns = table.to_pydict()
        index = {label: i for i, label in enumerate(task.labels)}

        def codes(rows: list[list[str]]) -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
            if task.kind == "multiclass":
                return np.array([index[row[0]] if row else -1 for row in rows], dtype=np.int64)
            matrix = np.zeros((len(rows), len(task.labels)), dtype=bool)
            for i, row in enumerate(rows):
                matrix[i, [index[label] for label in row]] = True
            return matrix

        probabilities = np.array(columns["probabilities"], dtype=np.float32).reshape(-1, len(task.labels))
        return cls(
            task, split, columns["id"], columns["text"], codes(columns["gold"]), probabilities,
            codes(columns["predicted"]), columns["group"], columns["target"], columns["source"],
        )  # fmt: skip
