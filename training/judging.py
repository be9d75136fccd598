"""One task of a run judged: predictions, metrics, shortcut probes and the report in the task's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.corpus import Corpus
from evaluation.intervals import Estimate, evaluate
from evaluation.judge import Context, decision_facts, judge, shortcut_facts, write_metrics
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.shortcuts import ProbeResult, behind_words, folds_of, gather, probe, unbeaten
from evaluation.slices import in_words
from slantwise.command import Progress
from training.config import TrainConfig
from training.fitting import Fitted
from training.folds import Trained
from training.readings import reading_facts, reading_in_words
from training.task_data import TaskData, split_counts, write_split

SHOWN_BY_FOLD = 3  # headline metrics


def judge_task(
    config: TrainConfig, resolved: str, corpus: Corpus, data: TaskData, parts: Sequence[Trained],
    warnings: Sequence[str], folder: Path, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Predictions, metrics and report of one task into `folder`; gives what the run's record says of the task."""
    folder.mkdir(parents=True, exist_ok=True)
    test, validation = _pool([part.test for part in parts]), _pool([part.validation for part in parts])
    resamples, seed = config.evaluation.resamples, config.evaluation.seed
    shortcuts = Shortcuts()
    if config.shortcuts:
        with progress.step(f"probe {data.task.name} for shortcuts"):
            shortcuts = _probe_shortcuts(config, data, test)
    shuffled = _with_shuffled_targets(config, data, parts)
    for warning in shortcuts.warnings:
        progress.warn(warning)
    folds = [compute(part.test, data.headline) for part in parts] if len(parts) > 1 else []
    readings = reading_facts([part.readings for part in parts], _pool, data.headline[0], config.evaluation)
    for each in readings[1:]:
        progress.say(f"  {reading_in_words(each, readings[0])}")
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
            cut={**cut_shares(parts[0].fitted), **({"readings": readings} if readings else {})},
            history=[part.fitted.history for part in parts],
        )
        facts = decision_facts(parts[0].head.decision, data.task, _pool([part.raw_test for part in parts]), test)
        metrics, slices = judge(test, data.official, facts, context, config.evaluation, folder)
        validation_metrics = evaluate(validation, data.headline, resamples, seed, interval=config.evaluation.interval)
    validation.write(folder / "validation.parquet")
    write_metrics(validation_metrics, folder / "validation_metrics.json")
    write_split(data, folder / "split.parquet")
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
        "unbeaten_shortcut": shortcuts.unbeaten,
        "shuffled_targets": None if shuffled is None else vars(shuffled),
    }


@dataclass(frozen=True)
class Shortcuts:
    """What the shortcut probes found, the model's score beside them, and what the user must be told: the shortcut that
    the model does not clearly beat, a bag of words that is clearly better."""

    results: Sequence[ProbeResult] = ()
    score: Estimate | None = None
    unbeaten: str | None = None
    behind: str | None = None

    @property
    def warnings(self) -> list[str]:
        return [warning for warning in (self.behind, self.unbeaten) if warning]


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
    metric = data.headline[0]
    gathered = gather(data.clean, data.clusters, data.clean.removed)
    resamples, seed = config.evaluation.resamples, config.evaluation.seed
    interval = config.evaluation.interval
    results = probe(gathered, folds_of(gathered, data.splits), metric, test, resamples, seed, interval)
    score = evaluate(test, [metric], resamples, seed, interval=interval)[metric]
    return Shortcuts(results, score, unbeaten(results, score, "the model"), behind_words(results, score))


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
        "split": split_counts(splits),
        "examples": {name: f"{len(clean.examples(splits[0].rows(name))):,}" for name in names},
        "near-duplicate clusters": f"{int((sizes > 1).sum()):,} with {int(sizes[sizes > 1].sum()):,} articles",
        "clusters that straddle splits": f"{sum(split.straddling for split in splits):,}",
        "sha256 of the corpus": corpus.fingerprint,
    }


def cut_shares(fitted: Fitted) -> dict[str, float]:
    """What of the articles the classifier did not see, where it cannot read all."""
    names = ("cut_articles", "cut_tokens", "windows_per_example", "validation_cut_articles", "validation_cut_tokens")
    return {name: fitted.chosen[name] for name in names} if "cut_articles" in fitted.chosen else {}
