"""`slantwise sweep`, whole: what it leaves behind, whatever happens to its processes.

More kills, at more moments: python -m benchmarks.sweep <scratch folder> kills 20
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from tracking_servers import free_port, wait_for

import training.sweep
from benchmarks.sweep import composed, judged, judged_runs, run_killed, worker_of
from slantwise.command import Progress
from slantwise.errors import ConfigurationError, TrackingError
from training import linear
from training.fitting import Fitted
from training.run import RunResult
from training.space import Dimension
from training.sweep import SweepResult, check_storage, folds_of, sweep
from training.sweep_plots import draw, importances

SMALL = ["task=topic", "corpus=file", "shortcuts=false", "evaluation.resamples=20", "classifier.char_ngrams=[0,0]"]
SPACE = ["~sweep.space.char_ngrams", "sweep.space.word_ngrams.choices=[[1,1],[1,2]]"]


def arguments(folder: Path, corpus: Path, *more: str) -> list[str]:
    return [*SMALL, *SPACE, f"corpus.path={corpus}", f"sweep_dir={folder / 'sweep'}", "tracking=none", *more]


def swept(folder: Path, corpus: Path, *more: str) -> SweepResult:
    config, settings = composed(*arguments(folder, corpus, *more))
    return sweep(config, settings, Progress(quiet=True))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sweep" / "trials.jsonl").read_text().splitlines()]


@pytest.fixture
def no_final_run(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sweeps end with the configuration that they would train, not with its run."""
    trained: list[Any] = []

    def train(config: Any, resolved: str, progress: Progress) -> RunResult:
        trained.append(config)
        return RunResult(Path(config.run_dir), {}, None)

    monkeypatch.setattr(training.sweep, "train", train)
    return trained


# --- one process ---


def test_a_sweep_leaves_trials_pictures_and_an_ordinary_run(tmp_path: Path, tiny_path: Path) -> None:
    store = [f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"tracking.artifacts={tmp_path}/artifacts"]
    result = swept(tmp_path, tiny_path, "trials=5", "tracking=local", *store)
    found = rows(tmp_path)
    assert [row["state"] for row in found] == ["COMPLETE"] * 5
    assert result.best.value == max(row["value"] for row in found)
    run = result.directory / f"best-trial-{result.best.number}"
    assert {"config.yaml", "report.html", "metrics.json", "model"} <= {path.name for path in run.iterdir()}
    options = found[result.best.number]["options"]
    assert f"- {options['C']}" in (run / "config.yaml").read_text()
    assert {"history.png", "slices.png"} <= {path.name for path in (result.directory / "plots").iterdir()}
    assert judged(tmp_path, 5) == []
    assert "mlflow" not in {thread.name for thread in threading.enumerate()}
    again = swept(tmp_path, tiny_path, "trials=5", "tracking=local", *store)
    assert again.best.number == result.best.number
    assert judged(tmp_path, 5) == []


def test_test_articles_have_no_part_in_trials(tmp_path: Path, tiny_path: Path) -> None:
    for folds in (1, 3):
        config, _ = composed(*arguments(tmp_path, tiny_path, "trials=1", f"sweep.folds={folds}"))
        data, _ = training.sweep._read(config, Progress(quiet=True))
        held = {data[0].clean.column("id")[i] for i in data[0].splits[0].rows("test")}
        made = folds_of(data, config)
        assert len(made) == folds
        for (part,) in made:
            assert held
            assert held.isdisjoint([*part.train.ids, *part.validation.ids])
            assert set(part.train.units).isdisjoint(part.validation.units)
        if folds > 1:
            judged_once = sorted(id_ for (part,) in made for id_ in part.validation.ids)
            assert judged_once == sorted(set(data[0].clean.column("id")) - held)


def test_the_same_seed_draws_the_same_trials_in_one_go_or_in_two(
    tmp_path: Path, tiny_path: Path, no_final_run: list[Any]
) -> None:
    swept(tmp_path / "one", tiny_path, "trials=12")
    for trials in (4, 12):
        swept(tmp_path / "two", tiny_path, f"trials={trials}")
    one, two = ([row["options"] for row in rows(tmp_path / name)] for name in ("one", "two"))
    assert one == two
    assert len({json.dumps(options) for options in one}) > 4


def test_a_small_finite_space_is_a_grid(tmp_path: Path, tiny_path: Path, no_final_run: list[Any]) -> None:
    config, settings = composed(*arguments(tmp_path, tiny_path, "trials=50"))
    config.sweep.space = {"C": Dimension(choices=[1, 0.1, 10]), "min_df": Dimension(choices=[1, 2])}
    sweep(config, settings, Progress(quiet=True))
    tried = [(row["options"]["min_df"], row["options"]["C"]) for row in rows(tmp_path)]
    assert tried == [(1, 0.1), (1, 1), (1, 10), (2, 0.1), (2, 1), (2, 10)]


