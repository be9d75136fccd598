"""`slantwise train run=<run id>`: make a run again, from nothing but what MLflow holds of it.

Its resolved configuration is fetched and trained with as it is. Where the corpus, the code or a library differs from
what the run was made with, it is refused with the differences; anyway=true goes on, and the new run says so. At the end
the new predictions on test are compared with the old ones, bit by bit.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

import slantwise
from evaluation.predictions import Predictions
from slantwise.command import BAD_INPUT, Progress, explain, run, to_object, unique_name
from slantwise.errors import ConfigurationError
from training import config as schemas
from training.config import TrackingConfig, TrainConfig
from training.environment import ENCODER_LIBRARIES, LIBRARIES, code_fingerprint
from training.lineage import Past
from training.redact import redact
from training.system import hardware

MAX_TAG = 5000  # characters
SHOWN = 12  # characters of a checksum
KEYS = ("run", "anyway", "run_dir", "corpus.root", "corpus.path", "tracking")  # what may differ from the run


@dataclass
class MovedConfig:
    """Where the corpus is now, where that is not where it was."""

    root: str | None = None
    path: str | None = None


@dataclass
class ReproduceConfig:
    """`slantwise train run=<run id>`; see configs/reproduce.yaml."""

    run: str = MISSING
    anyway: bool = False
    run_dir: str = MISSING
    corpus: MovedConfig = field(default_factory=MovedConfig)
    tracking: TrackingConfig = MISSING


@dataclass(frozen=True)
class Change:
    """Something that is no longer what it was when the run was made."""

    name: str
    then: str
    now: str

    def __str__(self) -> str:
        return f"{self.name}: {self.then} -> {self.now}"


@dataclass(frozen=True)
class Origin:
    """The run that is to be made again; changes: in code and versions.

    tasks         the names of its tasks
    predictions   its predictions on test, by task
    """

    run_id: str
    corpus_sha256: str
    changes: Sequence[Change]
    predictions: Mapping[str, Predictions]
    anyway: bool

    def check(self, fingerprint: str) -> None:
        """Raises ConfigurationError with all differences, the corpus's first, where there are any."""
        changes = [str(change) for change in [*self._corpus(fingerprint), *self.changes]]
        if changes and not self.anyway:
            raise ConfigurationError(
                f"run {self.run_id} would not come out as it did; what it was made with -> what is here:\n  "
                + "\n  ".join(changes)
                + "\nexpected the same; anyway=true goes on all the same, and the new run records the differences"
            )

    def tags(self, fingerprint: str) -> dict[str, str]:
        """Of the new run."""
        changes = "; ".join(map(str, [*self._corpus(fingerprint), *self.changes]))
        return {"reproduces": self.run_id, "reproduced_with_changes": changes[:MAX_TAG] or "none"}

    def _corpus(self, fingerprint: str) -> list[Change]:
        if fingerprint == self.corpus_sha256:
            return []
        return [Change("corpus (sha256)", self.corpus_sha256[:SHOWN], fingerprint[:SHOWN])]

    def compare(self, directory: Path) -> str:
        """How the predictions in `directory` differ from the old ones, in words; reproduction.json has the figures."""
        found = {}
        for task, old in self.predictions.items():
            folder = directory if len(self.predictions) == 1 else directory / task
            found[task] = difference(old, Predictions.read(folder / "predictions.parquet"))
        (directory / "reproduction.json").write_text(
            json.dumps({"reproduces": self.run_id, "tasks": found}, indent=1) + "\n", encoding="utf-8"
        )
        return "\n".join(f"{task}: {_in_words(facts, self.run_id)}" for task, facts in found.items())


def difference(old: Predictions, new: Predictions) -> dict[str, Any]:
    """Whether two sets of predictions are the same bit by bit, and if not, how far apart."""
    if old.ids != new.ids or old.targets != new.targets or old.task != new.task:
        return {"examples": len(new.ids), "identical": False, "same_examples": False}
    apart = float(np.abs(old.probabilities.astype(np.float64) - new.probabilities).max(initial=0.0))
    labels = np.not_equal(old.predicted, new.predicted)
    changed = int((labels.any(axis=1) if labels.ndim == 2 else labels).sum())
    identical = old.probabilities.tobytes() == new.probabilities.tobytes() and not changed
    return {
        "examples": len(new.ids), "identical": identical, "same_examples": True, "largest_difference": apart,
        "changed_predictions": changed,
    }  # fmt: skip


