"""The pictures of an evaluation report, as SVG.

Each function draws one picture and returns it as a standalone SVG document in the colours of light paper; `inline`
turns such a document into an element for an HTML page, whose colours follow the page's CSS variables. Text stays text,
in the reader's fonts. Only matplotlib's object interface is used, and its settings hold for the one picture drawn.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

PAPER, INK, MUTED, LINE, ACCENT, WARM = "#ffffff", "#1c2430", "#5f6b7c", "#cfd6e0", "#2b62b0", "#c25a12"
# The page's variable for each colour; the colour itself is the fallback.
VARIABLES = {PAPER: "--paper", INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", WARM: "--warm"}

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a label is a dollar
    "axes.unicode_minus": True,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
}
NOT_IN_XML = ("Cc", "Cs", "Cn")  # control characters, surrogates, noncharacters
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def reliability(bins: Sequence[Mapping[str, Any]], title: str, x_label: str, y_label: str) -> str:
    """A reliability diagram over the counts of its bins (DeGroot and Fienberg 1983; Niculescu-Mizil and Caruana 2005).

    A bin has `low`, `high`, `n`, `mean_probability`, `share`, `share_low` and `share_high`; the last four are None
    where `n` is 0.
    """

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(2, 1, height_ratios=[3.1, 1])
        curve, counts = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
        filled = [b for b in bins if b["n"]]
        x, y = [b["mean_probability"] for b in filled], [b["share"] for b in filled]
        curve.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), label="perfectly calibrated")
        curve.vlines(x, x, y, color=WARM, linewidth=4, alpha=0.35, label="gap")
        curve.vlines(x, [b["share_low"] for b in filled], [b["share_high"] for b in filled], color=ACCENT, linewidth=1)
        curve.plot(
            x, y, color=ACCENT, linewidth=1.4, marker="o", markersize=4.5, markeredgecolor=PAPER, label="observed"
        )
        curve.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=y_label)
        curve.set_title(title)
        curve.legend(loc="best")
        curve.grid()
        _bin_counts(counts, bins, x_label)
        for axes in (curve, counts):
            axes.xaxis.set_major_formatter(FuncFormatter(_figure))
        curve.yaxis.set_major_formatter(FuncFormatter(_figure))

    return render("reliability", (4.7, 4.9), draw)


def _bin_counts(axes: Axes, bins: Sequence[Mapping[str, Any]], x_label: str) -> None:
    n = np.array([b["n"] for b in bins])
    most = int(n.max())
    logarithmic = most > 50 * int(n[n > 0].min())
    axes.bar(
        [(b["low"] + b["high"]) / 2 for b in bins], n, width=[0.86 * (b["high"] - b["low"]) for b in bins],
        color=ACCENT, alpha=0.35, log=logarithmic,
    )  # fmt: skip
    for b in bins:
        if b["n"]:
            at = ((b["low"] + b["high"]) / 2, b["n"])
            axes.annotate(
                _short_count(b["n"]), at, (0, 2), textcoords="offset points", ha="center", fontsize=7, color=MUTED
            )
    axes.set(xlim=(0, 1), xlabel=x_label)
    axes.set_ylabel("n\n(log)" if logarithmic else "n", rotation=0, ha="right", va="center")
    axes.set_ylim((0.5, most * 8) if logarithmic else (0, most * 1.35))
    axes.yaxis.set_major_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines["left"].set_visible(False)


def precision_recall(
    name: str,
    label: str,
    recall: npt.NDArray[np.float64],
    precision: npt.NDArray[np.float64],
    support: int,
    n: int,
    chosen: tuple[float, float] | None,
    note: str,
) -> str:
    """The precision-recall curve of one label.

    `chosen` is (recall, precision) of the label as it was predicted, `note` says how it was chosen. The dotted line is
    the label's share of the examples, which is what guessing reaches.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(support / max(n, 1), color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot(recall, precision, color=ACCENT, linewidth=1.4, drawstyle="steps-post")
        axes.fill_between(recall, precision, step="post", color=ACCENT, alpha=0.1, linewidth=0)
        if chosen:
            axes.plot(*chosen, color=WARM, marker="o", markersize=6, markeredgecolor=PAPER, linestyle="none")
        axes.set(
            xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1]
        )
        axes.set_title(shorten(label, 26), fontsize=8.5, pad=17)
        counts = f"{support:,} of {n:,}" + (f" · {note}" if note else "")
        axes.text(0, 1.05, counts, transform=axes.transAxes, fontsize=7, color=MUTED)
        axes.xaxis.set_major_formatter(FuncFormatter(_figure))
        axes.yaxis.set_major_formatter(FuncFormatter(_figure))
        axes.grid()

    return render(name, (2.35, 2.15), draw)


