"""`slantwise train`: one training run, from a corpus to a run directory that is published to MLflow.

The run directory is the source of truth:

    config.yaml           the resolved configuration
    run.json              corpus, split, counts, parameters, tags, metrics and their course: what MLflow is told
    history.jsonl         the metrics of single steps as they came; mlflow.json: how far MLflow knows of them
    code.diff             where the code differs from its commit: how
    predictions.parquet   test (or out-of-fold) predictions; validation.parquet those of validation
    metrics.json          test metrics with intervals; validation_metrics.json
    split.parquet         id, split (or fold), near-duplicate cluster of every article
    report.html/.json, plots/
    quarantine.jsonl      rows that were not used, with the reason
    model/                the model, one head a task
    log.txt               what was printed
    work/                 while it runs: what an interrupted run goes on from

A run of several tasks has a folder for each with its predictions, metrics, split and report.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from hydra.utils import get_method

from data.columns import View
from data.corpus import Corpus, load_corpus, write_quarantine
from data.examples import LabelledExamples
from data.joint import split_corpora, split_corpora_without_test
from data.prepare import CleanCorpus, clean_corpus, fit_cleaner
from data.splitting import Split
from evaluation.intervals import Estimate, evaluate
from evaluation.judge import (
    Context,
    decision_facts,
    headline_metrics,
    judge,
    label_shares,
    predict,
    shortcut_facts,
    write_metrics,
)
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.shortcuts import ProbeResult, folds_of, gather, probe, unbeaten
from evaluation.slices import in_words, seen_in_training
from evaluation.tables import metrics_table
from evaluation.targets import shuffle_targets
from slantwise.cleaning import Cleaner
from slantwise.command import Progress, run, to_object
from slantwise.decision import Decision
from slantwise.errors import CorpusError, TrackingError
from slantwise.model import Head, Model, load
from slantwise.monitoring import Reference, Vocabulary
from slantwise.summary import add, of_predictions
from slantwise.task import Task
from training import config as schemas
from training import processes, tracking
from training.config import TrainConfig
from training.decisions import fit_decision, held_out_probabilities
from training.environment import code_diff, environment_tags
from training.fitting import Fitted, Part, Workspace
from training.journal import write_whole
from training.multirun import group_tags
from training.publisher import Tracker, tracked
from training.redact import redact
from training.resume import Claim, claim

if TYPE_CHECKING:
    from training.reproduce import Origin

# The options of a backend that are worth a column beside other runs; config.yaml has all. Of others, all are shown.
COLUMNS = {
    "linear": ("loss", "class_weight", "C", "word_ngrams", "char_ngrams", "max_features", "seed"),
    "encoder": ("encoder", "C", "max_tokens", "long", "pooling", "class_weight"),
    "transformer": (
        "encoder", "max_tokens", "long", "pooling", "epochs", "learning_rate", "batch_size", "freeze_layers", "seed",
    ),
}  # fmt: skip
SHOWN_BY_FOLD = 3  # headline metrics
FEW_EXAMPLES = 30  # below this, a percentile bootstrap says more than the data do


@dataclass(frozen=True)
class TaskData:
    """One task's side of the corpus, cleaned and divided; `official` and `headline` are names of metrics."""

    task: Task
    clean: CleanCorpus
    splits: Sequence[Split]
    clusters: npt.NDArray[np.int64]
    official: Sequence[str]
    headline: Sequence[str]

    def part(self, split: Split, config: TrainConfig) -> Part:
        """Train and validation of a split; test is not for a fit."""
        train_part, validation = (
            self.clean.examples(split.rows(name), split.units) for name in ("train", "validation")
        )
        if config.shuffle_train_labels:
            train_part = _shuffled(train_part, config.split.seed)
            validation = _shuffled(validation, config.split.seed + 1)
        return Part(self.task, train_part, validation)


