"""The MLflow face of a model: a pyfunc whose predict takes a table of articles and gives score rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # at run time: MLflow reads the type of `model_input`, and warns where it finds none
from mlflow.pyfunc import PythonModel, PythonModelContext

from slantwise.article import Article
from slantwise.errors import ModelError, ScoringError
from slantwise.model import MANIFEST, _read_json, code_checksum, load

COLUMNS = ("id", "text", "title", "source", "targets")


class ScoringModel(PythonModel):  # type: ignore[misc]
    """Columns in: text, and optionally id, title, source and targets (a list of names). One row out for each row."""

    def load_context(self, context: PythonModelContext) -> None:
        directory = Path(context.artifacts["model"])
        carried = _read_json(directory / MANIFEST).get("code_sha256")
        if carried != code_checksum():
            raise ModelError(
                f"{directory}: this model carries another release of slantwise than the one already imported here "
                f"({Path(__file__).parent}); load it in a process of its own, or with slantwise.model.load"
            )
        self.model = load(directory)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> list[dict[str, Any]]:
        """Score rows, one for each row of the table. Raises ScoringError for a row without text."""
        columns = {name: list(model_input[name]) for name in COLUMNS if name in model_input}
        n = len(model_input)
        if "text" not in columns:
            raise ScoringError(f"column 'text' is missing; the input has {', '.join(map(str, model_input)) or 'none'}")
        articles = [
            Article(
                id=_id(columns, i),
                text=_text(columns["text"][i], i),
                title=_string(columns, "title", i),
                source=_string(columns, "source", i),
            )
            for i in range(n)
        ]
        targets = [_targets(columns["targets"][i], i) if "targets" in columns else [] for i in range(n)]
        return self.model.predict(articles, targets)


def _string(columns: Mapping[str, Sequence[Any]], name: str, row: int) -> str | None:
    value = columns[name][row] if name in columns else None
    return value if isinstance(value, str) and value else None


def _id(columns: Mapping[str, Sequence[Any]], row: int) -> str:
    """The row's id as text, whatever its type, or its number from 1: as `slantwise score` has it."""
    value = columns["id"][row] if "id" in columns else None
    missing = value is None or value != value or not str(value).strip()
    return str(row + 1) if missing else str(value)


def _text(value: Any, row: int) -> str:
    # the value itself stays out of the message: servers log it
    if value is None or isinstance(value, float):  # NaN is how a table says "none"
        raise ScoringError(f"row {row}: the text is missing")
    if not isinstance(value, str):
        raise ScoringError(f"row {row}: the text is no text but {type(value).__name__}")
    if not value.strip():
        raise ScoringError(f"row {row}: the text is empty")
    return value


def _targets(value: Any, row: int) -> list[str]:
    if value is None or isinstance(value, float):
        return []
    targets = list(value) if not isinstance(value, str) else None
    if targets is None or not all(isinstance(t, str) and t.strip() for t in targets):
        raise ScoringError(f"row {row}: targets is no list of names")
    return [str(target) for target in targets]
