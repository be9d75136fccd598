"""Tracking servers that are away, slow or broken: the run finishes, nothing is missing and nothing is there twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_repositories
from tracking_servers import FaultyProxy, Postgres, TrackingServer, wait_for

from data.config import CleaningConfig, CorpusConfig, SplitConfig, SplitKind
from evaluation import plots
from evaluation.judge import EvaluationConfig
from slantwise.command import Progress
from slantwise.errors import TrackingError
from tests.conftest import during_training
from training import publisher, tracking
from training.config import TaskConfig, TrackingConfig, TrainConfig
from training.decisions import DecisionConfig
from training.journal import Journal, Told
from training.linear import LinearConfig
from training.run import train

PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt"></svg>'
# The slow hash of a password is computed once, not for each request.
AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///{}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 300
"""
Fault = Callable[[int, str, str], float | str | None]


@pytest.fixture
def proxy(tracking_server: TrackingServer) -> Iterator[FaultyProxy]:
    made = FaultyProxy(tracking_server.uri)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no drawing, which takes longer than all the rest."""
    monkeypatch.setattr(plots, "render", lambda name, size, draw: PICTURE)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setattr(publisher, "PAUSE", 0.1)
    monkeypatch.setattr(tracking, "WAIT", 0.0)


def configuration(folder: Path, corpus: Path, uri: str, **changes: Any) -> TrainConfig:
    """A small cross-validation; each test has an experiment of its own."""
    given: dict[str, Any] = {
        "task": TaskConfig("topic"), "corpus": CorpusConfig(name="tiny", path=str(corpus)),
        "cleaning": CleaningConfig(), "split": SplitConfig(kind=SplitKind.kfold, folds=2),
        "classifier": LinearConfig(C=[1.0], char_ngrams=[0, 0]), "decision": DecisionConfig(),
        "evaluation": EvaluationConfig(resamples=10), "name": "test", "run_dir": str(folder / "run"),
        "tracking": TrackingConfig(uri=uri, artifacts=None, experiment=folder.name, timeout=30), "shortcuts": False,
    }  # fmt: skip
    return TrainConfig(**{**given, **changes})


def run(config: TrainConfig) -> tuple[Path, str]:
    """The run directory, and what a person was told."""
    progress = Progress(quiet=True)
    directory = train(config, f"name: {config.name}\n", progress).directory
    return directory, progress.console.export_text()


def runs_of(server: TrackingServer, config: TrainConfig) -> list[Any]:
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def assert_complete(server: TrackingServer, config: TrainConfig, directory: Path) -> None:
    """MLflow holds what the directory holds, all of it, once."""
    client = mlflow.MlflowClient(server.uri)
    (found,) = runs_of(server, config)
    run_id = found.info.run_id
    assert found.info.status == "FINISHED"
    entries, _ = Journal(directory).after(0)
    written = {(name, e.step): value for e in entries for name, value in e.metrics.items()}
    told = [
        (name, metric.step, metric.value)
        for name in found.data.metrics
        for metric in client.get_metric_history(run_id, name)
    ]
    assert {(name, step): value for name, step, value in told} == pytest.approx(written)
    assert len(told) == len(written)
    record = json.loads((directory / "run.json").read_text())
    assert found.data.params == {name: str(value) for name, value in record["parameters"].items()}
    assert {i.tags[0].value for i in found.inputs.dataset_inputs} == {"train", "validation", "test"}
    assert len(found.inputs.dataset_inputs) == 3
    local = Path(client.download_artifacts(run_id, ""))
    for path, folder in tracking._files(directory, record):
        # log.txt goes on after it was sent
        assert path.name == "log.txt" or (local / (folder or "") / path.name).read_bytes() == path.read_bytes()
    (model,) = client.search_logged_models([found.info.experiment_id])
    assert [output.model_id for output in found.outputs.model_outputs] == [model.model_id]
    assert str(model.status) == "READY"
    mlflow.set_tracking_uri(server.uri)
    whole = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}")
    assert (Path(whole) / "MLmodel").is_file()
    kept = {p.name for p in (Path(whole) / "artifacts" / "model").rglob("*") if p.is_file()}
    assert {p.name for p in (directory / "model").rglob("*") if p.is_file()} <= kept


def test_a_run_is_open_while_it_trains_and_its_metrics_appear(
    tmp_path: Path, tiny_path: Path, tracking_server: TrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, tiny_path, tracking_server.uri)
    seen: list[Any] = []

    def look(workspace: Any) -> None:
        workspace.record({"loss": 0.5}, 1)
        if not seen:
            wait_for(lambda: any("fold_1_loss" in run.data.metrics for run in runs_of(tracking_server, config)))
            seen.extend(runs_of(tracking_server, config))

    during_training(monkeypatch, look)
    directory, _ = run(config)
    assert [one.info.status for one in seen] == ["RUNNING"]
    assert seen[0].info.run_name == "test"
    assert seen[0].data.params["classifier.C"] == "[1.0]"
    assert len(seen[0].data.tags["corpus_sha256"]) == 64
    assert_complete(tracking_server, config, directory)
    assert tracking.publish(directory, config.tracking) == seen[0].info.run_id
    assert_complete(tracking_server, config, directory)


def after(first: int, fault: float | str) -> Fault:
    return lambda number, method, path: fault if number >= first else None


def every(nth: int, fault: float | str) -> Fault:
    return lambda number, method, path: fault if number % nth == 0 else None


FAULTS: dict[str, Fault] = {
    "away from the start": after(1, "away"),
    "away while it is opened": after(4, "away"),
    "away while results are sent": after(14, "away"),
    "away while files are sent": lambda number, method, path: "away" if method == "PUT" else None,
    "errors for the model": lambda number, method, path: "500" if "logged-models" in path else None,
    "answers lost from the start": after(1, "lost"),
    "every second answer lost, others errors": lambda n, method, path: "lost" if n % 2 else "500" if n % 4 else None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_publish_completes_the_run_of_an_outage(
    tmp_path: Path, tiny_path: Path, tracking_server: TrackingServer, proxy: FaultyProxy, fault: str
) -> None:
    config = configuration(tmp_path, tiny_path, proxy.uri)
    proxy.fault = FAULTS[fault]
    directory, told = run(config)
    assert (directory / "report.html").exists()
    assert not (directory / "work").exists()
    assert f"slantwise publish run_dir={directory}" in told
    proxy.fault = lambda number, method, path: None
    tracking.publish(directory, config.tracking)
    assert_complete(tracking_server, config, directory)
    count = proxy.count
    tracking.publish(directory, config.tracking)
    assert proxy.count == count, "what is complete is not told again"


def test_a_server_that_is_killed_while_it_trains_and_comes_back_before_the_end_is_told_all(
    tmp_path: Path, tiny_path: Path, tracking_server: TrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, tiny_path, tracking_server.uri)
    fits = 0

    def kill(workspace: Any) -> None:
        nonlocal fits
        fits += 1
        if fits == 1:
            wait_for(lambda: [run.info.status for run in runs_of(tracking_server, config)] == ["RUNNING"])
            tracking_server.kill()
        workspace.record({"loss": 0.5}, 1)
        if fits == 3:
            tracking_server.start()

    during_training(monkeypatch, kill)
    directory, _ = run(config)
    assert Told.read(directory).complete  # type: ignore[union-attr]
    assert_complete(tracking_server, config, directory)


def test_a_disk_that_is_full_for_artifacts_costs_no_metric_and_publish_completes_the_run(
    tmp_path: Path, tiny_path: Path, tracking_server: TrackingServer
) -> None:
    config = configuration(tmp_path, tiny_path, tracking_server.uri)
    tracking_server.limit_files(2000)
    try:
        directory, told = run(config)
    finally:
        tracking_server.limit_files(None)
    assert f"slantwise publish run_dir={directory}" in told
    (found,) = runs_of(tracking_server, config)
    assert "test_macro_f1" in found.data.metrics
    tracking.publish(directory, config.tracking)
    assert_complete(tracking_server, config, directory)


def test_training_does_not_wait_for_a_slow_server(
    tmp_path: Path, tiny_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes two seconds for each answer, and a fit that records every millisecond.

    (benchmarks/tracking.py measures by how much a longer fit is slowed.)
    """
    config = configuration(tmp_path, tiny_path, proxy.uri, split=SplitConfig())
    proxy.fault = lambda number, method, path: 2.0
    waits: list[float] = []

    def work(workspace: Any) -> None:
        until, step = time.perf_counter() + 1.0, 0
        while time.perf_counter() < until:
            step += 1
            before = time.perf_counter()
            workspace.record({"loss": 1 / step}, step)
            waits.append(time.perf_counter() - before)
            time.sleep(0.001)
        proxy.fault = lambda number, method, path: None  # only training is looked at

    during_training(monkeypatch, work)
    run(config)
    assert max(waits) < 0.5
    assert sum(waits) < 0.25


