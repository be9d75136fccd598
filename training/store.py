"""An MLflow store or server, asked in such a way that everything may be asked again after an outage."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slantwise.errors import TrackingError
from training.journal import Entry
from training.redact import redact

if TYPE_CHECKING:
    from training.config import TrackingConfig

T = TypeVar("T")
KEY_TAG, MODEL_TAG = "slantwise_run_key", "slantwise_sha256"
MODEL = "model"
BATCH = 1000  # metrics in one request; MLflow takes no more
CONNECTIONS = 8  # files sent at a time
LONGEST = 300  # characters of MLflow's message in an error
# The columns by which runs are compared: what they were trained on, and how good they are.
VIEW = "slantwise"
COLUMNS = [
    "attributes.`Created`", "attributes.`Duration`",
    *(f"metrics.`{name}`" for name in ("test_macro_f1", "test_micro_f1", "test_accuracy", "test_ece")),
    *(f"params.`{name}`" for name in ("task", "corpus", "classifier", "split")),
]  # fmt: skip
# Of a new experiment: it holds runs of models, not chats and traces, and the address of its table of runs with
# ?viewStateShareKey=slantwise shows these columns.
EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": COLUMNS}),
}


class Store:
    """Each method may be called again: what is there is left, what is missing is added. All raise TrackingError."""

    def __init__(self, config: TrackingConfig, stopped: threading.Event | None = None) -> None:
        self.config, self.stopped = config, stopped or threading.Event()
        # requests are repeated by this class alone: MLflow repeats the making of a run, too, and then there are two
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(1, round(config.timeout)))
        logging.getLogger("alembic").setLevel(logging.WARNING)  # the making of a new SQLite store is no news
        import mlflow

        with self._sqlite_lock():
            self.client: Any = self.ask(lambda: mlflow.MlflowClient(config.uri))

    @contextmanager
    def _sqlite_lock(self) -> Iterator[None]:
        """Two processes that make the same new SQLite store at once break it."""
        if not self.config.uri.startswith("sqlite:///"):
            yield
            return
        path = Path(self.config.uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                self._make_aside(path)
            yield

    def _make_aside(self, path: Path) -> None:
        """A process that is killed while MLflow makes a store would leave one that no other can use."""
        import mlflow

        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        self.ask(lambda: mlflow.MlflowClient(f"sqlite:///{partial}"))
        partial.rename(path)

    def ask(self, call: Callable[[], T]) -> T:
        """The answer to a call of MLflow's."""
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        if self.stopped.is_set():
            raise TrackingError("stopped")
        try:
            return call()
        except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
            problem = "has no such thing" if _is_not_there(error) else "cannot be used"
            raise TrackingError(redact(f"MLflow at {self.config.uri} {problem}: {first_line(error)}")) from error

    # --- the run ---

    def experiment(self) -> str:
        """The experiment's id; a new one of a database store keeps its files where the configuration says."""
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        known = self.ask(lambda: self.client.get_experiment_by_name(name))
        if known is not None:
            return str(known.experiment_id)
        location = None
        if self.config.artifacts and not self.config.uri.startswith("http"):
            location = Path(self.config.artifacts).resolve().as_uri()
        try:
            return str(self.ask(lambda: self.client.create_experiment(name, location, EXPERIMENT)))
        except TrackingError as error:
            # another run may have made it at the same moment
            if isinstance(error.__cause__, MlflowException):
                known = self.ask(lambda: self.client.get_experiment_by_name(name))
            if known is None:
                raise
            return str(known.experiment_id)

    def find(self, key: str) -> str | None:
        """The run with this key. Of several, which requests leave that were thought lost, the first is kept."""
        experiment = self.experiment()
        found = self.ask(
            lambda: self.client.search_runs([experiment], f"tags.{KEY_TAG} = '{key}'", order_by=["start_time ASC"])
        )
        for spare in found[1:]:
            self.ask(lambda run=spare: self.client.delete_run(run.info.run_id))  # type: ignore[misc]
        return str(found[0].info.run_id) if found else None

    def create(self, key: str, record: Mapping[str, Any]) -> str:
        """A new run with the key; look for it with `find` first."""
        experiment = self.experiment()
        tags = {**record["tags"], **_run_tags(record["tags"]), KEY_TAG: key}
        start = record.get("started")
        made = self.ask(lambda: self.client.create_run(experiment, start, tags, record["name"]))
        return str(made.info.run_id)

    def describe(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Parameters, tags and data sets."""
        from mlflow.entities import Param, RunTag

        parameters = [Param(name, str(value)) for name, value in record["parameters"].items()]
        tags = [RunTag(name, value) for name, value in record["tags"].items()]
        self.ask(lambda: self.client.log_batch(run_id, (), parameters, tags))
        inputs = [_input(data) for data in record["datasets"]]
        self.ask(lambda: self.client.log_inputs(run_id, inputs))

    def set_status(self, run_id: str, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        if status == "RUNNING":
            self.ask(lambda: self.client.update_run(run_id, status))
        else:
            with redirect_stdout(io.StringIO()):  # MLflow prints the run's address; the command tells it itself
                self.ask(lambda: self.client.set_terminated(run_id, status))

    # --- metrics ---

    def unknown(self, run_id: str, entries: Sequence[Entry]) -> list[Entry]:
        """The entries without what the run holds already: some stores keep a metric twice that is sent twice."""
        there = set(self.ask(lambda: self.client.get_run(run_id)).data.metrics)
        names = {name for entry in entries for name in entry.metrics} & there
        steps = {name: self._steps(run_id, name) for name in names}

        def rest(entry: Entry) -> Entry:
            new = {name: v for name, v in entry.metrics.items() if entry.step not in steps.get(name, ())}
            return Entry(entry.time, entry.step, new, entry.final)

        return [entry for entry in map(rest, entries) if entry.metrics]

    def _steps(self, run_id: str, name: str) -> set[int]:
        return {metric.step for metric in self.ask(lambda: self.client.get_metric_history(run_id, name))}

    def send(self, run_id: str, entries: Sequence[Entry], model_id: str | None = None) -> None:
        """Tell the metrics; the final ones are the model's, too."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, entry.time, entry.step, model_id=model_id if entry.final else None)
            for entry in entries
            for name, value in entry.metrics.items()
        ]
        for start in range(0, len(metrics), BATCH):
            self.ask(lambda part=metrics[start : start + BATCH]: self.client.log_batch(run_id, part))  # type: ignore[misc]

    # --- files and the model ---

    def send_files(self, run_id: str, files: Sequence[tuple[Path, str | None]]) -> None:
        """Put each file into its folder of the run's artifacts; one that is there is replaced."""

        def send(file: tuple[Path, str | None]) -> None:
            self.ask(lambda: self.client.log_artifact(run_id, str(file[0]), file[1]))

        workers = CONNECTIONS if self.config.uri.startswith("http") else 1
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(send, files))

    def model(self, run_id: str, checksum: str, parameters: Mapping[str, Any]) -> tuple[str, bool]:
        """The run's logged model with this checksum, made where it is not there, and whether it is whole."""
        run = self.ask(lambda: self.client.get_run(run_id))
        experiment = run.info.experiment_id
        known = self.ask(
            lambda: self.client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{MODEL}'")
        )
        for each in known:
            if each.tags.get(MODEL_TAG) == checksum:
                return str(each.model_id), str(each.status) == "READY"
        for each in known:  # of an attempt before the one that these files are of
            if MODEL_TAG in each.tags:
                self.ask(lambda model=each: self.client.delete_logged_model(model.model_id))  # type: ignore[misc]
        settings = {name: str(value) for name, value in parameters.items()}
        made = self.ask(
            lambda: self.client.create_logged_model(experiment, MODEL, run_id, {MODEL_TAG: checksum}, settings)
        )
        return str(made.model_id), False

    def send_model(self, run_id: str, model_id: str, directory: Path) -> None:
        """The model directory as MLflow's pyfunc model, into the logged model that was made for it."""
        from mlflow.models import Model

        from training.pyfunc_model import save_model

        location = self.ask(lambda: self.client.get_logged_model(model_id)).artifact_location
        with tempfile.TemporaryDirectory(prefix="slantwise-") as scratch:
            form = Model(artifact_path=location, model_uuid=model_id, run_id=run_id, model_id=model_id)
            save_model(directory, Path(scratch) / MODEL, form)
            self.ask(lambda: self.client.log_model_artifacts(model_id, str(Path(scratch) / MODEL)))
        self.ask(lambda: self.client.finalize_logged_model(model_id, "READY"))

    def link_model(self, run_id: str, model_id: str) -> None:
        """The run gave this model."""
        from mlflow.entities import LoggedModelOutput

        outputs = self.ask(lambda: self.client.get_run(run_id)).outputs
        if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
            self.ask(lambda: self.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)]))