def risk_coverage(
    coverage: Sequence[float],
    risk: Sequence[float],
    n: int,
    chosen: tuple[float, float] | None,
    target: float | None,
) -> str:
    """Share of wrong answers among the most confident ones, against the share of `n` examples that are answered.

    `chosen` is (coverage, risk) as the model answered, where it abstains; `target` the risk that was asked for. The
    dotted line is the risk of answering everything, which confidences that say nothing keep to (El-Yaniv and Wiener
    2010).
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(risk[-1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), label="all answered")
        if target is not None:
            axes.axhline(target, color=WARM, linewidth=0.8, linestyle=(0, (4, 3)), label="target")
        axes.plot(coverage, risk, color=ACCENT, linewidth=1.4, label="most confident first")
        axes.fill_between(coverage, risk, color=ACCENT, alpha=0.1, linewidth=0)
        if chosen:
            axes.plot(
                *chosen, color=WARM, marker="o", markersize=6, markeredgecolor=PAPER, linestyle="none", label="answered"
            )
        top = 1.25 * max(*risk, target or 0, chosen[1] if chosen else 0, 0.04)
        axes.set(xlim=(0, 1.01), ylim=(0, min(1.02, top)), xlabel="share answered (coverage)", ylabel="share wrong")
        axes.set_title(f"Risk and coverage (n = {n:,})")
        axes.legend(loc="best")
        axes.xaxis.set_major_formatter(FuncFormatter(_figure))
        axes.yaxis.set_major_formatter(FuncFormatter(_figure))
        axes.grid()

    return render("risk-coverage", (4.7, 2.9), draw)


def training(
    losses: Sequence[Sequence[tuple[float, float]]], scores: Sequence[Sequence[tuple[float, float]]], unit: str
) -> str:
    """Training loss above, validation score below, each a line for each fit of points (epoch or step, value)."""

    def draw(figure: Figure) -> None:
        drawn = [(name, each) for name, each in (("training loss", losses), ("validation score", scores)) if any(each)]
        fits = max(len(lines) for _, lines in drawn)
        first = None
        for row, (name, lines) in enumerate(drawn, start=1):
            axes = figure.add_subplot(len(drawn), 1, row, sharex=first)
            first = first or axes
            for line in lines:
                x, y = [x for x, _ in line], [y for _, y in line]
                style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(line) < 40 else {}
                axes.plot(x, y, color=ACCENT, linewidth=1.3, alpha=1 if fits == 1 else 0.6, **style)
            axes.set(ylabel=name)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.grid()
            axes.tick_params(labelbottom=row == len(drawn))
            if row == 1:
                axes.set_title(f"Training, by {unit}" + (f" ({fits} folds)" if fits > 1 else ""))
        axes.set(xlabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=unit == "step"))

    return render("training", (4.7, 3.6), draw)


def label_errors(
    labels: Sequence[str], right: Sequence[int], spurious: Sequence[int], missed: Sequence[int], n: int
) -> str:
    """Bars of each label's true positives and false negatives to the right and false positives to the left."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = np.arange(len(labels))
        axes.barh(rows, [-s for s in spurious], color=WARM, alpha=0.75, height=0.7, label="given wrongly")
        axes.barh(rows, right, color=ACCENT, alpha=0.85, height=0.7, label="right")
        axes.barh(rows, missed, left=right, color=ACCENT, alpha=0.28, height=0.7, label="missed")
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_yticks(rows, [shorten(label, 34) for label in labels])
        axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel="examples")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{abs(x):,.0f}"))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        figure.suptitle(f"Labels given and missed (n = {n:,} examples)", x=0.01, ha="left", fontsize=9.5)
        figure.legend(loc="outside lower right", ncols=3, handlelength=1.2, columnspacing=1.4)

    return render("label-errors", (4.8, 0.95 + 0.23 * len(labels)), draw)


