"""The page of `slantwise compare`: what its figures say in words, a table for the terminal, pictures, HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.markup import escape
from rich.table import Table

from evaluation import plots
from evaluation.pages import template
from evaluation.plots import ACCENT, INK, MUTED, PAPER, WARM, shorten
from evaluation.report import LOWER_IS_BETTER, UNBOUNDED, breakable, interval, metric_name, number

SHOWN_FLIPS = 15  # of each kind, on the page
SHOWN_SLICES = 12
LONG_NAME = 14  # of a model, for a terminal of 80 columns

# --- Words ------------------------------------------------------------------------------------------------------------


def verdict(figures: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Whether a model is better than the baseline, in a sentence that a person can act on."""
    model, baseline, name = comparison["model"], figures["baseline"], figures["metric"]
    d, counts = comparison["differences"][name], comparison["mcnemar"]
    where = examples_text(figures)
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


def examples_text(figures: Mapping[str, Any]) -> str:
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
    names = [model["name"] for model in figures["models"]]
    short = dict(zip(names, names, strict=True))
    title = [f"{figures['task']['name']}, {figures['split']}, {examples_text(figures)}"]
    if max(map(len, names)) > LONG_NAME:  # run directories, say, would leave no room for figures
        short = {name: f"model {number}" for number, name in enumerate(names, start=1)}
        title += [f"{number}: {name}" for name, number in short.items()]
    table = Table(title=escape("\n".join(title)), title_justify="left")
    for name in ("metric", "model"):
        table.add_column(name, overflow="fold")
    for name in ("value [95 % interval]", escape(f"minus {short[figures['baseline']]}"), "p"):
        table.add_column(name, justify="right", no_wrap=True)
    differences = {each["model"]: each["differences"] for each in figures["comparisons"]}
    for name in figures["models"][0]["estimates"]:
        for i, model in enumerate(figures["models"]):
            d = differences.get(model["name"], {}).get(name)
            runs = f" ({model['runs']} runs)" if model["runs"] > 1 else ""
            table.add_row(
                name if i == 0 else "",
                escape(short[model["name"]] + runs),
                escape(interval(model["estimates"][name])),
                "" if d is None else escape(signed(d)),
                "" if d is None or d["p_holm"] is None else p_text(d["p_holm"]).removeprefix("p = ").removeprefix("p "),
            )
        table.add_section()
    return table


# --- Pictures ---------------------------------------------------------------------------------------------------------


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


def _kinds(comparison: Mapping[str, Any]) -> list[str]:
    """What the slices are cut by: label, source and target first."""
    usual = ("label", "source", "target")
    found = dict.fromkeys(each["kind"] for each in comparison["slices"])
    return [*(kind for kind in usual if kind in found), *(kind for kind in found if kind not in usual)]


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
        for number_of_kind, kind in enumerate(_kinds(comparison)):
            if rows := _slice_rows(comparison, kind):
                name = f"slices-{i}-{number_of_kind}"
                svg = draw_differences(rows, name, f"{comparison['model']} minus {baseline}")
                told = f"Differences by {kind}; the table has the figures."
                found[f"slices/{i}/{kind}"] = Markup(plots.inline(svg, name, told))
    return found


# --- HTML -------------------------------------------------------------------------------------------------------------


def render(figures: Mapping[str, Any], changed: Sequence[Mapping[str, Any]], configuration: str) -> str:
    """The page. Jinja escapes every text; only the pictures' markup, whose texts are escaped already, goes in as is."""
    shown: dict[str, Any] = {
        each["model"]: {
            change: [flip for flip in changed if (flip["model"], flip["change"]) == (each["model"], change)][
                :SHOWN_FLIPS
            ]
            for change in ("fixed", "broken")
        }
        for each in figures["comparisons"]
    }
    page = template(
        "compare.html.j2", number=number, metric_name=metric_name, breakable=breakable, count="{:,}".format,
        signed=signed, p_text=p_text, rounded=rounded,
    )  # fmt: skip
    return page.render(
        figures,
        title=f"{', '.join(each['model'] for each in figures['comparisons'])} against {figures['baseline']}",
        where=examples_text(figures),
        pictures=_pictures(figures),
        kinds=[_kinds(each) for each in figures["comparisons"]],
        flips=shown,
        metrics=list(figures["models"][0]["estimates"]),
        unbounded=UNBOUNDED,
        lower_is_better=LOWER_IS_BETTER,
        shown_slices=SHOWN_SLICES,
        configuration=configuration,
    )