def _in_words(facts: Mapping[str, Any], run_id: str) -> str:
    n = f"{facts['examples']:,}"
    if facts["identical"]:
        return f"the {n} predictions on test are bit by bit those of run {run_id}"
    if not facts["same_examples"]:
        return f"test holds other examples than that of run {run_id}"
    return (
        f"the {n} predictions on test differ from those of run {run_id}: probabilities by at most "
        f"{facts['largest_difference']:.2g}, {facts['changed_predictions']:,} of the labels"
    )


def main() -> None:
    from hydra.core.config_store import ConfigStore

    if others := other_keys(sys.argv[1:]):
        print(
            f"error: {', '.join(others)} cannot be set beside run=…, which keeps the run's configuration as it is; "
            f"expected {', '.join(KEYS)}; leave out run=… to train with another configuration",
            file=sys.stderr,
        )
        raise SystemExit(BAD_INPUT)
    schemas.register()
    ConfigStore.instance().store(name="reproduce_schema", node=ReproduceConfig)
    run("reproduce", _job)


def other_keys(arguments: Sequence[str]) -> list[str]:
    """The keys on a command line that would change what the run was made with."""
    given = [argument.partition("=")[0].lstrip("+~") for argument in arguments if re.match(r"[^-=][^=]*=", argument)]
    return [key for key in given if key not in KEYS and not key.startswith(("tracking.", "hydra.", "hydra/"))]


def _job(config: Any) -> None:
    from training.run import train

    chosen = to_object(config, ReproduceConfig)
    progress = Progress()
    past = Past(chosen.tracking, chosen.run, key="run")
    with progress.step(f"fetch run {past.run_id} from MLflow"), tempfile.TemporaryDirectory() as scratch:
        origin = _origin(past, Path(scratch), chosen.anyway)
        text = past.text("config.yaml")
    settings, resolved = configuration(text, chosen)
    now = hardware()
    moved = [f"{k}: {past.tags[k]} -> {v}" for k, v in now.items() if past.tags.get(k, v) != v]
    if moved:
        progress.warn(f"another machine may round otherwise: {'; '.join(moved)}")
    train(settings, resolved, progress, origin)


def _origin(past: Past, scratch: Path, anyway: bool) -> Origin:
    record = json.loads(past.text("run.json"))
    tasks = list(record["tasks"])
    folders = {task: "" if len(tasks) == 1 else f"{task}/" for task in tasks}
    predictions = {
        task: Predictions.read(past.fetch(f"{folder}predictions.parquet", scratch)) for task, folder in folders.items()
    }
    return Origin(past.run_id, past.tags["corpus_sha256"], changes_since(past.tags), predictions, anyway)


def changes_since(tags: Mapping[str, str]) -> list[Change]:
    """Where this code and these libraries are not those that the tags of a run name."""
    now = {
        "python": platform.python_version(),
        "slantwise": slantwise.__version__,
        **{name: _version(name) for name in (*LIBRARIES, *ENCODER_LIBRARIES)},
    }
    changes = [Change(name, tags[name], found) for name, found in now.items() if tags.get(name, found) != found]
    code = code_fingerprint()
    if tags.get("code_sha256") != code:
        commit = tags.get("git_commit", "none")[:SHOWN]
        changed = ", with the changes in its artifact code.diff" if tags.get("git_dirty") == "true" else ""
        then = f"{str(tags.get('code_sha256'))[:SHOWN]} (commit {commit}{changed})"
        changes.append(Change("code (sha256)", then, code[:SHOWN]))
    return changes


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def configuration(text: str, chosen: ReproduceConfig) -> tuple[TrainConfig, str]:
    """The configuration of the run, in a new run directory and told to the store that is asked for; and as YAML.

    Raises ConfigurationError where this release does not know a key of it.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    loaded: Any = OmegaConf.create(text)
    typed: Any = OmegaConf.structured(TrainConfig)
    try:
        backend = str(loaded.classifier._target_).split(".")[1]
        typed.classifier = ConfigStore.instance().load(f"classifier/{backend}_schema.yaml").node
        merged: Any = OmegaConf.merge(typed, loaded)
    except (OmegaConfBaseException, OSError) as error:
        raise ConfigurationError(f"run {chosen.run}: its configuration is none of this release's: {explain(error)}")  # noqa: B904
    merged.tracking = chosen.tracking
    merged.run_dir = chosen.run_dir if chosen.run_dir != "auto" else f"runs/{merged.name}-{unique_name()}"
    for name in ("root", "path"):
        if (where := getattr(chosen.corpus, name)) is not None:
            merged.corpus[name] = where
    return to_object(merged, TrainConfig), redact(OmegaConf.to_yaml(merged, resolve=True))
