"""Contest: what `slantwise compare` and `slantwise promote` read.

Models, runs and files that other tools wrote become predictions of exactly the same examples.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from data.config import CorpusConfig
from data.corpus import Corpus
from data.prepare import CleanCorpus, clean_corpus
from evaluation.evaluate import SPLITS, split_rows
from evaluation.judge import EvaluationConfig, predict
from evaluation.paired import Contestant
from evaluation.predictions import (
    AnswerColumns,
    Answers,
    Key,
    Predictions,
    answered,
    is_predictions_file,
    read_answers,
)
from slantwise.cleaning import Cleaner
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.locate import MLFLOW_SCHEMES, locate_model
from slantwise.model import Head, load
from slantwise.rows import ENDINGS, Format, Layout
from slantwise.task import Task

FEW_GROUPS = 30
FILES = (Format.csv, Format.jsonl, Format.json, Format.parquet)


@dataclass
class CompareConfig:
    """`slantwise compare`."""

    models: list[Any] = MISSING  # see `read_entry`; the first is the baseline
    corpus: CorpusConfig = MISSING
    judged_split: str = "test"  # train, validation, test or all; `split=…` on the command line
    judged_task: str | None = None  # `task=…` on the command line; null: the one that all models and the corpus share
    metric: str | None = None  # what the verdict goes by; null: the corpus's official one, else macro-F1 or micro-F1
    columns: AnswerColumns = field(default_factory=AnswerColumns)  # of files that another tool wrote
    label_separator: str = "|"
    label_map: dict[str, str] = field(default_factory=dict)  # the tool's names of labels -> those of the task
    encoding: str = "utf-8"
    separator: str | None = None  # CSV: the field separator; null: "," (a tab for .tsv)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    permutations: int = 4999  # random swaps behind each p value
    device: str = "auto"  # where encoders run
    output: str = MISSING  # a new folder

    def __post_init__(self) -> None:
        if self.judged_split not in SPLITS:
            raise ConfigurationError(f"split={self.judged_split}; expected one of {', '.join(SPLITS)}")
        if self.permutations < 1:
            raise ConfigurationError(f"permutations={self.permutations}; expected 1 or more")
        if not self.label_separator:
            raise ConfigurationError("label_separator is empty; expected one character or more")


# --- Entries: what stands in `models` ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A model to compare: one path, or those of several runs (seeds) of one configuration."""

    name: str
    paths: tuple[str, ...]


def read_entries(models: Sequence[Any]) -> list[Entry]:
    """Raises ConfigurationError for fewer than two models, or two with one name."""
    entries = [read_entry(model) for model in models]
    if len(entries) < 2:
        raise ConfigurationError(f"models={models}; expected two or more, as in models=[runs/a,runs/b]")
    names = Counter(entry.name for entry in entries)
    if twice := [name for name, n in names.items() if n > 1]:
        raise ConfigurationError(
            f"models: {', '.join(twice)} is the name of more than one; name them, as in models=[old=runs/a,new=runs/b]"
        )
    return entries


def read_entry(model: Any) -> Entry:
    """A path, a glob or a list of them, or one of these behind a name: {name: path}.

    All that a glob or a list names are runs of one configuration. Without a name an entry is called after its first
    path. Raises ConfigurationError.
    """
    if isinstance(model, Mapping):
        if len(model) != 1:
            raise ConfigurationError(
                f"models: {dict(model)}; expected one name with its path or paths, as in new=runs/b"
            )
        ((name, rest),) = model.items()
        return Entry(str(name), read_entry(rest).paths)
    listed = list(model) if isinstance(model, list | tuple) else [model]
    if not listed or not all(isinstance(path, str) and path for path in listed):
        raise ConfigurationError(f"models: {model!r}; expected a path, a glob or a list of paths")
    paths = tuple(path for pattern in listed for path in _matches(pattern))
    if len(set(paths)) < len(paths):
        raise ConfigurationError(f"models: {', '.join(listed)} names a path more than once")
    return Entry(_name_of(paths[0]), paths)


def _matches(pattern: str) -> list[str]:
    if pattern.startswith(MLFLOW_SCHEMES) or Path(pattern).expanduser().exists() or not glob.has_magic(pattern):
        return [pattern]
    found = sorted(glob.glob(str(Path(pattern).expanduser())))
    if not found:
        raise ConfigurationError(f"models: nothing matches {pattern}")
    return found


def _name_of(path: str) -> str:
    if path.startswith(MLFLOW_SCHEMES):
        return path
    place = Path(path).expanduser()
    own_name = place.name in ("model", "predictions.parquet", "validation.parquet")  # what every run calls them
    return (place.absolute().parent if own_name else place).name.removesuffix(place.suffix if place.is_file() else "")


# --- Sources: where predictions come from -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSource:
    """A model that is still to predict."""

    path: str
    heads: Mapping[str, Head]


@dataclass(frozen=True)
class RunSource:
    """Predictions that slantwise wrote."""

    path: str
    predictions: Predictions


