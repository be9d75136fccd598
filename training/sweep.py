"""`slantwise sweep`: the best options of a classifier, looked for on validation; a training run with them at the end.

    config.yaml      the resolved configuration
    trials.jsonl     what came of each trial; sweep.json: the best, what was asked for, what MLflow is told
    best-trial-<n>/  the run directory of the best configuration, trained anew; the only place where test is used
    plots/           history, importance, slices
    work/            while it lasts: the trials, locks, checkpoints, features that trials share
    log.txt          what was printed

A sweep that was interrupted, in whatever way, is gone on with by the same command; several of them at once share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.utils import get_method
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial, Trial, TrialState
from sklearn.model_selection import GroupKFold

import slantwise
from data.corpus import load_corpus
from data.examples import LabelledExamples
from evaluation.report import LOWER_IS_BETTER
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, SlantwiseError, TrackingError
from training import sweep_plots
from training.cache import ArrayCache, Memory, StepCache
from training.config import TrainConfig
from training.environment import environment_tags
from training.fitting import Part, Workspace, primary_score
from training.journal import Told, write_whole
from training.redact import redact
from training.resume import STATE, WORK
from training.run import RunResult, several_tasks, train
from training.space import Space, in_words
from training.study import REASON, SAME_AS, Budget, Study, complete, sampler_for, spent
from training.sweep_config import SweepConfig, register
from training.sweep_tracking import RECORD, TRIALS, publish_sweep, telling
from training.task_data import TaskData, prepare

OWN = ("sweep", "trials", "minutes", "sweep_dir", "storage")  # keys that are no training run's
NO_PART = ("trials", "minutes", "sweep_dir", "storage", "run_dir", "tracking", "hydra")  # in what a sweep is about
FAILURES = 5  # so many trials, and no other, that failed: the rest would, too
POLL = 1.0  # seconds
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class SweepResult:
    directory: Path
    best: FrozenTrial
    run: RunResult | None  # None where another worker trains the best configuration
    mlflow_run: str | None


def main() -> None:
    several_tasks(sys.argv)
    register()
    run("sweep", _job)


def _job(config: Any) -> None:
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(settings, dict)
    check_storage(settings["storage"])
    chosen = to_object(config, SweepConfig)
    check_fixed(sys.argv[1:], chosen.sweep.space)
    sweep(chosen, {str(k): v for k, v in settings.items()}, Progress())


def check_fixed(arguments: Sequence[str], space: Mapping[str, Any]) -> None:
    """Raises ConfigurationError where the command line fixes an option that the space varies."""
    fixed = [found[1] for one in arguments if (found := re.match(r"\+{0,2}classifier\.(\w+)=", one))]
    if both := [name for name in fixed if name in space]:
        left_out = " ".join(f"'~sweep.space.{name}'" for name in both)
        raise ConfigurationError(
            f"classifier.{both[0]} is given, and the sweep varies it (sweep.space.{both[0]}); to fix what is given, "
            f"take it out of the space: {left_out}"
        )


def check_storage(url: str | None) -> None:
    """Raises ConfigurationError where the command line, which other users of the machine can see, holds a password."""
    if url and re.search(r"://[^/@]*:[^/@]*@", url) and url != os.environ.get("SLANTWISE_STORAGE"):
        raise ConfigurationError(
            "storage: the URL holds a password; expected it in PGPASSWORD, or the whole URL in the variable "
            "SLANTWISE_STORAGE"
        )


def sweep(config: SweepConfig, settings: Mapping[str, Any], progress: Progress) -> SweepResult:
    """Look for the best options, train with them, publish. `settings` is the configuration as plain data.

    Raises a SlantwiseError where the configuration or the corpus is at fault, or where all trials fail.
    """
    space = Space(config.sweep.space, config.classifier)
    checksum = _checksum(settings)
    directory = Path(config.sweep_dir or f"sweeps/{config.name}-{checksum[:8]}")
    _claim(directory, checksum, settings)
    progress.say(f"sweep {', '.join(config.task_names)} on {config.corpus.name}: {directory}")
    data, fingerprint = _read(config, progress)
    metric = "mean_score" if len(data) > 1 else data[0].headline[0]
    study = Study(directory / WORK, config.storage, f"{config.name}-{checksum[:8]}", metric not in LOWER_IS_BETTER)
    study.agree("corpus", fingerprint, f"corpus {config.corpus.name}")
    worker = _Worker(config, space, study, data, metric, directory, progress)
    tags = {"corpus_sha256": fingerprint, **environment_tags(sys.argv), "task": ",".join(config.task_names)}
    worker.write(tags)
    if config.tracking.enabled and study.locks.take("teller"):
        with telling(directory, config.tracking):
            worker.work()
        study.locks.release("teller")
    else:
        worker.work()
    return _finish(config, settings, space, worker, tags)


def _checksum(settings: Mapping[str, Any]) -> str:
    """The same for commands that look for the same."""
    kept = {k: v for k, v in settings.items() if k not in NO_PART}
    return hashlib.sha256(yaml.safe_dump([slantwise.__version__, kept], sort_keys=False).encode()).hexdigest()


def _claim(directory: Path, checksum: str, settings: Mapping[str, Any]) -> None:
    """Raises ConfigurationError where the directory is that of something else."""
    path = directory / WORK / "checksum"
    if path.exists() and path.read_text() != checksum:
        raise ConfigurationError(
            f"sweep_dir={directory} holds a sweep of another configuration; expected another folder, or sweep_dir=null"
        )
    if not path.exists() and directory.exists() and any(entry.name != WORK for entry in directory.iterdir()):
        raise ConfigurationError(f"sweep_dir={directory} exists and holds no sweep; expected a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, checksum)
    write_whole(directory / "config.yaml", redact(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)))


def _read(config: SweepConfig, progress: Progress) -> tuple[list[TaskData], str]:
    with progress.step("read the corpus"):
        corpus = load_corpus(config.corpus)
        tasks = [corpus.task(name) for name in config.task_names]
        for task in tasks:
            config.decision.check(task)
    return prepare(config, corpus, tasks, progress)[1], corpus.fingerprint


def folds_of(data: Sequence[TaskData], config: SweepConfig) -> list[list[Part]]:
    """What trials fit and are judged on, by fold and task; test has no part in it.

    With one fold the split's own train and validation; with more, folds of both together whose units (near-duplicates,
    groups) are kept together, alike in all tasks. Raises ConfigurationError where there are fewer units than folds.
    """
    parts = [one.part(one.splits[0], config) for one in data]
    if config.sweep.folds == 1:
        return [[replace(part, train=_read_out(part.train), validation=_read_out(part.validation)).with_key()
                 for part in parts]]  # fmt: skip
    pools = [_read_out(part.train + part.validation) for part in parts]
    units = np.concatenate([np.asarray(pool.units, dtype=str) for pool in pools])
    if len(set(units.tolist())) < config.sweep.folds:
        raise ConfigurationError(
            f"sweep.folds={config.sweep.folds}, but train and validation hang together in {len(set(units.tolist()))} "
            "groups of near-duplicates; expected fewer folds"
        )
    splitter = GroupKFold(n_splits=config.sweep.folds, shuffle=True, random_state=config.split.seed)
    return [
        [_held_out(part, pool, set(units[held].tolist())) for part, pool in zip(parts, pools, strict=True)]
        for _, held in splitter.split(units, groups=units)
    ]


def _read_out(labelled: LabelledExamples) -> LabelledExamples:
    """With its examples in memory, where all folds and trials read them."""
    return replace(labelled, examples=list(labelled.examples))


def _held_out(part: Part, pool: LabelledExamples, units: set[str]) -> Part:
    rows = np.array([unit in units for unit in pool.units])
    return Part(part.task, pool.select(np.flatnonzero(~rows)), pool.select(np.flatnonzero(rows))).with_key()


def step_cache(config: SweepConfig, folder: Path, progress: Progress) -> StepCache:
    disk = ArrayCache(folder, int(config.sweep.cache_gigabytes * 1e9), progress.warn)
    return StepCache(disk, Memory(int(config.sweep.memory_gigabytes * 1e9)))


class _Worker:
    """This process's part of the sweep: trial after trial, until none is left to be given out or waited for."""

    def __init__(
        self, config: SweepConfig, space: Space, study: Study, data: Sequence[TaskData], metric: str, directory: Path,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.config, self.space, self.study, self.metric, self.directory = config, space, study, metric, directory
        self.progress, self.fit_all = progress, get_method(config.classifier._target_)
        self.metrics = {one.task.name: one.headline[0] for one in data}
        self.sign = -1 if metric in LOWER_IS_BETTER else 1
        self.folds = folds_of(data, config)
        self.cache = step_cache(config, directory / WORK / "cache", progress)
        self.key = study.agree("key", uuid.uuid4().hex)
        self.started = int(time.time() * 1000)
        self.sampler, self.budget = self._plan()
        study.study.pruner = _pruner(config)

    def _plan(self) -> tuple[str, Budget]:
        """The sampler that the study was begun with, and what is asked for; the trials of a grid are enqueued."""
        config, grid = self.config, self.space.grid()
        few = grid is not None and len(grid) <= (config.trials or 100)
        wanted = ("grid" if few else "tpe") if config.sweep.sampler == "auto" else config.sweep.sampler
        sampler = self.study.agree("sampler", wanted)
        if sampler != "grid":
            all_there_are = None if grid is None else len(grid)
            return sampler, Budget(config.trials or all_there_are, config.minutes)
        if grid is None:
            raise ConfigurationError("sweep.sampler=grid: the space is infinite; expected choices, or steps, alone")
        self.study.enqueue(grid)
        return sampler, Budget(min(config.trials or len(grid), len(grid)), config.minutes)

    def work(self) -> None:
        while True:
            number = len(self.study.trials())
            trial = self.study.next(
                self.space, self.budget, sampler_for(self.sampler, self.config.sweep.seed, number)
            )  # fmt: skip
            if trial is not None:
                self._try(trial)
            elif others := self.study.running():
                with self.progress.step(f"wait for {others} trials of other workers"):
                    while self.study.running() == others:
                        time.sleep(POLL)
            else:
                return
            self._check_failures()

    def _try(self, trial: Trial) -> None:
        """One trial, told to the study with what came of it."""
        value, state, reason = None, TrialState.COMPLETE, ""
        started = time.perf_counter()
        twin = self.study.twin(trial)
        if twin is not None:
            self.study.note(trial, SAME_AS, twin.number)
            value = twin.value
        else:
            try:
                with self.progress.step(f"trial {trial.number}: {in_words(trial.params)}"):
                    value = self._value(trial)
            except _Behind:
                state = TrialState.PRUNED
            except TrackingError:  # the study's database is away: the trial is gone on with later
                raise
            except (SlantwiseError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
                state, reason = TrialState.FAIL, redact(f"{type(error).__name__}: {error}"[:2000])
                self.study.note(trial, REASON, reason)
        if not self.study.tell(trial, value, state):
            self.progress.warn(f"trial {trial.number} was given to another worker while this one was cut off")
            return
        shutil.rmtree(self._folder(trial), ignore_errors=True)
        self.write()
        self._say(trial, value, state, reason, time.perf_counter() - started)

    def _folder(self, trial: Trial) -> Path:
        return self.directory / WORK / f"trial-{trial.number}"

    def _value(self, trial: Trial) -> float:
        """The mean over folds and tasks of the primary metric. Raises _Behind where the trial is to end early."""
        classifier = self.space.applied(trial.params)
        if hasattr(classifier, "refit"):
            classifier = replace(classifier, refit=False)  # a trial is judged before any
        keeps = getattr(classifier, "resumable", False)
        scores: list[float] = []
        for number, parts in enumerate(self.folds, start=1):
            folder = self._folder(trial) / f"fold-{number}" if keeps else None
            record = self._pruning(trial) if len(self.folds) == 1 else _ignore
            workspace = Workspace(self.metrics, folder, Progress(quiet=True), record, self.cache)
            fitted = self.fit_all(parts, classifier, workspace)
            found = [primary_score(part, fitted[part.task.name].validation_probabilities, self.metrics[part.task.name])
                     for part in parts]  # fmt: skip
            scores.append(self.sign * float(np.mean(found)))
            self.progress.update(f"fold {number}/{len(self.folds)}, {np.mean(scores):.4f}")
            if len(self.folds) > 1 and self.study.report(trial, float(np.mean(scores)), number):
                raise _Behind
        return float(np.mean(scores))

    def _pruning(self, trial: Trial) -> Any:
        """Takes the scores of epochs as a fit records them."""

        def record(metrics: Mapping[str, float], step: int) -> None:
            if "validation_score" in metrics:
                self.progress.update(f"epoch {metrics['epoch']:.0f}, {metrics['validation_score']:.4f}")
                if self.study.report(trial, metrics["validation_score"], round(metrics["epoch"])):
                    raise _Behind

        return record

    def _say(self, trial: Trial, value: float | None, state: TrialState, reason: str, seconds: float) -> None:
        trials = self.study.trials()
        share, ended = self.budget.share(trials), sum(one.state in ENDED for one in trials)
        of = f"/{self.budget.trials}" if self.budget.trials else ""
        what = {TrialState.COMPLETE: f"{value:.4f}" if value is not None else "", TrialState.PRUNED: "ended early",
                TrialState.FAIL: f"failed: {reason.splitlines()[0] if reason else ''}"}[state]  # fmt: skip
        best = ""
        if complete(trials):
            found = self.study.best()
            best = f"; best {found.value:.4f}, trial {found.number}"
        took = (time.time() * 1000 - self.started) / 1000
        left = spent(trials) * (1 - share) / max(share, 1e-9)
        workers = max(1.0, spent(trials) / max(took, 1e-9)) if took > 1 else 1.0
        self.progress.say(
            f"  {ended}{of} {self.metric} {what} ({seconds:.1f} s){best}; about {_time(left / workers)} left"
        )

    def _check_failures(self) -> None:
        ended = [trial for trial in self.study.trials() if trial.state in ENDED]
        enough = min(FAILURES, self.budget.trials or FAILURES)
        if len(ended) >= enough and all(trial.state == TrialState.FAIL for trial in ended):
            reasons = list(dict.fromkeys(trial.user_attrs.get(REASON, "") for trial in ended))
            raise ConfigurationError(
                f"all {len(ended)} trials failed; the first because of {reasons[0]} (all reasons are in "
                f"{self.directory / TRIALS}); mend the space or the data, and remove {self.directory} to begin anew"
            )

    def write(self, tags: Mapping[str, str] | None = None) -> None:
        """trials.jsonl and sweep.json, as the study is now."""
        trials = self.study.trials()
        lines = [json.dumps(_row(trial)) for trial in trials if trial.state in ENDED]
        known = self._known()
        done = complete(trials)
        best = self.study.best() if done else None
        record = {
            "name": f"sweep-{self.config.name}",
            "key": self.key,
            "metric": self.metric,
            "started": known.get("started", self.started),
            "ended": int(time.time() * 1000),
            "tags": tags or known.get("tags", {}),
            "parameters": {
                "task": ",".join(self.config.task_names), "corpus": self.config.corpus.name,
                "classifier": self.config.backend, "split": str(self.config.split.kind),
                "sweep.folds": self.config.sweep.folds, "sweep.sampler": self.sampler,
                "sweep.pruner": self.config.sweep.pruner, "sweep.seed": self.config.sweep.seed,
            },
            "datasets": [],
            "best": None if best is None else {**_row(best), "options": _options(best)},
            "metrics": {
                "trials": float(len(lines)), "trials_complete": float(len(done)),
                f"validation_{self.metric}": None if best is None else best.value, "seconds": spent(trials),
            },
        }  # fmt: skip
        with self.study.locks.hold("write"):
            write_whole(self.directory / TRIALS, "".join(f"{line}\n" for line in lines))
            write_whole(self.directory / RECORD, json.dumps(record, indent=1) + "\n")

    def _known(self) -> dict[str, Any]:
        path = self.directory / RECORD
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


class _Behind(Exception):
    """A trial that is ended early."""


def _ignore(metrics: Mapping[str, float], step: int) -> None:
    pass


def _pruner(config: SweepConfig) -> BasePruner:
    if config.sweep.pruner == "hyperband":
        longest = max(getattr(config.classifier, "epochs", 1), config.sweep.folds)
        return HyperbandPruner(min_resource=1, max_resource=longest)
    return MedianPruner(n_startup_trials=FAILURES) if config.sweep.pruner == "median" else NopPruner()


def _options(trial: FrozenTrial) -> dict[str, Any]:
    from training.space import decoded

    return decoded(trial.params)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    ended, started = trial.datetime_complete, trial.datetime_start
    assert ended is not None
    assert started is not None
    return {
        "number": trial.number,
        "state": trial.state.name,
        "value": trial.value,
        "options": _options(trial),
        "seconds": (ended - started).total_seconds(),
        "started": int(started.timestamp() * 1000),
        "ended": int(ended.timestamp() * 1000),
        "reason": trial.user_attrs.get(REASON),
        "same_as": trial.user_attrs.get(SAME_AS),
        "steps": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
    }


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 90 else f"{minutes} min"


def _finish(
    config: SweepConfig, settings: Mapping[str, Any], space: Space, worker: _Worker, tags: Mapping[str, str]
) -> SweepResult:
    """The best configuration trained anew and judged on test; pictures; all of it published."""
    directory, progress, study = worker.directory, worker.progress, worker.study
    worker.write(tags)
    best = study.best()
    progress.say(f"best: trial {best.number}, validation {worker.metric} {best.value:.4f}: {in_words(best.params)}")
    if not study.locks.take("final"):
        progress.say("another worker trains the best configuration")
        return SweepResult(directory, best, None, None)
    place = directory / f"best-trial-{best.number}"
    where = study.study.user_attrs.get(f"trained-{best.number}")
    if where not in (None, str(place.absolute())):
        progress.say(f"trained already by another worker: {where}")
        study.locks.release("final")
        return SweepResult(directory, best, None, None)
    trained = _train_best(config, settings, space.applied(best.params), place, progress)
    study.agree(f"trained-{best.number}", str(place.absolute()))
    pictures = sweep_plots.draw(study.study, worker.metric, directory / "plots")
    progress.save(directory / "log.txt")
    files: list[tuple[Path, str | None]] = [(path, "plots") for path in pictures]
    files += [(directory / name, None) for name in ("config.yaml", TRIALS, RECORD, "log.txt")]
    parent = None
    if config.tracking.enabled:
        with study.locks.hold("teller"):
            parent = publish_sweep(directory, config.tracking, files, trained.mlflow_run, progress)
    study.locks.release("final")
    shutil.rmtree(directory / WORK / "cache", ignore_errors=True)
    progress.say(f"sweep: {directory}\npictures: {directory / 'plots'}")
    progress.save(directory / "log.txt")
    return SweepResult(directory, best, trained, parent)


def _train_best(
    config: SweepConfig, settings: Mapping[str, Any], classifier: Any, directory: Path, progress: Progress
) -> RunResult:
    """An ordinary run; one that was begun is gone on with, one that is complete is left as it is."""
    path = directory / "run.json"
    if path.exists() and not (directory / WORK).exists():
        told = Told.read(directory)
        progress.say(f"trained already: {directory}")
        return RunResult(directory, {}, None if told is None else told.run_id)
    if directory.exists() and not (directory / WORK / STATE).exists():
        shutil.rmtree(directory)  # nothing was begun but the folder
    chosen = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    chosen |= {"classifier": classifier, "run_dir": str(directory)}
    resolved = {k: v for k, v in settings.items() if k not in OWN}
    resolved |= {"classifier": asdict(classifier), "run_dir": str(directory)}
    return train(TrainConfig(**chosen), redact(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)), progress)


if __name__ == "__main__":
    main()