@dataclass(frozen=True)
class Trained:
    """A fitted head with its predictions on the two splits that did not fit it; raw: before calibration."""

    head: Head
    validation: Predictions
    test: Predictions
    raw_test: Predictions
    shuffled: Predictions | None  # test with the targets of other examples
    shares: Mapping[str, float]
    fitted: Fitted


@dataclass(frozen=True)
class TaskResult:
    metrics: Mapping[str, Estimate]
    headline: Sequence[str]
    shares: Mapping[str, float]


@dataclass(frozen=True)
class RunResult:
    directory: Path
    tasks: Mapping[str, TaskResult]
    mlflow_run: str | None

    @property
    def only(self) -> TaskResult:
        """The result of a run of one task."""
        (result,) = self.tasks.values()
        return result


def main() -> None:
    if any(argument.startswith("run=") for argument in sys.argv[1:]):
        from training import reproduce

        reproduce.main()
        return
    several_tasks(sys.argv)
    schemas.register()
    run("train", _job)


def several_tasks(arguments: list[str]) -> None:
    """`task=[topic,framing]` trains several tasks together; to Hydra, `task` is the choice of one file."""
    for place, argument in enumerate(arguments):
        if several := re.match(r"task=\[(\w+)([\w, ]*)\]$", argument):
            arguments[place : place + 1] = [f"task={several[1]}", f"tasks=[{several[1]}{several[2]}]"]


def _job(config: Any) -> None:
    from omegaconf import OmegaConf

    quiet = not processes.is_first()
    train(to_object(config, TrainConfig), redact(OmegaConf.to_yaml(config, resolve=True)), Progress(quiet))


def train(config: TrainConfig, resolved: str, progress: Progress, origin: Origin | None = None) -> RunResult:
    """Train, judge, save and publish. `resolved` is the configuration as YAML; `origin` a run that this one is to
    reproduce.

    A run that was interrupted is gone on with, where the backend can. Raises a SlantwiseError, with nothing written,
    where the configuration or the corpus is at fault.
    """
    started = time.time()
    place = claim(config, resolved)
    resolved = resolved.replace(config.run_dir, str(place.directory))
    config = replace(config, run_dir=str(place.directory))
    progress.say(f"train {', '.join(config.task_names)} on {config.corpus.name}")
    if place.resumed:
        progress.say(f"  going on with {place.directory}, which was interrupted")
    if place.finished:
        return _publish_finished(config, place, progress)
    with progress.step("read the corpus"):
        corpus = load_corpus(config.corpus, config.evaluation.slices)
        tasks = [corpus.task(name) for name in config.task_names]
        fit_all = get_method(config.classifier._target_)
        for task in tasks:
            config.decision.check(task)
    progress.say(f"  {corpus.counts()}")
    place.check_corpus(corpus.fingerprint)
    if origin is not None:
        origin.check(corpus.fingerprint)
    cleaner, data = prepare(config, corpus, tasks, progress)
    corpus = corpus.without_texts()  # the cleaned ones are all that is needed from here on
    warnings = [warning for one in data for warning in [*_leak_warnings(one.splits), *_size_warnings(one)]]
    for warning in dict.fromkeys(warnings):
        progress.warn(warning)
    metrics = {one.task.name: one.headline[0] for one in data}
    record = _opening(config, corpus, data, started, origin)
    with place.held(config.classifier, corpus.fingerprint) as folder:
        if not processes.is_first():
            _fit(config, fit_all, data, cleaner, Workspace(metrics, folder, progress))
            return RunResult(place.directory, {}, None)
        _write_opening(place.directory, resolved, record)
        with tracked(place.directory, config.tracking, progress) as tracker:
            folds, heads = _fit(config, fit_all, data, cleaner, Workspace(metrics, folder, progress, tracker.record))
            results = _write_run(config, resolved, corpus, data, folds, heads, warnings, place, record, progress)
            if origin is not None:
                progress.say(origin.compare(place.directory))
            mlflow_run = _publish(config, place.directory, tracker, progress) if config.tracking.enabled else None
            _say_where(place.directory, list(results), progress)
    return RunResult(place.directory, results, mlflow_run)


