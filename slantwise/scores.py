"""Scores: one row for each row of the input, in its order, the same from every way of scoring.

    id      string, null only where the row could not be read
    error   string, one of slantwise.inputs.CODES, null where the row was scored
    topic   {label, confidence, probabilities {<label>: float32}}; label is null where the model abstains
    framing {labels [string], probabilities {<label>: float32}}
    stance  [{target, label, confidence, probabilities}], one for each of the row's targets, in their order

A rejected row has nulls for the tasks. `score_batch` lays the model's arrays out as Arrow columns, `score_rows` gives
the same rows as dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from slantwise.inputs import BAD_TARGETS, Rejection, Request, shown
from slantwise.model import Head, Model
from slantwise.task import Task

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def scores_schema(tasks: Sequence[Task]) -> pa.Schema:
    """The Arrow schema of the scores of a model with these tasks."""
    return pa.schema(
        [("id", pa.string()), ("error", pa.string()), *((task.name, task_type(task)) for task in tasks)]
    )  # fmt: skip


def task_type(task: Task) -> pa.DataType:
    """The Arrow type of one task's scores."""
    probabilities = pa.struct([(label, pa.float32()) for label in task.labels])
    if task.kind == "multilabel":
        parts = [("labels", pa.list_(pa.string())), ("probabilities", probabilities)]
    else:
        parts = [("label", pa.string()), ("confidence", pa.float32()), ("probabilities", probabilities)]
    return pa.list_(pa.struct([("target", pa.string()), *parts])) if task.has_target else pa.struct(parts)


def answerable(model: Model, request: Request | Rejection) -> Request | Rejection:
    """The same, or a rejection where a target is so long that an encoder's window has no room left for the article."""
    if isinstance(request, Rejection):
        return request
    for head in model.heads.values():
        if not head.task.has_target or head.body is None:
            continue
        for target in request.targets:
            if not head.body.takes_target(target):
                reason = "the target leaves no room for the article in the encoder's windows; expected a shorter name"
                return Rejection(request.id, BAD_TARGETS, "targets", shown(target), reason)
    return request


def score_rows(model: Model, requests: Sequence[Request | Rejection]) -> list[dict[str, Any]]:
    """The scores as dictionaries, one for each request or rejection, in their order; all must be `answerable`."""
    good = [request for request in requests if isinstance(request, Request)]
    scored = iter(model.predict([r.article for r in good], [r.targets for r in good]))
    empty = dict.fromkeys(model.heads)
    return [
        {"id": r.id, "error": r.code, **empty}
        if isinstance(r, Rejection)
        else {"id": r.id, "error": None, **{name: row[name] for row in [next(scored)] for name in model.heads}}
        for r in requests
    ]


def score_batch(model: Model, requests: Sequence[Request | Rejection]) -> pa.RecordBatch:
    """The scores as Arrow columns of `scores_schema(model.tasks)`."""
    good = [request for request in requests if isinstance(request, Request)]
    rejected = np.array([isinstance(request, Rejection) for request in requests], dtype=bool)
    examples = model.examples([r.article for r in good], [r.targets for r in good])
    probabilities = model.probabilities(examples)
    columns: list[pa.Array] = [
        pa.array([r.id for r in requests], pa.string()),
        pa.array([r.code if isinstance(r, Rejection) else None for r in requests], pa.string()),
    ]
    for name, head in model.heads.items():
        parts = _parts(head, probabilities[name])
        if head.task.has_target:
            columns.append(_lists(head, parts, good, rejected))
        else:
            columns.append(_structs(parts, rejected))
    return pa.RecordBatch.from_arrays(columns, schema=scores_schema(model.tasks))


def _parts(head: Head, probabilities: Floats) -> dict[str, pa.Array]:
    """label and confidence, or labels; and probabilities: an array each, one value for each example."""
    task, names = head.task, pa.array(head.task.labels, pa.string())
    calibrated = head.decision.calibrate(probabilities, task)
    decided = head.decision.decide(calibrated, task)
    by_label = [pa.array(np.ascontiguousarray(column, np.float32)) for column in calibrated.T]
    found = {"probabilities": pa.StructArray.from_arrays(by_label, names=list(task.labels))}
    if task.kind == "multilabel":
        offsets = np.concatenate([[0], np.cumsum(decided.sum(axis=1))]).astype(np.int32)
        return {"labels": pa.ListArray.from_arrays(offsets, names.take(pa.array(np.nonzero(decided)[1])))} | found
    # where costs are given, the label need not be the most probable one
    confidence = calibrated[np.arange(len(calibrated)), head.decision.best(calibrated)].astype(np.float32)
    return {"label": names.take(pa.array(decided, mask=decided < 0)), "confidence": pa.array(confidence)} | found


def _structs(parts: dict[str, pa.Array], rejected: Bools) -> pa.Array:
    """A struct for each row, null for a rejected one."""
    names = list(parts)
    structs = pa.StructArray.from_arrays(list(parts.values()), names=names)
    if not rejected.any():
        return structs
    place = np.cumsum(~rejected) - 1
    return structs.take(pa.array(place, mask=rejected))


def _lists(head: Head, parts: dict[str, pa.Array], good: Sequence[Request], rejected: Bools) -> pa.Array:
    """A list of structs for each row, one for each of its targets; null for a rejected row."""
    targets = pa.array([target for request in good for target in request.targets], pa.string())
    structs = pa.StructArray.from_arrays([targets, *parts.values()], names=["target", *parts])
    sizes = np.zeros(len(rejected), np.int32)
    sizes[~rejected] = [len(request.targets) for request in good]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    mask = pa.array(rejected) if rejected.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=task_type(head.task), mask=mask)
