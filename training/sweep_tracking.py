"""A sweep in MLflow: a run for the sweep, below it one for each trial, and the run of the best configuration.

The sweep's directory is the source of truth. Each run bears a key made of the sweep's, by which it is found again, so
that everything may be told again after an interruption and nothing is there twice.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slantwise.command import Progress
from slantwise.errors import TrackingError
from training.journal import Entry, Told, write_whole
from training.redact import redact
from training.store import Store

if TYPE_CHECKING:
    from training.config import TrackingConfig

PARENT = "mlflow.parentRunId"
TRIALS, RECORD, PUBLISHED = "trials.jsonl", "sweep.json", "published.json"
PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds between two looks at the directory; after failures more and more of them
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


def read_trials(directory: Path) -> list[dict[str, Any]]:
    """What came of each finished trial."""
    path = directory / TRIALS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


class Teller:
    """Tells MLflow of one sweep's directory; at no time two of them for one sweep. Methods raise TrackingError."""

    def __init__(self, directory: Path, config: TrackingConfig, stopped: threading.Event | None = None) -> None:
        self.directory = directory
        self.store = Store(config, stopped)
        self.here = redact(config.uri)

    def open(self) -> str:
        """The id of the sweep's run, which is found or made."""
        record = self._record()
        run_id = self.store.find(record["key"]) or self.store.create(record["key"], record)
        Told(record["key"], self.here, run_id).write(self.directory)
        self.store.set_status(run_id, "RUNNING")
        self.store.describe(run_id, record)
        return run_id

    def trials(self, parent: str) -> None:
        """A run for each trial that has none."""
        record = self._record()
        told = self._published()
        for trial in read_trials(self.directory):
            if trial["number"] not in told:
                self._trial(parent, record, trial)
                told.add(trial["number"])
                state = {"uri": self.here, "trials": sorted(told)}
                write_whole(self.directory / PUBLISHED, json.dumps(state) + "\n")

    def close(self, parent: str, files: Sequence[tuple[Path, str | None]], best: str | None) -> None:
        """The sweep is over: its metrics and files; `best` is the run of the best configuration."""
        record = self._record()
        entry = Entry(record["ended"], 0, {k: v for k, v in record["metrics"].items() if v is not None})
        self.store.describe(parent, record)
        self.store.send(parent, self.store.unknown(parent, [entry]))
        self.store.send_files(parent, files)
        if best is not None:
            self.store.ask(lambda: self.store.client.set_tag(best, PARENT, parent))
        self.store.set_status(parent, "FINISHED")

    def _record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / RECORD).read_text(encoding="utf-8"))
        return found

    def _published(self) -> set[int]:
        path = self.directory / PUBLISHED
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return set(known["trials"]) if known.get("uri") == self.here else set()

    def _trial(self, parent: str, record: Mapping[str, Any], trial: Mapping[str, Any]) -> None:
        tags = {**record["tags"], PARENT: parent, "trial": str(trial["number"]), "state": trial["state"].lower()}
        if trial["reason"]:
            tags["mlflow.note.content"] = tags["reason"] = trial["reason"]
        described = {
            "name": f"{record['name']}-trial-{trial['number']:03}",
            "started": trial["started"],
            "tags": tags,
            "parameters": {f"classifier.{name}": value for name, value in trial["options"].items()},
            "datasets": [],
        }
        key = f"{record['key']}-{trial['number']}"
        run_id = self.store.find(key) or self.store.create(key, described)
        self.store.describe(run_id, described)
        name = f"validation_{record['metric']}"
        entries = [Entry(trial["ended"], int(step), {name: value}) for step, value in trial["steps"].items()]
        last = max((entry.step for entry in entries), default=-1) + 1
        figures = {"seconds": trial["seconds"], **({} if trial["value"] is None else {name: trial["value"]})}
        entries.append(Entry(trial["ended"], last, figures))
        self.store.send(run_id, self.store.unknown(run_id, entries))
        status = STATUS[trial["state"]]
        self.store.ask(lambda: self.store.client.set_terminated(run_id, status, trial["ended"]))


@contextmanager
def telling(directory: Path, config: TrackingConfig) -> Iterator[None]:
    """A thread that tells MLflow of trials while the sweep goes on, and stays out of its way: what it does not manage
    to tell is told at the end."""
    stopped = threading.Event()
    import mlflow  # noqa: F401  (here, not in the thread: imports in two threads at once may meet half-way)

    def tell() -> None:
        teller, parent, pause = None, None, PAUSE
        while not stopped.wait(pause):
            try:
                teller = teller or Teller(directory, config, stopped)
                parent = parent or teller.open()
                teller.trials(parent)
                pause = PAUSE
            except TrackingError:
                pause = min(2 * pause, LONGEST_PAUSE)

    thread = threading.Thread(target=tell, name="mlflow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(2 * config.timeout)


def publish_sweep(
    directory: Path, config: TrackingConfig, files: Sequence[tuple[Path, str | None]], best: str | None,
    progress: Progress,
) -> str | None:  # fmt: skip
    """All of a sweep that is over; gives the id of its run, or None where the store cannot be used."""
    try:
        with progress.step("publish the sweep to MLflow"):
            teller = Teller(directory, config)
            parent = teller.open()
            teller.trials(parent)
            teller.close(parent, files, best)
    except TrackingError as error:
        progress.warn(f"{error}; the sweep is complete, the same command publishes it later")
        return None
    return parent
