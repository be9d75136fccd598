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


def save_model(directory: Path, output: Path, form: Any = None) -> None:
    """Write the model directory as an MLflow model into `output`; `form` is an mlflow.models.Model that names the run
    and the logged model that it belongs to."""
    import mlflow

    with _arguments(directory) as arguments:
        mlflow.pyfunc.save_model(str(output), mlflow_model=form, **arguments)


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
    """Columns in (only text is required) and the score row out.

    Of the inputs, only text has its type enforced by MLflow, which refuses whole batches: numbers as ids, a column
    without a single title, or one article's wrong targets are for the model to judge, row by row.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = Schema(
        [
            ColSpec(AnyType(), "id", required=False),
            ColSpec(DataType.string, "text"),
            ColSpec(AnyType(), "title", required=False),
            ColSpec(AnyType(), "source", required=False),
            ColSpec(AnyType(), "targets", required=False),
        ]
    )
    outputs = Schema(
        [
            ColSpec(DataType.string, "id"),
            ColSpec(DataType.string, "error", required=False),
            *(ColSpec(_type_of(task), task.name, required=False) for task in tasks),
        ]
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def _type_of(task: Task) -> Any:
    from mlflow.types import DataType
    from mlflow.types.schema import Array, Object, Property

    probabilities = Property("probabilities", Object([Property(label, DataType.float) for label in task.labels]))
    if task.kind == "multilabel":
        return Object([Property("labels", Array(DataType.string)), probabilities])
    struct = [
        Property("label", DataType.string, required=False), Property("confidence", DataType.float), probabilities,
    ]  # fmt: skip
    return Array(Object([Property("target", DataType.string), *struct])) if task.has_target else Object(struct)
