"""A run's MLflow run while it trains: opened early, told of each metric soon after it was measured, never in the way.

A thread reads what history.jsonl holds and sends what the server has not acknowledged. Training only ever writes to
that file: a server that is slow, away or broken costs it nothing, and what was not sent is sent at the end, or by
`slantwise publish`.
"""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from slantwise.command import Progress
from slantwise.errors import TrackingError
from training.journal import Journal, Told
from training.redact import redact
from training.store import BATCH, Store
from training.system import FIRST, Sampler

if TYPE_CHECKING:
    from training.config import TrackingConfig

PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds between two looks at the file; after failures more and more of them
EARLY = ("config.yaml", "code.diff")  # artifacts that are there before training
TERMINATED = 128 + signal.SIGTERM


def opened(store: Store, directory: Path, record: Mapping[str, Any]) -> str:
    """The id of the directory's MLflow run, which is found or made; it is in the directory as soon as there is one."""
    told = Told.read(directory) or Told(uuid.uuid4().hex, redact(store.config.uri))
    told.write(directory)
    here = redact(store.config.uri)
    if told.run_id is not None and told.uri == here:
        return told.run_id
    run_id = store.find(told.key)
    if run_id is None and told.run_id is not None:
        raise TrackingError(
            f"{directory} belongs to MLflow run {told.run_id} at {told.uri}, which {here} does not have; expected "
            f"tracking.uri={told.uri} (or remove mlflow.json, to publish it anew)"
        )
    run_id = run_id or store.create(told.key, record)
    replace(told, uri=here, run_id=run_id).write(directory)
    return run_id


def send_history(store: Store, directory: Path, doubtful: bool, model_id: str | None = None) -> None:
    """Tell what history.jsonl holds beyond the acknowledged part; doubtful: some of it may have arrived before."""
    journal = Journal(directory)
    while (told := known(directory)).sent < journal.size:
        entries, end = journal.after(told.sent, BATCH)
        if not entries:
            return
        assert told.run_id is not None
        store.send(told.run_id, store.unknown(told.run_id, entries) if doubtful else entries, model_id)
        replace(known(directory), sent=end).write(directory)


def known(directory: Path) -> Told:
    """What MLflow knows of a run that was opened."""
    told = Told.read(directory)
    assert told is not None
    return told


class Publisher:
    """The thread. It reads the run directory and writes mlflow.json there; it is alone in doing so until it stops."""

    def __init__(self, directory: Path, config: TrackingConfig) -> None:
        self.directory, self.config = directory, config
        self.answered = True
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """End after the request that is under way; whether it did."""
        self._stopped.set()
        self._thread.join(2 * self.config.timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        store: Store | None = None
        is_open, doubtful, pause = False, Told.read(self.directory) is not None, PAUSE
        while True:
            try:
                store = store or Store(self.config, self._stopped)
                if not is_open:
                    self._open(store)
                    is_open = True
                send_history(store, self.directory, doubtful)
                doubtful, pause, self.answered = False, PAUSE, True
            except TrackingError:
                doubtful, pause = True, min(2 * pause, LONGEST_PAUSE)
                self.answered = self.answered and self._stopped.is_set()
            if self._stopped.wait(pause):
                return

    def _open(self, store: Store) -> None:
        record = json.loads((self.directory / "run.json").read_text(encoding="utf-8"))
        run_id = opened(store, self.directory, record)
        store.set_status(run_id, "RUNNING")
        store.describe(run_id, record)
        store.send_files(run_id, [(self.directory / name, None) for name in EARLY if (self.directory / name).exists()])


class Tracker:
    """What a run tells of itself: `record` keeps metrics in the run directory, from where the publisher takes them."""

    def __init__(self, directory: Path, config: TrackingConfig, progress: Progress) -> None:
        self.directory, self.config, self.progress = directory, config, progress
        journal = Journal(directory)
        self.record = journal.add
        self._sampler = Sampler(journal.add, journal.last_step(FIRST))
        self._publisher = Publisher(directory, config) if config.enabled else None

    def stop(self) -> bool:
        """Training is over; whether the store answered when it was last asked.

        Raises TrackingError where the publisher hangs in a request.
        """
        self._sampler.stop()
        publisher, self._publisher = self._publisher, None
        if publisher is None:
            return True
        if not publisher.stop():
            raise TrackingError(redact(f"MLflow at {self.config.uri} does not answer"))
        return publisher.answered

    def end(self, status: str) -> None:
        """The run did not come to its end: no MLflow run of it may say that it is running."""
        try:
            self.stop()
            told = Told.read(self.directory)
            if told is None:
                return
            store = Store(self.config)
            run_id = told.run_id or store.find(told.key)  # the answer to its making may not have come
            if run_id is not None:
                replace(known(self.directory), run_id=run_id).write(self.directory)
                store.set_status(run_id, status)
                send_history(store, self.directory, doubtful=True)
        except TrackingError as error:
            self.progress.warn(
                f"{error}; it may take the run for a running one until it is told, by the same command again, or by: "
                f"slantwise publish run_dir={self.directory}"
            )


@contextmanager
def tracked(directory: Path, config: TrackingConfig, progress: Progress) -> Iterator[Tracker]:
    """A tracker while the run trains; what ends it early ends its MLflow run as FAILED or, by a signal, as KILLED."""
    if config.enabled:
        _prepare(config)
    tracker = Tracker(directory, config, progress)
    with _terminable():
        try:
            yield tracker
        except BaseException as error:
            if config.enabled:
                tracker.end("FAILED" if isinstance(error, Exception) else "KILLED")
            else:
                tracker.stop()
            raise
        tracker.stop()


def _prepare(config: TrackingConfig) -> None:
    """What the thread had better not do: imports in two threads at once may meet half-way, and a new SQLite store takes
    seconds to make, in which nothing can be stopped."""
    import mlflow  # noqa: F401

    if config.uri.startswith("sqlite:"):
        with suppress(TrackingError):  # the thread comes upon it again
            Store(config)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, as batch systems send it before they kill, ends the run as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
