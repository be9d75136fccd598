"""What MLflow is told of a run, and `slantwise publish`, which completes the MLflow run of a run directory.

The directory is the source of truth. The MLflow run is opened early and follows the training (training/publisher.py);
here it is completed: results, files, the model.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from evaluation.intervals import Estimate
from evaluation.tables import format_estimate
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, TrackingError
from slantwise.model import load
from training.journal import Journal, Told
from training.publisher import known, opened, send_history
from training.redact import redact
from training.resume import at_rest
from training.store import Store

if TYPE_CHECKING:
    from training.config import TrackingConfig

ARTIFACTS = (
    "config.yaml", "code.diff", "metrics.json", "validation_metrics.json", "report.html", "report.json",
    "predictions.parquet", "validation.parquet", "split.parquet", "quarantine.jsonl", "reproduction.json",
    "history.jsonl", "log.txt", "run.json",
)  # fmt: skip
ATTEMPTS = 3
WAIT = 2.0  # seconds between them, twice as long each time
HEADLINES = 3  # metrics that the description names


def publish(directory: Path, config: TrackingConfig, attempts: int = ATTEMPTS) -> str:
    """Complete the MLflow run of a run directory and give its id; what MLflow holds already is not told again.

    An interrupted run is published as far as it came, and as KILLED. Raises ConfigurationError where the directory is
    that of no run or of one that is being trained, TrackingError where the store cannot be used.
    """
    record = _record_of(directory)
    told = Told.read(directory)
    if told is not None and told.complete:
        if told.uri != redact(config.uri):
            opened(Store(config), directory, record)  # it is there, at a new address, or this is an error
        assert told.run_id is not None
        return told.run_id
    journal = Journal(directory)
    for entry in record.get("history", ()):
        journal.add({k: v for k, v in entry.items() if k != "step"}, int(entry["step"]))
    if record["status"] == "FINISHED":
        for step, folds in enumerate(fold_metrics(record), start=1):
            journal.add(folds, step)
        journal.add(_flat_metrics(record), 0, final=True)
    for attempt in range(attempts):
        try:
            return _complete(directory, record, Store(config))
        except TrackingError:
            if attempt + 1 == attempts:
                raise
        time.sleep(WAIT * 2**attempt)
    raise AssertionError(f"attempts={attempts}")


def is_complete(directory: Path) -> bool:
    """Whether MLflow holds all of the run."""
    told = Told.read(directory)
    return told is not None and told.complete


def _record_of(directory: Path) -> dict[str, Any]:
    path = directory / "run.json"
    if not path.is_file():
        raise ConfigurationError(f"{directory} is not the directory of a run: it holds no run.json")
    return {"status": "FINISHED", **json.loads(path.read_text(encoding="utf-8"))}


def _complete(directory: Path, record: Mapping[str, Any], store: Store) -> str:
    """Small things first: a disk that is full leaves at least the figures of the run."""
    run_id = opened(store, directory, record)
    store.find(known(directory).key)  # removes a second run with this key, of a request that was thought lost
    finished = record["status"] == "FINISHED"
    described = {**record, "tags": record["tags"] | (_tags_of_results(record) if finished else {})}
    store.describe(run_id, described)
    model_id, is_whole = None, True
    if finished:
        model_id, is_whole = store.model(run_id, _checksum(directory / "model"), record["parameters"])
    send_history(store, directory, doubtful=True, model_id=model_id)
    store.send_files(run_id, _files(directory, record))
    if model_id is not None:
        if not is_whole:
            store.send_model(run_id, model_id, directory / "model")
        store.link_model(run_id, model_id)
    store.set_status(run_id, "FINISHED" if finished else "KILLED")
    replace(known(directory), complete=finished).write(directory)
    return run_id


def _checksum(model: Path) -> str:
    return hashlib.sha256((model / "slantwise.json").read_bytes()).hexdigest()


def _files(directory: Path, record: Mapping[str, Any]) -> list[tuple[Path, str | None]]:
    """The files that become artifacts, each with its folder there."""
    tasks = record.get("tasks", {})
    files: list[tuple[Path, str | None]] = []
    for folder in (None, *tasks) if len(tasks) > 1 else (None,):
        here = directory / (folder or "")
        plots = f"{folder}/plots" if folder else "plots"
        files += [(here / name, folder) for name in ARTIFACTS if (here / name).is_file()]
        files += [(path, plots) for path in sorted((here / "plots").glob("*")) if path.is_file()]
    return files


def _tags_of_results(record: Mapping[str, Any]) -> dict[str, str]:
    """Which metric the runs of a task are compared by, and a description with the headline figures."""
    tasks = record["tasks"]
    lines = []
    for name, task in tasks.items():
        estimates = {metric: Estimate(**task["metrics"][metric]) for metric in task["headline"][:HEADLINES]}
        figures = [f"{metric} {' '.join(format_estimate(e))}" for metric, e in estimates.items() if e.value is not None]
        lines.append(f"**{name}** on test: {', '.join(figures)}")
    return {
        "task": ",".join(tasks),
        "primary_metric": ",".join(task["headline"][0] for task in tasks.values()),
        "mlflow.note.content": "\n\n".join(lines),
    }


def fold_metrics(record: Mapping[str, Any]) -> list[dict[str, float]]:
    """For each fold, in order, its metrics as fold_<name>: in MLflow one curve over the folds."""
    several = len(record["tasks"]) > 1
    by_task = [[named_folds(name, fold, several) for fold in task["folds"]] for name, task in record["tasks"].items()]
    return [{k: v for part in parts for k, v in part.items()} for parts in zip(*by_task, strict=True)]


def named_folds(task: str, fold: Mapping[str, float], several: bool) -> dict[str, float]:
    """One fold's metrics under the names that MLflow has for them."""
    return {_name(f"{task}_fold_{name}" if several else f"fold_{name}"): value for name, value in fold.items()}


