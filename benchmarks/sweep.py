"""Sweeps of the linear classifier against scikit-learn's usual way, and kill -9 at random moments.

    SLANTWISE_CORPORA=<folder of the corpora> python -m benchmarks.sweep <scratch> [allsides newsmtsc exact growth]
    python -m benchmarks.sweep <scratch> kills 20

Ten strengths of regularisation, five folds. The usual way is GridSearchCV over a Pipeline of the very same features and
a LogisticRegression with its default solver, on one thread; it builds the features anew for each of the fifty fits.
Both go through the strengths in turns, one of them at a time, so that a busy machine slows both. Neither solver goes on
to the end; `exact` does, on three folds from C = 1 on, and says how far the fold scores of both are from there. Results
are kept in the scratch folder and benchmarks/sweep.md is made of them; its figures are written by this program.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from slantwise.command import CHECKOUT, Progress, register_resolvers, to_object
from slantwise.features import FeatureSettings, FeatureSpace
from training.fitting import Part
from training.linear import Fold
from training.space import Space
from training.study import Study, sampler_for
from training.sweep import _read, _Worker, sweep
from training.sweep_config import SweepConfig, register

HERE = Path(__file__).parent
STRENGTHS = [float(c) for c in np.round(np.geomspace(0.01, 100, 10), 4)]
CORPORA = {"allsides": ("framing", 1), "newsmtsc": ("stance", 1)}  # task; alternations of the whole
FOLDS = 5
SOLVED_FOLDS = 3


def main() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    folder, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    if names[:1] == ["kills"]:
        _keep(folder, "kills", kills(int(names[1]), seed=0))
    parts = {"growth": growth, "exact": exact}
    for name in [] if names[:1] == ["kills"] else names or [*CORPORA, *parts]:
        _keep(folder, name, parts[name]() if name in parts else against_the_usual_way(name))
    (HERE / "sweep.md").write_text(_page(folder), encoding="utf-8")


def _keep(folder: Path, name: str, found: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


# --- against GridSearchCV ---


class Features(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """slantwise's features as a step of a Pipeline."""

    def __init__(self, settings: FeatureSettings, has_target: bool) -> None:
        self.settings, self.has_target = settings, has_target

    def fit_transform(self, X: Sequence[Any], y: Any = None) -> Any:
        self.space = FeatureSpace(self.settings, self.has_target)
        return self.space.fit_transform(X).take(np.arange(len(X)))

    def transform(self, X: Sequence[Any]) -> Any:
        return self.space.transform(X).take(np.arange(len(X)))


def composed(*overrides: str) -> tuple[SweepConfig, dict[str, Any]]:
    """The configuration of `slantwise sweep …`, and the same as plain data."""
    register()
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CHECKOUT / "configs")):
        config = compose("sweep", overrides=list(overrides))
    settings = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(settings, dict)
    return to_object(config, SweepConfig), {str(key): value for key, value in settings.items()}


def worker_of(config: SweepConfig, folder: Path, data: Any = None) -> _Worker:
    data = data or _read(config, Progress(quiet=True))[0]
    space = Space(config.sweep.space, config.classifier)
    study = Study(folder, None, "benchmark", maximise=True)
    return _Worker(config, space, study, data, data[0].headline[0], folder, Progress(quiet=True))


