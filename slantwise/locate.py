"""Where a model is: a directory, a run directory, or an MLflow URI."""

from __future__ import annotations

import os
from pathlib import Path

from slantwise.errors import ModelError, TrackingError

MLFLOW_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/", "s3://", "gs://", "abfss://", "http://", "https://")
KEPT_BY_STORE = ("models:/", "runs:/")
DEFAULT_STORE = "sqlite:///mlruns/mlflow.db"


def locate_model(model: str) -> Path:
    """The local directory of a model; an MLflow URI is downloaded first.

    The tracking server is the one of the environment variable MLFLOW_TRACKING_URI, else the local store of
    `tracking=local`. Raises ModelError or TrackingError.
    """
    if not model.startswith(MLFLOW_SCHEMES):
        path = Path(model).expanduser()
        if not path.exists():
            raise ModelError(f"{path} does not exist; expected a model or run directory, or an MLflow URI")
        return path
    local = Path(DEFAULT_STORE.removeprefix("sqlite:///"))
    if model.startswith(KEPT_BY_STORE) and "MLFLOW_TRACKING_URI" not in os.environ and not local.exists():
        # MLflow would make an empty store here
        raise TrackingError(f"{model}: there is no MLflow store {local} here; set MLFLOW_TRACKING_URI to yours")
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(DEFAULT_STORE)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=model))
    except (MlflowException, RequestException, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrackingError(f"{model} cannot be had from MLflow at {mlflow.get_tracking_uri()}: {first}") from error