def test_a_server_that_hangs_does_not_hold_a_finished_run_for_long(
    tmp_path: Path, tiny_path: Path, proxy: FaultyProxy
) -> None:
    settings = TrackingConfig(uri=proxy.uri, artifacts=None, experiment=tmp_path.name, timeout=1)
    config = configuration(tmp_path, tiny_path, proxy.uri, tracking=settings)
    proxy.fault = lambda number, method, path: 30.0
    start = time.monotonic()
    directory, told = run(config)
    assert time.monotonic() - start < 20
    assert f"slantwise publish run_dir={directory}" in told


def test_a_run_is_completed_where_it_was_opened_also_at_a_new_address_and_nowhere_else(
    tmp_path: Path, tiny_path: Path, tracking_server: TrackingServer, proxy: FaultyProxy
) -> None:
    config = configuration(tmp_path, tiny_path, proxy.uri)
    proxy.fault = lambda number, method, path: "500" if method == "PUT" else None
    directory, _ = run(config)
    artifact_repositories.clear()  # what MLflow keeps in a process would send files to the old address
    elsewhere = TrackingConfig(uri=tracking_server.uri, artifacts=None, experiment="another")
    with pytest.raises(TrackingError, match=f"belongs to MLflow run .* at {proxy.uri}"):
        tracking.publish(directory, elsewhere, attempts=1)
    tracking.publish(directory, replace(elsewhere, experiment=tmp_path.name))
    assert_complete(tracking_server, config, directory)


def test_a_server_with_passwords_takes_those_of_the_environment_and_no_file_holds_them(
    tmp_path: Path, tiny_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask_wtf", reason="MLflow's basic-auth app needs mlflow[auth]")
    password = "correct horse battery"
    settings = tmp_path / "auth.ini"
    settings.write_text(AUTH.format(tmp_path))
    server = TrackingServer(
        postgres.create("guarded"), tmp_path / "server" / "artifacts", "--app-name", "basic-auth",
        MLFLOW_AUTH_ADMIN_PASSWORD=password, MLFLOW_FLASK_SERVER_SECRET_KEY="k" * 32,
        MLFLOW_AUTH_CONFIG_PATH=str(settings),
    )  # fmt: skip
    config = configuration(tmp_path, tiny_path, server.uri)
    try:
        directory, told = run(config)
        assert f"slantwise publish run_dir={directory}" in told
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        tracking.publish(directory, config.tracking)
        assert_complete(server, config, directory)
        files = [path for path in directory.rglob("*") if path.is_file()]
        assert not [path for path in files if password.encode() in path.read_bytes()]
    finally:
        server.kill()