@contextmanager
def timed(into: list[tuple[float, float]]) -> Iterator[None]:
    """Adds (processor seconds, wall seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    into.append((time.process_time() - cpu, time.perf_counter() - wall))


def against_the_usual_way(corpus: str) -> dict[str, Any]:
    task, alternations = CORPORA[corpus]
    config, _ = composed(
        f"task={task}", f"corpus={corpus}", "split=given", "sweep=linear_C", f"sweep.folds={FOLDS}", "trials=10",
        f"sweep.space.C.choices={STRENGTHS}", "tracking=none",
    )  # fmt: skip
    data = _read(config, Progress(quiet=True))[0]
    passes = []
    for _ in range(alternations):
        with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1):
            passes.append(_one_pass(config, data, Path(scratch)))
            print(corpus, {k: passes[-1][k] for k in ("ours", "usual")}, flush=True)
    return {"corpus": corpus, "task": task, "passes": passes}


def _one_pass(config: SweepConfig, data: Any, scratch: Path) -> dict[str, Any]:
    ours: list[tuple[float, float]] = []
    usual: list[tuple[float, float]] = []
    with timed(ours):
        worker = worker_of(config, scratch, data)
    task = data[0].task
    pools = [part[0].train + part[0].validation for part in worker.folds]
    cut = [len(part[0].train) for part in worker.folds]
    n_labels = list(range(len(task.labels)))
    scorer = make_scorer(f1_score, average="macro", labels=n_labels, zero_division=0.0)
    features = Features(config.classifier.features(), task.has_target)
    rows, fold_scores = [], {}
    for c in STRENGTHS:
        with timed(ours):
            trial = worker.study.next(worker.space, worker.budget, sampler_for("grid", 0, 0))
            assert trial is not None
            worker._try(trial)
        means = [value for _, value in sorted(worker.study.trials()[trial.number].intermediate_values.items())]
        sums = [0, *(k * mean for k, mean in enumerate(means, start=1))]
        fold_scores[c] = np.diff(sums).tolist()
        theirs = []
        for pool, n in zip(pools, cut, strict=True):
            examples = np.empty(len(pool), dtype=object)
            examples[:] = list(pool.examples)
            model = LogisticRegression(class_weight="balanced", max_iter=1000)
            pipeline = Pipeline([("features", features), ("model", model)])
            split = [(np.arange(n), np.arange(n, len(pool)))]
            search = GridSearchCV(pipeline, {"model__C": [c]}, scoring=scorer, cv=split, refit=False, n_jobs=1)
            with timed(usual):
                search.fit(examples, pool.gold)
            theirs.append(float(search.cv_results_["mean_test_score"][0]))
        rows.append({"C": c, "ours": fold_scores[c], "usual": theirs})
        print(c, np.mean(fold_scores[c]), np.mean(theirs), np.sum(ours, 0), np.sum(usual, 0), flush=True)
    total = {"ours": np.sum(ours, axis=0).tolist(), "usual": np.sum(usual, axis=0).tolist()}
    return {**total, "rows": rows, "examples": len(pools[0])}


# --- how far from the solution ---


def exact() -> dict[str, list[dict[str, Any]]]:
    """Fold scores where the solver stops at a gradient of 1e-9, by corpus and strength."""
    found = {}
    for corpus, (task, _) in CORPORA.items():
        config, _ = composed(
            f"task={task}", f"corpus={corpus}", "split=given", "sweep=linear_C", f"sweep.folds={FOLDS}", "trials=1",
            "tracking=none",
        )  # fmt: skip
        data = _read(config, Progress(quiet=True))[0]
        with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1):
            folds = worker_of(config, Path(scratch), data).folds[:SOLVED_FOLDS]
            by_fold = [_solved(config, fold[0]) for fold in folds]
        found[corpus] = [{"C": c, "exact": [scores[c] for scores in by_fold]} for c in by_fold[0]]
    return found


def _solved(config: SweepConfig, part: Part) -> dict[float, float]:
    """The score on validation by C, each solution from the one before."""
    labels = list(range(len(part.task.labels)))
    features = Features(config.classifier.features(), part.task.has_target)
    train, judged = (list(each.examples) for each in (part.train, part.validation))
    fold, judge = Fold(features.fit_transform(train)), features.transform(judged)
    model = LogisticRegression(
        solver="newton-cg", class_weight="balanced", warm_start=True, tol=1e-9, max_iter=1000
    )  # fmt: skip
    found = {}
    for c in (c for c in STRENGTHS if c >= 1):
        model.set_params(C=c).fit(fold.matrix, part.train.gold)
        scores = judge @ fold.unfold(model.coef_.T) + model.intercept_
        predicted = scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(int)
        found[c] = float(f1_score(part.validation.gold, predicted, average="macro", labels=labels, zero_division=0.0))
    return found


# --- what the time grows with ---


def growth() -> list[dict[str, Any]]:
    """Processor seconds of a sweep by distinct features and strengths, allsides, five folds."""
    found = []
    features = ["[2,5]", "[2,4]", "[3,5]"]
    for n_features, n_strengths in ((1, 5), (1, 10), (1, 20), (1, 40), (2, 10), (3, 10)):
        strengths = [float(c) for c in np.geomspace(0.01, 100, n_strengths)]
        config, _ = composed(
            "task=framing", "corpus=allsides", "split=given", "sweep=linear_C", f"sweep.folds={FOLDS}",
            f"trials={n_features * n_strengths}", f"sweep.space.C.choices={strengths}",
            f"+sweep.space.char_ngrams={{choices:[{','.join(features[:n_features])}]}}", "tracking=none",
        )  # fmt: skip
        data = _read(config, Progress(quiet=True))[0]
        spent: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory() as scratch, timed(spent):
            worker = worker_of(config, Path(scratch), data)
            worker.work()
            trials = len(worker.study.trials())
        row = {"features": n_features, "trials": trials, "cpu": spent[0][0], "wall": spent[0][1]}
        print(row, flush=True)
        found.append(row)
    return found


# --- kill -9 ---


def kills(n: int, seed: int) -> dict[str, Any]:
    """`n` sweeps, each killed at one random moment and started again; what was wrong after that."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        wrong = run_killed(Path(scratch) / "whole", [])
        whole = time.perf_counter() - started
        problems = [f"uninterrupted: {problem}" for problem in wrong]
        for number in range(n):
            moment = draw.uniform(0, whole)
            wrong = run_killed(Path(scratch) / str(number), [moment])
            problems += [f"killed after {moment:.2f} s: {problem}" for problem in wrong]
            print(number, f"{moment:.2f} of {whole:.2f} s", wrong or "fine", flush=True)
    return {"kills": n, "seconds": whole, "problems": problems}


