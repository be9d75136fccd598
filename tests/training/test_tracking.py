"""What a run tells MLflow: each metric once, early, without secrets; and what becomes of a run that is stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from omegaconf import OmegaConf

from data.config import CleaningConfig, CorpusConfig, SplitConfig, SplitKind
from evaluation import plots
from evaluation.judge import EvaluationConfig
from slantwise.command import Progress
from slantwise.errors import ConfigurationError, CorpusError, TrackingError
from tests.conftest import during_training
from training import publisher, system, tracking
from training.config import TaskConfig, TrackingConfig, TrainConfig
from training.decisions import DecisionConfig
from training.environment import code_diff
from training.journal import Journal, Told
from training.linear import LinearConfig
from training.redact import redact, redact_code
from training.run import RunResult, train
from training.store import Store

Make = Callable[..., TrainConfig]
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt"></svg>'


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A new SQLite store of MLflow's; making one takes three seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def make(tmp_path: Path, tiny_path: Path, empty_store: bytes, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Small runs of the linear classifier, told to a store of the test's own."""
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    monkeypatch.setattr(plots, "render", lambda name, size, draw: PICTURE)
    monkeypatch.setattr(publisher, "PAUSE", 0.05)
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def made(**changes: Any) -> TrainConfig:
        given: dict[str, Any] = {
            "task": TaskConfig("topic"), "corpus": CorpusConfig(name="tiny", path=str(tiny_path)),
            "cleaning": CleaningConfig(), "split": SplitConfig(), "decision": DecisionConfig(),
            "classifier": LinearConfig(C=[1.0], char_ngrams=[0, 0]), "evaluation": EvaluationConfig(resamples=10),
            "tracking": TrackingConfig(uri=uri, artifacts=str(tmp_path / "artifacts")), "name": "test",
            "run_dir": str(tmp_path / "run"), "shortcuts": False,
        }  # fmt: skip
        return TrainConfig(**{**given, **changes})

    return made


def run(config: TrainConfig, progress: Progress | None = None) -> RunResult:
    return train(config, yaml.safe_dump({"run_dir": config.run_dir}), progress or Progress(quiet=True))


def runs_of(config: TrainConfig) -> list[Any]:
    client = mlflow.MlflowClient(config.tracking.uri)
    return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))


# --- the journal ---


def test_of_two_values_of_a_metric_at_one_step_the_first_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add({"loss": 0.5, "rate": 1.0}, 1)
    journal.add({"loss": 0.4, "score": 2.0}, 1)
    journal.add({"loss": 0.3}, 2)
    found = [dict(entry.metrics) for entry in Journal(tmp_path).after(0)[0]]
    assert found == [{"loss": 0.5, "rate": 1.0}, {"score": 2.0}, {"loss": 0.3}]