def first_line(error: BaseException) -> str:
    """Of the error's message, without the code that a server puts before it; a long one ends at a word and with "…"."""
    text = str(error).strip().removeprefix(f"{getattr(error, 'error_code', '')}: ")
    first = (text.splitlines() or [type(error).__name__])[0]
    if len(first) <= LONGEST:
        return first
    cut = first[:LONGEST]
    return (cut.rpartition(" ")[0] or cut) + " …"


def _is_not_there(error: BaseException) -> bool:
    """Whether the store answered that it has no such run, model, version or alias; an alias has another code."""
    code = getattr(error, "error_code", None)
    return code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and "not found" in str(error))


def _run_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """MLflow's own, from which its UI fills the columns user, source and version."""
    own = {"mlflow.user": tags.get("user"), "mlflow.source.name": tags.get("command"), "mlflow.source.type": "LOCAL",
           "mlflow.source.git.commit": tags.get("git_commit")}  # fmt: skip
    return {name: value for name, value in own.items() if value}


def _input(data: Mapping[str, Any]) -> Any:
    """A data set as MLflow has it: where it came from, which articles it holds, and how many."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    urls, paths = data.get("urls", ()), data["source"]
    where = {"url": urls[0]} if urls else {"uri": paths[0]} if paths else {}
    source = json.dumps({**where, "urls": list(urls), "files": list(paths)})
    profile = json.dumps({"num_rows": data.get("rows"), "corpus_sha256": data.get("corpus_sha256")})
    one = Dataset(data["name"], data["digest"], "http" if urls else "local", source, profile=profile)
    return DatasetInput(one, [InputTag("mlflow.data.context", data["context"])])