def run_killed(
    folder: Path, moments: Sequence[float], overrides: Sequence[str] = (), corpus: str = "corpus=sample",
    trials: int = 6,
) -> list[str]:  # fmt: skip
    """One sweep in processes that are killed after so many seconds each, then one that is left alone; what is wrong."""
    folder.mkdir(parents=True)
    arguments = [
        "task=topic", *corpus.split(), "sweep=linear", f"trials={trials}", "shortcuts=false", "evaluation.resamples=20",
        f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}/artifacts",
        f"sweep_dir={folder}/sweep", "sweep.space.char_ngrams.choices=[[0,0],[2,3]]", *overrides,
    ]  # fmt: skip
    context = multiprocessing.get_context("fork")
    for moment in [*moments, None]:
        process = context.Process(target=_sweep, args=(arguments,))
        process.start()
        process.join(moment)
        if moment is not None and process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    problems = [] if process.exitcode == 0 else [f"the last process exited with {process.exitcode}"]
    return problems + judged(folder, trials)


def _sweep(arguments: Sequence[str]) -> None:
    config, settings = composed(*arguments)
    sweep(config, settings, Progress(quiet=True))


def judged(folder: Path, trials: int, parents: int = 1) -> list[str]:
    """What is wrong with the sweep in `folder`: trials lost or twice, MLflow runs that lack or are RUNNING."""
    rows = [json.loads(line) for line in (folder / "sweep" / "trials.jsonl").read_text().splitlines()]
    problems = []
    if [row["number"] for row in rows] != list(range(trials)):
        problems.append(f"trials {[row['number'] for row in rows]}; expected 0 to {trials - 1}")
    if states := {row["state"] for row in rows} - {"COMPLETE", "PRUNED"}:
        problems.append(f"trials that are {', '.join(states)}")
    return problems + judged_runs(f"sqlite:///{folder}/mlflow.db", trials, parents)


