"""Interrupted runs: killed at any place, the same command goes on in the same directory to the same weights."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

from data.config import CleaningConfig, CorpusConfig, SplitConfig, SplitKind
from data.corpus import Corpus
from data.prepare import clean_corpus
from evaluation.judge import EvaluationConfig
from slantwise.cleaning import Cleaner
from slantwise.command import CHECKOUT, Progress, unique_name
from slantwise.errors import ConfigurationError, CorpusError
from training import resume
from training.config import TaskConfig, TrackingConfig, TrainConfig
from training.decisions import DecisionConfig
from training.encoder_config import TransformerConfig
from training.fitting import Part, Workspace
from training.run import RunResult, train
from training.transformer import COMPLETE, fit_all

Make = Callable[..., TrainConfig]


@pytest.fixture
def make(tmp_path: Path, tiny_path: Path, tiny_encoder: Path) -> Make:
    """A configuration as a command makes it: each time with a run directory of a new name."""

    def made(split: SplitConfig | None = None, run_dir: Path | None = None, **changes: Any) -> TrainConfig:
        classifier = TransformerConfig(
            encoder=str(tiny_encoder), max_tokens=64, overlap=8, device="cpu", precision="float32",
            **{"epochs": 2, "patience": 0, "learning_rate": 5e-3, "checkpoint_steps": 2, "dropout": 0.2, **changes},
        )  # fmt: skip
        return TrainConfig(
            task=TaskConfig("topic"), corpus=CorpusConfig(name="tiny", path=str(tiny_path)), cleaning=CleaningConfig(),
            split=split or SplitConfig(), classifier=classifier, decision=DecisionConfig(),
            evaluation=EvaluationConfig(resamples=10), tracking=TrackingConfig(enabled=False), name="test",
            run_dir=str(run_dir or tmp_path / "runs" / f"test-{unique_name()}"), shortcuts=False,
        )  # fmt: skip

    return made


def run(config: TrainConfig, progress: Progress | None = None) -> RunResult:
    settings = {"classifier": vars(config.classifier), "split": {"kind": str(config.split.kind)}}
    resolved = yaml.safe_dump({"run_dir": config.run_dir, **settings})
    return train(config, resolved, progress or Progress(quiet=True))


def killed(job: TrainConfig | Callable[[], Any], place: str, count: int = 1, before: bool = False) -> None:
    """Runs in a process of its own that is killed, as by kill -9, at the `count`-th call of `place`."""
    module, *names = place.split(":")

    def child() -> None:
        owner: Any = import_module(module)
        for name in names[:-1]:
            owner = getattr(owner, name)
        original, calls = getattr(owner, names[-1]), 0

        def deadly(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if before and calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            found = original(*arguments, **more)
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, names[-1], deadly)
        if isinstance(job, TrainConfig):
            run(job)
        else:
            job()

    process = get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


ON_SAVE = "training.transformer:_Watcher:on_save"


def learned(directory: Path) -> dict[str, bytes]:
    """All weights of a run's model."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("model/**/*.safetensors"))}


def runs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs").iterdir())


PLACES: dict[str, dict[str, Any]] = {
    "before the first checkpoint": {"place": ON_SAVE, "before": True},
    "after a checkpoint within an epoch": {"place": ON_SAVE},
    "after the checkpoint of an epoch": {"place": ON_SAVE, "count": 2},
    "before a checkpoint was complete": {"place": ON_SAVE, "count": 3, "before": True},
    "after the last validation": {"place": "training.transformer:_Trainer:evaluate", "count": 2},
    "after the last checkpoint": {"place": ON_SAVE, "count": 4},
    "before the checkpoints are cleared away": {"place": "training.transformer:_keep_final", "before": True},
    "while the checkpoints are cleared away": {"place": "training.transformer:save_file", "before": True},
    "after training": {"place": "training.transformer:_keep_final"},
}
WRITING: dict[str, dict[str, Any]] = {
    "while it trains": {"place": ON_SAVE},
    "while results are written": {"place": "training.run:write_quarantine"},
    "while the model is saved": {"place": "slantwise.model:Model:_write"},
    "after the model was saved": {"place": "training.run:finished_record", "before": True},
}