def _publish_finished(config: TrainConfig, place: Claim, progress: Progress) -> RunResult:
    """A run that was interrupted when all was in its directory already, and only MLflow was not told everything."""
    mlflow_run = None
    with place.held(config.classifier):
        heads = load(place.directory, device="cpu").heads
        record = json.loads((place.directory / "run.json").read_text(encoding="utf-8"))
        if tracking.is_complete(place.directory):  # to open it once more would make it a running one
            mlflow_run = tracking.publish(place.directory, config.tracking)
        elif config.tracking.enabled and processes.is_first():
            with tracked(place.directory, config.tracking, progress) as tracker:
                mlflow_run = _publish(config, place.directory, tracker, progress)
    results = {}
    for name, task in record["tasks"].items():
        metrics = {k: Estimate(**v) for k, v in task["metrics"].items()}
        results[name] = TaskResult(metrics, task["headline"], heads[name].provenance["label_shares"])
    _say_where(place.directory, list(results), progress)
    return RunResult(place.directory, results, mlflow_run)


def _say_where(directory: Path, tasks: Sequence[str], progress: Progress) -> None:
    first = directory / ("" if len(tasks) == 1 else tasks[0])
    progress.say(f"run directory: {directory}\nreport: {first / 'report.html'}\nmodel: {directory / 'model'}")
    progress.save(directory / "log.txt")


def prepare(
    config: TrainConfig, corpus: Corpus, tasks: Sequence[Task], progress: Progress
) -> tuple[Cleaner, list[TaskData]]:
    """The corpus cleaned and divided, for each task its side of it."""
    with progress.step("clean the articles") as notes:
        cleaner = fit_cleaner(corpus, config.cleaning)
        cleans = [clean_corpus(corpus, task, cleaner) for task in tasks]
        lines, articles = max((clean.furniture_lines, len(clean)) for clean in cleans)
        notes.append(f"{lines:,} lines of title and page furniture taken out of {articles:,} articles")
    with progress.step("split") as notes:
        divided = split_corpora(cleans, config.split)
        notes.append(_split_counts(divided[0][0]))
    data = []
    for task, clean, (splits, clusters) in zip(tasks, cleans, divided, strict=True):
        official = corpus.metrics.get(task.name, [])
        data.append(TaskData(task, clean, splits, clusters, official, headline_metrics(task, official)))
    return cleaner, data


def _fit(
    config: TrainConfig, fit_all: Any, data: Sequence[TaskData], cleaner: Cleaner, workspace: Workspace
) -> tuple[list[dict[str, Trained]], dict[str, Head]]:
    """The heads of each fold with their predictions, and those that are exported."""
    folds = _fit_folds(config, fit_all, data, cleaner, workspace)
    return folds, _final_heads(config, fit_all, data, cleaner, folds, workspace)


def _fit_folds(
    config: TrainConfig, fit_all: Any, data: Sequence[TaskData], cleaner: Cleaner, workspace: Workspace
) -> list[dict[str, Trained]]:
    """For each fold (one without folds), by task, the head and its predictions."""
    folds = []
    n = len(data[0].splits)
    for number in range(n):
        name = data[0].splits[number].name
        label = f"fit {config.backend}" + (f", fold {number + 1}/{n}{f' ({name})' if name else ''}" if n > 1 else "")
        with workspace.progress.step(label) as notes:
            parts = [one.part(one.splits[number], config) for one in data]
            prefix = f"fold_{number + 1}_" if n > 1 else ""
            fitted = fit_all(parts, config.classifier, workspace.part(f"fold-{number + 1}", prefix))
            trained = {}
            for one, part in zip(data, parts, strict=True):
                test = seen_in_training(one.clean, one.splits[number], one.clusters)
                trained[one.task.name] = _trained(config, fit_all, one, part, test, fitted[one.task.name], cleaner)
            notes.append(next(iter(fitted.values())).note)
        folds.append(trained)
        if n > 1:
            for one in data:
                found = compute(trained[one.task.name].test, one.headline)
                workspace.record(tracking.named_folds(one.task.name, found, len(data) > 1), number + 1)
    return folds


