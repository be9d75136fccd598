"""Judge: a head and labelled examples become predictions, metrics with intervals, and a report in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.examples import LabelledExamples
from evaluation.intervals import Estimate, evaluate
from evaluation.metrics import available, compute, primary, select
from evaluation.predictions import Predictions
from evaluation.report import ReportData, write_report
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError
from slantwise.model import Head
from slantwise.task import Task


@dataclass
class EvaluationConfig:
    """How sure one wants to be."""

    resamples: int = 1000  # bootstrap resamples behind each 95 % interval
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ConfigurationError(f"evaluation.resamples={self.resamples}; expected 1 or more")


@dataclass(frozen=True)
class Context:
    """What the report says besides the figures."""

    title: str
    model: str
    corpus: str
    shares: Mapping[str, float]  # how often each label occurs in train: what the baseline knows
    configuration: str
    data: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


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


def decision_facts(decision: Decision, task: Task, uncalibrated: Predictions) -> dict[str, Any]:
    """The decision in a reader's words, with the figures before calibration."""
    facts: dict[str, Any] = {"abstain_below": decision.abstain_below}
    if decision.slopes is not None:
        before = compute(uncalibrated, ["ece", "log_loss"])
        facts |= {"uncalibrated_ece": before["ece"], "uncalibrated_log_loss": before["log_loss"]}
        if task.kind == "multiclass":
            facts["temperature"] = 1 / decision.slopes[0]
    if decision.thresholds is not None:
        facts["thresholds"] = dict(zip(task.labels, decision.thresholds, strict=True))
    return facts


def judge(
    predictions: Predictions,
    official: Sequence[str],
    decision: Mapping[str, Any],
    context: Context,
    config: EvaluationConfig,
    directory: Path,
) -> dict[str, Estimate]:
    """Compute all metrics and write predictions.parquet, metrics.json, report.html, report.json and plots/."""
    names = list(dict.fromkeys([*official, *select(predictions.task)]))
    metrics = evaluate(predictions, names, config.resamples, config.seed)
    headline = headline_metrics(predictions.task, official)
    baseline = evaluate(constant(predictions, context.shares), headline, config.resamples, config.seed)
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
            warnings=context.warnings,
        ),
        directory,
    )
    return metrics


def write_metrics(metrics: Mapping[str, Estimate], path: Path) -> None:
    """name -> {value, low, high, reason}; value is null, with the reason, where the metric is undefined."""
    path.write_text(json.dumps({name: vars(m) for name, m in metrics.items()}, indent=1) + "\n", encoding="utf-8")
