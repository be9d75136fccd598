"""What a batch of scores amounts to: rows, rejections, and for each task how often each label and how sure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slantwise.errors import ScoringError
from slantwise.monitoring import in_words
from slantwise.task import Task

NAME = "_summary.json"
JUDGED_AFTER = 1_000  # rows; before that many the share of rejected ones says little


def summarise(batch: pa.RecordBatch, tasks: Sequence[Task]) -> dict[str, Any]:
    """Counts that can be added up (`add`): JSON-ready.

    rows, rejected {code: rows}, tasks {name: {scored, labels {label: n}, abstained, confidence_sum}}; for a multilabel
    task no abstentions and no confidence; `scored` counts articles, for stance pairs of article and target.
    """
    codes = Counter(code for code in batch.column("error").to_pylist() if code is not None)
    return {
        "rows": batch.num_rows,
        "rejected": dict(sorted(codes.items())),
        "tasks": {task.name: _of_task(batch.column(task.name), task) for task in tasks},
    }


def _of_task(column: pa.Array, task: Task) -> dict[str, Any]:
    structs = column.flatten() if task.has_target else column.drop_null()
    if task.kind == "multilabel":
        return {"scored": len(structs), "labels": _counts(pc.list_flatten(pc.struct_field(structs, "labels")), task)}
    labels = pc.struct_field(structs, "label")
    confidence = pc.struct_field(structs, "confidence").to_numpy(zero_copy_only=False)
    return {
        "scored": len(structs),
        "labels": _counts(labels, task),
        "abstained": labels.null_count,
        "confidence_sum": float(np.sum(confidence, dtype=np.float64)),
    }


def of_predictions(
    task: Task, predicted: npt.NDArray[Any], confidence: npt.NDArray[np.float32] | None
) -> dict[str, Any]:
    """The same of a task's predictions in memory: bool (n, n_labels), or int (n,) with -1 where the model abstains and
    the confidence, float32 (n,)."""
    if confidence is None:
        return {"scored": len(predicted), "labels": dict(zip(task.labels, predicted.sum(axis=0).tolist(), strict=True))}
    counts = np.bincount(predicted[predicted >= 0], minlength=len(task.labels)).tolist()
    return {
        "scored": len(predicted),
        "labels": dict(zip(task.labels, counts, strict=True)),
        "abstained": int((predicted < 0).sum()),
        "confidence_sum": float(np.sum(confidence, dtype=np.float64)),
    }


def _counts(labels: pa.Array, task: Task) -> dict[str, int]:
    found = {entry["values"]: entry["counts"] for entry in pc.value_counts(labels.drop_null()).to_pylist()}
    return {label: found.get(label, 0) for label in task.labels}


def add(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two summaries, key by key."""
    total = dict(first)
    for key, value in second.items():
        held = total.get(key)
        if isinstance(value, Mapping):
            total[key] = add(held or {}, value)
        else:
            total[key] = value if held is None else held + value
    return total


def rejected(summary: Mapping[str, Any]) -> int:
    return sum(summary.get("rejected", {}).values())


def judge(summary: Mapping[str, Any], max_rejected: float) -> None:
    """Raises ScoringError where too large a share of the rows so far, JUDGED_AFTER or more, was rejected."""
    rows = summary["rows"]
    if rows < JUDGED_AFTER or rejected(summary) / rows <= max_rejected:
        return
    raise ScoringError(
        f"{rejected(summary):,} of the {rows:,} rows read were rejected ({_codes(summary)}), more than "
        f"max_rejected={max_rejected:g} of them; is the right column named (columns.text=…)? To go on all the same, "
        "raise max_rejected"
    )


def in_lines(summary: Mapping[str, Any]) -> list[str]:
    """How many rows there are and how many of them were rejected, why, and the drift of each task."""
    lines = [f"{summary['rows']:,} rows, {rejected(summary):,} of them rejected"]
    return [*lines, *([_codes(summary)] if rejected(summary) else []), *in_words(summary["drift"])]


def to_json(summary: Mapping[str, Any]) -> bytes:
    """The content of the file of this summary."""
    return (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def _codes(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{code} {n:,}" for code, n in summary["rejected"].items())