def _trained(
    config: TrainConfig, fit_all: Any, data: TaskData, part: Part, test: LabelledExamples, fitted: Fitted,
    cleaner: Cleaner,
) -> Trained:  # fmt: skip
    decision = _decision(config, fit_all, part, fitted, data.headline[0])
    head = Head(data.task, fitted.classifier, decision, cleaner)
    predictions, raw = predict(head, test, "test")
    has_target = config.shortcuts and data.task.has_target
    shuffled = predict(head, shuffle_targets(test, config.split.seed), "test")[0] if has_target else None
    # a refit classifier has seen validation: its honest validation probabilities are those from before the refit
    calibrated = decision.calibrate(fitted.validation_probabilities, data.task)
    validation = part.validation
    honest = Predictions(
        data.task, "validation", validation.ids, [e.text for e in validation.examples], validation.gold, calibrated,
        decision.decide(calibrated, data.task), validation.groups, [e.target for e in validation.examples],
        validation.sources,
    )  # fmt: skip
    return Trained(head, honest, predictions, raw, shuffled, label_shares(part.train), fitted)


def _decision(config: TrainConfig, fit_all: Any, part: Part, fitted: Fitted, metric: str) -> Decision:
    """The decision, fitted on the validation split or on held-out folds of train and validation; never on test."""
    judged, probabilities = part.validation, fitted.validation_probabilities
    if config.decision.cross_fit:
        judged = part.train + part.validation
        settled = config.classifier.settled(fitted.chosen)

        def held_out(rest: LabelledExamples, held: LabelledExamples) -> npt.NDArray[np.float32]:
            again = fit_all([Part(part.task, rest, held)], settled, Workspace({part.task.name: metric}))
            found: npt.NDArray[np.float32] = again[part.task.name].validation_probabilities
            return found

        probabilities = held_out_probabilities(held_out, judged, config.decision.cross_fit, config.split.seed)
    return fit_decision(part.task, probabilities, judged.gold, config.decision, metric, judged.groups)


def _final_heads(
    config: TrainConfig, fit_all: Any, data: Sequence[TaskData], cleaner: Cleaner,
    folds: Sequence[Mapping[str, Trained]], workspace: Workspace,
) -> dict[str, Head]:  # fmt: skip
    """The heads that are exported: the fitted ones; after cross-validation such that are fitted on all folds."""
    if len(folds) == 1:
        return {name: trained.head for name, trained in folds[0].items()}
    with workspace.progress.step("fit the exported model on all articles"):
        without_test = split_corpora_without_test([one.clean for one in data], config.split)
        parts = [one.part(split, config) for one, split in zip(data, without_test, strict=True)]
        fitted = fit_all(parts, config.classifier, workspace.part("final", None))
        heads = {}
        for one, part in zip(data, parts, strict=True):
            found = fitted[one.task.name]
            decision = _decision(config, fit_all, part, found, one.headline[0])
            heads[one.task.name] = Head(one.task, found.classifier, decision, cleaner)
    return heads