def failing(wrong: Callable[[Any], bool]) -> Callable[[str], Any]:
    """In place of Hydra's get_method: a fit that runs out of memory where the configuration is `wrong`."""

    def fit_all(parts: Any, config: Any, workspace: Any) -> Any:
        if wrong(config):
            raise RuntimeError("out of memory")
        return linear.fit_all(parts, config, workspace)

    return lambda target: fit_all


def test_a_trial_that_fails_is_recorded_and_the_sweep_goes_on(
    tmp_path: Path, tiny_path: Path, no_final_run: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.sweep, "get_method", failing(lambda config: config.min_df == 2))
    swept(tmp_path, tiny_path, "trials=8")
    found = [(row["options"]["min_df"], row["state"], row["reason"]) for row in rows(tmp_path)]
    assert len(found) == 8
    assert set(found) == {(1, "COMPLETE", None), (2, "FAIL", "RuntimeError: out of memory")}


def test_trials_that_all_fail_are_an_error_that_says_why(
    tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.sweep, "get_method", failing(lambda config: True))
    with pytest.raises(ConfigurationError, match="all 5 trials failed; the first because of RuntimeError: out of mem"):
        swept(tmp_path, tiny_path, "trials=30")
    assert len(rows(tmp_path)) == 5


def test_minutes_end_a_sweep(tmp_path: Path, tiny_path: Path, no_final_run: list[Any]) -> None:
    swept(tmp_path, tiny_path, "minutes=0.0001")
    assert len(rows(tmp_path)) == 1


def test_more_trials_go_on_where_a_sweep_ended(tmp_path: Path, tiny_path: Path, no_final_run: list[Any]) -> None:
    swept(tmp_path, tiny_path, "trials=2")
    first = rows(tmp_path)
    swept(tmp_path, tiny_path, "trials=4")
    assert rows(tmp_path)[:2] == first
    assert len(rows(tmp_path)) == 4


def test_the_folder_of_another_sweep_is_refused(tmp_path: Path, tiny_path: Path, no_final_run: list[Any]) -> None:
    swept(tmp_path, tiny_path, "trials=1")
    with pytest.raises(ConfigurationError, match="another configuration"):
        swept(tmp_path, tiny_path, "trials=1", "sweep.folds=3")


def test_a_corpus_that_has_changed_is_refused(tmp_path: Path, tiny_path: Path, no_final_run: list[Any]) -> None:
    swept(tmp_path, tiny_path, "trials=1")
    tiny_path.write_text(tiny_path.read_text().replace("Officials", "Clerks"))
    with pytest.raises(ConfigurationError, match="corpus file is not what the trials"):
        swept(tmp_path, tiny_path, "trials=2")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("trials=0", "trials=0; expected 1 or more"),
        ("sweep.folds=1", "a sweep needs an end"),
        ("split=kfold", "expected one of given, stratified"),
        ("storage=sqlite:///x.db", "expected postgresql://"),
        ("sweep.pruner=best", "sweep.pruner='best'"),
    ],
)
def test_a_configuration_that_cannot_work_is_named(override: str, named: str, tmp_path: Path, tiny_path: Path) -> None:
    more = [] if override == "sweep.folds=1" else ["trials=1"]
    with pytest.raises(ConfigurationError, match=named):
        composed(*arguments(tmp_path, tiny_path, *more, override))


