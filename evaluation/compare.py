"""`slantwise compare`: two or more models and a corpus in; who is better, by how much and where, out.

The first model is the baseline; every other one is compared with it, on exactly the same examples. The output folder:

    compare.json    every figure; the keys are those of `comparison_figures`
    compare.html    the same for a reader: one file that needs nothing else
    flips.parquet   every decision that one model got right and the other wrong (see `FLIPS`); flips.csv is the same
    config.yaml     the resolved configuration
"""

from __future__ import annotations

import csv
import glob
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra.core.config_store import ConfigStore
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from omegaconf import MISSING
from rich.markup import escape
from rich.table import Table

from data import schemas
from data.config import CorpusConfig
from data.corpus import Corpus, load_corpus
from data.prepare import CleanCorpus, clean_corpus
from evaluation import plots
from evaluation.evaluate import SPLITS, split_rows
from evaluation.judge import EvaluationConfig, headline_metrics, predict
from evaluation.metrics import select
from evaluation.paired import (
    Comparison,
    Contestant,
    Difference,
    Slice,
    compare,
    excludes_zero,
    flips,
    mcnemar,
    slices,
)
from evaluation.plots import ACCENT, INK, MUTED, PAPER, WARM, shorten
from evaluation.predictions import (
    AnswerColumns,
    Answers,
    Key,
    Predictions,
    answered,
    is_predictions_file,
    read_answers,
)
from evaluation.report import LOWER_IS_BETTER, UNBOUNDED, breakable, interval, metric_name, number
from slantwise.cleaning import Cleaner
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.locate import MLFLOW_SCHEMES, locate_model
from slantwise.model import Head, load
from slantwise.rows import ENDINGS, Format, Layout
from slantwise.task import Task

FORMAT = 1
FEW_GROUPS = 30
FILES = (Format.csv, Format.jsonl, Format.json, Format.parquet)
SHOWN_FLIPS = 15  # of each kind, on the page
SHOWN_SLICES = 12
EXCERPT = 400
FLIPS = pa.schema(
    {
        "model": pa.string(),  # the challenger
        "change": pa.string(),  # fixed: the baseline was wrong and this model is right; broken: the other way round
        "id": pa.string(),
        "target": pa.string(),
        "source": pa.string(),
        "label": pa.string(),  # multilabel: the label that was decided on
        "gold": pa.list_(pa.string()),
        "baseline": pa.list_(pa.string()),  # what it answered; of several runs what most of them did
        "challenger": pa.list_(pa.string()),
        "gained": pa.float64(),  # the change of the probability of the truth; null where a model has none
        "text": pa.string(),  # how it begins, on one line
    }
)


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


def main() -> None:
    # Hydra would take `split=test` and `task=topic` for choices from the groups of `slantwise train`
    sys.argv = [re.sub(r"^(split|task)=", r"judged_\1=", with_names(argument)) for argument in sys.argv]
    schemas.register()
    ConfigStore.instance().store(name="compare_schema", node=CompareConfig)
    run("compare", _job)


def with_names(argument: str) -> str:
    """`models=[base=runs/a,new=[runs/b,runs/c]]` in Hydra's grammar: `models=[{base: runs/a},{new: [runs/b,runs/c]}]`.

    Any other argument is returned as it is.
    """
    if not argument.startswith("models="):
        return argument
    return re.sub(r"(?<=[\[,])\s*([\w.+-]+)=(\[[^\[\]]*\]|\"[^\"]*\"|'[^']*'|[^,\[\]]+)", r"{\1: \2}", argument)


def _job(config: Any) -> None:
    from omegaconf import OmegaConf

    chosen = to_object(config, CompareConfig)
    output = Path(chosen.output)
    if output.exists():
        raise ConfigurationError(f"output={output} exists; expected a new folder")
    progress = Progress()
    entries = read_entries(chosen.models)
    with progress.step("read the models"):
        sources = {entry.name: [read_source(path, chosen) for path in entry.paths] for entry in entries}
    with progress.step("read the corpus"):
        corpus = load_corpus(chosen.corpus)
    progress.say(f"  {corpus.counts()}")
    with progress.step("predict") as notes:
        contest = prepare(sources, corpus, chosen)
        notes.append(f"{len(contest.contestants[0].examples):,} examples of split {contest.split}")
    official = corpus.metrics.get(contest.task.name, [])
    metrics = list(
        dict.fromkeys([*([chosen.metric] if chosen.metric else []), *headline_metrics(contest.task, official)])
    )
    select(contest.task, metrics)
    with progress.step("compare"):
        figures, changed = comparison_figures(contest, corpus, metrics, chosen)
    write_comparison(figures, changed, OmegaConf.to_yaml(config, resolve=True), output)
    for warning in figures["warnings"]:
        progress.warn(warning)
    progress.console.print(comparison_table(figures))
    for sentence in figures["verdict"]:
        progress.say(f"• {sentence}")
    progress.say(f"page: {output / 'compare.html'}\nfigures: {output / 'compare.json'}\nflips: {output / 'flips.csv'}")


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
        [example.target for example in labelled.examples], labelled.sources,
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


