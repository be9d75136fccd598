"""Workers: what scores a chunk, in a thread of this process or in processes of their own.

A worker process is started afresh (spawn), loads the model once and ends when its parent does. Each uses one thread:
the products of a linear model are too small to be shared out, and results do not depend on how many there are.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa

from slantwise.article import cleaned_text
from slantwise.inputs import INVALID_TEXT, UNREADABLE_ROW, InputOptions, Rejection, Request, parse, shown
from slantwise.model import Model, load
from slantwise.monitoring import watched
from slantwise.parts import OutputFormat, encode
from slantwise.rows import BadRow, Row, UndecodableRow
from slantwise.scores import answerable, score_batch
from slantwise.segments import Chunk
from slantwise.summary import summarise


@dataclass(frozen=True)
class Work:
    """What is the same for all chunks."""

    options: InputOptions
    form: OutputFormat


@dataclass(frozen=True)
class Scored:
    """A chunk's scores as its part's writer takes them, its rejected rows as JSON lines, its summary."""

    encoded: Any
    quarantined: bytes
    summary: dict[str, Any]


_state: dict[str, Any] = {}


def processes(count: int, directory: Path, work: Work) -> ProcessPoolExecutor:
    """`count` processes that `score_chunk` can be submitted to."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, _begin_process, (directory, work))


def begin_thread(model: Model, work: Work) -> None:
    """Make ready a thread of this process."""
    _state.update(model=model, work=work)


def _begin_process(directory: Path, work: Work) -> None:
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(1)
    pa.set_cpu_count(1)
    _state.update(directory=directory, work=work)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def score_chunk(chunk: Chunk) -> Scored:
    """In a worker: the chunk's rows parsed, scored and encoded."""
    if "model" not in _state:  # here and not when the process begins, where an exception would be lost
        _state["model"] = load(_state["directory"], "cpu")
    model, work = _state["model"], _state["work"]
    requests: list[Request | Rejection] = []
    quarantined: list[str] = []
    for number, row in enumerate(chunk.rows(), chunk.first):
        request = answerable(model, request_of(row, number, work.options))
        requests.append(request)
        if isinstance(request, Rejection):
            quarantined.append(quarantine_entry(row.file, row.line, number, request) + "\n")
    batch = score_batch(model, requests)
    encoded = encode(batch, work.form, model.tasks)
    listed = "".join(quarantined).encode("utf-8", "backslashreplace")
    numbers = range(chunk.first, chunk.first + len(requests))
    return Scored(encoded, listed, summary_of(model, requests, numbers, batch))


def summary_of(
    model: Model, requests: Sequence[Request | Rejection], numbers: Sequence[int], batch: pa.RecordBatch
) -> dict[str, Any]:
    """The summary of the scores of the requests, with how many of those looked at are far from the training articles.

    numbers  those of the rows, from 1: they decide who is looked at
    """
    summary = summarise(batch, model.tasks)
    for name, counts in _far(model, requests, numbers).items():
        summary["tasks"][name]["words"] = counts
    return summary


def _far(
    model: Model, requests: Sequence[Request | Rejection], numbers: Sequence[int]
) -> dict[str, dict[str, int]]:  # fmt: skip
    """For each head that knows the words of its training articles, how many of the articles are far from them."""
    pairs = zip(numbers, requests, strict=True)
    looked_at = [r for number, r in pairs if isinstance(r, Request) and watched(number)]
    texts: dict[int, list[str]] = {}
    found: dict[str, dict[str, int]] = {}
    for name, head in model.heads.items():
        if head.reference is None or head.reference.vocabulary.far_above is None:
            continue
        twin = next((other for other in model.heads.values() if other.cleaner == head.cleaner), head)
        if id(twin) not in texts:  # heads that were trained together share their cleaning
            texts[id(twin)] = [cleaned_text(r.article, head.cleaner) for r in looked_at]
        far = sum(map(head.reference.vocabulary.far, texts[id(twin)]))
        found[name] = {"looked_at": len(looked_at), "far": far}
    return found


def request_of(row: Row | BadRow, number: int, options: InputOptions) -> Request | Rejection:
    """What a row that was read, or could not be, asks for."""
    if isinstance(row, Row):
        return parse(row.values, number, options)
    code = INVALID_TEXT if isinstance(row, UndecodableRow) else UNREADABLE_ROW
    return Rejection(None, code, row.field, shown(row.value), row.reason)


def quarantine_entry(file: str | None, line: int | None, number: int, rejection: Rejection) -> str:
    """What is a line of the quarantine."""
    entry = {"row": number, "id": rejection.id, "file": file, "line": line}
    entry |= {"code": rejection.code, "field": rejection.field, "value": rejection.value, "reason": rejection.reason}
    return json.dumps(entry, ensure_ascii=False)


def cpu_count() -> int:
    """The processors that this process may use: those it is bound to, within the quota of its control group."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min([bound, *_quotas()]), 1)


def _quotas(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    with suppress(OSError, ValueError):  # version 2: "200000 100000", or "max 100000"
        quota, period = (root / "cpu.max").read_text().split()
        yield math.ceil(int(quota) / int(period))
    with suppress(OSError, ValueError):  # version 1: -1 for none
        quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield math.ceil(int(quota) / int(period))
