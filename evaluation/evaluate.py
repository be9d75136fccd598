"""`slantwise evaluate`: a model and a corpus in, predictions, metrics with intervals and a report out."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from data import schemas
from data.config import CorpusConfig, SplitConfig, SplitKind
from data.corpus import Corpus, load_corpus, write_quarantine
from data.examples import LabelledExamples
from data.joint import split_corpora
from data.prepare import CleanCorpus, clean_corpus
from data.splitting import Split
from evaluation.judge import Context, EvaluationConfig, decision_facts, headline_metrics, judge, predict
from evaluation.slices import in_words, not_known_in_training, seen_in_training
from evaluation.tables import metrics_table
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.locate import locate_model
from slantwise.model import Head, load
from slantwise.task import Task

SPLITS = ("train", "validation", "test", "all")


@dataclass
class EvaluateConfig:
    """`slantwise evaluate`."""

    model: str = MISSING  # a model or run directory, or an MLflow URI
    corpus: CorpusConfig = MISSING
    judged_split: str = "test"  # train, validation, test or all; `split=…` on the command line
    judged_task: str | None = None  # `task=…` on the command line; null: all tasks that model and corpus share
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    device: str = "auto"  # where encoders run
    output: str = MISSING  # a new folder

    def __post_init__(self) -> None:
        if self.judged_split not in SPLITS:
            raise ConfigurationError(f"split={self.judged_split}; expected one of {', '.join(SPLITS)}")


def main() -> None:
    # Hydra would take `split=test` and `task=topic` for choices from the groups of `slantwise train`
    sys.argv = [re.sub(r"^(split|task)=", r"judged_\1=", argument) for argument in sys.argv]
    schemas.register()
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    run("evaluate", _job)


def _job(config: Any) -> None:
    from omegaconf import OmegaConf

    chosen = to_object(config, EvaluateConfig)
    output = Path(chosen.output)
    if output.exists():
        raise ConfigurationError(f"output={output} exists; expected a new folder")
    progress = Progress()
    with progress.step("load the model"):
        model = load(locate_model(chosen.model), chosen.device)
    with progress.step("read the corpus"):
        corpus = load_corpus(chosen.corpus, chosen.evaluation.slices)
    progress.say(f"  {corpus.counts()}")
    heads = _choose_heads(model.heads, corpus, chosen.judged_task)
    resolved = OmegaConf.to_yaml(config, resolve=True)
    selected = []
    for head in heads:
        with progress.step(f"clean and split for {head.task.name}") as notes:
            clean = clean_corpus(corpus, head.task, head.cleaner)
            labelled, unknown = split_examples(clean, corpus, head, chosen.judged_split)
            selected.append((labelled, unknown))
            notes.append(f"{len(labelled):,} examples of split {chosen.judged_split}")
    for head, (labelled, unknown) in zip(heads, selected, strict=True):
        folder = output if len(heads) == 1 else output / head.task.name
        _judge_head(chosen, corpus, head, labelled, unknown, resolved, folder, progress)
    write_quarantine(corpus.quarantine, output / "quarantine.jsonl")
    (output / "config.yaml").write_text(resolved, encoding="utf-8")


def _judge_head(
    chosen: EvaluateConfig, corpus: Corpus, head: Head, labelled: LabelledExamples, unknown: Mapping[str, str],
    resolved: str, folder: Path, progress: Progress,
) -> None:  # fmt: skip
    official = corpus.metrics.get(head.task.name, [])
    with progress.step(f"judge {head.task.name}"):
        predictions, raw = predict(head, labelled, chosen.judged_split)
        context = Context(
            title=f"{head.task.name} on {corpus.name}, {chosen.judged_split}",
            model=f"{chosen.model} ({head.kind} classifier, run {head.provenance.get('run', 'unknown')})",
            corpus=corpus.name,
            shares=head.provenance["label_shares"],
            configuration=resolved,
            data={"rows": corpus.counts(), "examples": len(labelled), "sha256 of the corpus": corpus.fingerprint},
            warnings=_warnings(corpus, head, chosen.judged_split),
            heads=[(head, len(labelled))],
            unknown=unknown,
        )
        facts = decision_facts(head.decision, head.task, raw, predictions)
        metrics, slices = judge(predictions, official, facts, context, chosen.evaluation, folder)
    for warning in context.warnings:
        progress.warn(warning)
    title = f"{head.task.name}, {chosen.judged_split}"
    progress.console.print(metrics_table(metrics, headline_metrics(head.task, official), title, len(labelled)))
    for line in in_words(slices):
        progress.say(f"  {line}")
    progress.say(f"report: {folder / 'report.html'}\npredictions: {folder / 'predictions.parquet'}")


def _choose_heads(heads: Mapping[str, Head], corpus: Corpus, asked: str | None) -> list[Head]:
    """The heads to judge. Raises ConfigurationError or CorpusError where model and corpus do not fit."""
    if asked is not None and asked not in heads:
        raise ConfigurationError(f"task={asked}, but the model holds {', '.join(heads)}")
    names = [asked] if asked else [name for name in heads if name in corpus.tasks]
    if not names:
        raise CorpusError(
            f"corpus {corpus.name} has labels for {', '.join(corpus.tasks) or 'no task'}, "
            f"the model holds {', '.join(heads)}"
        )
    for name in names:
        _check_labels(heads[name].task, corpus.task(name), corpus.name)
    return [heads[name] for name in names]


def _check_labels(model: Task, corpus: Task, name: str) -> None:
    if (model.kind, model.labels) != (corpus.kind, corpus.labels):
        only = sorted(set(corpus.labels) ^ set(model.labels))
        differing = f"they differ in {', '.join(only[:8])}" if only else "the same labels in another order or kind"
        raise CorpusError(f"corpus {name} and the model have different label sets for task {model.name}: {differing}")


def split_examples(
    clean: CleanCorpus, corpus: Corpus, head: Head, split: str
) -> tuple[LabelledExamples, Mapping[str, str]]:
    """The examples of one split (see `split_rows`), with what of them the training has seen; by column, why that is not
    known where it is not."""
    if split == "test" and _trained_on(head, corpus) and not _split_kind(head).has_folds:
        trained, clusters = _split_of_training(clean, corpus, head)
        labelled, unknown = seen_in_training(clean, trained, clusters), dict[str, str]()
        if not len(labelled):
            raise _no_articles(corpus, split)
        return labelled, unknown
    labelled = clean.examples(split_rows(clean, corpus, head, split))
    why = (
        f"articles of split {split} are what the model was trained on"
        if _trained_on(head, corpus)
        else f"the model was trained on another corpus than {corpus.name} as it is now, and does not carry it"
    )
    return labelled, not_known_in_training(head.task, why)


def _trained_on(head: Head, corpus: Corpus) -> bool:
    return head.provenance.get("corpus_sha256") == corpus.fingerprint


def _split_kind(head: Head) -> SplitKind:
    return SplitKind(head.provenance["split"]["kind"])


def _no_articles(corpus: Corpus, split: str) -> CorpusError:
    return CorpusError(f"corpus {corpus.name} has no articles in split {split}")


def split_rows(clean: CleanCorpus, corpus: Corpus, head: Head, split: str) -> list[int]:
    """The articles of one split: of the split that the model was trained with, where it was trained on this corpus;
    else of the split that the corpus itself gives.

    Raises CorpusError where there is neither, since a guessed test split could hold training articles.
    """
    if split == "all":
        return list(range(len(clean)))
    trained = _trained_on(head, corpus)
    if trained and _split_kind(head) is not SplitKind.given:
        if _split_kind(head).has_folds:
            raise CorpusError(
                f"the model was cross-validated on corpus {corpus.name}, so no article is unseen by it; its "
                "out-of-fold predictions are in its run directory. Use split=all on another corpus"
            )
        rows = _split_of_training(clean, corpus, head)[0].rows(split)
    else:
        given = [row["split"] for row in clean.rows]
        if None in given:
            raise CorpusError(
                f"corpus {corpus.name} is not the one that the model was trained on and gives no split for "
                f"{given.count(None):,} of {len(given):,} articles; use split=all"
            )
        if head.provenance.get("split", {}).get("kind") == SplitKind.given and split != "test":
            # validation may have been carved out of the given train split
            return _split_of_training(clean, corpus, head)[0].rows(split)
        rows = [i for i, name in enumerate(given) if name == split]
    if not rows:
        raise _no_articles(corpus, split)
    return rows


def _split_of_training(clean: CleanCorpus, corpus: Corpus, head: Head) -> tuple[Split, npt.NDArray[np.int64]]:
    """The split that the head was trained with, and the near-duplicate cluster of each article; tasks that were trained
    together were split together."""
    provenance = head.provenance
    names = provenance.get("split_with", [head.task.name])
    parts = [
        clean if name == head.task.name else clean_corpus(corpus, corpus.task(name), head.cleaner) for name in names
    ]
    config = SplitConfig(**{**provenance["split"], "kind": SplitKind(provenance["split"]["kind"])})
    splits, clusters = split_corpora(parts, config)[names.index(head.task.name)]
    return splits[0], clusters


def _warnings(corpus: Corpus, head: Head, split: str) -> list[str]:
    same = _trained_on(head, corpus)
    if same and split in ("train", "all"):
        return [f"the model was trained on articles of split {split}: these figures are no estimate of its quality"]
    if same and split == "validation":
        return ["the decision was fitted on the validation split: these figures are too good"]
    return []
