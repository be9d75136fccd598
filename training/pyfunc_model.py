"""The MLflow form of a model: pyfunc "models from code" with the model directory as artifact, its own copy of
`slantwise/`, a signature, an input example and the model's pinned requirements."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import slantwise
from slantwise.model import load, requirements
from slantwise.task import Task

CODE = Path(slantwise.__file__).parent
INPUT_EXAMPLE = {
    "id": ["a1"],
    "text": ["The city council voted on Monday to build the tram line. Residents had asked for it for years."],
    "title": ["Council backs the tram line"],
    "source": ["example.org"],
    "targets": [["city council", "tram line"]],
}


def log_model(directory: Path) -> None:
    """Log the model directory to the active MLflow run under the name `model`."""
    import mlflow

    with _arguments(directory) as arguments:
        mlflow.pyfunc.log_model(name="model", **arguments)


def save_model(directory: Path, output: Path) -> None:
    """Write the model directory as an MLflow model into `output`."""
    import mlflow

    with _arguments(directory) as arguments:
        mlflow.pyfunc.save_model(str(output), **arguments)


@contextmanager
def _arguments(directory: Path) -> Iterator[dict[str, Any]]:
    import pandas as pd

    logging.getLogger("mlflow.models.model").setLevel(logging.ERROR)  # says that the example is not run: intended
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # MLflow asks for type hints that would replace the signature given here
        warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)
        code = Path(scratch) / "slantwise"
        shutil.copytree(CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
        model = load(directory)
        model.save(Path(scratch) / "model")  # says that it goes with this release's code, whichever trained it
        yield {
            "python_model": str(Path(__file__).with_name("model_code.py")),
            "artifacts": {"model": str(Path(scratch) / "model")},
            "code_paths": [str(code)],
            "signature": signature(model.tasks),
            "input_example": pd.DataFrame(INPUT_EXAMPLE),
            "pip_requirements": [*requirements(model), f"mlflow=={version('mlflow')}"],
        }


def signature(tasks: list[Task]) -> Any:
    """Columns in (only text is required) and the score row out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    inputs = Schema(
        [
            ColSpec(DataType.string, "id", required=False),
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.string, "title", required=False),
            ColSpec(DataType.string, "source", required=False),
            ColSpec(Array(DataType.string), "targets", required=False),
        ]
    )
    outputs = Schema([ColSpec(DataType.string, "id"), *(ColSpec(_type_of(task), task.name) for task in tasks)])
    return ModelSignature(inputs=inputs, outputs=outputs)


def _type_of(task: Task) -> Any:
    from mlflow.types import DataType
    from mlflow.types.schema import Array, Object, Property

    probabilities = Property("probabilities", Object([Property(label, DataType.double) for label in task.labels]))
    if task.kind == "multilabel":
        return Object([Property("labels", Array(DataType.string)), probabilities])
    struct = [
        Property("label", DataType.string, required=False), Property("confidence", DataType.double), probabilities,
    ]  # fmt: skip
    return Array(Object([Property("target", DataType.string), *struct])) if task.has_target else Object(struct)