def _write_run(
    config: TrainConfig, resolved: str, corpus: Corpus, data: Sequence[TaskData],
    folds: Sequence[Mapping[str, Trained]], heads: Mapping[str, Head], warnings: Sequence[str], place: Claim,
    opening: Mapping[str, Any], progress: Progress,
) -> dict[str, TaskResult]:  # fmt: skip
    """All files of the run directory."""
    directory = place.directory
    directory.mkdir(parents=True, exist_ok=True)
    records, results, exported = {}, {}, {}
    try:
        for one in data:
            folder = directory if len(data) == 1 else directory / one.task.name
            parts = [fold[one.task.name] for fold in folds]
            judged = _judge(config, resolved, corpus, one, parts, warnings, folder, progress)
            name = one.task.name
            records[name] = judged
            metrics = {k: Estimate(**v) for k, v in judged["metrics"].items()}
            results[name] = TaskResult(metrics, one.headline, parts[0].shares)
            provenance = _provenance(config, corpus, one, parts, judged, directory)
            exported[name] = replace(heads[name], provenance=provenance, reference=_reference(one, parts))
        write_quarantine(corpus.quarantine, directory / "quarantine.jsonl")
        place.remove(directory / "model")
        Model(exported).save(directory / "model")
        write_whole(directory / "run.json", json.dumps(_record(opening, data, folds, records), indent=1) + "\n")
        for one in data:
            test = folds[0][one.task.name].test
            n = sum(len(fold[one.task.name].test) for fold in folds)
            judged, result = records[one.task.name], results[one.task.name]
            split = test.split if len(folds) == 1 else f"{test.split}, {len(folds)} folds pooled"
            split = split if len(data) == 1 else f"{one.task.name}, {split}"
            progress.console.print(metrics_table(result.metrics, one.headline, split, n, judged["folds"]))
            for line in judged["worst_slices"]:
                progress.say(f"  {line}")
    finally:
        progress.save(directory / "log.txt")
    return results


