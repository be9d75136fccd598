"""`slantwise export`: the heads of one or more runs become one model, as an MLflow pyfunc directory.

Encoders go out as they were trained, or as ONNX graphs; those are compared with the trained ones on validation examples
first, and where the answers differ by more than the tolerance, nothing is written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError
from slantwise.model import Head, Model, load
from training.pyfunc_model import save_model

FORMATS = ("torch", "onnx", "onnx_int8")


@dataclass
class Tolerance:
    """How far an ONNX model may be from the torch model that it was made from; see configs/export.yaml."""

    equal_labels: float = 1.0
    difference: float | None = 1e-4
    metric: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.equal_labels <= 1:
            raise ConfigurationError(f"tolerance: equal_labels={self.equal_labels}; expected a share, 0 to 1")
        for name in ("difference", "metric"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigurationError(f"tolerance: {name}={value}; expected 0 or more")


@dataclass
class Tolerances:
    onnx: Tolerance = field(default_factory=Tolerance)
    onnx_int8: Tolerance = field(default_factory=lambda: Tolerance(0.99, None, 0.005))


@dataclass
class ExportConfig:
    """`slantwise export`; see configs/export.yaml for what each option does."""

    runs: list[str] = field(default_factory=list)  # run directories, one for each task of the model
    output: str = MISSING  # a new folder for the MLflow model
    format: str = "torch"
    tolerance: Tolerances = field(default_factory=Tolerances)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigurationError(f"format={self.format}; expected one of {', '.join(FORMATS)}")


def main() -> None:
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="export_schema", node=ExportConfig)
    run("export", _job)


def _job(config: Any) -> None:
    chosen = to_object(config, ExportConfig)
    progress = Progress()
    runs = [Path(path) for path in chosen.runs]
    model = export(runs, Path(chosen.output), chosen.format, chosen.tolerance, progress)
    progress.say(f"{chosen.output}: {', '.join(task.name for task in model.tasks)}")


def export(
    runs: Sequence[Path], output: Path, format: str = "torch", tolerance: Tolerances | None = None,
    progress: Progress | None = None,
) -> Model:  # fmt: skip
    """Write one MLflow model with the heads of all runs; all or nothing.

    Raises ConfigurationError where two runs are of one task, the output exists, or a run cannot become ONNX; ModelError
    where an ONNX model is beyond the tolerance.
    """
    progress = progress or Progress(quiet=True)
    if not runs:
        raise ConfigurationError("runs is empty; expected run directories, as in runs=[runs/a,runs/b]")
    if output.exists():
        raise ConfigurationError(f"output={output} exists; expected a new folder")
    heads, origins = _heads(runs)
    with tempfile.TemporaryDirectory(prefix="slantwise-") as graphs:
        if format != "torch":
            heads = _converted(heads, origins, format, tolerance or Tolerances(), Path(graphs), progress)
        with progress.step("write the model"):
            _write(Model(heads), output)
    return load(output, device="cpu")


def _heads(runs: Sequence[Path]) -> tuple[dict[str, Head], dict[str, Path]]:
    """By task the head and the run that it comes from."""
    heads: dict[str, Head] = {}
    origins: dict[str, Path] = {}
    for path in runs:
        for name, head in load(path, device="cpu").heads.items():
            if name in heads:
                raise ConfigurationError(
                    f"{path} is another model of task {name}; a model holds one head for each task"
                )
            heads[name], origins[name] = head, path
    return heads, origins


def _converted(
    heads: Mapping[str, Head], origins: Mapping[str, Path], format: str, tolerances: Tolerances, folder: Path,
    progress: Progress,
) -> dict[str, Head]:  # fmt: skip
    """The heads on ONNX Runtime, within the tolerance of their format."""
    for name, head in heads.items():
        if head.body is None:
            raise ConfigurationError(
                f"format={format}: {origins[name]} is a {head.kind} model of task {name}, which has no encoder; export "
                "it with format=torch, which leaves linear models as they are"
            )
        if head.body.runtime.kind != "torch":
            raise ConfigurationError(
                f"format={format}: {origins[name]} is an ONNX model already; expected the run that it was made from"
            )
    try:
        from training.onnx import converted_heads
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'format={format} needs {error.name}, which is not installed: pip install -e ".[transformers]"'
        ) from error
    found = {}
    tolerance = tolerances.onnx_int8 if format == "onnx_int8" else tolerances.onnx
    with progress.step(f"convert to {format} and compare"):
        for name, head, parity in converted_heads(heads, origins, format, tolerance, folder):
            progress.say(f"  {name}: {parity}")
            found[name] = head
    return found


def _write(model: Model, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as scratch:
        model.save(Path(scratch) / "model")
        save_model(Path(scratch) / "model", Path(scratch) / "mlflow")
        shutil.move(Path(scratch) / "mlflow", output)


if __name__ == "__main__":
    main()
