"""What a run directory knows of its MLflow run, so that each metric is told once, whatever happens in between.

    history.jsonl   the metrics as they came, a line for each moment: {"time": ms since 1970, "step": 1, "metrics": {…}}
    mlflow.json     the MLflow run, and how much of history.jsonl it is known to hold

A metric is in the file before anybody is told of it; what was not told yet is what follows the acknowledged part.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

HISTORY, MARKER = "history.jsonl", "mlflow.json"


@dataclass(frozen=True)
class Entry:
    """Metrics of one moment; `final`: they are about the model that was exported."""

    time: int
    step: int
    metrics: Mapping[str, float]
    final: bool = False


@dataclass(frozen=True)
class Told:
    """How far MLflow knows of a run.

    key        made before the MLflow run and one of its tags: by it the run is found again where its id was not kept
    uri        where the run is, without credentials
    sent       bytes of history.jsonl that were acknowledged
    complete   nothing is left to be told
    """

    key: str
    uri: str
    run_id: str | None = None
    sent: int = 0
    complete: bool = False

    @classmethod
    def read(cls, directory: Path) -> Told | None:
        """None where MLflow was never told of the run."""
        path = directory / MARKER
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def write(self, directory: Path) -> None:
        """All or nothing: a process that is killed while it writes leaves what was there before."""
        write_whole(directory / MARKER, json.dumps(asdict(self)) + "\n")


def write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


class Journal:
    """The metrics of a run directory; may be added to from several threads.

    Of two values of a metric at one step the first stays: a fit that goes on from a checkpoint repeats steps.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / HISTORY
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            file.seek(0)
            kept = file.read()
            file.truncate(kept.rfind(b"\n") + 1)  # a last line that was not written to its end
        self._steps: dict[str, set[int]] = {}
        for entry in self.after(0)[0]:
            for name in entry.metrics:
                self._steps.setdefault(name, set()).add(entry.step)

    def add(self, metrics: Mapping[str, float], step: int, final: bool = False) -> None:
        """Keep what is new of these; an undefined value (NaN or infinite) is no metric."""
        with self._lock:
            new = {name: float(value) for name, value in metrics.items() if self._is_new(name, value, step)}
            if not new:
                return
            line = {"time": int(time.time() * 1000), "step": step, "metrics": new, **({"final": True} if final else {})}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            for name in new:
                self._steps.setdefault(name, set()).add(step)

    def _is_new(self, name: str, value: float, step: int) -> bool:
        return math.isfinite(value) and step not in self._steps.get(name, ())

    def last_step(self, name: str) -> int:
        """0 where there is none yet."""
        return max(self._steps.get(name, ()), default=0)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def after(self, start: int, most: int | None = None) -> tuple[list[Entry], int]:
        """The entries that follow the first `start` bytes, with `most` metrics in all (one entry at the least), and
        the byte after them."""
        entries: list[Entry] = []
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                entry = Entry(**json.loads(line)) if line.endswith(b"\n") else None
                n = sum(len(each.metrics) for each in entries)
                if entry is None or (most is not None and entries and n + len(entry.metrics) > most):
                    break
                entries.append(entry)
                start += len(line)
        return entries, start