def judged_runs(uri: str, trials: int, parents: int = 1) -> list[str]:
    """What is wrong with the MLflow runs of a sweep."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("slantwise")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    numbers = Counter(run.data.tags["trial"] for run in runs if "trial" in run.data.tags)
    problems = []
    if numbers != Counter(str(number) for number in range(trials)):
        problems.append(f"MLflow runs of the trials {dict(numbers)}; expected one each")
    tops = [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]
    if len(tops) != parents or len(runs) != trials + 2 * parents:
        wanted = f"expected {trials + 2 * parents}, {parents}"
        problems.append(f"{len(runs)} MLflow runs, {len(tops)} without a parent; {wanted}")
    if unfinished := [run.info.run_name for run in runs if run.info.status != "FINISHED"]:
        problems.append(f"MLflow runs that are not finished: {', '.join(unfinished)}")
    return problems


# --- the page ---


def _page(folder: Path) -> str:
    parts = {name: _load(folder / f"{name}.json") for name in (*CORPORA, "exact", "growth", "kills")}
    lines = ["# Sweeps of the linear classifier", "", *_intro()]
    found = [parts[name] for name in CORPORA if parts[name] is not None]
    if found:
        lines += _table(found)
    if parts["exact"] and len(found) == len(CORPORA):
        lines += ["", *_distances(parts["exact"], found)]
    if parts["growth"]:
        lines += _growth(parts["growth"])
    if parts["kills"]:
        n, seconds, problems = (parts["kills"][name] for name in ("kills", "seconds", "problems"))
        lines += ["", "## kill -9", "", f"{n} sweeps of six trials (a run of {seconds:.0f} s), each killed by SIGKILL"
                  "  at a random moment and started again with the same command:", "",
                  *(problems or ["every study held exactly the trials asked for, MLflow one finished run for each, and "
                                 "none was left RUNNING."])]  # fmt: skip
    return "\n".join(lines) + "\n"


def _intro() -> list[str]:
    return [
        f"{len(STRENGTHS)} strengths of regularisation (C from {STRENGTHS[0]:g} to {STRENGTHS[-1]:g}), {FOLDS} folds",
        "of train and validation, near-duplicates kept together. `slantwise sweep` with its storage, locks and caches,",
        "against `GridSearchCV` over a `Pipeline` of the same features and a `LogisticRegression` with its default",
        "solver, both on one thread, strength by strength in turns. Made by `python -m benchmarks.sweep`.",
        "",
    ]


def _table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| corpus | examples | sweep, processor s | usual way, processor s | times as fast (processor) | (wall) "
        "| largest difference of a fold's score | of a mean | choice of C, sweep / usual way | passes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        passes = one["passes"]
        cpu = [p["usual"][0] / p["ours"][0] for p in passes]
        wall = [p["usual"][1] / p["ours"][1] for p in passes]
        rows = passes[0]["rows"]
        ours, usual = (np.array([row[who] for row in rows]) for who in ("ours", "usual"))
        chosen = [rows[int(scores.mean(axis=1).argmax())]["C"] for scores in (ours, usual)]
        means = abs(ours.mean(axis=1) - usual.mean(axis=1)).max()
        gap = usual.mean(axis=1).max() - usual.mean(axis=1)[ours.mean(axis=1).argmax()]
        lines.append(
            f"| {one['corpus']} ({one['task']}) | {passes[0]['examples']:,} | {_median(passes, 'ours'):.0f} "
            f"| {_median(passes, 'usual'):.0f} | **{np.median(cpu):.1f}**{_spread(cpu)} "
            f"| {np.median(wall):.1f}{_spread(wall)} | {abs(ours - usual).max():.4f} | {means:.4f} "
            f"| {chosen[0]:g} / {chosen[1]:g} (its mean score is {gap:.4f} below) | {len(passes)} |"
        )
    heads = " | ".join(f"{one['corpus']}, sweep | usual way" for one in found)
    lines += ["", "Mean scores over the folds, by C:", "", f"| C | {heads} |", "| --- |" + " --- | --- |" * len(found)]
    for i, c in enumerate(STRENGTHS):
        cells = [f"{np.mean(one['passes'][0]['rows'][i][who]):.4f}" for one in found for who in ("ours", "usual")]
        lines.append(f"| {c:g} | " + " | ".join(cells) + " |")
    return lines


def _distances(solved: Mapping[str, Sequence[Mapping[str, Any]]], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far the fold scores of both ways are from those of the solution."""
    lines = [
        "How far a fold's score is at most from that of the solution (gradient below 1e-9; three folds, C from 1 on),",
        "in brackets without the largest C:",
        "",
        "| corpus | sweep | usual way |",
        "| --- | --- | --- |",
    ]
    for one in found:
        rows = {row["C"]: row for row in one["passes"][0]["rows"]}
        cells = []
        for who in ("ours", "usual"):
            apart = [
                max(abs(a - b) for a, b in zip(rows[row["C"]][who], row["exact"], strict=False))
                for row in solved[one["corpus"]]
            ]
            cells.append(f"{max(apart):.4f} ({max(apart[:-1]):.4f})")
        lines.append(f"| {one['corpus']} | {' | '.join(cells)} |")
    return lines


def _median(passes: Sequence[Mapping[str, Any]], who: str) -> float:
    return float(np.median([p[who][0] for p in passes]))


def _spread(values: Sequence[float]) -> str:
    return f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""


def _growth(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", "## What the time grows with", "", "allsides, five folds: settings of the features, and trials.", "",
             "| distinct features | trials | processor s |", "| --- | --- | --- |"]  # fmt: skip
    return lines + [f"| {row['features']} | {row['trials']} | {row['cpu']:.0f} |" for row in rows]


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
