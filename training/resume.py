"""Runs that go on after an interruption: the same command finds the run directory that it left unfinished.

Until it is complete, a run holds `work/` in its directory: a lock, and state.json with a fingerprint of the
configuration. A directory with such a state, whose lock nobody holds and whose fingerprint is that of the new command,
is gone on with: by a backend that keeps what it has learned from there, by any other from the start, and in both cases
as the same MLflow run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

import slantwise
from slantwise.errors import ConfigurationError, SlantwiseError
from training import processes
from training.config import TrainConfig
from training.journal import write_whole

WORK, STATE, LOCK = "work", "state.json", "lock"
UNIQUE = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{6}$")  # how a name ends that slantwise.command.unique_name has made
# What may differ between an interrupted run and the one that goes on with it.
OWN = ("run_dir", "tracking", "hydra")


@dataclass(frozen=True)
class Claim:
    """A run directory that this process may fill; finished: all is in it, and only MLflow was not told everything."""

    directory: Path
    key: str
    resumed: bool
    finished: bool = False

    @property
    def work(self) -> Path:
        return self.directory / WORK

    def check_corpus(self, fingerprint: str) -> None:
        """Raises ConfigurationError where the corpus is no longer what the interrupted run learned from."""
        state = _state(self.directory) if self.resumed else None
        if state is not None and state["corpus"] not in (None, fingerprint):
            raise ConfigurationError(
                f"{self.directory} was interrupted, and its corpus has changed since; remove the folder to start anew"
            )

    @contextmanager
    def held(self, classifier: Any, fingerprint: str | None = None) -> Iterator[Path | None]:
        """A folder for what the fit keeps, gone when the run is complete; None for a backend that keeps nothing.

        A run that fails because of its input before it has learned anything leaves nothing behind but what MLflow was
        told.
        """
        folder = self.work if getattr(classifier, "resumable", False) else None
        if not processes.is_first():
            yield folder
            return
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / LOCK).open("w") as lock:
            _hold(lock, self.directory)
            write_whole(self.work / STATE, json.dumps({"key": self.key, "corpus": fingerprint}) + "\n")
            try:
                yield folder
            except SlantwiseError:
                if not self.resumed and not any(self.work.rglob("*.safetensors")):
                    shutil.rmtree(self.directory)  # with the input mended it starts anew
                raise
            shutil.rmtree(self.work)  # while the lock is held: nobody takes a complete run for an interrupted one

    def remove(self, path: Path) -> None:
        """What an earlier attempt wrote before it was interrupted."""
        if self.resumed:
            shutil.rmtree(path, ignore_errors=True)


def claim(config: TrainConfig, resolved: str) -> Claim:
    """The directory of this run: an interrupted one of the same configuration, or a new one.

    Raises ConfigurationError where the directory exists and is no such run, or cannot be made.
    """
    key = _key(resolved)
    if processes.is_first():
        directory = Path(config.run_dir)
        found = _interrupted(directory, key)
        if found is None:
            _check_new(directory)
        mine = Claim(found or directory, key, found is not None, found is not None and _is_finished(found))
    else:
        mine = Claim(Path(config.run_dir), key, False)
    return processes.from_first(mine)


def _is_finished(directory: Path) -> bool:
    path = directory / "run.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["status"] == "FINISHED"


@contextmanager
def at_rest(directory: Path) -> Iterator[None]:
    """While nobody else trains or publishes the run. Raises ConfigurationError."""
    path = directory / WORK / LOCK
    path = path if path.exists() else directory / "run.json"
    if not path.exists():
        raise ConfigurationError(f"{directory} is not the directory of a run: it holds no run.json")
    with path.open("r") as lock:
        _hold(lock, directory)
        yield


def _key(resolved: str) -> str:
    """What two commands have in common that would train the same: of several processes each reads its own batches."""
    settings = yaml.safe_load(resolved)
    kept = {k: v for k, v in settings.items() if k not in OWN} if isinstance(settings, dict) else settings
    return hashlib.sha256(
        json.dumps([slantwise.__version__, processes.world(), kept], sort_keys=True).encode()
    ).hexdigest()


def _interrupted(directory: Path, key: str) -> Path | None:
    """The last interrupted run with this key: `directory` itself, or, where nobody chose its name, one beside it."""
    beside = directory.parent.glob("*/") if UNIQUE.search(directory.name) else ()
    for path in (directory, *sorted((path for path in beside if path != directory), reverse=True)):
        state = _state(path)
        if state is not None and state["key"] == key and not _is_held(path):
            return path
    return None


def _state(directory: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((directory / WORK / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no run, or one that was stopped before it wrote its state
        return None
    return state if isinstance(state, dict) and {"key", "corpus"} <= state.keys() else None


def _is_held(directory: Path) -> bool:
    with (directory / WORK / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _hold(lock: IO[str], directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{directory} is in the hands of another process that trains or publishes it"
        ) from error


def _check_new(directory: Path) -> None:
    """Before hours of work: the run directory must be new and its place writable."""
    if directory.exists():
        what = ""
        if _state(directory) is not None:
            other = "an interrupted run of another configuration, version or number of processes"
            what = f" (it holds {'a run that another process trains' if _is_held(directory) else other})"
        raise ConfigurationError(f"run_dir={directory} exists; expected a new folder{what}")
    parent = next(path for path in directory.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigurationError(f"run_dir={directory}: {parent} is no folder that can be written to")