def _judge(
    config: TrainConfig, resolved: str, corpus: Corpus, data: TaskData, parts: Sequence[Trained],
    warnings: Sequence[str], folder: Path, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Predictions, metrics and report of one task into `folder`; gives what the run's record says of the task."""
    folder.mkdir(parents=True, exist_ok=True)
    test, validation = _pool([part.test for part in parts]), _pool([part.validation for part in parts])
    resamples, seed = config.evaluation.resamples, config.evaluation.seed
    with progress.step(f"probe {data.task.name} for shortcuts"):
        shortcuts = _probe_shortcuts(config, data, test)
    shuffled = _with_shuffled_targets(config, data, parts)
    for warning in shortcuts.warnings:
        progress.warn(warning)
    folds = [compute(part.test, data.headline) for part in parts] if len(parts) > 1 else []
    with progress.step(f"judge {data.task.name} on test"):
        context = Context(
            title=config.name,
            model=f"{config.backend} classifier, run {Path(config.run_dir).name}",
            corpus=corpus.name,
            shares=parts[0].shares,
            configuration=resolved,
            data={**_data_card(corpus, data), **_by_fold(data, folds)},
            warnings=[*dict.fromkeys(warnings), *shortcuts.warnings],
            heads=[(part.head, len(part.test)) for part in parts],
            shortcuts=None if shortcuts.score is None else shortcut_facts(shortcuts.results, shortcuts.score, shuffled),
            cut=_cut(parts[0].fitted),
            history=[part.fitted.history for part in parts],
        )
        facts = decision_facts(parts[0].head.decision, data.task, _pool([part.raw_test for part in parts]), test)
        metrics, slices = judge(test, data.official, facts, context, config.evaluation, folder)
        validation_metrics = evaluate(validation, data.headline, resamples, seed, interval=config.evaluation.interval)
    validation.write(folder / "validation.parquet")
    write_metrics(validation_metrics, folder / "validation_metrics.json")
    _write_split(data, folder / "split.parquet")
    names = [split.name for split in data.splits]
    return {
        "task": data.task.to_dict(),
        "headline": list(data.headline),
        "metrics": {name: vars(m) for name, m in metrics.items()},
        "validation_metrics": {name: vars(m) for name, m in validation_metrics.items()},
        "folds": folds,
        "left_out": names if any(names) else [],
        "worst_slices": in_words(slices),
        "shortcuts": [asdict(result) for result in shortcuts.results],
        "unbeaten_shortcut": next(iter(shortcuts.warnings), None),
        "shuffled_targets": None if shuffled is None else vars(shuffled),
    }


@dataclass(frozen=True)
class Shortcuts:
    """What the shortcut probes found, the model's score beside them, and what the user must be told."""

    results: Sequence[ProbeResult] = ()
    score: Estimate | None = None
    warnings: Sequence[str] = ()


def _with_shuffled_targets(config: TrainConfig, data: TaskData, parts: Sequence[Trained]) -> Estimate | None:
    """The primary metric where each test text has the target of another example: how much the model reads targets."""
    found = [part.shuffled for part in parts if part.shuffled is not None]
    if not found:
        return None
    metric = data.headline[0]
    sure = config.evaluation
    return evaluate(_pool(found), [metric], sure.resamples, sure.seed, interval=sure.interval)[metric]


def _probe_shortcuts(config: TrainConfig, data: TaskData, test: Predictions) -> Shortcuts:
    """How far the labels are told by something other than the text; the probes learn from all that is not test."""
    if not config.shortcuts:
        return Shortcuts()
    metric = data.headline[0]
    gathered = gather(data.clean, data.clusters, data.clean.removed)
    resamples, seed = config.evaluation.resamples, config.evaluation.seed
    interval = config.evaluation.interval
    results = probe(gathered, folds_of(gathered, data.splits), metric, test, resamples, seed, interval)
    score = evaluate(test, [metric], resamples, seed, interval=interval)[metric]
    unbeaten_one = unbeaten(results, score, "the model")
    return Shortcuts(results, score, [unbeaten_one] if unbeaten_one else [])


def _shuffled(labelled: LabelledExamples, seed: int) -> LabelledExamples:
    order = np.random.default_rng(seed).permutation(len(labelled))
    return labelled.with_labels_of(order)


def _pool(parts: Sequence[Predictions]) -> Predictions:
    """Out-of-fold predictions as one; of a single split itself."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]

    def joined(name: str) -> list[Any]:
        return [value for part in parts for value in getattr(part, name)]

    return Predictions(
        first.task, f"{first.split}, {len(parts)} folds pooled", joined("ids"), joined("texts"),
        np.concatenate([p.gold for p in parts]), np.concatenate([p.probabilities for p in parts]),
        np.concatenate([p.predicted for p in parts]), joined("groups"), joined("targets"), joined("sources"),
        {name: [value for part in parts for value in part.columns[name]] for name in first.columns},
    )  # fmt: skip


def _split_counts(splits: Sequence[Split]) -> str:
    names = ("train", "validation", "test")
    counts = [{name: len(split.rows(name)) for name in names} for split in splits]
    folds = f" in the first of {len(splits)} folds" if len(splits) > 1 else ""
    return ", ".join(f"{counts[0][name]:,} {name}" for name in names) + folds


def _size_warnings(data: TaskData) -> list[str]:
    """What is too small to be judged; raises CorpusError where there is nothing to learn."""
    clean, splits = data.clean, data.splits
    warnings = []
    for split in splits:
        train = label_shares(clean.examples(split.rows("train")))
        if clean.task.kind == "multiclass" and sum(share > 0 for share in train.values()) < 2:
            raise CorpusError("all training examples carry one label; a classifier needs two or more")
    for name in ("validation", "test"):
        n = min(len(clean.examples(split.rows(name))) for split in splits)
        if n < FEW_EXAMPLES:
            use = "the decision fitted on it is rough" if name == "validation" else "intervals of so few are too narrow"
            warnings.append(f"the {name} split has {n} examples: {use} (expected {FEW_EXAMPLES} or more)")
    return warnings


def _leak_warnings(splits: Sequence[Split]) -> list[str]:
    straddling = sum(split.straddling for split in splits)
    if not straddling:
        return []
    return [
        f"{straddling:,} clusters of near-duplicate articles have members in more than one of train, validation and "
        "test, as this split is given: scores may be too good (split=stratified or split=kfold keep them together)"
    ]


def _by_fold(data: TaskData, folds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, str]]:
    """The headline metrics of each fold, which say more of a small corpus than their mean, as the report lists them."""
    if not folds:
        return {}
    names = [split.name or f"fold {number}" for number, split in enumerate(data.splits, start=1)]
    found = {}
    for metric in data.headline[:SHOWN_BY_FOLD]:
        values = np.array([fold[metric] for fold in folds])
        defined = values[~np.isnan(values)]
        each = {name: f"{value:.3f}" for name, value in zip(names, values, strict=True)}
        spread = "undefined in nearly all"
        if len(defined) > 1:
            spread = f"{defined.mean():.3f}, standard deviation {defined.std(ddof=1):.3f}"
        found[f"{metric} by fold"] = {**each, "mean of the folds": spread}
    return found


def _data_card(corpus: Corpus, data: TaskData) -> dict[str, Any]:
    clean, splits, clusters = data.clean, data.splits, data.clusters
    sizes = np.unique(clusters, return_counts=True)[1]
    names = ("train", "validation", "test")
    return {
        "rows": corpus.counts(),
        "articles labelled for the task": f"{len(clean):,}",
        "split": _split_counts(splits),
        "examples": {name: f"{len(clean.examples(splits[0].rows(name))):,}" for name in names},
        "near-duplicate clusters": f"{int((sizes > 1).sum()):,} with {int(sizes[sizes > 1].sum()):,} articles",
        "clusters that straddle splits": f"{sum(split.straddling for split in splits):,}",
        "sha256 of the corpus": corpus.fingerprint,
    }


def _write_split(data: TaskData, path: Path) -> None:
    """One row for each article; with folds, `split` names the fold in which the article is test."""
    splits = data.splits
    ids = data.clean.column("id")
    if len(splits) == 1:
        assignment = list(splits[0].assignment)
    else:
        folds = {i: f"fold {k}" for k, split in enumerate(splits, start=1) for i in split.rows("test")}
        assignment = [folds[i] for i in range(len(ids))]
    pq.write_table(pa.table({"id": ids, "split": assignment, "cluster": [ids[c] for c in data.clusters]}), path)


def _cut(fitted: Fitted) -> dict[str, float]:
    """What of the articles the classifier did not see, where it cannot read all."""
    names = ("cut_articles", "cut_tokens", "windows_per_example")
    return {name: fitted.chosen[name] for name in names} if "cut_articles" in fitted.chosen else {}


def _provenance(
    config: TrainConfig, corpus: Corpus, data: TaskData, parts: Sequence[Trained], judged: Mapping[str, Any],
    directory: Path,
) -> dict[str, Any]:  # fmt: skip
    """What the model says of its training."""
    return {
        "run": directory.name,
        "corpus": corpus.name,
        "corpus_sha256": corpus.fingerprint,
        "split": {**vars(config.split), "kind": str(config.split.kind)},
        "label_shares": parts[0].shares,
        "official_metrics": list(data.official),
        "split_with": list(config.task_names),  # the tasks whose articles were split together
        "test": {name: judged["metrics"][name] for name in data.headline},
        "test_examples": sum(len(part.test) for part in parts),
        "worst_slices": judged["worst_slices"],
        "cut": _cut(parts[0].fitted) or None,
    }


def _reference(data: TaskData, parts: Sequence[Trained]) -> Reference:
    """What batches of scores are compared with: the test predictions, and the words of the training articles."""
    summary: dict[str, Any] = {}
    for part in parts:
        test, confidence = part.test, None
        if data.task.kind == "multiclass":
            confidence = test.probabilities[np.arange(len(test)), part.head.decision.best(test.probabilities)]
        summary = add(summary, of_predictions(data.task, test.predicted, confidence))
    texts = (View(data.clean.texts, np.array(data.splits[0].rows(name))) for name in ("train", "validation"))
    return Reference(summary, Vocabulary.of(*texts))


def _write_opening(directory: Path, resolved: str, record: Mapping[str, Any]) -> None:
    """What is known of a run before it trains; run.json says that it is not finished."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(resolved, encoding="utf-8")
    diff = code_diff()
    if diff:
        (directory / "code.diff").write_text(diff, encoding="utf-8")
    write_whole(directory / "run.json", json.dumps(record, indent=1) + "\n")


def _opening(
    config: TrainConfig, corpus: Corpus, data: Sequence[TaskData], started: float, origin: Origin | None
) -> dict[str, Any]:
    """What MLflow is told of the run before it trains; plain JSON."""
    options = vars(config.classifier)
    columns = COLUMNS.get(config.backend) or tuple(name for name in options if name != "_target_")
    counts = {
        name: sum(len(one.clean.examples(one.splits[0].rows(name))) for one in data)
        for name in ("train", "validation", "test")
    }
    parameters = {
        "task": ",".join(one.task.name for one in data),
        "corpus": corpus.name,
        "labels": ",".join(str(len(one.task.labels)) for one in data),
        "classifier": config.backend,
        **{f"classifier.{name}": str(options[name]) for name in columns},
        "decision.calibrate": config.decision.calibrate,
        "cleaning": config.cleaning.furniture,
        "split": str(config.split.kind),
        "split.seed": config.split.seed,
        "split.group_by": ",".join(config.split.group_by) or "none",
        **{f"n_{name}": n for name, n in counts.items()},
    }
    lineage = {} if origin is None else origin.tags(corpus.fingerprint)
    return {
        "status": "RUNNING",
        "name": config.name,
        "started": int(started * 1000),
        "parameters": parameters,
        "tags": {"corpus_sha256": corpus.fingerprint, **environment_tags(sys.argv), **lineage, **group_tags()},
        "datasets": [
            {"name": f"{corpus.name} {name}", "context": name, "digest": _digest(corpus, data, name),
             "rows": counts[name], "corpus_sha256": corpus.fingerprint,
             "source": [str(Path(config.corpus.root) / file.path) for file in config.corpus.files],
             "urls": [file.url for file in config.corpus.download]}
            for name in counts
        ],
    }  # fmt: skip


def _record(
    opening: Mapping[str, Any], data: Sequence[TaskData], folds: Sequence[Mapping[str, Trained]],
    tasks: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The same with what came out."""
    first = data[0].task.name
    chosen = folds[0][first].fitted.chosen
    found = {
        **{f"chosen.{name}": str(chosen[name]) for name in ("C", "epoch") if name in chosen},
        "chosen.calibration": ",".join(folds[0][one.task.name].head.decision.calibration for one in data),
    }
    return {
        **opening,
        "status": "FINISHED",
        "parameters": opening["parameters"] | found,
        "chosen": {name: str(value) for name, value in chosen.items() if not isinstance(value, Mapping)},
        "tasks": tasks,
        "history": [
            {f"fold_{number}_{k}" if len(folds) > 1 and k != "step" else k: v for k, v in entry.items()}
            for number, fold in enumerate(folds, start=1)
            for entry in fold[first].fitted.history
        ],
        "seconds": round(time.time() - opening["started"] / 1000, 3),
    }


def _digest(corpus: Corpus, data: Sequence[TaskData], split: str) -> str:
    """Which articles of which corpus: 32 hexadecimal digits, the longest that MLflow takes being 36."""
    ids = {one.clean.rows[i]["id"] for one in data for i in one.splits[0].rows(split)}
    return hashlib.sha256("\n".join([corpus.fingerprint, *sorted(ids)]).encode()).hexdigest()[:32]


def _publish(config: TrainConfig, directory: Path, tracker: Tracker, progress: Progress) -> str | None:
    """Complete the MLflow run; where it cannot be reached the run is complete all the same, and published later."""
    try:
        with progress.step("publish to MLflow"):
            return tracking.publish(directory, config.tracking, tracking.ATTEMPTS if tracker.stop() else 1)
    except TrackingError as error:
        progress.warn(f"{error}; the run is complete, publish it later with: slantwise publish run_dir={directory}")
        return None


if __name__ == "__main__":
    main()
