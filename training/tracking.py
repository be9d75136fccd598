"""Tracking: a finished run directory is published to MLflow; the directory stays the source of truth."""

from __future__ import annotations

import json
import logging
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from slantwise.command import CHECKOUT, Progress, run, to_object
from slantwise.errors import ConfigurationError, TrackingError
from slantwise.model import load
from training.pyfunc_model import log_model

if TYPE_CHECKING:
    from training.config import TrackingConfig

MARKER = "mlflow.json"  # in a run directory: where it was published
ARTIFACTS = (
    "config.yaml", "metrics.json", "validation_metrics.json", "report.html", "report.json", "predictions.parquet",
    "validation.parquet", "split.parquet", "quarantine.jsonl", "log.txt", "run.json",
)  # fmt: skip
LIBRARIES = ("scikit-learn", "numpy", "scipy", "mlflow", "hydra-core")
MAX_TAG = 5000


def environment_tags(command: list[str]) -> dict[str, str]:
    """Commit (and whether the tree differs from it), command line, library versions and machine."""
    tags = {
        "command": redact(" ".join(command))[:MAX_TAG],
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.system()}",
        **{name: version(name) for name in LIBRARIES},
    }
    commit = _git("rev-parse", "HEAD")
    if commit is not None:
        tags |= {"git_commit": commit, "git_dirty": str(bool(_git("status", "--porcelain"))).lower()}
    return tags


def redact(text: str) -> str:
    """The text with the user names and passwords of its URLs taken out."""
    return re.sub(r"://[^/@\s'\"]+@", "://***@", text)


def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None outside of one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def publish(directory: Path, config: TrackingConfig) -> str:
    """Publish a run directory as one MLflow run and give its id.

    Raises ConfigurationError where the directory is no finished or an already published run, TrackingError where the
    store cannot be used.
    """
    if not (directory / "run.json").is_file():
        raise ConfigurationError(f"{directory} is not the directory of a finished run: it holds no run.json")
    if (directory / MARKER).exists():
        known = json.loads((directory / MARKER).read_text())
        raise ConfigurationError(f"{directory} was published already, as run {known['run_id']} at {known['uri']}")
    record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the making of a new SQLite store is no news
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        experiment = _experiment(config)
        with mlflow.start_run(experiment_id=experiment, run_name=record["name"]) as active:
            _log(record, directory)
            log_model(directory / "model")
        run_id = str(active.info.run_id)
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise TrackingError(redact(f"MLflow at {config.uri} cannot be used: {_first_line(error)}")) from error
    (directory / MARKER).write_text(json.dumps({"run_id": run_id, "uri": redact(config.uri)}) + "\n")
    return run_id


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _experiment(config: TrackingConfig) -> str:
    """The experiment's id; a new one of a database store keeps its files where the configuration says."""
    import mlflow

    if config.uri.startswith("sqlite:///"):
        Path(config.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(config.uri)
    known = mlflow.get_experiment_by_name(config.experiment)
    if known is not None:
        return str(known.experiment_id)
    location = None
    if config.artifacts and not config.uri.startswith("http"):
        location = Path(config.artifacts).resolve().as_uri()
    return str(mlflow.create_experiment(config.experiment, artifact_location=location))


def _log(record: Mapping[str, Any], directory: Path) -> None:
    import mlflow

    primary = {name: task["headline"][0] for name, task in record["tasks"].items()}
    mlflow.set_tags(record["tags"] | {"task": ",".join(primary), "primary_metric": ",".join(primary.values())})
    mlflow.log_params(record["parameters"])
    for data in record["datasets"]:
        mlflow.log_input(_dataset(data), context=data["context"])
    mlflow.log_metrics(_flat_metrics(record))
    for entry in record["history"]:
        mlflow.log_metrics({k: v for k, v in entry.items() if k != "step"}, step=int(entry["step"]))
    folders = [None, *record["tasks"]] if len(record["tasks"]) > 1 else [None]
    for folder in folders:
        files = directory / (folder or "")
        for name in ARTIFACTS:
            if (files / name).exists():
                mlflow.log_artifact(str(files / name), folder)
        if (files / "plots").is_dir():
            mlflow.log_artifacts(str(files / "plots"), f"{folder}/plots" if folder else "plots")


def _dataset(data: Mapping[str, Any]) -> Any:
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource

    return MetaDataset(LocalArtifactDatasetSource(", ".join(data["source"])), name=data["name"], digest=data["digest"])


def _flat_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """What is compared between runs: headline metrics with their intervals as test_<name>_low and _high, label F1,
    validation and fold figures, shortcuts, seconds; of several tasks each with the task's name before it. All others
    are in the artifact metrics.json.

    MLflow's names take no brackets, "@" or "="; an undefined metric is left out.
    """
    flat: dict[str, float] = {"seconds": record["seconds"]}
    for name, task in record["tasks"].items():
        prefix = f"{name}_" if len(record["tasks"]) > 1 else ""
        flat |= {prefix + key: value for key, value in _task_metrics(task).items()}
    return flat


def _task_metrics(task: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for prefix, metrics in (("test_", task["metrics"]), ("validation_", task["validation_metrics"])):
        for name, m in metrics.items():
            key = "".join(c if c.isalnum() or c in "_-./ " else "_" for c in prefix + name)
            bounds = {"": m["value"]}
            if prefix == "test_" and name in task["headline"]:
                bounds |= {"_low": m["low"], "_high": m["high"]}
            elif prefix == "test_" and not name.startswith("f1/"):
                continue
            flat |= {key + ending: value for ending, value in bounds.items() if value is not None}
    for probe in task.get("shortcuts", ()):
        if probe["estimate"]["value"] is not None:
            flat[f"shortcut_{probe['name']}_{probe['metric']}".replace("@", "_")] = probe["estimate"]["value"]
    if task.get("shuffled_targets") and task["shuffled_targets"]["value"] is not None:
        flat[f"test_{task['headline'][0]}_shuffled_targets"] = task["shuffled_targets"]["value"]
    for number, fold in enumerate(task["folds"], start=1):
        flat |= {f"fold_{number}_{name}": value for name, value in fold.items() if value == value}
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
    progress = Progress()
    load(Path(chosen.run_dir))  # a damaged model is not published
    with progress.step(f"publish {chosen.run_dir}"):
        run_id = publish(Path(chosen.run_dir), chosen.tracking)
    progress.say(redact(f"MLflow run {run_id} at {chosen.tracking.uri}"))


if __name__ == "__main__":
    main()
