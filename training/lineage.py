"""`slantwise lineage`: from a registered model back to its run, configuration, data and report.

Everything comes from the MLflow server or store; the run's directory need not be there any more.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from evaluation.intervals import Estimate
from evaluation.tables import format_estimate
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, TrackingError
from training import config as schemas
from training.config import TrackingConfig
from training.journal import Told
from training.redact import redact
from training.store import Store

# What is printed where no output is given, and the artifacts that are fetched as files.
PRINTED = {"config": "config.yaml", "log": "log.txt", "diff": "code.diff"}
FETCHED = {"report": "report.html", "predictions": "predictions.parquet", "split": "split.parquet"}
SHOWS = ("run", "data", *PRINTED, *FETCHED, "all")
EXPECTED = "models:/<name>@<alias>, models:/<name>/<version>, runs:/<id>/model, a run's id, or a run directory"


@dataclass
class LineageConfig:
    """`slantwise lineage`; see configs/lineage.yaml."""

    model: str = MISSING
    show: str = "run"
    output: str | None = None
    tracking: TrackingConfig = MISSING

    def __post_init__(self) -> None:
        if self.show not in SHOWS:
            raise ConfigurationError(f"show={self.show}; expected one of {', '.join(SHOWS)}")


class Past:
    """A run as MLflow holds it; `key` is what names it on the command line.

    Raises TrackingError where the store cannot be used or has no such run or file, ConfigurationError where `model`
    can be none.
    """

    def __init__(self, tracking: TrackingConfig, model: str, key: str = "model") -> None:
        path = Path(tracking.uri.removeprefix("sqlite:///"))
        if tracking.uri.startswith("sqlite:///") and not path.exists():  # MLflow would make an empty one
            raise TrackingError(f"there is no MLflow store {path} here; set MLFLOW_TRACKING_URI, or tracking.uri=…")
        self.store, self.key = Store(tracking), key
        self.version: Any = None
        self.run_id = self._run_of(model)
        self.run: Any = self.store.ask(lambda: self.store.client.get_run(self.run_id))
        self.tags: Mapping[str, str] = self.run.data.tags

    def _run_of(self, model: str) -> str:
        client, ask = self.store.client, self.store.ask
        if found := re.fullmatch(r"models:/(m-[0-9a-f]+)", model):
            model_id = found[1]
            return str(ask(lambda: client.get_logged_model(model_id)).source_run_id)
        if found := re.fullmatch(r"models:/([^/@]+)(?:@(.+)|/(\d+))", model):
            name, alias, number = found.groups()
            get = client.get_model_version_by_alias if alias else client.get_model_version
            self.version = ask(lambda: get(name, alias or number))
        elif found := re.fullmatch(r"(?:runs:/)?([0-9a-f]{32})(?:/.*)?", model):
            return found[1]
        elif (told := Told.read(Path(model))) is not None and told.run_id is not None:
            return told.run_id
        else:
            raise ConfigurationError(f"{self.key}={model}; expected {EXPECTED}")
        if self.version.run_id:
            return str(self.version.run_id)
        if str(self.version.source).startswith("models:/m-"):  # registered by a logged model's id alone
            return self._run_of(self.version.source)
        raise TrackingError(f"{model} names no run: it was registered from {self.version.source}")

    def files(self, folder: str | None = None) -> Iterator[str]:
        """The paths of all artifacts."""
        for each in self.store.ask(lambda: self.store.client.list_artifacts(self.run_id, folder)):
            if each.is_dir:
                yield from self.files(each.path)
            else:
                yield each.path

    def fetch(self, path: str, folder: Path) -> Path:
        """One artifact (or, with an empty path, all of them) as a file below the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        client = self.store.client
        return Path(self.store.ask(lambda: client.download_artifacts(self.run_id, path, str(folder))))

    def text(self, path: str) -> str:
        with tempfile.TemporaryDirectory() as scratch:
            return self.fetch(path, Path(scratch)).read_text(encoding="utf-8")


def main() -> None:
    from hydra.core.config_store import ConfigStore

    schemas.register()
    ConfigStore.instance().store(name="lineage_schema", node=LineageConfig)
    run("lineage", _job)


