"""`slantwise train`: one training run, from a corpus to a run directory that is published to MLflow.

The run directory is the source of truth:

    config.yaml           the resolved configuration
    run.json              corpus, split, counts, parameters, tags, metrics and their course: what MLflow is told
    history.jsonl         the metrics of single steps as they came; mlflow.json: how far MLflow knows of them
    code.diff             where the code differs from its commit: how
    predictions.parquet   test (or out-of-fold) predictions; validation.parquet those of validation
    metrics.json          test metrics with intervals; validation_metrics.json
    split.parquet         id, split (or fold), near-duplicate cluster of every article
    report.html/.json, plots/
    quarantine.jsonl      rows that were not used, with the reason
    model/                the model, one head a task
    log.txt               what was printed
    work/                 while it runs: what an interrupted run goes on from

A run of several tasks has a folder for each with its predictions, metrics, split and report.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_method

from data.corpus import Corpus, load_corpus, write_quarantine
from evaluation.intervals import Estimate
from evaluation.tables import metrics_table
from slantwise.command import Progress, run, to_object
from slantwise.errors import TrackingError
from slantwise.model import Head, Model, load
from training import config as schemas
from training import processes, tracking
from training.config import TrainConfig
from training.fitting import Workspace
from training.folds import Trained, fit_folds
from training.journal import write_whole
from training.judging import judge_task
from training.publisher import Tracker, tracked
from training.record import finished_record, opening_record, provenance_of, reference_of, write_opening
from training.redact import redact
from training.resume import Claim, claim
from training.task_data import TaskData, leak_warnings, prepare, size_warnings

if TYPE_CHECKING:
    from training.reproduce import Origin


@dataclass(frozen=True)
class TaskResult:
    metrics: Mapping[str, Estimate]
    headline: Sequence[str]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class RunResult:
    directory: Path
    tasks: Mapping[str, TaskResult]
    mlflow_run: str | None

    @property
    def only(self) -> TaskResult:
        """The result of a run of one task."""
        (result,) = self.tasks.values()
        return result


def main() -> None:
    if any(argument.startswith("run=") for argument in sys.argv[1:]):
        from training import reproduce

        reproduce.main()
        return
    several_tasks(sys.argv)
    schemas.register()
    run("train", _job)


def several_tasks(arguments: list[str]) -> None:
    """`task=[topic,framing]` trains several tasks together; to Hydra, `task` is the choice of one file."""
    for place, argument in enumerate(arguments):
        if several := re.match(r"task=\[(\w+)([\w, ]*)\]$", argument):
            arguments[place : place + 1] = [f"task={several[1]}", f"tasks=[{several[1]}{several[2]}]"]


def _job(config: Any) -> None:
    from omegaconf import OmegaConf

    quiet = not processes.is_first()
    train(to_object(config, TrainConfig), redact(OmegaConf.to_yaml(config, resolve=True)), Progress(quiet))


def train(config: TrainConfig, resolved: str, progress: Progress, origin: Origin | None = None) -> RunResult:
    """Train, judge, save and publish. `resolved` is the configuration as YAML; `origin` a run that this one is to
    reproduce.

    A run that was interrupted is gone on with, where the backend can. Raises a SlantwiseError, with nothing written,
    where the configuration or the corpus is at fault.
    """
    started = time.time()
    place = claim(config, resolved)
    resolved = resolved.replace(config.run_dir, str(place.directory))
    config = replace(config, run_dir=str(place.directory))
    progress.say(f"train {', '.join(config.task_names)} on {config.corpus.name}")
    if place.resumed:
        progress.say(f"  going on with {place.directory}, which was interrupted")
    if place.finished:
        return _publish_finished(config, place, progress)
    if hasattr(config.classifier, "check_place"):
        config.classifier.check_place()
    with progress.step("read the corpus"):
        corpus = load_corpus(config.corpus, config.evaluation.slices)
        tasks = [corpus.task(name) for name in config.task_names]
        fit_all = get_method(config.classifier._target_)
        for task in tasks:
            config.decision.check(task)
    progress.say(f"  {corpus.counts()}")
    place.check_corpus(corpus.fingerprint)
    if origin is not None:
        origin.check(corpus.fingerprint)
    cleaner, data = prepare(config, corpus, tasks, progress)
    corpus = corpus.without_texts()  # the cleaned ones are all that is needed from here on
    warnings = [warning for one in data for warning in [*leak_warnings(one.splits), *size_warnings(one)]]
    for warning in dict.fromkeys(warnings):
        progress.warn(warning)
    metrics = {one.task.name: one.headline[0] for one in data}
    record = opening_record(config, corpus, data, started, origin)
    with place.held(config.classifier, corpus.fingerprint) as folder:
        if not processes.is_first():
            fit_folds(config, fit_all, data, cleaner, Workspace(metrics, folder, progress))
            return RunResult(place.directory, {}, None)
        write_opening(place.directory, resolved, record)
        with tracked(place.directory, config.tracking, progress) as tracker:
            folds, heads = fit_folds(
                config, fit_all, data, cleaner, Workspace(metrics, folder, progress, tracker.record)
            )
            results = _write_run(config, resolved, corpus, data, folds, heads, warnings, place, record, progress)
            if origin is not None:
                progress.say(origin.compare(place.directory))
            mlflow_run = _publish(config, place.directory, tracker, progress) if config.tracking.enabled else None
            _say_where(place.directory, list(results), progress)
    return RunResult(place.directory, results, mlflow_run)


def _publish_finished(config: TrainConfig, place: Claim, progress: Progress) -> RunResult:
    """A run that was interrupted when all was in its directory already, and only MLflow was not told everything."""
    mlflow_run = None
    with place.held(config.classifier):
        heads = load(place.directory, device="cpu").heads
        record = json.loads((place.directory / "run.json").read_text(encoding="utf-8"))
        if tracking.is_complete(place.directory):  # to open it once more would make it a running one
            mlflow_run = tracking.publish(place.directory, config.tracking)
        elif config.tracking.enabled and processes.is_first():
            with tracked(place.directory, config.tracking, progress) as tracker:
                mlflow_run = _publish(config, place.directory, tracker, progress)
    results = {}
    for name, task in record["tasks"].items():
        metrics = {k: Estimate(**v) for k, v in task["metrics"].items()}
        results[name] = TaskResult(metrics, task["headline"], heads[name].provenance["label_shares"])
    _say_where(place.directory, list(results), progress)
    return RunResult(place.directory, results, mlflow_run)


def _say_where(directory: Path, tasks: Sequence[str], progress: Progress) -> None:
    folders = [directory] if len(tasks) == 1 else [directory / task for task in tasks]
    reports = "".join(f"\nreport: {folder / 'report.html'}" for folder in folders)
    progress.say(f"run directory: {directory}{reports}\nmodel: {directory / 'model'}")
    progress.save(directory / "log.txt")


def _write_run(
    config: TrainConfig, resolved: str, corpus: Corpus, data: Sequence[TaskData],
    folds: Sequence[Mapping[str, Trained]], heads: Mapping[str, Head], warnings: Sequence[str], place: Claim,
    opening: Mapping[str, Any], progress: Progress,
) -> dict[str, TaskResult]:  # fmt: skip
    """All files of the run directory."""
    directory = place.directory
    directory.mkdir(parents=True, exist_ok=True)
    records, results, exported = {}, {}, {}
    try:
        for one in data:
            folder = directory if len(data) == 1 else directory / one.task.name
            parts = [fold[one.task.name] for fold in folds]
            judged = judge_task(config, resolved, corpus, one, parts, warnings, folder, progress)
            name = one.task.name
            records[name] = judged
            metrics = {k: Estimate(**v) for k, v in judged["metrics"].items()}
            results[name] = TaskResult(metrics, one.headline, parts[0].shares)
            provenance = provenance_of(config, corpus, one, parts, judged, directory)
            exported[name] = replace(heads[name], provenance=provenance, reference=reference_of(one, parts))
        write_quarantine(corpus.quarantine, directory / "quarantine.jsonl")
        place.remove(directory / "model")
        Model(exported).save(directory / "model")
        write_whole(directory / "run.json", json.dumps(finished_record(opening, data, folds, records), indent=1) + "\n")
        for one in data:
            test = folds[0][one.task.name].test
            n = sum(len(fold[one.task.name].test) for fold in folds)
            judged, result = records[one.task.name], results[one.task.name]
            split = test.split if len(folds) == 1 else f"{test.split}, {len(folds)} folds pooled"
            split = split if len(data) == 1 else f"{one.task.name}, {split}"
            progress.console.print(metrics_table(result.metrics, one.headline, split, n, judged["folds"]))
            for line in judged["worst_slices"]:
                progress.say(f"  {line}")
    finally:
        progress.save(directory / "log.txt")
    return results


def _publish(config: TrainConfig, directory: Path, tracker: Tracker, progress: Progress) -> str | None:
    """Complete the MLflow run; where it cannot be reached the run is complete all the same, and published later."""
    try:
        with progress.step("publish to MLflow"):
            return tracking.publish(directory, config.tracking, tracking.ATTEMPTS if tracker.stop() else 1)
    except TrackingError as error:
        progress.warn(f"{error}; the run is complete, publish it later with: slantwise publish run_dir={directory}")
        return None


if __name__ == "__main__":
    main()