def fit(make: Make, corpus: Corpus, folder: Path) -> dict[str, Any]:
    """The weights that a fit keeps its checkpoints in `folder` for."""
    clean = clean_corpus(corpus, corpus.task("topic"), Cleaner())
    part = Part(clean.task, clean.examples(range(48)), clean.examples(range(48, 72)))
    config: Any = make().classifier
    classifier: Any = fit_all([part], config, Workspace({"topic": "macro_f1"}, folder))["topic"].classifier
    state = classifier.body.runtime.module.encoder.state_dict()
    return {"head": classifier.weights, **{name: tensor.numpy() for name, tensor in state.items()}}


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_fit_goes_on_to_the_same_weights(make: Make, tmp_path: Path, tiny_corpus: Corpus, place: str) -> None:
    killed(lambda: fit(make, tiny_corpus, tmp_path / "killed"), **PLACES[place])
    found, whole = (fit(make, tiny_corpus, tmp_path / name) for name in ("killed", "whole"))
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("place", WRITING)
def test_a_killed_run_is_completed_in_its_directory(make: Make, tmp_path: Path, place: str) -> None:
    killed(make(), **WRITING[place])
    (interrupted,) = runs(tmp_path)
    assert run(make()).directory == interrupted
    assert runs(tmp_path) == [interrupted]
    assert not (interrupted / "work").exists()
    other = run(make(run_dir=tmp_path / "whole")).directory
    assert {p.name for p in interrupted.iterdir()} == {p.name for p in other.iterdir()}
    assert learned(interrupted) == learned(other)


def test_a_person_and_the_record_are_told_where_it_goes_on(make: Make) -> None:
    killed(make(), ON_SAVE)
    progress = Progress(quiet=True)
    directory = run(make(), progress).directory
    told = progress.console.export_text()
    assert f"going on with {directory}, which was interrupted" in told
    assert "going on from step 2 of" in told
    assert yaml.safe_load((directory / "config.yaml").read_text())["run_dir"] == str(directory)
    assert directory.name in (directory / "report.html").read_text()


def test_a_checkpoint_at_the_end_of_an_epoch_waits_for_its_validation(make: Make, tmp_path: Path) -> None:
    """Every step makes a checkpoint; killed after the first that ends an epoch, no score may be missing."""
    config = make(checkpoint_steps=1)
    killed(config, "training.transformer:_Trainer:evaluate", before=True)
    result = run(make(checkpoint_steps=1))
    parameters = json.loads((result.directory / "run.json").read_text())
    validated = [entry for entry in parameters["history"] if "validation_score" in entry]
    assert [entry["epoch"] for entry in validated] == [1.0, 2.0]


def test_after_early_stopping_no_further_epoch_is_trained(make: Make, tmp_path: Path) -> None:
    settings = {"epochs": 9, "patience": 1, "learning_rate": 1e-9, "checkpoint_steps": None}  # it never gets better
    killed(make(**settings), ON_SAVE, count=2)
    history = json.loads((run(make(**settings)).directory / "run.json").read_text())["history"]
    assert [entry["epoch"] for entry in history if "validation_score" in entry] == [1.0, 2.0]


def test_a_run_killed_within_a_fold_keeps_the_folds_before(make: Make, tmp_path: Path) -> None:
    split = SplitConfig(kind=SplitKind.kfold, folds=2)
    settings = {"epochs": 1, "checkpoint_steps": 1}
    killed(make(split, **settings), "training.transformer:_train", count=2, before=True)
    (interrupted,) = runs(tmp_path)
    final = interrupted / "work" / "fold-1" / "final.json"
    assert final.exists()
    killed(make(split, **settings), ON_SAVE, count=1)  # within fold 2: fold 1 saves nothing again
    assert not (interrupted / "work" / "fold-2" / "final.json").exists()
    again = run(make(split, **settings)).directory
    other = run(make(split, run_dir=tmp_path / "whole", **settings)).directory
    assert again == interrupted
    assert learned(again) == learned(other)
    assert (again / "predictions.parquet").read_bytes() == (other / "predictions.parquet").read_bytes()


# --- what is not gone on with ---


def test_a_changed_configuration_starts_a_new_run(make: Make, tmp_path: Path) -> None:
    killed(make(), ON_SAVE)
    result = run(make(learning_rate=4e-3))
    assert len(runs(tmp_path)) == 2
    assert json.loads((result.directory / "run.json").read_text())["parameters"]["classifier.learning_rate"] == "0.004"


def test_another_configuration_does_not_take_a_named_directory_over(make: Make, tmp_path: Path) -> None:
    killed(make(run_dir=tmp_path / "mine"), ON_SAVE)
    with pytest.raises(ConfigurationError, match=r"mine exists; .* \(it holds an interrupted run of another config"):
        run(make(run_dir=tmp_path / "mine", learning_rate=4e-3))
    assert (tmp_path / "mine" / "work").exists()