def test_a_store_that_is_away_is_told_later_by_the_same_command(
    tmp_path: Path, tiny_path: Path, no_final_run: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings = composed(*arguments(tmp_path, tiny_path, "trials=3", "tracking=local"))
    config.tracking.uri = f"http://127.0.0.1:{free_port()}"
    config.tracking.timeout = 1
    assert sweep(config, settings, Progress(quiet=True)).mlflow_run is None
    config.tracking.uri, config.tracking.artifacts = f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/artifacts"
    assert sweep(config, settings, Progress(quiet=True)).mlflow_run is not None
    assert [p for p in judged_runs(config.tracking.uri, 3) if "expected 5" not in p] == []


def test_a_trial_behind_the_median_of_the_others_ends_early(tmp_path: Path, tiny_path: Path) -> None:
    config, _ = composed(*arguments(tmp_path, tiny_path, "trials=7", "sweep.pruner=median", "sweep.sampler=random"))
    worker = worker_of(config, tmp_path)
    epochs: list[int] = []

    def fit_all(parts: Any, classifier: Any, workspace: Any) -> dict[str, Fitted]:
        good = worker.study.trials()[-1].number < 6
        for epoch in (1, 2, 3):
            epochs.append(epoch)
            workspace.record({"validation_score": (0.8 if good else 0.1), "epoch": float(epoch)}, 10 * epoch)
        (part,) = parts
        return {part.task.name: Fitted(None, np.eye(17, dtype=np.float32)[part.validation.gold], "", {})}  # type: ignore[arg-type]

    worker.fit_all = fit_all
    worker.work()
    states = [trial.state for trial in worker.study.trials()]
    assert states == [TrialState.COMPLETE] * 6 + [TrialState.PRUNED]
    assert epochs == [1, 2, 3] * 6 + [1]


def test_transformers_are_swept_epoch_by_epoch_and_share_their_windows(
    tmp_path: Path, tiny_path: Path, tiny_encoder: Path
) -> None:
    config, _ = composed(
        "task=topic", "corpus=file", f"corpus.path={tiny_path}", "classifier=transformer", f"sweep_dir={tmp_path}",
        f"classifier.encoder={tiny_encoder}", "classifier.max_tokens=64", "classifier.device=cpu",
        "classifier.threads=1", "classifier.overlap=8", "classifier.epochs=2", "trials=2",
    )  # fmt: skip
    config.sweep.space = {"learning_rate": Dimension(1e-4, 1e-3)}
    worker = worker_of(config, tmp_path)
    worker.work()
    found = worker.study.trials()
    assert [sorted(trial.intermediate_values) for trial in found] == [[1, 2], [1, 2]]
    assert all(trial.value == max(trial.intermediate_values.values()) for trial in found)
    assert len(list((tmp_path / "work" / "cache" / "windows").glob("*.npz"))) == 2  # of train and of validation
    assert not list((tmp_path / "work").glob("trial-*"))


# --- processes that are killed ---


def test_a_sweep_killed_at_random_moments_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, tiny_path: Path
) -> None:
    chance = random.Random(time.time_ns())
    moments = [chance.uniform(0.2, 3) for _ in range(4)]
    problems = run_killed(tmp_path / "killed", moments, corpus=f"corpus=file corpus.path={tiny_path}")
    assert problems == [], f"killed after {moments}"


# --- processes that share a study in PostgreSQL ---


def _work(arguments: Sequence[str], storage: str) -> None:
    os.environ["SLANTWISE_STORAGE"] = storage
    config, settings = composed(*arguments)
    sweep(config, settings, Progress(quiet=True))


@pytest.mark.parametrize("kill_one", [False, True])
def test_two_processes_share_one_study(kill_one: bool, tmp_path: Path, tiny_path: Path, postgres: Any) -> None:
    storage = postgres.create(f"sweep_{'killed' if kill_one else 'whole'}")
    uri, trials = f"sqlite:///{tmp_path}/mlflow.db", 9
    context, processes = multiprocessing.get_context("fork"), []
    for name in ("a", "b"):
        given = arguments(tmp_path / name, tiny_path, "tracking=local", f"tracking.uri={uri}", f"trials={trials}",
                          f"tracking.artifacts={tmp_path}/artifacts", "name=shared", "sweep.folds=3")  # fmt: skip
        processes.append(context.Process(target=_work, args=(given, storage)))
        processes[-1].start()
    if kill_one:
        wait_for(lambda: (tmp_path / "a" / "sweep" / "trials.jsonl").exists() and len(rows(tmp_path / "a")) > 1)
        assert processes[0].pid is not None
        os.kill(processes[0].pid, signal.SIGKILL)
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL if kill_one else 0, 0]
    finals = [path.parent.parent.name for path in tmp_path.glob("*/sweep/best-trial-*")]
    assert len(finals) == 1
    found = rows(tmp_path / finals[0])
    assert [row["number"] for row in found] == list(range(trials))
    assert {row["state"] for row in found} == {"COMPLETE"}
    assert judged_runs(uri, trials) == []


def test_passwords_of_a_study_are_not_written_down(
    tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLANTWISE_STORAGE", f"postgresql://me:geheim77@127.0.0.1:{free_port()}/none")
    with pytest.raises(TrackingError) as error:
        swept(tmp_path, tiny_path, "trials=1")
    assert "geheim77" not in str(error.value)
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any("geheim77" in text for text in written)


def test_a_password_on_the_command_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:geheim77@db.example.org/sweeps"
    with pytest.raises(ConfigurationError, match="PGPASSWORD") as error:
        check_storage(url)
    assert "geheim77" not in str(error.value)
    check_storage("postgresql://me@db.example.org/sweeps")
    monkeypatch.setenv("SLANTWISE_STORAGE", url)
    check_storage(url)


def test_pictures_show_which_option_decided(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: t.suggest_float("C", 0.1, 10, log=True) + 0 * t.suggest_int("min_df", 1, 3), n_trials=30)
    found = importances(study)
    assert list(found) == ["C", "min_df"]
    assert found["C"] > 0.9
    names = {path.name for path in draw(study, "macro_f1", tmp_path) if path.stat().st_size > 5000}
    assert names == {"history.png", "slices.png", "importance.png"}
