"""The MLflow face of a model: a pyfunc whose predict takes a table of articles and gives score rows.

The same rows as from `slantwise score` and from Spark (slantwise.scores); a row that cannot be scored has an error code
and nulls, and the others are none the worse for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # at run time: MLflow reads the type of `model_input`, and warns where it finds none
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel, PythonModelContext

from slantwise.errors import ModelError, ScoringError
from slantwise.inputs import BAD_TARGETS, WRONG_TYPE, InputOptions, Rejection, Request, parse
from slantwise.model import MANIFEST, Model, _read_json, code_checksum, load
from slantwise.scores import answerable, score_rows

COLUMNS = ("id", "text", "title", "source", "targets")
OPTIONS = InputOptions()
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # set by MLflow's server and by `mlflow models predict`


class ScoringModel(PythonModel):  # type: ignore[misc]
    """Columns in: text, and optionally id, title, source and targets. One row out for each row in, in their order."""

    model: Model

    def load_context(self, context: PythonModelContext) -> None:
        """Raises ModelError where the model is damaged, or where another release's code is already imported here."""
        directory = Path(context.artifacts["model"])
        carried = _read_json(directory / MANIFEST).get("code_sha256")
        if carried != code_checksum():
            raise ModelError(
                f"{directory}: this model carries another release of slantwise than the one already imported here "
                f"({Path(__file__).parent}); load it in a process of its own, or with slantwise.model.load"
            )
        self.model = load(directory)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> list[dict[str, Any]]:
        """Score rows, one for each row of the table. Raises ScoringError where there is no column `text`.

        A request to a server is refused (400) where it holds no rows, or none with values of the right types.
        """
        names = [name for name in COLUMNS if name in model_input]
        if "text" not in names:
            found = ", ".join(map(repr, model_input)) or "none"
            raise ScoringError(f"column 'text' is missing; the input has {found}")
        rows = zip(*(model_input[name] for name in names), strict=True)
        parsed = (parse(dict(zip(names, row, strict=True)), n, OPTIONS) for n, row in enumerate(rows, start=1))
        requests = [answerable(self.model, request) for request in parsed]
        if os.environ.get(SERVING) == "true":
            _check_request(requests)
        scores = score_rows(self.model, requests)
        return _without_nulls(scores, self.model) if _in_spark_task() else scores


class RefusedRequest(MlflowException):  # type: ignore[misc]
    """A request that is answered with 400 and this message alone.

    MLflow's server puts the request's data before the message of an error; articles have no place there.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason, error_code=BAD_REQUEST)

    @property
    def message(self) -> str:
        return self.reason

    @message.setter
    def message(self, value: str) -> None:
        pass


def _check_request(requests: Sequence[Request | Rejection]) -> None:
    """Raises RefusedRequest where the whole request is not as documented; single rows get an error code instead."""
    if not requests:
        raise RefusedRequest("the request holds no rows; expected one article or more")
    first = requests[0]
    wrong = (isinstance(r, Rejection) and r.code in (WRONG_TYPE, BAD_TARGETS) for r in requests)
    if isinstance(first, Rejection) and all(wrong):
        raise RefusedRequest(f"no row has values of the documented types; the first: {first.field}: {first.reason}")


def _in_spark_task() -> bool:
    pyspark = sys.modules.get("pyspark")
    return pyspark is not None and pyspark.TaskContext.get() is not None


def _without_nulls(rows: list[dict[str, Any]], model: Model) -> list[dict[str, Any]]:
    """The rows as `mlflow.pyfunc.spark_udf` can convert them: it fails at a null in place of a struct or of a list of
    them, and makes the text "nan" of a null among texts (MLflow 3.17). So a rejected row has a struct of nulls or an
    empty list, and a scored one an empty `error`."""
    empty = {name: [] if head.task.has_target else _nulls(head.task.labels) for name, head in model.heads.items()}
    return [
        {k: empty[k] if v is None and k in empty else "" if v is None else v for k, v in row.items()} for row in rows
    ]


def _nulls(labels: Sequence[str]) -> Mapping[str, Any]:
    return {"label": None, "labels": None, "confidence": None, "probabilities": dict.fromkeys(labels)}