def test_a_line_that_a_killed_process_left_half_written_is_taken_away(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add({"loss": 0.5}, 1)
    whole = journal.size
    with journal.path.open("a") as file:
        file.write('{"time": 1, "step": 2, "metr')
    again = Journal(tmp_path)
    assert again.size == whole
    again.add({"loss": 0.4}, 2)
    assert [entry.step for entry in again.after(0)[0]] == [1, 2]


def test_undefined_values_are_no_metrics(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add({"a": float("nan"), "b": float("inf")}, 1)
    assert journal.size == 0


def test_a_part_of_the_history_ends_at_a_whole_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(10):
        journal.add({"a": 1.0, "b": 2.0, "c": 3.0}, step)
    seen, start = [], 0
    while start < journal.size:
        entries, start = journal.after(start, most=7)
        assert 0 < len(entries) <= 2
        seen += [entry.step for entry in entries]
    assert seen == list(range(10))


def test_a_journal_takes_metrics_from_several_threads(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def add(name: str) -> None:
        for step in range(200):
            journal.add({name: 1.0}, step)

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Journal(tmp_path).after(0)[0]) == 800


# --- what a run holds ---


def test_a_run_holds_about_twenty_parameters_its_origin_and_its_data(make: Make) -> None:
    config = make()
    result = run(config)
    (found,) = runs_of(config)
    assert 15 <= len(found.data.params) <= 25
    assert {"command", "code_sha256", "corpus_sha256", "python", "scikit-learn", "machine", "cores"} <= set(
        found.data.tags
    )
    assert "**topic** on test: macro_f1 " in found.data.tags["mlflow.note.content"]
    data = {each.tags[0].value: each.dataset for each in found.inputs.dataset_inputs}
    assert sum(json.loads(one.profile)["num_rows"] for one in data.values()) == 72
    assert json.loads(data["test"].source)["uri"].endswith("tiny.jsonl")
    client = mlflow.MlflowClient(config.tracking.uri)
    model = client.get_logged_model(found.outputs.model_outputs[0].model_id)
    assert "test_macro_f1" in {metric.key for metric in model.metrics}
    assert result.mlflow_run == found.info.run_id


def test_folds_are_steps_of_one_metric(make: Make) -> None:
    config = make(split=SplitConfig(kind=SplitKind.kfold, folds=3))
    result = run(config)
    client = mlflow.MlflowClient(config.tracking.uri)
    history = client.get_metric_history(result.mlflow_run, "fold_accuracy")
    folds = json.loads((result.directory / "run.json").read_text())["tasks"]["topic"]["folds"]
    assert [(m.step, m.value) for m in history] == [(k, f["accuracy"]) for k, f in enumerate(folds, start=1)]


def test_the_machine_is_measured_while_a_run_trains(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "EVERY", 0.05)
    during_training(monkeypatch, lambda workspace: time.sleep(0.3))
    config = make()
    run(config)
    (found,) = runs_of(config)
    assert found.data.metrics["system/process_memory_megabytes"] > 10
    assert found.data.metrics["system/process_cpu_percentage"] >= 0


def test_the_diff_of_a_changed_checkout_is_told_without_secrets(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "abc123def456")
    answers = {"diff": '+key = "abc123def456"\n+api_key = "other-secret"\n+tokens = tokenizer(text)\n', "ls-files": ""}
    monkeypatch.setattr("training.environment._git", lambda *arguments: answers.get(arguments[0]))
    assert code_diff() == '+key = "***"\n+api_key = "***"\n+tokens = tokenizer(text)\n'
    config = make()
    run(config)
    (found,) = runs_of(config)
    path = mlflow.MlflowClient(config.tracking.uri).download_artifacts(found.info.run_id, "code.diff")
    assert "tokenizer(text)" in Path(path).read_text()


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://bob:hunter2@host/path", "http://***@host/path"),
        ("the password is hunter2222", "the password is ***"),
        ("max_features: 200000", "max_features: 200000"),
    ],
)
def test_secrets_are_taken_out_of_texts(text: str, redacted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2222")
    monkeypatch.setenv("TOKEN_LIMIT", "200000")
    monkeypatch.setenv("SECRET_FILE", "features")
    assert redact(text) == redacted


def test_an_assignment_of_a_secret_in_code_is_taken_out() -> None:
    assert redact_code("password: hunter2222\n") == "password: ***\n"
    assert redact_code("password = getpass()\n") == "password = getpass()\n"


# --- runs that do not come to their end ---


def _stop(error: BaseException) -> Callable[[Any], None]:
    def stop(workspace: Any) -> None:
        workspace.record({"loss": 0.5}, 1)
        time.sleep(0.5)
        raise error

    return stop


def _terminate(workspace: Any) -> None:
    workspace.record({"loss": 0.5}, 1)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


ENDS: dict[str, tuple[Callable[[Any], None], type[BaseException], str]] = {
    "Ctrl-C": (_stop(KeyboardInterrupt()), KeyboardInterrupt, "KILLED"),
    "SIGTERM": (_terminate, SystemExit, "KILLED"),
    "a mistake of ours": (_stop(ValueError("oh")), ValueError, "FAILED"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_is_ended_early_is_not_left_running_and_goes_on_as_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    what, error, status = ENDS[end]
    config = make()
    with monkeypatch.context() as patch:
        during_training(patch, what)
        with pytest.raises(error):
            run(config)
    (found,) = runs_of(config)
    assert (found.info.status, found.data.metrics["loss"]) == (status, 0.5)
    assert run(config).mlflow_run == found.info.run_id
    assert [each.info.status for each in runs_of(config)] == ["FINISHED"]


def test_a_run_whose_input_is_at_fault_has_failed_and_with_the_input_mended_there_is_a_new_one(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    with monkeypatch.context() as patch:
        during_training(patch, _stop(CorpusError("no")))
        with pytest.raises(CorpusError):
            run(config)
    assert not Path(config.run_dir).exists()
    run(config)
    assert sorted(each.info.status for each in runs_of(config)) == ["FAILED", "FINISHED"]


def test_publish_ends_the_mlflow_run_of_a_directory_that_was_left_behind(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    killed(config, "training.folds:_final_heads")
    tracking.publish(Path(config.run_dir), config.tracking)
    (found,) = runs_of(config)
    assert found.info.status == "KILLED"
    assert not Told.read(Path(config.run_dir)).complete  # type: ignore[union-attr]
    assert run(config).mlflow_run == found.info.run_id


def test_a_complete_run_is_left_alone_and_is_not_taken_for_one_of_another_store(
    make: Make, tmp_path: Path, empty_store: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make()
    run_id = run(config).mlflow_run

    def publish_to(settings: TrackingConfig) -> None:
        tracking._job(OmegaConf.structured(tracking.PublishConfig(config.run_dir, settings)))

    publish_to(config.tracking)
    assert f"MLflow run {run_id}" in (told := capsys.readouterr().err)
    assert "nothing to publish" in told
    (tmp_path / "other.db").write_bytes(empty_store)
    with pytest.raises(TrackingError, match=f"belongs to MLflow run {run_id}"):
        publish_to(TrackingConfig(uri=f"sqlite:///{tmp_path}/other.db", artifacts=str(tmp_path / "artifacts")))
    assert Told.read(Path(config.run_dir)).complete  # type: ignore[union-attr]


def test_a_run_that_is_being_trained_is_not_published(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.resume import at_rest

    config = make()

    def look(workspace: Any) -> None:
        with pytest.raises(ConfigurationError, match="in the hands of another process"), at_rest(Path(config.run_dir)):
            pass

    during_training(monkeypatch, look)
    run(config)


def killed(config: TrainConfig, place: str, after: bool = False) -> None:
    """Trains in a process of its own that is killed, as by kill -9, before (or after) the first call of `place`."""
    module, *names = place.split(":")

    def child() -> None:
        owner: Any = import_module(module)
        for name in names[:-1]:
            owner = getattr(owner, name)
        original = getattr(owner, names[-1])

        def deadly(*arguments: Any, **more: Any) -> Any:
            if after:
                original(*arguments, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, names[-1], deadly)
        run(config)

    process = get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


MOMENTS: dict[str, dict[str, Any]] = {
    "before the MLflow run is made": {"place": "training.store:Store:create"},
    "before its id is kept": {"place": "training.store:Store:create", "after": True},
    "before metrics are acknowledged": {"place": "training.store:Store:send", "after": True},
    "before the model is made": {"place": "training.store:Store:model"},
    "before the model is sent": {"place": "training.store:Store:send_model"},
    "before the model is linked": {"place": "training.store:Store:link_model"},
    "before it is known to be complete": {"place": "training.tracking:replace"},
    "when it is complete": {"place": "training.run:_say_where"},
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_command_after_kill_9_completes_the_same_mlflow_run(make: Make, moment: str) -> None:
    """(benchmarks/kill_and_resume.py kills at random moments.)"""
    config = make()
    killed(config, **MOMENTS[moment])
    before = runs_of(config)
    result = run(config)
    (found,) = runs_of(config)
    assert not before or found.info.run_id == before[0].info.run_id
    assert (found.info.status, result.mlflow_run) == ("FINISHED", found.info.run_id)
    client = mlflow.MlflowClient(config.tracking.uri)
    assert {n: len(client.get_metric_history(found.info.run_id, n)) for n in found.data.metrics} == dict.fromkeys(
        found.data.metrics, 1
    )
    assert len(client.search_logged_models([found.info.experiment_id])) == len(found.outputs.model_outputs) == 1


def test_two_runs_of_which_one_answer_was_lost_become_one(make: Make, tmp_path: Path) -> None:
    config = make()
    store = Store(config.tracking)
    record = {"name": "test", "tags": {}, "started": 1}
    first = store.create("key", record)
    store.create("key", {**record, "started": 2})
    assert store.find("key") == first
    assert len(runs_of(config)) == 1


def test_a_new_local_store_is_made_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Two that make one at once break it for good."""
    from concurrent.futures import ProcessPoolExecutor

    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts"))
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        first, second = pool.map(_experiment, [config, config])
    assert first == second


def _experiment(config: TrackingConfig) -> str:
    return Store(config).experiment()
