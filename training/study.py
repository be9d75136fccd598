"""The trials of a sweep in Optuna's storage, shared by workers any of which may be killed at any moment.

A worker holds a lock of its own name as long as it lives, and every trial that it runs bears this name. Trials are
given out under one lock: a running trial whose worker is gone (or that bears no name: its worker died while it was
given out) goes back to the waiting ones under its own number. So none is lost, none is counted twice, and as many are
given out as were asked for.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from slantwise.errors import ConfigurationError, TrackingError
from training.locks import FileLocks, Locks, PostgresLocks
from training.redact import redact
from training.space import Space

WORKER, REASON, SAME_AS = "worker", "reason", "same_as"  # attributes of a trial
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
SQLITE_PATIENCE = 120  # seconds that a process waits for another's transaction


@dataclass(frozen=True)
class Budget:
    """How many trials in all, or how many minutes of trials: the time that finished trials took, of all workers."""

    trials: int | None
    minutes: float | None

    def allows(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether one more may begin."""
        if self.trials is not None and len(trials) >= self.trials:
            return False
        return self.minutes is None or spent(trials) < 60 * self.minutes

    def share(self, trials: Sequence[FrozenTrial]) -> float:
        """How much of it is used up, from 0 to 1."""
        done = sum(trial.state in DONE for trial in trials)
        shares = [done / self.trials] if self.trials else []
        shares += [spent(trials) / (60 * self.minutes)] if self.minutes else []
        return min(1.0, max(shares))


def spent(trials: Sequence[FrozenTrial]) -> float:
    """Seconds that the finished trials took."""
    return sum(trial.duration.total_seconds() for trial in trials if trial.state in DONE and trial.duration)


class Study:
    """One study, and this process as one of its workers. Raises TrackingError where its database cannot be used."""

    def __init__(self, folder: Path, storage: str | None, name: str, maximise: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.name, self.worker = name, f"worker-{uuid.uuid4().hex}"
        self.locks: Locks
        if storage is None:
            self.locks = FileLocks(folder / "locks")
            self.url = f"sqlite:///{folder / 'study.db'}"
            options: dict[str, Any] = {"connect_args": {"timeout": SQLITE_PATIENCE}}
        else:
            self.locks = PostgresLocks(storage, name)
            self.url, options = storage, {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        self.locks.take(self.worker)
        # two that make the same tables at once break them
        with self.locks.hold("open"), self._reached():
            self.storage = RDBStorage(self.url, engine_kwargs=options)
            self.study = optuna.create_study(
                storage=self.storage, study_name=name, load_if_exists=True,
                direction="maximize" if maximise else "minimize",
            )  # fmt: skip

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise TrackingError(redact(f"the study's database at {self.url} cannot be used: {first}")) from error

    def agree(self, name: str, value: str, what: str = "") -> str:
        """The study's own value of an attribute, that of its first worker. Where it must be the value that is given,
        `what` says of what it is. Raises ConfigurationError."""
        with self.locks.hold("open"), self._reached():
            known = self.study.user_attrs.get(name)
            if known is None:
                self.study.set_user_attr(name, value)
                return value
        if what and known != value:
            raise ConfigurationError(
                f"{what} is not what the trials of study {self.name} were about; expected the same (or remove them)"
            )
        return str(known)

    def enqueue(self, grid: Sequence[Mapping[str, Any]]) -> None:
        """Trials with these options; those that are there already are not added again."""
        with self.locks.hold("ask"), self._reached():
            for options in grid[len(self.study.get_trials(deepcopy=False)) :]:
                self.study.enqueue_trial(dict(options))

    def trials(self) -> list[FrozenTrial]:
        """All of them, by their numbers."""
        with self._reached():
            return self.study.get_trials(deepcopy=False)

    def next(self, space: Space, budget: Budget, sampler: BaseSampler | None) -> Trial | None:
        """A trial for this worker; None where all that the budget allows are given out.

        Without a sampler only those are given out that were enqueued.
        """
        with self.locks.hold("ask"), self._reached():
            self._take_back()
            trials = self.trials()
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            begun = [trial for trial in trials if trial.state != TrialState.WAITING or WORKER in trial.user_attrs]
            taken_back = any(WORKER in trial.user_attrs for trial in waiting)
            if not taken_back and (not budget.allows(begun) or (sampler is None and not waiting)):
                return None
            if sampler is not None:
                self.study.sampler = sampler
            trial = self.study.ask(fixed_distributions=space.distributions())
            trial.set_user_attr(WORKER, self.worker)
        return trial

    def _take_back(self) -> None:
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and not self._is_alive(trial):
                self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _is_alive(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        return worker == self.worker or (worker is not None and not self.locks.is_free(worker))

    def running(self) -> int:
        """How many trials workers are at, this one or others."""
        with self.locks.hold("ask"):
            return sum(trial.state == TrialState.RUNNING and self._is_alive(trial) for trial in self.trials())

    def report(self, trial: Trial, value: float, step: int) -> bool:
        """Keep how far a trial is; whether it is so much behind the others that it should end."""
        with self._reached():
            if step not in self.trials()[trial.number].intermediate_values:  # one that goes on repeats steps
                trial.report(value, step)
            return trial.should_prune()

    def note(self, trial: Trial, name: str, value: Any) -> None:
        with self._reached():
            trial.set_user_attr(name, value)

    def tell(self, trial: Trial, value: float | None, state: TrialState) -> bool:
        """Keep what came of a trial. False where it is another worker's by now, for which this one was gone."""
        with self.locks.hold("ask"), self._reached():
            now = self.trials()[trial.number]
            if now.state != TrialState.RUNNING or now.user_attrs.get(WORKER) != self.worker:
                return False
            self.study.tell(trial, value, state=state)
        return True

    def twin(self, trial: Trial) -> FrozenTrial | None:
        """A complete trial with the same options."""
        return next((one for one in complete(self.trials()) if one.params == trial.params), None)

    def best(self) -> FrozenTrial:
        """Of the complete ones; of equal ones the first."""
        sign = 1 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        return max(complete(self.trials()), key=lambda trial: (sign * (trial.value or 0.0), -trial.number))


def complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def sampler_for(kind: str, seed: int, number: int) -> BaseSampler | None:
    """A new one for each trial: what is drawn depends on the trials so far, not on when a worker was started."""
    drawn = (seed + 1_000_003 * number) % 2**32
    return {"tpe": TPESampler(seed=drawn), "random": RandomSampler(seed=drawn), "grid": None}[kind]
