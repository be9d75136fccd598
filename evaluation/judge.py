"""Judge: a head and labelled examples become predictions, metrics with intervals, and a report in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.examples import LabelledExamples
from evaluation.calibration import ece_by_chance, risk_coverage
from evaluation.evidence import misleading_words
from evaluation.intervals import INTERVALS, Estimate, evaluate, few_groups
from evaluation.metrics import available, compute, primary, select
from evaluation.predictions import Predictions
from evaluation.report import ReportData, mistakes, write_report
from evaluation.shortcuts import SHORTCUTS, ProbeResult, verdict
from evaluation.slices import STANDING, Slices, find_slices
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError
from slantwise.model import Head
from slantwise.task import Task

CURVE_POINTS = 100


@dataclass
class EvaluationConfig:
    """How sure one wants to be."""

    resamples: int = 1000  # bootstrap resamples behind each 95 % interval
    seed: int = 0
    interval: str = "bca"  # bca or percentile
    slices: list[str] = field(default_factory=list)  # further columns of the corpus to cut the examples by

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ConfigurationError(f"evaluation.resamples={self.resamples}; expected 1 or more")
        if self.interval not in INTERVALS:
            raise ConfigurationError(f"evaluation.interval={self.interval}; expected one of {', '.join(INTERVALS)}")
        if standing := [name for name in self.slices if name in STANDING]:
            raise ConfigurationError(
                f"evaluation.slices names {', '.join(standing)}, which examples are cut by anyway; expected other "
                "columns of the corpus (corpus.columns says which of them holds the source, the date and the language)"
            )
        if len(set(self.slices)) < len(self.slices):
            raise ConfigurationError(f"evaluation.slices={self.slices} names a column twice")


@dataclass(frozen=True)
class Context:
    """What the report says besides the figures.

    heads        those that made the predictions, each with the number of its rows, in the order of the rows
    shortcuts    of `shortcut_facts`; None where the probes were not run
    cut          as in `evaluation.report.ReportData`; empty where the classifier reads whole articles
    unknown      by column, why the examples cannot be cut by it
    history      for each fold the metrics of the steps after which they were taken, each with its `step`
    """

    title: str
    model: str
    corpus: str
    shares: Mapping[str, float]  # how often each label occurs in train: what the baseline knows
    configuration: str
    data: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    heads: Sequence[tuple[Head, int]] = ()
    shortcuts: Mapping[str, Any] | None = None
    cut: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[Sequence[Mapping[str, float]]] = ()


class Judged(NamedTuple):
    metrics: dict[str, Estimate]
    slices: Slices


def headline_metrics(task: Task, official: Sequence[str]) -> list[str]:
    """The metrics to put on top: the corpus's official ones first, then the usual ones of the task's kind."""
    usual = [
        primary(task),
        "macro_f1",
        "micro_f1",
        "accuracy",
        "mcc",
        "example_f1",
        "subset_accuracy",
        "log_loss",
        "ece",
    ]
    known = set(available(task))
    names = [*official, *(name for name in usual if name in known)]
    if task.kind == "multiclass" and "micro_f1" not in official:
        names.remove("micro_f1")  # it equals the accuracy
    return list(dict.fromkeys(names))


def predict(head: Head, labelled: LabelledExamples, split: str) -> tuple[Predictions, Predictions]:
    """The head's predictions, and the same before its calibration (for the comparison in the report)."""
    raw = head.classifier.predict_proba(labelled.examples)
    calibrated = head.decision.calibrate(raw, head.task)
    decided = head.decision.decide(calibrated, head.task)
    predictions = Predictions(
        task=head.task,
        split=split,
        ids=labelled.ids,
        texts=[example.text for example in labelled.examples],
        gold=labelled.gold,
        probabilities=calibrated,
        predicted=decided,
        groups=labelled.groups,
        targets=[example.target for example in labelled.examples],
        sources=labelled.sources,
        columns=labelled.columns,
    )
    return predictions, replace(predictions, probabilities=raw)


def constant(predictions: Predictions, shares: Mapping[str, float]) -> Predictions:
    """The same examples, always answered with the most frequent label and with the labels' shares in train."""
    labels = predictions.task.labels
    row = np.array([shares.get(label, 0.0) for label in labels], dtype=np.float32)
    probabilities = np.tile(row, (len(predictions), 1))
    most = int(row.argmax())
    if predictions.task.kind == "multilabel":
        predicted = np.zeros_like(predictions.predicted)
        predicted[:, most] = True
        return replace(predictions, probabilities=probabilities, predicted=predicted)
    return replace(predictions, probabilities=probabilities, predicted=np.full_like(predictions.gold, most))


def label_shares(labelled: LabelledExamples) -> dict[str, float]:
    """The share of the examples that carry each label."""
    gold, labels = labelled.gold, labelled.task.labels
    counts = gold.sum(axis=0) if gold.ndim == 2 else np.bincount(gold, minlength=len(labels))
    return dict(zip(labels, (counts / len(labelled)).tolist(), strict=True))


