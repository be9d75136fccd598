"""`slantwise export`: the heads of one or more runs become one model, as an MLflow pyfunc directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError
from slantwise.model import Head, Model, load
from training.pyfunc_model import save_model


@dataclass
class ExportConfig:
    """`slantwise export`."""

    runs: list[str] = field(default_factory=list)  # run directories, one for each task of the model
    output: str = MISSING  # a new folder for the MLflow model


def main() -> None:
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="export_schema", node=ExportConfig)
    run("export", _job)


def _job(config: Any) -> None:
    chosen = to_object(config, ExportConfig)
    progress = Progress()
    with progress.step("export"):
        model = export([Path(path) for path in chosen.runs], Path(chosen.output))
    progress.say(f"{chosen.output}: {', '.join(task.name for task in model.tasks)}")


def export(runs: Sequence[Path], output: Path) -> Model:
    """Write one MLflow model with the heads of all runs; all or nothing.

    Raises ConfigurationError where two runs are of one task or the output exists.
    """
    if not runs:
        raise ConfigurationError("runs is empty; expected run directories, as in runs=[runs/a,runs/b]")
    if output.exists():
        raise ConfigurationError(f"output={output} exists; expected a new folder")
    heads: dict[str, Head] = {}
    for path in runs:
        for name, head in load(path).heads.items():
            if name in heads:
                raise ConfigurationError(
                    f"{path} is another model of task {name}; a model holds one head for each task"
                )
            heads[name] = head
    model = Model(heads)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as scratch:
        model.save(Path(scratch) / "model")
        save_model(Path(scratch) / "model", Path(scratch) / "mlflow")
        shutil.move(Path(scratch) / "mlflow", output)
    return model


if __name__ == "__main__":
    main()
