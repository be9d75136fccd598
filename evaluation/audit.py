"""`slantwise audit`: a corpus in, its figures, shortcut probes and a verdict out, as JSON and as an HTML data card.

The output folder:

    audit.json         every figure; the keys are those of `audit_figures`
    audit.html         the same for a reader: one file that needs nothing else
    plots/*.svg        its pictures
    quarantine.jsonl   rows that were not used, with the reason
    config.yaml        the resolved configuration
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.config_store import ConfigStore
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from omegaconf import MISSING
from rich.table import Table

from data import schemas
from data.audit import audit
from data.config import CleaningConfig, CorpusConfig, SplitConfig, SplitKind, TaskConfig
from data.corpus import Corpus, load_corpus, write_quarantine
from data.prepare import CleanCorpus, clean_corpus, fit_cleaner, split_corpus
from data.splitting import TEST, TRAIN
from evaluation import plots
from evaluation.intervals import Estimate
from evaluation.judge import EvaluationConfig, headline_metrics
from evaluation.pages import template
from evaluation.plots import ACCENT, INK, MUTED, PAPER, WARM, shorten
from evaluation.report import breakable, metric_name, number
from evaluation.shortcuts import (
    SHORTCUTS,
    ProbeResult,
    folds_of,
    gather,
    held_out,
    held_out_verdict,
    notable_shortcuts,
    probe,
    verdict,
)
from evaluation.tables import format_estimate
from slantwise.command import Progress, run, to_object
from slantwise.errors import ConfigurationError

FORMAT = 1
NOTABLE_LEAK = 0.01  # the share of the test split from which repeats are said to matter


@dataclass
class AuditConfig:
    """`slantwise audit`."""

    corpus: CorpusConfig = MISSING
    cleaning: CleaningConfig = MISSING
    split: SplitConfig = field(default_factory=SplitConfig)
    task: TaskConfig | None = None  # null: the only one that the corpus is labelled for
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: str = MISSING  # a new folder

    def __post_init__(self) -> None:
        if self.evaluation.slices:
            raise ConfigurationError(
                f"evaluation.slices={self.evaluation.slices}; an audit judges no model, expected none"
            )


def main() -> None:
    schemas.register()
    store = ConfigStore.instance()
    store.store(name="audit_schema", node=AuditConfig)
    store.store(group="task", name="task_schema", node=TaskConfig)
    run("audit", _job)


def _job(config: Any) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    chosen = to_object(config, AuditConfig)
    output = Path(chosen.output)
    if output.exists():
        raise ConfigurationError(f"output={output} exists; expected a new folder")
    progress = Progress()
    left_open = HydraConfig.get().runtime.choices.get("split") is None and not chosen.split.group_by
    figures, corpus = audit_corpus(chosen, progress, left_open and chosen.split.kind is SplitKind.stratified)
    write_audit(figures, OmegaConf.to_yaml(config, resolve=True), output)
    write_quarantine(corpus.quarantine, output / "quarantine.jsonl")
    progress.console.print(probe_table(figures))
    if figures["agreement"]:
        progress.say(f"annotators: {agreement_text(figures['agreement'])}")
    for row in figures["probes"]:
        if row["estimate"]["value"] is None:
            progress.say(f"not probed: {SHORTCUTS[row['name']].title} ({row['estimate']['reason']})")
    for sentence in figures["verdict"]:
        progress.say(f"• {sentence}")
    progress.say(f"data card: {output / 'audit.html'}\nfigures: {output / 'audit.json'}")


def audit_corpus(config: AuditConfig, progress: Progress, prefer_given: bool) -> tuple[dict[str, Any], Corpus]:
    """The figures of a corpus, and the corpus. `prefer_given`: the split that the corpus gives, where it gives one for
    every article, goes before the configured one. Raises a SlantwiseError where corpus or configuration is at fault.
    """
    with progress.step("read the corpus"):
        corpus = load_corpus(config.corpus)
        task = corpus.task(choose_task(corpus, config.task.name if config.task else None))
    progress.say(f"  {corpus.counts()}")
    with progress.step("clean the articles") as notes:
        cleaner = fit_cleaner(corpus, config.cleaning)
        clean = clean_corpus(corpus, task, cleaner)
        removed, corpus = clean.removed, corpus.without_texts()  # of a large corpus, one copy of the texts is enough
        notes.append(f"{len(clean):,} articles labelled for {task.name}")
    with progress.step("split") as notes:
        split = replace(config.split, kind=SplitKind.given) if prefer_given and gives_split(clean) else config.split
        splits, clusters = split_corpus(clean, split)
        notes.append(str(split.kind) + (f", {len(splits)} folds" if len(splits) > 1 else ""))
    with progress.step("count"):
        figures = audit(corpus, clean, removed, splits, clusters)
    metric = headline_metrics(task, corpus.metrics.get(task.name, []))[0]
    data = gather(clean, clusters, removed)
    sure = config.evaluation
    with progress.step("probe for shortcuts"):
        folds = folds_of(data, splits)
        probes = probe(data, folds, metric, resamples=sure.resamples, seed=sure.seed, interval=sure.interval)
    with progress.step("hold sources and targets out" if task.has_target else "hold sources out"):
        kept = held_out(data, metric, sure.resamples, sure.seed, sure.interval)
    return audit_figures(corpus, clean, split, figures, probes, kept), corpus


def choose_task(corpus: Corpus, asked: str | None) -> str:
    """Raises ConfigurationError where the corpus is labelled for several tasks and none is asked for."""
    if asked is None and len(corpus.tasks) > 1:
        raise ConfigurationError(
            f"corpus {corpus.name} is labelled for {', '.join(corpus.tasks)}; choose one with task=…"
        )
    return asked or next(iter(corpus.tasks), "topic")


def gives_split(clean: CleanCorpus) -> bool:
    """Whether the corpus says of every article where it belongs, train and test among them."""
    given = set(clean.column("split"))
    return None not in given and {TRAIN, TEST} <= given


# --- Figures ----------------------------------------------------------------------------------------------------------


def audit_figures(
    corpus: Corpus,
    clean: CleanCorpus,
    split: SplitConfig,
    figures: Mapping[str, Any],
    probes: Sequence[ProbeResult],
    kept: Sequence[ProbeResult],
) -> dict[str, Any]:
    """Everything that the data card says, as JSON-ready values.

    format       1; grows when a key changes its meaning
    corpus, sha256, task (name, kind, labels, has_target), split (its configuration)
    verdict      the sentences on top
    metric       what the probes are scored by
    probes       [{name, metric, n, estimate {value, low, high, reason}, baseline (the same), chance, share,
                 difference}], the text first; see `evaluation.shortcuts.ProbeResult`
    held_out     the same for text (near-duplicates kept together), source and target; empty for fewer than three texts
    and the keys of `data.audit.audit`
    """
    return {
        "format": FORMAT,
        "corpus": corpus.name,
        "sha256": corpus.fingerprint,
        "task": clean.task.to_dict(),
        "split": {**asdict(split), "kind": str(split.kind)},
        "verdict": [
            *verdict(probes, probes[0].estimate),
            *held_out_verdict(kept),
            *data_findings(figures, clean.task.has_target),
        ],
        "metric": probes[0].metric,
        "probes": [asdict(result) for result in probes],
        "held_out": [asdict(result) for result in kept],
        **figures,
    }


def data_findings(figures: Mapping[str, Any], has_target: bool) -> list[str]:
    """What is wrong with the data themselves, in sentences; empty where nothing is."""
    leakage, conflicts, counts = figures["leakage"], figures["conflicts"], figures["counts"]
    found = []
    if leakage["near"]:
        exact, more, of = leakage["exact"], leakage["near"] - leakage["exact"], leakage["articles"]
        nearly = f", {more:,} more nearly" if more else ""
        in_train = f" ({leakage['exact_train']:,} one of train)" if leakage["exact_train"] < exact else ""
        too_good = ": scores on this split are too good" if leakage["near"] >= NOTABLE_LEAK * of else ""
        found.append(
            f"{exact:,} of {of:,} test articles ({percent(exact, of)}) repeat one of train or validation word for "
            f"word{in_train}{nearly}{too_good}; split=stratified and split=kfold keep repeats together."
        )
    shared = {row["what"]: row for row in leakage["shared"]}
    pairs, targets = shared.get("text and target"), shared.get("target")
    if has_target and targets and 2 * targets["examples"] > targets["of"]:
        which = "All" if targets["shared"] == targets["distinct"] else f"{targets['shared']:,} of"
        found.append(
            f"{which} {targets['distinct']:,} test targets stand in train or validation "
            f"({percent(targets['examples'], targets['of'])} of the test examples): this measures known targets."
        )
    if pairs and pairs["examples"]:
        found.append(f"{plural(pairs['examples'], 'test example')} with text and target of one in train or validation.")
    if conflicts["texts"]:
        what = "pair of text and target" if has_target else "text"
        found.append(
            f"{plural(conflicts['texts'], f'distinct {what}')} labelled in more than one way, in "
            f"{conflicts['examples']:,} examples: no model can get all of them right."
        )
    if counts["quarantined"]:
        found.append(f"{counts['quarantined']:,} of {plural(counts['rows'], 'row')} cannot be used.")
    return found


def agreement_text(agreement: Mapping[str, Any]) -> str:
    """ "Krippendorff's alpha .40 (nominal), 2,050 items with up to 8 annotators each"."""
    alpha = "undefined, as all labels are the same" if agreement["alpha"] is None else number(agreement["alpha"])
    items = plural(agreement["items"], "item")
    return f"Krippendorff's alpha {alpha} (nominal), {items} with up to {agreement['annotators']} annotators each"


def percent(part: int, whole: int) -> str:
    """A share as "14 %", "0.4 %", "under 0.1 %" or "over 99.9 %"."""
    share = 100 * part / max(1, whole)
    if 0 < share < 0.1 or 99.9 < share < 100:
        return "under 0.1 %" if share < 1 else "over 99.9 %"
    return f"{share:.1f} %" if 0 < share < 1 or 99 < share < 100 else f"{share:.0f} %"


def plural(n: int, noun: str) -> str:
    """ "1 text", "2 texts", "2 pairs of text and target"."""
    head, of, rest = noun.partition(" of ")
    return f"{n:,} {head}{'s' * (n != 1)}{of}{rest}"


def whole_percent(share: float) -> str:
    """A share, which may be negative, as "66 %" or "−3 %"."""
    return f"{100 * share:.0f} %".replace("-0 ", "0 ").replace("-", "−")


def probe_table(figures: Mapping[str, Any]) -> Table:
    """What each probe reaches, and what is left on unknown sources and targets, for the terminal."""
    first = figures["probes"][0]
    table = Table(title=f"{metric_name(figures['metric'])}, n = {first['n']:,} test examples", title_justify="left")
    table.add_column("learned from")
    for name in ("value", "95 % interval", "above chance"):
        table.add_column(name, justify="right")
    table.add_row("the most frequent label", *format_estimate(Estimate(**first["baseline"])), "")
    table.add_row("chance", "undefined" if first["chance"] is None else f"{first['chance']:.3f}", "", "")
    for row in figures["probes"]:
        if row["estimate"]["value"] is not None:
            share = "" if row["share"] is None else whole_percent(row["share"])
            table.add_row(SHORTCUTS[row["name"]].title, *format_estimate(Estimate(**row["estimate"])), share)
    kept = [row for row in figures["held_out"] if row["estimate"]["value"] is not None]
    for i, row in enumerate(kept):
        name = "text, cross-validated" if i == 0 else f"text, {row['name']}s held out"
        table.add_row(name, *format_estimate(Estimate(**row["estimate"])), "")
    return table


# --- Pictures ---------------------------------------------------------------------------------------------------------


def draw_labels(rows: Sequence[Mapping[str, Any]], n: int) -> str:
    """Bars of the examples that carry each label."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        at = np.arange(len(rows))
        axes.barh(at, [row["n"] for row in rows], color=ACCENT, alpha=0.75, height=0.7)
        for y, row in zip(at, rows, strict=True):
            text = f"{row['n']:,} · {percent(row['n'], n)}"
            axes.annotate(
                text, (row["n"], y), (3, 0), textcoords="offset points", va="center", fontsize=7.5, color=MUTED
            )
        axes.set_yticks(at, [shorten(row["label"] or "(no label)", 34) for row in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.22 * max(row["n"] for row in rows)), xlabel="examples")
        _bare(axes)

    return plots.render("labels", (4.8, 0.75 + 0.23 * len(rows)), draw)