def decision_facts(
    decision: Decision, task: Task, uncalibrated: Predictions, predictions: Predictions | None = None
) -> dict[str, Any]:
    """The decision in a reader's words, with the figures before calibration; every key is optional but the first three.

    calibration         none, temperature, sigmoid or isotonic
    ece_by_chance       the calibration error that perfect probabilities would show on these examples
    abstain_below       confidence, or None
    uncalibrated_ece, uncalibrated_ece_debiased, uncalibrated_log_loss    before calibration; None: undefined
    temperature         where calibration is that alone
    thresholds          multilabel: label to probability
    costs               multiclass: gold label to predicted label to cost; `mean_cost` of the answers given, and
                        `mean_cost_of_most_probable` labels in their place
    selection           multiclass: `abstained` (share), `risk` (share wrong of the answers given), `aurc`, and
                        `coverage` and `risks`: the risk-coverage curve, at up to 100 points
    fitted              Decision.fitted: the methods compared on validation, and what was reached there

    `predictions` are `uncalibrated` with the decision's probabilities (None: they are computed; folds that are pooled
    have a decision each, so theirs must be given).
    """
    if predictions is None:
        predictions = replace(uncalibrated, probabilities=decision.calibrate(uncalibrated.probabilities, task))
    facts: dict[str, Any] = {
        "calibration": decision.calibration,
        "ece_by_chance": ece_by_chance(predictions),
        "abstain_below": decision.abstain_below,
    }
    if decision.calibration != "none":
        before = compute(uncalibrated, ["ece", "ece_debiased", "log_loss"])
        facts |= {f"uncalibrated_{name}": None if np.isnan(value) else value for name, value in before.items()}
    if decision.calibration == "temperature" and decision.slopes is not None:
        facts["temperature"] = 1 / decision.slopes[0]
    if decision.thresholds is not None:
        facts["thresholds"] = dict(zip(task.labels, decision.thresholds, strict=True))
    if task.kind == "multiclass":
        facts |= _selection_facts(decision, predictions)
    return facts | ({"fitted": dict(decision.fitted)} if decision.fitted else {})


def _selection_facts(decision: Decision, predictions: Predictions) -> dict[str, Any]:
    """What answering some, and costs, come to; multiclass."""
    gold, answered, rows = predictions.gold.astype(np.int64), predictions.predicted >= 0, np.arange(len(predictions))
    best = np.where(answered, predictions.predicted, decision.best(predictions.probabilities))
    curve = risk_coverage(predictions.probabilities[rows, best], best == gold)
    coverage, risks = curve.thinned(CURVE_POINTS)
    facts: dict[str, Any] = {
        "selection": {
            "abstained": float(1 - answered.mean()) if len(gold) else None,
            "risk": float((best != gold)[answered].mean()) if answered.any() else None,
            "aurc": curve.aurc,
            "coverage": coverage,
            "risks": risks,
        }
    }
    if decision.costs is not None:
        costs, labels = np.array(decision.costs), predictions.task.labels
        most_probable = predictions.probabilities.argmax(axis=1)
        facts["costs"] = {
            label: dict(zip(labels, row, strict=True)) for label, row in zip(labels, decision.costs, strict=True)
        }
        if answered.any():
            facts["mean_cost"] = float(costs[gold, best][answered].mean())
            facts["mean_cost_of_most_probable"] = float(costs[gold, most_probable][answered].mean())
    return facts


def judge(
    predictions: Predictions,
    official: Sequence[str],
    decision: Mapping[str, Any],
    context: Context,
    config: EvaluationConfig,
    directory: Path,
) -> Judged:
    """Compute metrics and slices and write predictions.parquet, metrics.json, report.html, report.json and plots/."""
    names = list(dict.fromkeys([*official, *select(predictions.task)]))
    metrics = evaluate(predictions, names, config.resamples, config.seed, interval=config.interval)
    headline = headline_metrics(predictions.task, official)
    always = constant(predictions, context.shares)
    baseline = evaluate(always, headline, config.resamples, config.seed, interval=config.interval)
    slices = find_slices(predictions, headline[0], config.resamples, config.seed)
    slices = replace(slices, skipped={**slices.skipped, **context.unknown})
    directory.mkdir(parents=True, exist_ok=True)
    predictions.write(directory / "predictions.parquet")
    write_metrics(metrics, directory / "metrics.json")
    write_report(
        ReportData(
            title=context.title,
            model=context.model,
            corpus=context.corpus,
            split=predictions.split,
            predictions=predictions,
            metrics=metrics,
            headline=headline,
            baseline=baseline,
            decision=decision,
            data=context.data,
            configuration=context.configuration,
            warnings=[*context.warnings, *few_groups(predictions)],
            slices=slices,
            shortcuts=context.shortcuts,
            evidence=misleading_words(predictions, mistakes(predictions), context.heads),
            cut=context.cut,
            history=context.history,
        ),
        directory,
    )
    return Judged(metrics, slices)


def shortcut_facts(results: Sequence[ProbeResult], score: Estimate, shuffled: Estimate | None) -> dict[str, Any] | None:
    """What the probes found beside the model's `score`, for the report; None where there are no probes.

    `shuffled` is the model's score with the targets of other examples; see `evaluation.report.report_figures`.
    """
    if not results:
        return None
    return {
        "metric": results[0].metric,
        "n": results[0].n,
        "model": score,
        "chance": results[0].chance,
        "shuffled_targets": shuffled,
        "probes": [
            {"name": r.name, "title": SHORTCUTS[r.name].title, "estimate": r.estimate, "share": r.share,
             "difference": r.difference}
            for r in results
        ],
        "verdict": verdict(results, score, "the model"),
    }  # fmt: skip


def write_metrics(metrics: Mapping[str, Estimate], path: Path) -> None:
    """name -> {value, low, high, reason}; value is null, with the reason, where the metric is undefined."""
    path.write_text(json.dumps({name: vars(m) for name, m in metrics.items()}, indent=1) + "\n", encoding="utf-8")