def test_a_changed_corpus_is_refused_and_nothing_is_lost(make: Make, tmp_path: Path, tiny_path: Path) -> None:
    killed(make(), ON_SAVE)
    (interrupted,) = runs(tmp_path)
    tiny_path.write_text("".join(tiny_path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ConfigurationError, match="its corpus has changed since; remove the folder"):
        run(make())
    assert list((interrupted / "work" / "fold-1").glob(f"checkpoint-*/{COMPLETE}"))


def test_a_run_that_is_complete_is_not_gone_on_with(make: Make, tmp_path: Path) -> None:
    first, second = run(make()).directory, run(make()).directory
    assert first != second


def test_a_run_that_another_process_trains_is_not_taken_over(make: Make, tmp_path: Path) -> None:
    killed(make(), ON_SAVE)
    (interrupted,) = runs(tmp_path)
    with (interrupted / "work" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = run(make()).directory
        assert other != interrupted
        with pytest.raises(ConfigurationError, match="exists; expected a new folder"):
            run(make(run_dir=interrupted))
    assert list((interrupted / "work" / "fold-1").glob("checkpoint-*"))


def test_a_running_fit_holds_the_lock_until_the_run_is_complete(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is there to the last moment: whoever finds it without the lock would go on with it."""
    seen = []
    original = resume.shutil.rmtree

    def rmtree(path: Path, *arguments: Any, **more: Any) -> None:
        if Path(path).name == "work":
            seen.append(resume._is_held(Path(path).parent))
        original(path, *arguments, **more)

    monkeypatch.setattr(resume.shutil, "rmtree", rmtree)
    run(make(epochs=1))
    assert seen == [True]


def test_a_named_run_directory_is_gone_on_with_by_the_same_name_alone(make: Make, tmp_path: Path) -> None:
    named = tmp_path / "runs" / "mine"
    killed(make(run_dir=named), ON_SAVE)
    assert run(make(run_dir=tmp_path / "runs" / "other")).directory == tmp_path / "runs" / "other"
    assert (named / "work").exists()
    assert run(make(run_dir=named)).directory == named
    assert learned(named) == learned(tmp_path / "runs" / "other")


def test_a_directory_that_is_no_interrupted_run_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine" / "work").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="exists; expected a new folder"):
        run(make(run_dir=tmp_path / "mine"))


def test_a_run_that_fails_because_of_its_input_leaves_nothing_behind(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.transformer

    def fail(*arguments: Any) -> None:
        raise CorpusError("no")

    monkeypatch.setattr(training.transformer, "_check_targets", fail)
    with pytest.raises(CorpusError):
        run(make())
    assert runs(tmp_path) == []


def test_a_run_that_fails_keeps_what_it_has_learned(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.transformer

    def fail(*arguments: Any) -> None:
        raise CorpusError("no")

    with monkeypatch.context() as patch:
        patch.setattr(training.transformer, "primary_score", fail)
        with pytest.raises(CorpusError):
            run(make())
    (failed,) = runs(tmp_path)
    assert run(make()).directory == failed


# --- the command itself ---


def test_the_same_command_after_kill_9_makes_one_run_directory_and_one_mlflow_run(
    tmp_path: Path, tiny_path: Path, tiny_encoder: Path
) -> None:
    command = [
        sys.executable, "-m", "slantwise", "train", "task=topic", "corpus=file", f"corpus.path={tiny_path}",
        "classifier=transformer", f"classifier.encoder={tiny_encoder}", "classifier.max_tokens=64",
        "classifier.overlap=8", "classifier.checkpoint_steps=1", "classifier.device=cpu", "classifier.epochs=40",
        "classifier.patience=1", "classifier.learning_rate=1e-9", "evaluation.resamples=10", "shortcuts=false",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not list(tmp_path.glob(f"runs/*/work/fold-1/checkpoint-*/{COMPLETE}")):
        assert process.poll() is None, "it ended before there was a checkpoint"
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (directory,) = runs(tmp_path)
    assert f"going on with runs/{directory.name}, which was interrupted" in done.stderr
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    (known,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert known.info.run_id == json.loads((directory / "mlflow.json").read_text())["run_id"]


def test_the_key_of_a_run_ignores_where_it_is_kept_and_published(make: Make) -> None:
    base = {"classifier": {"seed": 0}, "run_dir": "a", "tracking": {"uri": "x"}}
    other = {"classifier": {"seed": 0}, "run_dir": "b", "tracking": {"uri": "y"}}
    keys = {resume._key(yaml.safe_dump(settings)) for settings in (base, other)}
    assert len(keys) == 1
    assert resume._key(yaml.safe_dump({**base, "classifier": {"seed": 1}})) not in keys


def test_the_key_of_a_run_tells_how_many_processes_train_it(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = resume._key("seed: 0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resume._key("seed: 0") != alone
