"""`slantwise train`: one training run, from a corpus to a run directory that is published to MLflow.

The run directory is the source of truth:

    config.yaml           the resolved configuration
    run.json              corpus, split, counts, parameters, tags and metrics: what MLflow is told
    split.parquet         id, split (or fold), near-duplicate cluster of every article
    predictions.parquet   test (or out-of-fold) predictions; validation.parquet those of validation
    metrics.json          test metrics with intervals; validation_metrics.json
    report.html/.json, plots/
    quarantine.jsonl      rows that were not used, with the reason
    model/                the model, one head
    log.txt               what was printed
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from hydra.utils import get_method

from data.corpus import Corpus, load_corpus, write_quarantine
from data.examples import LabelledExamples
from data.prepare import CleanCorpus, clean_corpus, fit_cleaner, split_corpus, split_without_test
from data.splitting import Split
from evaluation.intervals import Estimate, evaluate
from evaluation.judge import Context, decision_facts, headline_metrics, judge, label_shares, predict, write_metrics
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.shortcuts import SHORTCUTS, folds_of, gather, probe, unbeaten, verdict
from evaluation.tables import format_estimate, metrics_table
from slantwise.cleaning import Cleaner
from slantwise.command import Progress, run, to_object
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError, CorpusError, TrackingError
from slantwise.model import Head, Model
from training import config as schemas
from training import tracking
from training.config import TrainConfig
from training.decisions import fit_decision, held_out_probabilities

FEW_EXAMPLES = 30  # below this, a percentile bootstrap says more than the data do


@dataclass(frozen=True)
class Trained:
    """A fitted head with its predictions on the two splits that did not fit it; raw: before calibration."""

    head: Head
    validation: Predictions
    test: Predictions
    raw_test: Predictions
    shares: Mapping[str, float]
    chosen: Mapping[str, Any]


@dataclass(frozen=True)
class RunResult:
    directory: Path
    metrics: Mapping[str, Estimate]
    headline: Sequence[str]
    shares: Mapping[str, float]
    mlflow_run: str | None


def main() -> None:
    schemas.register()
    run("train", _job)


def _job(config: Any) -> None:
    from omegaconf import OmegaConf

    train(to_object(config, TrainConfig), tracking.redact(OmegaConf.to_yaml(config, resolve=True)), Progress())


def train(config: TrainConfig, resolved: str, progress: Progress) -> RunResult:
    """Train, judge, save and publish. `resolved` is the configuration as YAML.

    Raises a SlantwiseError, with nothing written, where the configuration or the corpus is at fault.
    """
    directory = Path(config.run_dir)
    _check_new_folder(directory)
    started = time.time()
    progress.say(f"train {config.task.name} on {config.corpus.name}")
    with progress.step("read the corpus"):
        corpus = load_corpus(config.corpus)
        task = corpus.task(config.task.name)
        official = corpus.metrics.get(task.name, [])
        headline = headline_metrics(task, official)
        fit = get_method(config.classifier._target_)
    progress.say(f"  {corpus.counts()}")
    with progress.step("clean the articles") as notes:
        cleaner = fit_cleaner(corpus, config.cleaning)
        clean = clean_corpus(corpus, task, cleaner)
        notes.append(
            f"{clean.furniture_lines:,} lines of title and page furniture taken out of {len(clean):,} articles"
        )
    with progress.step("split") as notes:
        splits, clusters = split_corpus(clean, config.split)
        notes.append(_split_counts(splits))
    warnings = [*_leak_warnings(splits), *_size_warnings(clean, splits)]
    for warning in warnings:
        progress.warn(warning)
    parts = []
    for number, split in enumerate(splits, start=1):
        label = f"fit {config.classifier._target_.split('.')[1]}" + (
            f", fold {number}/{len(splits)}" if len(splits) > 1 else ""
        )
        with progress.step(label) as notes:
            parts.append(_fit_one(config, fit, clean, split, cleaner, headline[0]))
            notes += [f"{key} {value}" for key, value in parts[-1].chosen.items() if not isinstance(value, dict)]
    directory.mkdir(parents=True)
    try:
        test = _pool([part.test for part in parts])
        with progress.step("probe for shortcuts"):
            shortcuts = _probe_shortcuts(config, clean, splits, clusters, test, headline[0])
        for warning in shortcuts.warnings:
            progress.warn(warning)
        with progress.step("judge on test"):
            context = Context(
                title=config.name,
                model=f"{config.classifier._target_.split('.')[1]} classifier, run {directory.name}",
                corpus=corpus.name,
                shares=parts[0].shares,
                configuration=resolved,
                data={**_data_card(corpus, clean, splits, clusters), **shortcuts.card},
                warnings=[*warnings, *shortcuts.warnings],
            )
            facts = decision_facts(parts[0].head.decision, task, _pool([part.raw_test for part in parts]))
            metrics = judge(test, official, facts, context, config.evaluation, directory)
            validation = _pool([part.validation for part in parts])
            validation_metrics = evaluate(validation, headline, config.evaluation.resamples, config.evaluation.seed)
        validation.write(directory / "validation.parquet")
        write_metrics(validation_metrics, directory / "validation_metrics.json")
        write_quarantine(corpus.quarantine, directory / "quarantine.jsonl")
        _write_split(clean, splits, clusters, directory / "split.parquet")
        (directory / "config.yaml").write_text(resolved, encoding="utf-8")
        head = _final_head(config, fit, clean, clusters, parts, cleaner, headline[0], progress)
        provenance = {
            "run": directory.name,
            "corpus": corpus.name,
            "corpus_sha256": corpus.fingerprint,
            "split": {**vars(config.split), "kind": str(config.split.kind)},
            "label_shares": parts[0].shares,
            "official_metrics": list(official),
            "test": {name: vars(metrics[name]) for name in headline},
        }
        Model({task.name: replace(head, provenance=provenance)}).save(directory / "model")
        folds = [compute(part.test, headline) for part in parts] if len(parts) > 1 else []
        record = _record(
            config,
            corpus,
            clean,
            splits,
            metrics,
            validation_metrics,
            headline,
            folds,
            parts[0].chosen,
            time.time() - started,
        )
        record["shortcuts"] = list(shortcuts.figures)
        (directory / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        progress.console.print(metrics_table(metrics, headline, test.split, len(test), folds))
    finally:
        progress.save(directory / "log.txt")
    mlflow_run = _publish(config, directory, progress) if config.tracking.enabled else None
    progress.say(f"run directory: {directory}\nreport: {directory / 'report.html'}\nmodel: {directory / 'model'}")
    progress.save(directory / "log.txt")
    return RunResult(directory, metrics, headline, parts[0].shares, mlflow_run)


@dataclass(frozen=True)
class Shortcuts:
    """What the shortcut probes found: the figures, their lines of the data card and what the user must be told."""

    figures: Sequence[Mapping[str, Any]] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def _probe_shortcuts(
    config: TrainConfig, clean: CleanCorpus, splits: Sequence[Split], clusters: npt.NDArray[np.int64],
    test: Predictions, metric: str,
) -> Shortcuts:  # fmt: skip
    """How far the labels are told by something other than the text; the probes learn from all that is not test."""
    if not config.shortcuts:
        return Shortcuts()
    data = gather(clean, clusters, clean.removed)
    resamples, seed = config.evaluation.resamples, config.evaluation.seed
    results = probe(data, folds_of(data, splits), metric, test, resamples, seed)
    score = evaluate(test, [metric], resamples, seed)[metric]
    table = {SHORTCUTS[r.name].title: " ".join(format_estimate(r.estimate)) for r in results}
    unbeaten_one = unbeaten(results, score, "the model")
    card = {
        f"the same {metric} by a shortcut": {"this model": " ".join(format_estimate(score)), **table},
        "shortcuts": " ".join(verdict(results, score, "the model")),
    }
    return Shortcuts([asdict(r) for r in results], card, [unbeaten_one] if unbeaten_one else [])


def _fit_one(config: TrainConfig, fit: Any, clean: CleanCorpus, split: Split, cleaner: Cleaner, metric: str) -> Trained:
    train_part, validation, test = (clean.examples(split.rows(name)) for name in ("train", "validation", "test"))
    if config.shuffle_train_labels:
        train_part, validation = _shuffled(train_part, config.split.seed), _shuffled(validation, config.split.seed + 1)
    fitted = fit(clean.task, train_part, validation, config.classifier)
    decision = _decision(config, fit, train_part, validation, fitted, metric)
    head = Head(clean.task, fitted.classifier, decision, cleaner)
    predictions, raw = predict(head, test, "test")
    # a refit classifier has seen validation: its honest validation probabilities are those from before the refit
    calibrated = decision.calibrate(fitted.validation_probabilities, clean.task)
    honest = Predictions(
        clean.task, "validation", validation.ids, [e.text for e in validation.examples], validation.gold, calibrated,
        decision.decide(calibrated, clean.task), validation.groups, [e.target for e in validation.examples],
        validation.sources,
    )  # fmt: skip
    return Trained(head, honest, predictions, raw, label_shares(train_part), fitted.chosen)


def _decision(
    config: TrainConfig, fit: Any, train_part: LabelledExamples, validation: LabelledExamples, fitted: Any, metric: str
) -> Decision:
    """The decision, fitted on the validation split or on held-out folds of train and validation; never on test."""
    judged, probabilities = validation, fitted.validation_probabilities
    if config.decision.cross_fit:
        judged = train_part + validation
        settled = config.classifier.settled(fitted.chosen)

        def held_out(rest: LabelledExamples, part: LabelledExamples) -> npt.NDArray[np.float32]:
            return fit(judged.task, rest, part, settled).validation_probabilities

        probabilities = held_out_probabilities(held_out, judged, config.decision.cross_fit, config.split.seed)
    return fit_decision(judged.task, probabilities, judged.gold, config.decision, metric)


def _final_head(
    config: TrainConfig, fit: Any, clean: CleanCorpus, clusters: npt.NDArray[np.int64], parts: Sequence[Trained],
    cleaner: Cleaner, metric: str, progress: Progress,
) -> Head:  # fmt: skip
    """The head that is exported: the fitted one; after cross-validation one that is fitted on all folds."""
    if len(parts) == 1:
        return parts[0].head
    with progress.step("fit the exported model on all articles"):
        split = split_without_test(clean, clusters, config.split)
        train_part, validation = clean.examples(split.rows("train")), clean.examples(split.rows("validation"))
        fitted = fit(clean.task, train_part, validation, config.classifier)
        decision = _decision(config, fit, train_part, validation, fitted, metric)
    return Head(clean.task, fitted.classifier, decision, cleaner)


def _shuffled(labelled: LabelledExamples, seed: int) -> LabelledExamples:
    order = np.random.default_rng(seed).permutation(len(labelled))
    return replace(labelled, gold=labelled.gold[order])


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
    )  # fmt: skip


def _split_counts(splits: Sequence[Split]) -> str:
    names = ("train", "validation", "test")
    counts = [{name: len(split.rows(name)) for name in names} for split in splits]
    folds = f" in the first of {len(splits)} folds" if len(splits) > 1 else ""
    return ", ".join(f"{counts[0][name]:,} {name}" for name in names) + folds


def _check_new_folder(directory: Path) -> None:
    """Before hours of work: the run directory must be new and its place writable. Raises ConfigurationError."""
    if directory.exists():
        raise ConfigurationError(f"run_dir={directory} exists; expected a new folder")
    parent = next(path for path in directory.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigurationError(f"run_dir={directory}: {parent} is no folder that can be written to")


def _size_warnings(clean: CleanCorpus, splits: Sequence[Split]) -> list[str]:
    """What is too small to be judged; raises CorpusError where there is nothing to learn."""
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


def _data_card(
    corpus: Corpus, clean: CleanCorpus, splits: Sequence[Split], clusters: npt.NDArray[np.int64]
) -> dict[str, Any]:
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


def _write_split(clean: CleanCorpus, splits: Sequence[Split], clusters: npt.NDArray[np.int64], path: Path) -> None:
    """One row for each article; with folds, `split` names the fold in which the article is test."""
    ids = [row["id"] for row in clean.rows]
    if len(splits) == 1:
        assignment = list(splits[0].assignment)
    else:
        folds = {i: f"fold {k}" for k, split in enumerate(splits, start=1) for i in split.rows("test")}
        assignment = [folds[i] for i in range(len(ids))]
    pq.write_table(pa.table({"id": ids, "split": assignment, "cluster": [ids[c] for c in clusters]}), path)


def _record(
    config: TrainConfig, corpus: Corpus, clean: CleanCorpus, splits: Sequence[Split],
    metrics: Mapping[str, Estimate], validation: Mapping[str, Estimate], headline: Sequence[str],
    folds: Sequence[Mapping[str, float]], chosen: Mapping[str, Any], seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """What MLflow is told of the run; plain JSON."""
    classifier = {k: v for k, v in vars(config.classifier).items() if k != "_target_"}
    parameters = {
        "task": clean.task.name,
        "kind": clean.task.kind,
        "labels": len(clean.task.labels),
        "corpus": corpus.name,
        "cleaning": config.cleaning.furniture,
        "split": str(config.split.kind),
        "split_seed": config.split.seed,
        "group_by": ",".join(config.split.group_by) or "none",
        "classifier": config.classifier._target_,
        **{f"classifier.{k}": str(v) for k, v in classifier.items()},
        **{f"decision.{k}": str(v) for k, v in vars(config.decision).items()},
        "split.test": config.split.test,
        "split.near_duplicates": config.split.near_duplicates,
        **{f"n_{name}": len(clean.examples(splits[0].rows(name))) for name in ("train", "validation", "test")},
        **{f"chosen.{k}": str(v) for k, v in chosen.items() if not isinstance(v, Mapping)},
    }
    return {
        "name": config.name,
        "task": clean.task.to_dict(),
        "parameters": parameters,
        "tags": {"corpus_sha256": corpus.fingerprint, **tracking.environment_tags(sys.argv)},
        "datasets": [
            {"name": f"{corpus.name} {name}", "context": name, "digest": _digest(corpus, clean, splits[0].rows(name)),
             "source": [str(Path(config.corpus.root) / file.path) for file in config.corpus.files]}
            for name in ("train", "validation", "test")
        ],
        "headline": list(headline),
        "metrics": {name: vars(m) for name, m in metrics.items()},
        "validation_metrics": {name: vars(m) for name, m in validation.items()},
        "folds": list(folds),
        "seconds": round(seconds, 3),
    }  # fmt: skip


def _digest(corpus: Corpus, clean: CleanCorpus, rows: Sequence[int]) -> str:
    """Which articles of which corpus: 32 hexadecimal digits, the longest that MLflow takes being 36."""
    ids = "\n".join(sorted(clean.rows[i]["id"] for i in rows))
    return hashlib.sha256(f"{corpus.fingerprint}\n{ids}".encode()).hexdigest()[:32]


def _publish(config: TrainConfig, directory: Path, progress: Progress) -> str | None:
    """Tell MLflow; where it cannot be reached the run is complete all the same and can be published later."""
    try:
        with progress.step("publish to MLflow"):
            return tracking.publish(directory, config.tracking)
    except TrackingError as error:
        progress.warn(f"{error}; the run is complete, publish it later with: slantwise publish run_dir={directory}")
        return None


if __name__ == "__main__":
    main()