def draw_lengths(lengths: Mapping[str, Any], n: int) -> str:
    """The histogram of the lengths; its bins grow by half an octave."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        low, high = (np.array([row[key] for row in lengths["bins"]]) for key in ("low", "high"))
        axes.bar(
            low, [row["n"] for row in lengths["bins"]], width=0.97 * (high - low), align="edge", color=ACCENT, alpha=0.6
        )
        median, top = lengths["median"], max(row["n"] for row in lengths["bins"])
        axes.axvline(median, color=WARM, linewidth=1.2)
        axes.annotate(
            f"median {median:,.0f}", (median, 1.17 * top), (4, 0), textcoords="offset points", va="top", fontsize=8,
            color=WARM,
        )  # fmt: skip
        axes.set_xscale("log")
        edges = [*low, high[-1]]
        axes.set_xticks(edges[:: math.ceil(len(edges) / 9)])  # not decades: all lengths may lie within one
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="words (log)", ylabel="articles", title=f"Length of the cleaned text (n = {n:,} articles)")
        axes.set_ylim(0, 1.2 * top)  # room for the median's label above the bars
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return plots.render("lengths", (4.7, 2.5), draw)


def draw_probes(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Each probe's score with its interval, above the score of chance."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        at = np.arange(len(rows))
        if (chance := rows[0]["chance"]) is not None:
            axes.axvline(chance, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label=f"chance {number(chance)}")
        for y, row in zip(at, rows, strict=True):
            value, colour = row["estimate"], ACCENT if row["name"] == "text" else WARM
            if value["low"] is not None:
                axes.hlines(y, value["low"], value["high"], color=colour, linewidth=4, alpha=0.35)
            axes.plot(
                value["value"], y, marker="o", markersize=6, color=colour, markeredgecolor=PAPER, linestyle="none"
            )
        axes.set_yticks(at, [SHORTCUTS[row["name"]].title for row in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=metric_name(metric))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x, 2)))
        axes.grid(axis="x")
        figure.legend(loc="outside lower right")
        _bare(axes)

    return plots.render("probes", (5.2, 1.0 + 0.3 * len(rows)), draw)


def _bare(axes: Any) -> None:
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_axisbelow(True)


# --- Page -------------------------------------------------------------------------------------------------------------


def write_audit(figures: Mapping[str, Any], configuration: str, output: Path) -> Path:
    """Write audit.json, audit.html, plots/ and config.yaml into the new folder; the page's path."""
    pictures = draw_pictures(figures)
    (output / "plots").mkdir(parents=True)
    for name, (svg, _) in pictures.items():
        (output / "plots" / f"{name}.svg").write_text(svg, encoding="utf-8")
    text = json.dumps(finite(figures), ensure_ascii=False, indent=1, allow_nan=False)
    (output / "audit.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    (output / "config.yaml").write_text(configuration, encoding="utf-8")
    page = output / "audit.html"
    page.write_text(render(figures, pictures, configuration), encoding="utf-8", errors="replace")
    return page


def finite(value: Any) -> Any:
    """The same with null for NaN and infinities, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_pictures(figures: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name -> the picture, and what a reader who cannot see it is told."""
    n, articles = figures["counts"]["examples"], figures["counts"]["labelled"]
    known = [row for row in figures["probes"] if row["estimate"]["value"] is not None]
    pictures = {
        "labels": (draw_labels(figures["labels"], n), "Examples by label; the table beside it has the figures."),
        "lengths": (
            draw_lengths(figures["lengths"], articles),
            f"Histogram of text lengths, median {figures['lengths']['median']:,.0f} words.",
        ),
    }
    if known:
        told = "; ".join(f"{SHORTCUTS[row['name']].title} {number(row['estimate']['value'])}" for row in known)
        pictures["probes"] = (draw_probes(known, figures["metric"]), f"What each probe reaches: {told}.")
    return pictures


def render(figures: Mapping[str, Any], pictures: Mapping[str, tuple[str, str]], configuration: str) -> str:
    """The page. Jinja escapes every text; only the pictures' markup, whose texts are escaped already, goes in as is."""
    page = template(
        "audit.html.j2", number=number, metric_name=metric_name, breakable=breakable, count="{:,}".format,
        whole_percent=whole_percent,
    )  # fmt: skip
    return page.render(
        figures,
        percent=percent,
        plural=plural,
        agreement_text=agreement_text,
        shortcuts=SHORTCUTS,
        pictures={name: Markup(plots.inline(svg, name, told)) for name, (svg, told) in pictures.items()},
        notable=[row.name for row in notable_shortcuts([_result(row) for row in figures["probes"]])],
        configuration=configuration,
    )


def _result(row: Mapping[str, Any]) -> ProbeResult:
    """A probe as it was before it became JSON."""
    difference = None if row["difference"] is None else Estimate(**row["difference"])
    return ProbeResult(
        **{
            **row,
            "estimate": Estimate(**row["estimate"]),
            "baseline": Estimate(**row["baseline"]),
            "difference": difference,
        }
    )


if __name__ == "__main__":
    main()
