"""The fits of a run: the head of each fold with its predictions, and the heads that are exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.examples import LabelledExamples
from data.joint import split_corpora_without_test
from evaluation.judge import label_shares, predict
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.slices import seen_in_training
from evaluation.targets import shuffle_targets
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.model import Head
from training import processes, tracking
from training.config import TrainConfig
from training.decisions import fit_decision, held_out_probabilities
from training.fitting import Fitted, Part, Workspace
from training.readings import MOST, Reading, read_each_way
from training.task_data import TaskData


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
    readings: Sequence[Reading] = ()  # test with long articles read in each way


def fit_folds(
    config: TrainConfig, fit_all: Any, data: Sequence[TaskData], cleaner: Cleaner, workspace: Workspace
) -> tuple[list[dict[str, Trained]], dict[str, Head]]:
    """The heads of each fold with their predictions, and those that are exported."""
    folds = _each_fold(config, fit_all, data, cleaner, workspace)
    return folds, _final_heads(config, fit_all, data, cleaner, folds, workspace)


def _each_fold(
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
    probed = config.shortcuts and processes.is_first()
    readings = read_each_way(head, test, predictions, MOST // len(data.splits)) if probed else []
    # a refit classifier has seen validation: its honest validation probabilities are those from before the refit
    calibrated = decision.calibrate(fitted.validation_probabilities, data.task)
    validation = part.validation
    honest = Predictions(
        data.task, "validation", validation.ids, [e.text for e in validation.examples], validation.gold, calibrated,
        decision.decide(calibrated, data.task), validation.groups, [e.target for e in validation.examples],
        validation.sources,
    )  # fmt: skip
    return Trained(head, honest, predictions, raw, shuffled, label_shares(part.train), fitted, readings)


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