def _name(text: str) -> str:
    """MLflow's names take no brackets, "@" or "="."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in text)


def _flat_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """What is compared between runs: headline metrics with their intervals as test_<name>_low and _high, label F1,
    validation figures and shortcuts, of several tasks each with the task's name before it; facts of the fit, such as
    what was cut; seconds. All others are in the artifact metrics.json; an undefined metric is left out.
    """
    flat: dict[str, float] = {"seconds": record["seconds"]}
    for key, value in record["chosen"].items():
        if isinstance(value, int | float) and f"chosen.{key}" not in record["parameters"]:
            flat[_name(key)] = value
    for name, task in record["tasks"].items():
        prefix = f"{name}_" if len(record["tasks"]) > 1 else ""
        flat |= {prefix + key: value for key, value in _task_metrics(task).items()}
    return flat


def _task_metrics(task: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for prefix, metrics in (("test_", task["metrics"]), ("validation_", task["validation_metrics"])):
        for name, m in metrics.items():
            key = _name(prefix + name)
            bounds = {"": m["value"]}
            if prefix == "test_" and name in task["headline"]:
                bounds |= {"_low": m["low"], "_high": m["high"]}
            elif prefix == "test_" and not name.startswith("f1/"):
                continue
            flat |= {key + ending: value for ending, value in bounds.items() if value is not None}
    for probe in task.get("shortcuts", ()):
        if probe["estimate"]["value"] is not None:
            flat[_name(f"shortcut_{probe['name']}_{probe['metric']}")] = probe["estimate"]["value"]
    if task.get("shuffled_targets") and task["shuffled_targets"]["value"] is not None:
        flat[f"test_{task['headline'][0]}_shuffled_targets"] = task["shuffled_targets"]["value"]
    return flat


@dataclass
class PublishConfig:
    """`slantwise publish`."""

    run_dir: str = MISSING
    tracking: Any = field(default=MISSING)


def main() -> None:
    from hydra.core.config_store import ConfigStore

    from training import config as schemas

    schemas.register()
    ConfigStore.instance().store(name="publish_schema", node=PublishConfig)
    run("publish", _job)


def _job(config: Any) -> None:
    chosen = to_object(config, PublishConfig)
    directory, progress = Path(chosen.run_dir), Progress()
    uri = redact(chosen.tracking.uri)
    if is_complete(directory) and known(directory).uri == uri:
        progress.say(f"MLflow run {known(directory).run_id} at {known(directory).uri} is complete: nothing to publish")
        return
    with at_rest(directory):
        finished = _record_of(directory)["status"] == "FINISHED"
        if finished:
            load(directory)  # a damaged model is not published
        with progress.step(f"publish {directory}"):
            run_id = publish(directory, chosen.tracking)
    progress.say(f"MLflow run {run_id} at {uri}")
    if not finished:
        progress.warn("the run was interrupted; MLflow has what there is of it, the same command goes on with it")


if __name__ == "__main__":
    main()