def _job(config: Any) -> None:
    chosen = to_object(config, LineageConfig)
    output = None if chosen.output is None else Path(chosen.output)
    if output is not None and output.exists():
        raise ConfigurationError(f"output={output} exists; expected a new file or folder")
    past = Past(chosen.tracking, chosen.model)
    if chosen.show in ("run", "data"):
        facts = run_facts(past) if chosen.show == "run" else data_facts(past)
        _tell(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120), output)
    elif chosen.show in PRINTED:
        _tell(past.text(_existing(past, PRINTED[chosen.show])[0]), output)
    else:
        print(_fetch(past, chosen.show, output))
    if output is not None:
        Progress().say(f"{chosen.show} of run {past.run_id}: {output}")


def _tell(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def _existing(past: Past, name: str) -> list[str]:
    """The artifacts of this name: one, or one in the folder of each task."""
    found = [path for path in past.files() if path.rpartition("/")[2] == name and path.count("/") <= 1]
    if not found:
        there = ", ".join(path for path in past.files() if "/" not in path)
        raise TrackingError(f"run {past.run_id} holds no {name}; it holds {there or 'no files'}")
    return found


def _fetch(past: Past, show: str, output: Path | None) -> Path:
    """The file (of several tasks, or with show=all: the folder) that was written."""
    short = past.run_id[:8]
    paths = _existing(past, FETCHED[show]) if show in FETCHED else []
    if len(paths) == 1:
        output = output or Path(f"{short}-{FETCHED[show]}")
        if output.exists():
            raise ConfigurationError(f"{output} exists; expected output=<a new file>")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copyfile(past.fetch(paths[0], Path(scratch)), output)
        return output
    output = output or Path(f"run-{short}")
    for path in paths or [""]:
        past.fetch(path, output)
    return output


def run_facts(past: Past) -> dict[str, Any]:
    """Which run it was: when, by which command and code, on what, and what came out."""
    info, tags, version = past.run.info, past.tags, past.version
    facts: dict[str, Any] = {}
    if version is not None:
        facts["model"] = {
            "name": version.name, "version": str(version.version), "aliases": list(version.aliases),
            **version.tags,
        }  # fmt: skip
    facts["run"] = {
        "id": past.run_id, "name": info.run_name, "status": info.status, "started": _time(info.start_time),
        "ended": _time(info.end_time), "at": redact(past.store.config.uri),
    }  # fmt: skip
    dirty = tags.get("git_dirty") == "true"
    names = ("command", "git_commit", "code_sha256", "slantwise", "python", "processor", "gpu", "reproduces")
    facts["made"] = {name: tags[name] for name in names if name in tags}
    if dirty:
        facts["made"]["git_dirty"] = "yes: show=diff"
    facts["corpus"] = {"name": past.run.data.params.get("corpus"), "sha256": tags.get("corpus_sha256")}
    if "run.json" in (files := list(past.files())):
        facts["test"] = _figures(json.loads(past.text("run.json")))
    decisions = [path for path in files if path.startswith("promotions/")]
    if decisions:
        facts["promotions"] = [_decision(json.loads(past.text(path)), path) for path in sorted(decisions)]
    facts["files"] = sorted(files)
    return facts


def _figures(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {metric: _figure(Estimate(**task["metrics"][metric])) for metric in task["headline"]}
        for name, task in record.get("tasks", {}).items()
    }


def _figure(estimate: Estimate) -> str:
    value, interval = format_estimate(estimate)
    return f"{value} ({interval})" if interval else value


def _decision(evidence: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {name: evidence[name] for name in ("time", "decision", "reason", "champion")} | {"evidence": path}


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def data_facts(past: Past) -> dict[str, Any]:
    """What it learned from and was judged on: fingerprints, numbers of examples, sources."""
    found = {}
    for each in past.run.inputs.dataset_inputs:
        context = next((tag.value for tag in each.tags if tag.key == "mlflow.data.context"), each.dataset.name)
        source, profile = json.loads(each.dataset.source), json.loads(each.dataset.profile or "{}")
        found[context] = {"name": each.dataset.name, "examples": profile.get("num_rows"), "digest": each.dataset.digest,
                          "files": source.get("files", []), "urls": source.get("urls", [])}  # fmt: skip
    return {"corpus_sha256": past.tags.get("corpus_sha256"), "splits": {k: found[k] for k in sorted(found)}}


if __name__ == "__main__":
    main()