@dataclass(frozen=True)
class OutsideSource:
    """Predictions that another tool wrote; they are read when the task is known."""

    path: str
    layout: Layout


Source = ModelSource | RunSource | OutsideSource


def read_source(path: str, chosen: CompareConfig) -> Source:
    """A model directory, run directory or MLflow URI; a predictions.parquet; or a file of another tool."""
    place = Path(path).expanduser()
    if path.startswith(MLFLOW_SCHEMES) or not place.is_file():
        return ModelSource(path, load(locate_model(path), chosen.device).heads)
    if is_predictions_file(place):
        return RunSource(path, Predictions.read(place))
    if ENDINGS.get(place.suffix.lower()) not in FILES:
        raise ConfigurationError(
            f"models: {path}; expected a model or run directory, or predictions as {', '.join(FILES)}"
        )
    return OutsideSource(path, Layout(path=str(place), encoding=chosen.encoding, separator=chosen.separator))


@dataclass(frozen=True)
class Contest:
    """The models and what they are judged on."""

    task: Task
    split: str
    contestants: list[Contestant]
    warnings: list[str]


def prepare(sources: Mapping[str, Sequence[Source]], corpus: Corpus, chosen: CompareConfig) -> Contest:
    """Everyone's predictions on exactly the same examples: those of the split that no model was trained on.

    Where models were trained on different parts of the corpus, or runs predicted different ones, these are the examples
    that all of them share. Raises CorpusError or ConfigurationError where there are none, where label sets differ, and
    where a file does not hold a prediction for each example.
    """
    listed = [source for group in sources.values() for source in group]
    task = choose_task(listed, corpus, chosen.judged_task)
    for source in listed:
        _check_labels(source, task, corpus.name)
    cleaned = _Cleaned(corpus, task)
    heads = [source.heads[task.name] for source in listed if isinstance(source, ModelSource)]
    reference = cleaned.by(heads[0].cleaner if heads else Cleaner())
    rows, warnings = _common_rows(listed, reference, cleaned, corpus, task, chosen.judged_split)
    split = _split_name(listed, chosen.judged_split)
    examples = _without_answers(reference, rows, task, split)
    known = Counter(_keys(_without_answers(reference, range(len(reference)), task, split)))
    contestants = []
    for name, group in sources.items():
        runs, with_probabilities = zip(
            *(_predictions(source, examples, known, cleaned, rows, chosen) for source in group), strict=True
        )
        contestants.append(Contestant(name, runs, all(with_probabilities), [source.path for source in group]))
    return Contest(
        task, split, contestants, [*warnings, *_warnings(listed, contestants, corpus, task, chosen.judged_split)]
    )


def choose_task(sources: Sequence[Source], corpus: Corpus, asked: str | None) -> Task:
    """The task that the corpus and all models share. Raises ConfigurationError where there is not exactly one."""
    held = {
        source.path: set(source.heads) if isinstance(source, ModelSource) else {source.predictions.task.name}
        for source in sources
        if not isinstance(source, OutsideSource)
    }
    shared = set(corpus.tasks).intersection(*held.values())
    names = [name for name in corpus.tasks if name in shared and asked in (None, name)]
    if not names:
        holdings = "; ".join(f"{path}: {', '.join(sorted(tasks))}" for path, tasks in held.items())
        raise ConfigurationError(
            (f"task={asked}: " if asked else "")
            + f"corpus {corpus.name} has labels for {', '.join(corpus.tasks) or 'no task'}; {holdings}. "
            + "Expected models of one task that the corpus has labels for"
        )
    if len(names) > 1:
        raise ConfigurationError(f"the corpus and all models share {', '.join(names)}; choose one with task=…")
    return corpus.task(names[0])


def _check_labels(source: Source, task: Task, corpus: str) -> None:
    if isinstance(source, OutsideSource):
        return
    own = source.heads[task.name].task if isinstance(source, ModelSource) else source.predictions.task
    if (own.kind, own.labels) != (task.kind, task.labels):
        only = sorted(set(own.labels) ^ set(task.labels))
        differing = f"they differ in {', '.join(only[:8])}" if only else "the same labels in another order or kind"
        raise CorpusError(f"corpus {corpus} and {source.path} have different label sets for {task.name}: {differing}")


class _Cleaned:
    """The corpus as each model's cleaning leaves it; models that clean alike share it."""

    def __init__(self, corpus: Corpus, task: Task) -> None:
        self.corpus, self.task = corpus, task
        self.found: list[tuple[Cleaner, CleanCorpus]] = []

    def by(self, cleaner: Cleaner) -> CleanCorpus:
        for known, clean in self.found:
            if known == cleaner:
                return clean
        self.found.append((cleaner, clean_corpus(self.corpus, self.task, cleaner)))
        return self.found[-1][1]