def confusion(counts: npt.NDArray[np.int64], gold: Sequence[str], predicted: Sequence[str]) -> str:
    """A heat map of a confusion matrix (n_labels, n_labels), or one column more for abstentions; rows are gold.

    Figures are counts, with the share of the row where there is room; the shade is the share of the row.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for (i, j), value in np.ndenumerate(share):
            if counts[i, j]:
                shade = ACCENT if i == j else WARM if j < len(gold) else MUTED
                alpha = 0.08 + 0.72 * float(value)
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=shade, alpha=alpha, linewidth=0))
                if len(gold) <= 24:
                    figures = f"{counts[i, j]:,}\n{_figure(float(value), 0)}" if len(gold) <= 8 else f"{counts[i, j]:,}"
                    axes.text(j, i, figures, ha="center", va="center", fontsize=7.5, color=INK)
        axes.set_xticks(range(len(predicted)), [shorten(x, 28) for x in predicted], rotation=90 if len(gold) > 4 else 0)
        axes.set_yticks(range(len(gold)), [shorten(x, 28) for x in gold])
        axes.set(xlim=(-0.5, len(predicted) - 0.5), ylim=(len(gold) - 0.5, -0.5), xlabel="predicted", ylabel="gold")
        axes.set_title(f"Confusion: examples, shaded by share of the row (n = {counts.sum():,})")
        axes.tick_params(length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)

    cell = 0.62 if len(gold) <= 8 else 0.36
    return render("confusion", (2.4 + cell * len(predicted), 2.2 + cell * len(gold)), draw)


def inline(svg: str, name: str, description: str) -> str:
    """The picture as an element of an HTML page.

    Its ids carry `name`, so that several pictures live in one page; its colours are the page's variables; it has no
    style sheet (one would rule the whole page), no namespaces, no fixed size, and is announced as `description`.
    """
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}style", f"{SVG}metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        element.attrib = {
            k.removeprefix(XLINK): _local(k.removeprefix(XLINK), v, name) for k, v in element.attrib.items()
        }
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    # Where there is room a unit of the drawing is 1.33 CSS pixels: its text of 9 units then reads like the page's.
    root.attrib |= {"role": "img", "aria-label": description, "style": f"--width: {1.33 * width:.0f}px"}
    return ET.tostring(root, encoding="unicode")


def shorten(text: str, length: int) -> str:
    """One line of at most `length` characters that XML can hold."""
    text = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in NOT_IN_XML)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def render(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """`size` in inches."""
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # matplotlib only measures the text; the reader's fonts draw it
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size)
        draw(figure)
        file = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=metadata)
    return file.getvalue()


def _local(attribute: str, value: str, name: str) -> str:
    """An attribute's value with local references prefixed and colours replaced."""
    if attribute == "id":
        return f"{name}-{value}"
    if attribute == "href":
        return f"#{name}-{value.removeprefix('#')}"
    if attribute == "style":
        value = re.sub(r"font-family: [^;]*(; ?|$)", "", value)
        value = re.sub(
            r"#[0-9a-f]{6}\b", lambda m: f"var({VARIABLES[m[0]]}, {m[0]})" if m[0] in VARIABLES else m[0], value
        )
    return re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", value)


def _figure(value: float, _: object) -> str:
    """A share as the report writes it: .5, 0, 1."""
    return f"{value:.2f}".rstrip("0").rstrip(".").removeprefix("0") or "0"


def _short_count(n: int) -> str:
    return f"{n:,}" if n < 10_000 else f"{n / 1000:,.0f}k" if n < 1_000_000 else f"{n / 1_000_000:.1f}M"