# --- Figures ----------------------------------------------------------------------------------------------------------


def comparison_figures(
    contest: Contest, corpus: Corpus, metrics: Sequence[str], chosen: CompareConfig
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything that the page says, as JSON-ready values, and all flips (the rows of FLIPS, and `row`).

    format       1; grows when a key changes its meaning
    corpus, sha256, split, task (name, kind, labels, has_target), warnings
    examples, groups   their numbers; `unit`: what the groups are, articles or groups
    baseline     the name of the first model
    metric       what the verdict goes by: the first of `metrics`
    verdict      one sentence for each other model
    settings     resamples, permutations, seed
    models       [{name, origins, runs, has_probabilities, estimates: metric -> {value, low, high, reason}}]; with
                 several runs the value is the mean over them, and the interval holds their variance
    comparisons  [{model, differences, mcnemar, slices}], one for each model but the baseline:
        differences  metric -> {value, low, high, reason, p, p_holm, test, needed, detectable, shown}, this model minus
                     the baseline; see `evaluation.paired.Difference`
        mcnemar      {unit, both_right, broken, fixed, both_wrong}; see `evaluation.paired.McNemar`
        slices       [{kind, value, metric, n, estimate, fixed, broken, excludes_zero}], biggest differences
                     first; `excludes_zero`: the interval does; see `evaluation.paired.Slice`
    """
    sure, contestants = chosen.evaluation, contest.contestants
    baseline, examples = contestants[0], contestants[0].examples
    result = compare(contestants, metrics, sure.resamples, chosen.permutations, sure.seed)
    changed = [
        {"model": each.name, "gained": gained, **flip, "text": shorten(examples.texts[flip["row"]], EXCERPT)}
        for each in contestants[1:]
        for flip, gained in _with_gains(baseline, each)
    ]
    unit = "label decisions" if contest.task.kind == "multilabel" else "examples"
    figures: dict[str, Any] = {
        "format": FORMAT,
        "corpus": corpus.name,
        "sha256": corpus.fingerprint,
        "split": contest.split,
        "task": contest.task.to_dict(),
        "warnings": contest.warnings,
        "examples": len(examples),
        "groups": len(set(examples.groups)),
        "unit": "articles" if set(examples.groups) == set(examples.ids) else "groups",
        "baseline": baseline.name,
        "metric": metrics[0],
        "settings": {"resamples": sure.resamples, "permutations": chosen.permutations, "seed": sure.seed},
        "models": [_model_figures(each, result) for each in contestants],
        "comparisons": [
            {
                "model": each.name,
                "differences": {name: _difference_figures(d) for name, d in result.differences[each.name].items()},
                "mcnemar": {"unit": unit, **asdict(mcnemar(baseline, each))},
                "slices": [_slice_figures(s) for s in slices(baseline, each, sure.resamples, sure.seed)],
            }
            for each in contestants[1:]
        ],
    }
    return figures | {"verdict": [verdict(figures, each) for each in figures["comparisons"]]}, changed


def _model_figures(contestant: Contestant, result: Comparison) -> dict[str, Any]:
    return {
        "name": contestant.name,
        "origins": list(contestant.origins),
        "runs": len(contestant.runs),
        "has_probabilities": contestant.has_probabilities,
        "estimates": {name: asdict(each) for name, each in result.estimates[contestant.name].items()},
    }


def _difference_figures(difference: Difference) -> dict[str, Any]:
    keys = ("p", "p_holm", "test", "needed", "detectable", "shown")
    return {**asdict(difference.estimate), **{key: getattr(difference, key) for key in keys}}


def _slice_figures(each: Slice) -> dict[str, Any]:
    return {**asdict(each), "excludes_zero": excludes_zero(each.estimate)}


def _with_gains(baseline: Contestant, challenger: Contestant) -> Iterator[tuple[dict[str, Any], float | None]]:
    """The flips, those with the largest change of the truth's probability first, with that change."""
    found = flips(baseline, challenger)
    if not (baseline.has_probabilities and challenger.has_probabilities):
        return ((flip, None) for flip in found)
    old, new = (np.mean([run.probabilities for run in each.runs], axis=0) for each in (baseline, challenger))
    examples, labels = baseline.examples, baseline.examples.task.labels

    def gain(flip: Mapping[str, Any]) -> float:
        row = flip["row"]
        column = labels.index(flip["label"] or flip["gold"][0])
        change = float(new[row, column] - old[row, column])
        return change if flip["label"] is None or examples.gold[row, column] else -change

    pairs = [(flip, gain(flip)) for flip in found]
    return iter(sorted(pairs, key=lambda pair: -abs(pair[1])))


def verdict(figures: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Whether a model is better than the baseline, in a sentence that a person can act on."""
    model, baseline, name = comparison["model"], figures["baseline"], figures["metric"]
    d, counts = comparison["differences"][name], comparison["mcnemar"]
    where = _examples(figures)
    if d["value"] is None:
        return f"{model} and {baseline} cannot be compared by {metric_name(name)}: {d['reason']}."
    if not counts["fixed"] and not counts["broken"] and d["value"] == 0:
        return f"No difference: {model} is right and wrong where {baseline} is, on all {where}."
    holm = f" (Holm, {len(figures['comparisons'])} models)" if len(figures["comparisons"]) > 1 else ""
    p = "" if d["p_holm"] is None else f", {p_text(d['p_holm'])}{holm}"
    found = f"{metric_name(name)} {signed(d)}{p} on {where}"
    if d["shown"]:
        better = (d["value"] > 0) != (name in LOWER_IS_BETTER)
        return f"{model} is {'better' if better else 'worse'} than {baseline}: {found}."
    return f"No difference shown between {model} and {baseline}: {found}{_what_would_show(d, figures['examples'])}."


def _what_would_show(d: Mapping[str, Any], n: int) -> str:
    if d["low"] is None or d["p_holm"] is None:
        return ""
    if d["low"] > 0 or d["high"] < 0 or d["p_holm"] < 0.05:
        return "; the interval and the test do not agree, so it may be one: more examples would tell"
    if d["needed"] is not None:
        return f"; about {rounded(max(d['needed'], n + 1))} examples would be needed to show one of this size"
    return "; the runs vary so much that it would take more of them, not more examples" if d["value"] else ""


def _examples(figures: Mapping[str, Any]) -> str:
    n, groups = figures["examples"], figures["groups"]
    return f"{n:,} examples" + (f" of {groups:,} {figures['unit']}" if groups != n else "")


def signed(estimate: Mapping[str, Any]) -> str:
    """+.021 [.004, .039]"""
    return ("+" if (estimate["value"] or 0) > 0 else "") + interval(estimate)


def p_text(p: float) -> str:
    """p = .02, p = .047, p < .001"""
    if p < 0.001:
        return "p < .001"
    return f"p = {number(p, 3 if p < 0.0095 or 0.045 <= p < 0.055 else 2)}"


def rounded(n: int) -> str:
    """Two digits of a number that is a rough estimate: 4,100."""
    step = 10 ** max(0, math.floor(math.log10(n)) - 1)
    return f"{round(n / step) * step:,}"


def comparison_table(figures: Mapping[str, Any]) -> Table:
    """For each metric the models below each other, for the terminal."""
    table = Table(title=f"{figures['task']['name']}, {figures['split']}, {_examples(figures)}", title_justify="left")
    for name in ("metric", "model"):
        table.add_column(name, overflow="fold")
    for name in ("value [95 % interval]", escape(f"minus {figures['baseline']}"), "p"):
        table.add_column(name, justify="right", no_wrap=True)
    differences = {each["model"]: each["differences"] for each in figures["comparisons"]}
    for name in figures["models"][0]["estimates"]:
        for i, model in enumerate(figures["models"]):
            d = differences.get(model["name"], {}).get(name)
            runs = f" ({model['runs']} runs)" if model["runs"] > 1 else ""
            table.add_row(
                name if i == 0 else "",
                escape(model["name"] + runs),
                escape(interval(model["estimates"][name])),
                "" if d is None else escape(signed(d)),
                "" if d is None or d["p_holm"] is None else p_text(d["p_holm"]).removeprefix("p = ").removeprefix("p "),
            )
        table.add_section()
    return table


# --- Files ------------------------------------------------------------------------------------------------------------


def write_comparison(
    figures: Mapping[str, Any], changed: Sequence[Mapping[str, Any]], configuration: str, output: Path
) -> Path:
    """Write all files into the new folder; the page's path."""
    output.mkdir(parents=True)
    text = json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False)
    (output / "compare.json").write_text(text + "\n", encoding="utf-8")
    (output / "config.yaml").write_text(configuration, encoding="utf-8")
    rows = [{name: flip[name] for name in FLIPS.names} for flip in changed]
    pq.write_table(pa.Table.from_pylist(rows, schema=FLIPS), output / "flips.parquet", compression="zstd")
    with (output / "flips.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FLIPS.names)
        writer.writeheader()
        writer.writerows(
            {name: "|".join(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows
        )
    page = output / "compare.html"
    page.write_text(render(figures, changed, configuration), encoding="utf-8")
    return page


def draw_differences(rows: Sequence[tuple[str, Mapping[str, Any], str]], name: str, x_label: str) -> str:
    """Differences with their intervals around the line of no difference: (label, estimate, colour), first on top."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=0.9)
        for y, (_, each, colour) in enumerate(rows):
            if each["low"] is not None:
                axes.hlines(y, each["low"], each["high"], color=colour, linewidth=2, alpha=0.55)
            axes.plot(each["value"], y, color=colour, marker="o", markersize=5.5, markeredgecolor=PAPER)
        axes.set_yticks(range(len(rows)), [shorten(label, 44) for label, _, _ in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=x_label)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda x, _: "0" if abs(x) < 1e-9 else number(x).rstrip("0"))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        reach = max([abs(x) for _, e, _ in rows for x in (e["value"], e["low"], e["high"]) if x is not None] + [0.01])
        axes.set_xlim(-1.08 * reach, 1.08 * reach)

    return plots.render(name, (5.6, 0.7 + 0.27 * len(rows)), draw)


def _colour(clear: bool, better: bool) -> str:
    return MUTED if not clear else ACCENT if better else WARM


def _difference_rows(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], str]]:
    several = len(figures["comparisons"]) > 1
    return [
        (
            f"{metric_name(name)}, {each['model']}" if several else metric_name(name),
            d,
            _colour(d["shown"], (d["value"] > 0) != (name in LOWER_IS_BETTER)),
        )
        for name in figures["models"][0]["estimates"]
        for each in figures["comparisons"]
        if (d := each["differences"][name])["value"] is not None and name not in UNBOUNDED
    ]


def _slice_rows(comparison: Mapping[str, Any], kind: str) -> list[tuple[str, Mapping[str, Any], str]]:
    return [
        (
            f"{each['value']} (n = {each['n']:,})",
            each["estimate"],
            _colour(each["excludes_zero"], each["estimate"]["value"] > 0),
        )
        for each in comparison["slices"]
        if each["kind"] == kind and each["estimate"]["value"] is not None
    ][:SHOWN_SLICES]


def _pictures(figures: Mapping[str, Any]) -> dict[str, Markup]:
    """differences, and slices/<number of the comparison>/<kind>."""
    baseline = figures["baseline"]
    found = {}
    rows = _difference_rows(figures)
    if rows:
        told = "; ".join(f"{label} {signed(each)}" for label, each, _ in rows)
        svg = draw_differences(rows, "differences", f"minus {baseline}")
        found["differences"] = Markup(plots.inline(svg, "differences", f"Differences from {baseline}: {told}"))
    for i, comparison in enumerate(figures["comparisons"]):
        for kind in ("label", "source", "target"):
            if rows := _slice_rows(comparison, kind):
                name = f"slices-{i}-{kind}"
                svg = draw_differences(rows, name, f"{comparison['model']} minus {baseline}")
                told = f"Differences by {kind}; the table has the figures."
                found[f"slices/{i}/{kind}"] = Markup(plots.inline(svg, name, told))
    return found


def render(figures: Mapping[str, Any], changed: Sequence[Mapping[str, Any]], configuration: str) -> str:
    """The page. Jinja escapes every text; only the pictures' markup, whose texts are escaped already, goes in as is."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # for every name: the usual choice by ending leaves .j2 out
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number, "metric_name": metric_name, "breakable": breakable, "count": "{:,}".format, "signed": signed,
        "p_text": p_text, "rounded": rounded,
    }  # fmt: skip
    shown: dict[str, Any] = {
        each["model"]: {
            change: [flip for flip in changed if (flip["model"], flip["change"]) == (each["model"], change)][
                :SHOWN_FLIPS
            ]
            for change in ("fixed", "broken")
        }
        for each in figures["comparisons"]
    }
    return environment.get_template("compare.html.j2").render(
        figures,
        title=f"{', '.join(each['model'] for each in figures['comparisons'])} against {figures['baseline']}",
        where=_examples(figures),
        pictures=_pictures(figures),
        flips=shown,
        metrics=list(figures["models"][0]["estimates"]),
        unbounded=UNBOUNDED,
        lower_is_better=LOWER_IS_BETTER,
        shown_slices=SHOWN_SLICES,
        configuration=configuration,
    )


if __name__ == "__main__":
    main()