def _common_rows(
    sources: Sequence[Source], reference: CleanCorpus, cleaned: _Cleaned, corpus: Corpus, task: Task, split: str
) -> tuple[list[int], list[str]]:
    """The articles (rows of the clean corpus) that are judged, and what must be said of the others."""
    ids = [row["id"] for row in reference.rows]
    number = {id_: i for i, id_ in enumerate(ids)}
    found: list[set[int]] = []
    for source in sources:
        if isinstance(source, ModelSource):
            head = source.heads[task.name]
            found.append(set(split_rows(cleaned.by(head.cleaner), corpus, head, split)))
        elif isinstance(source, RunSource):
            own = dict.fromkeys(source.predictions.ids)
            if unknown := [id_ for id_ in own if id_ not in number]:
                raise CorpusError(
                    f"{source.path}: {len(unknown):,} of its {len(own):,} articles are not in corpus {corpus.name}, "
                    f"such as {', '.join(unknown[:5])}; choose the corpus that it was made from with corpus=…"
                )
            found.append({number[id_] for id_ in own})
    if not found:
        found.append(set(_given_rows(reference, corpus, split)))
    common, every = sorted(set.intersection(*found)), set.union(*found)
    if not common:
        raise CorpusError("the models have no example in common that none of them was trained on; train them with the "
                          "same split, or use another corpus")  # fmt: skip
    if len(common) == len(every):
        return common, []
    return common, [
        f"the models have different {split} splits: judged are the {len(common):,} articles that stand in all of them; "
        f"{len(every) - len(common):,} that do not are left out"
    ]


def _given_rows(clean: CleanCorpus, corpus: Corpus, split: str) -> list[int]:
    """The articles of a split that the corpus itself gives: all that predictions of other tools can go by."""
    given = [row["split"] for row in clean.rows]
    if split != "all" and None in given:
        raise CorpusError(
            f"corpus {corpus.name} gives no split for {given.count(None):,} of {len(given):,} articles; use split=all, "
            "or compare with a model or run, whose test split is then used"
        )
    rows = [i for i, name in enumerate(given) if split in ("all", name)]
    if not rows:
        raise CorpusError(f"corpus {corpus.name} has no articles in split {split}")
    return rows


def _split_name(sources: Sequence[Source], asked: str) -> str:
    """Predictions of runs bring their split with them."""
    named = {source.predictions.split for source in sources if isinstance(source, RunSource)}
    models = any(isinstance(source, ModelSource) for source in sources)
    return asked if models or not named else " and ".join(sorted(named))


def _without_answers(clean: CleanCorpus, rows: Sequence[int], task: Task, split: str) -> Predictions:
    labelled = clean.examples(rows)
    return Predictions(
        task, split, labelled.ids, [example.text for example in labelled.examples], labelled.gold,
        np.zeros((len(labelled), len(task.labels)), dtype=np.float32), np.zeros_like(labelled.gold), labelled.groups,
        [example.target for example in labelled.examples], labelled.sources, labelled.columns,
    )  # fmt: skip


def _keys(predictions: Predictions) -> list[Key]:
    return list(zip(predictions.ids, predictions.targets, strict=True))


def _predictions(
    source: Source, examples: Predictions, known: Counter[Key], cleaned: _Cleaned, rows: Sequence[int],
    chosen: CompareConfig,
) -> tuple[Predictions, bool]:  # fmt: skip
    """One run's predictions of the examples, and whether it has probabilities."""
    task = examples.task
    if isinstance(source, ModelSource):
        head = source.heads[task.name]
        return predict(head, cleaned.by(head.cleaner).examples(rows), examples.split)[0], True
    if isinstance(source, RunSource):
        made, where = source.predictions, source.path
        gold = answered(examples, Answers(_keys(made), made.gold, None), known, where).predicted
        if differing := int((gold != examples.gold).reshape(len(gold), -1).any(axis=1).sum()):
            raise CorpusError(
                f"{where}: the gold labels of {differing:,} of {len(gold):,} examples are not those of the corpus; it "
                "was made from another version of it"
            )
        return answered(examples, Answers(_keys(made), made.predicted, made.probabilities), known, where), True
    answers = read_answers(source.layout, task, chosen.columns, chosen.label_separator, chosen.label_map)
    return answered(examples, answers, known, source.path), answers.probabilities is not None


def _warnings(
    sources: Sequence[Source], contestants: Sequence[Contestant], corpus: Corpus, task: Task, split: str
) -> Iterator[str]:
    """What a reader must know before the figures."""
    for source in sources:
        if (
            isinstance(source, ModelSource)
            and source.heads[task.name].provenance.get("corpus_sha256") == corpus.fingerprint
        ):
            if split in ("train", "all"):
                yield f"{source.path} was trained on articles of split {split}: its figures are too good"
            elif split == "validation":
                yield f"the decision of {source.path} was fitted on the validation split: its figures are too good"
    single = [contestant.name for contestant in contestants if len(contestant.runs) == 1]
    if len(single) < len(contestants):
        yield from (
            f"{name} has one run: how much it varies from run to run is not known and not in the intervals"
            for name in single
        )
    n_groups = len(set(contestants[0].examples.groups))
    if n_groups < FEW_GROUPS:
        yield f"the examples are of {n_groups} groups only: intervals and p values of so few are rough"
