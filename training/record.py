"""What is recorded of a run: run.json, which MLflow is told, and what the exported model says of its training."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.columns import View
from data.corpus import Corpus
from slantwise.monitoring import Reference, Vocabulary
from slantwise.summary import add, of_predictions
from training.config import TrainConfig
from training.environment import code_diff, environment_tags
from training.folds import Trained
from training.journal import write_whole
from training.judging import cut_shares
from training.multirun import group_tags
from training.task_data import TaskData

if TYPE_CHECKING:
    from training.reproduce import Origin

# The options of a backend that are worth a column beside other runs, besides those that are not at their defaults;
# config.yaml has all. Of other backends, all are shown.
COLUMNS = {
    "linear": ("loss", "class_weight", "C", "word_ngrams", "char_ngrams", "max_features", "seed"),
    "encoder": ("encoder", "C", "max_tokens", "long", "pooling", "class_weight"),
    "transformer": (
        "encoder", "max_tokens", "long", "pooling", "epochs", "learning_rate", "batch_size", "freeze_layers", "seed",
    ),
}  # fmt: skip

# What validation chose and where an encoder came from; the other facts of a fit are metrics.
PARAMETERS = ("C", "epoch", "revision", "sha256", "device", "precision")


def opening_record(
    config: TrainConfig, corpus: Corpus, data: Sequence[TaskData], started: float, origin: Origin | None
) -> dict[str, Any]:
    """What MLflow is told of the run before it trains; plain JSON."""
    options = vars(config.classifier)
    columns = _columns(config)
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


def _columns(config: TrainConfig) -> list[str]:
    """The options of the classifier that MLflow shows."""
    options, known = vars(config.classifier), COLUMNS.get(config.backend)
    if known is None:
        return [name for name in options if name != "_target_"]
    defaults = {field.name: field for field in fields(config.classifier)}
    return [*known, *(name for name in options if name not in known and options[name] != _default(defaults[name]))]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def write_opening(directory: Path, resolved: str, record: Mapping[str, Any]) -> None:
    """What is known of a run before it trains; run.json says that it is not finished."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(resolved, encoding="utf-8")
    diff = code_diff()
    if diff:
        (directory / "code.diff").write_text(diff, encoding="utf-8")
    write_whole(directory / "run.json", json.dumps(record, indent=1) + "\n")


def finished_record(
    opening: Mapping[str, Any], data: Sequence[TaskData], folds: Sequence[Mapping[str, Trained]],
    tasks: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The same with what came out."""
    first = data[0].task.name
    chosen = folds[0][first].fitted.chosen
    found = {
        **{f"chosen.{name}": str(chosen[name]) for name in PARAMETERS if chosen.get(name) is not None},
        "chosen.calibration": ",".join(folds[0][one.task.name].head.decision.calibration for one in data),
    }
    return {
        **opening,
        "status": "FINISHED",
        "parameters": opening["parameters"] | found,
        "chosen": {
            name: value if isinstance(value, int | float) else str(value)
            for name, value in chosen.items()
            if not isinstance(value, Mapping)
        },
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


def provenance_of(
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
        "cut": cut_shares(parts[0].fitted) or None,
    }


def reference_of(data: TaskData, parts: Sequence[Trained]) -> Reference:
    """What batches of scores are compared with: the test predictions, and the words of the training articles."""
    summary: dict[str, Any] = {}
    for part in parts:
        test, confidence = part.test, None
        if data.task.kind == "multiclass":
            confidence = test.probabilities[np.arange(len(test)), part.head.decision.best(test.probabilities)]
        summary = add(summary, of_predictions(data.task, test.predicted, confidence))
    texts = (View(data.clean.texts, np.array(data.splits[0].rows(name))) for name in ("train", "validation"))
    return Reference(summary, Vocabulary.of(*texts))
