"""The evaluation report: one HTML file that needs nothing else, the same figures as JSON, and the pictures as SVG."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from sklearn.metrics import precision_recall_curve

from evaluation import plots
from evaluation.evidence import Evidence, excerpt
from evaluation.intervals import Estimate
from evaluation.metrics import CALIBRATION_BINS, calibration_pairs, confusion, per_label_table
from evaluation.pages import template
from evaluation.predictions import Predictions

if TYPE_CHECKING:
    from evaluation.slices import Slices

FORMAT = 1
SECTIONS = ("calibration", "thresholds", "confusion", "training", "file")  # that have pictures
BINS = 10
CURVES = 16
CURVE_POINTS = 120
MISTAKES = 20
SHOWN_SLICES = 12  # of those that are not clear; the others fold away
UNBOUNDED = ("log_loss", "brier", "mae", "macro_mae", "mcc", "coverage_error")  # not on a line from 0 to 1
LOWER_IS_BETTER = (
    "log_loss", "brier", "mae", "macro_mae", "ece", "ece_debiased", "classwise_ece", "hamming_loss", "coverage_error",
    "ranking_loss",
)  # fmt: skip
LEAST_EXAMPLES, LEAST_GROUPS = 10, 5  # a smaller slice is named but not judged
# Keys of the decision that the page shows in a form of their own.
TOLD = (
    "abstain_below", "calibration", "costs", "ece_by_chance", "fitted", "mean_cost", "mean_cost_of_most_probable",
    "selection", "temperature", "thresholds", "uncalibrated_ece", "uncalibrated_ece_debiased", "uncalibrated_log_loss",
)  # fmt: skip
LABEL_METRICS = ("f1", "precision", "recall", "average_precision")
METRIC_NAMES = {
    "f1": "F1",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "weighted_f1": "weighted F1",
    "example_f1": "F1 of examples",
    "mcc": "Matthews correlation",
    "mae": "mean absolute error",
    "macro_mae": "mean absolute error, macro",
    "semeval2016_favg": "F1 of favor and against",
    "semeval2016_favg_macro": "F1 of favor and against, mean over targets",
    "semeval2023_macro_f1": "macro-F1, absent labels as 1",
    "fnc_score": "FNC score",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "ece_debiased": "calibration error, without noise",
    "classwise_ece": "calibration error, mean over labels",
}


@dataclass(frozen=True)
class ReportData:
    """What a report is made of.

    model          one line that says which model was judged
    headline       names in `metrics` to put on top, at least one, the primary one first
    baseline       the same metrics for always answering the most frequent label(s)
    decision       how probabilities became labels: the keys of `evaluation.judge.decision_facts`, all of them optional;
                   others are listed as they are
    data           facts about the corpus, listed in their order; a mapping is listed as name and value pairs
    configuration  the resolved configuration, YAML
    warnings       sentences that a reader must see before the figures
    slices         None where none were looked for
    shortcuts      of `evaluation.judge.shortcut_facts`; None where the probes were not run
    evidence       the words that spoke for the wrong answer of a mistake
    cut            `cut_articles` and `cut_tokens` (shares of the training examples and of their tokens that the
                   classifier does not read), `windows_per_example`, and `readings`: for each way of reading
                   long articles, the classifier's own first, {long, n, tokens, cut_tokens, metric, estimate,
                   difference}; empty where it reads all
    history        for each fold the metrics of the steps after which they were taken, each with its `step`
    """

    title: str
    model: str
    corpus: str
    split: str
    predictions: Predictions
    metrics: Mapping[str, Estimate]
    headline: Sequence[str]
    baseline: Mapping[str, Estimate]
    decision: Mapping[str, Any]
    data: Mapping[str, Any]
    configuration: str
    warnings: Sequence[str] = ()
    slices: Slices | None = None
    shortcuts: Mapping[str, Any] | None = None
    evidence: Evidence = field(default_factory=dict)
    cut: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Sequence[Mapping[str, float]]] = ()


def write_report(data: ReportData, directory: Path) -> Path:
    """Write report.html, report.json and plots/*.svg into `directory`, made where it is missing; the page's path."""
    figures = report_figures(data)
    pictures = draw(data, figures)
    (directory / "plots").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (directory / "plots" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
    text = json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    page = directory / "report.html"
    page.write_text(render(data, figures, pictures), encoding="utf-8")
    return page


# --- figures ----------------------------------------------------------------------------------------------------------


def report_figures(data: ReportData) -> dict[str, Any]:
    """Everything that the report says, as JSON-ready values (docs/report-schema.md); an undefined figure is null.

    format         1; grows when a key changes its meaning
    title, model, corpus, split, configuration, warnings, headline, decision, data     as in ReportData
    task           name, kind, labels, has_target
    examples       number of examples; `groups`: of articles (or other units) that the intervals resample
    verdict        the sentences on top
    metrics        name to {value, low, high, reason}: 95 % interval; value is null with a reason where undefined
    baseline       the same for the majority-label baseline
    calibration    `decisions`: number of probabilities judged; `bins`: [{low, high, n, mean_probability, share,
                   share_low, share_high}], share being that of right answers (multiclass, most probable label) or of
                   labels that hold (multilabel), with its 95 % Wilson interval
    abstained      multiclass: number of examples left without a label; multilabel: null
    confusion      multiclass: {rows, columns, counts}, rows gold; multilabel: [{label, right, spurious, missed}]
    labels         [{label, support, predicted, precision, recall, f1, average_precision}]
    mistakes       [{id, target, source, label, gold, predicted, probability, error, row, words}], worst first; `label`
                   is the one that is wrong, `probability` its probability, `error` the distance from the truth, `row`
                   the row of the predictions, and `words` [{word, weight}] what spoke for the wrong answer (empty where
                   the classifier cannot tell); gold and predicted are lists of labels
    slices         the fields of `evaluation.slices.Slices`, or null
    shortcuts      {metric, n, model, chance, shuffled_targets, probes: [{name, title, estimate, share, difference}],
                   verdict}, or null; model, shuffled_targets and estimate are like those of `metrics`, `share` is how
                   much of the model's score above chance the probe reaches
    cut, history   as in ReportData
    """
    predictions = data.predictions
    multiclass = predictions.task.kind == "multiclass"
    table = [_plain(row) for row in per_label_table(predictions)]
    figures = {
        "format": FORMAT,
        "title": data.title,
        "model": data.model,
        "corpus": data.corpus,
        "split": data.split,
        "task": predictions.task.to_dict(),
        "examples": len(predictions),
        "groups": len(set(predictions.groups)),
        "warnings": list(data.warnings),
        "headline": list(data.headline),
        "metrics": _plain(data.metrics),
        "baseline": _plain(data.baseline),
        "decision": _plain(data.decision),
        "calibration": {"decisions": len(calibration_pairs(predictions)[0]), "bins": calibration_bins(predictions)},
        "abstained": int((predictions.predicted < 0).sum()) if multiclass else None,
        "confusion": _confusion_table(predictions) if multiclass else _label_errors(predictions),
        "labels": table,
        "slices": _plain(data.slices),
        "shortcuts": _plain(data.shortcuts),
        "mistakes": [
            m | {"words": [{"word": w, "weight": x} for w, x in data.evidence.get((m["row"], m["label"]), ())]}
            for m in mistakes(predictions)
        ],
        "cut": _plain(data.cut),
        "history": _plain(data.history),
        "data": _plain(data.data),
        "configuration": data.configuration,
    }
    return figures | {"verdict": verdict(figures)}


def verdict(figures: Mapping[str, Any]) -> list[str]:
    """The report in a few plain sentences, the primary metric first."""
    examples = f"{figures['examples']:,} example{'s' * (figures['examples'] != 1)}"
    sentences = [_against_baseline(figures, figures["headline"][0], examples)]
    error = figures["metrics"].get("ece_debiased")
    if error and error["value"] is not None:
        before = figures["decision"].get("uncalibrated_ece_debiased")
        uncalibrated = f" ({number(before, 2)} before calibration)" if before is not None else ""
        sentences.append(f"Probabilities are off by {interval(error, 2)} on average{uncalibrated}.")
    if figures["abstained"]:
        sentences.append(f"The model abstains on {figures['abstained']:,} of {examples}.")
    return sentences + _weakest(figures["labels"]) + _worst_slice(figures["slices"])


def _worst_slice(slices: Mapping[str, Any] | None) -> list[str]:
    """Labels have a sentence of their own."""
    worse = [each for each in slices["slices"] if each["worse"] and each["column"] != "label"] if slices else []
    if not worse:
        return []
    found = f"On {worse[0]['column']} {worse[0]['value']} it is clearly worse: {metric_name(worse[0]['metric'])} "
    found += f"{number(worse[0]['estimate']['value'], 2)} against {number(worse[0]['rest'], 2)} elsewhere"
    others = f", and on {len(worse) - 1:,} more slice{'s' * (len(worse) > 2)}" if len(worse) > 1 else ""
    return [f"{found}{others}."]


def _against_baseline(figures: Mapping[str, Any], name: str, examples: str) -> str:
    metric, base = figures["metrics"][name], figures["baseline"].get(name)
    subject = metric_name(name)[0].upper() + metric_name(name)[1:]
    if metric["value"] is None:
        return f"{subject} is undefined on {examples}: {metric['reason']}."
    sentence = f"{subject} is {interval(metric, 2)} on {examples}"
    if base is None or base["value"] is None:
        return sentence + "."
    majority = "always answering the most frequent label"
    if metric["low"] is not None and metric["low"] <= base["value"] <= metric["high"]:
        return f"{sentence}, not clearly different from {majority}: {number(base['value'], 2)}."
    better = (metric["value"] < base["value"]) == (name in LOWER_IS_BETTER)
    return f"{sentence}; {majority} {'reaches' if better else 'does better:'} {number(base['value'], 2)}."


def _weakest(table: Sequence[Mapping[str, Any]]) -> list[str]:
    seen = [row for row in table if row["support"] and row["f1"] is not None]
    absent = [row["label"] for row in table if not row["support"]]
    sentences = []
    if len(seen) > 1:
        row = min(seen, key=lambda row: (row["f1"], row["support"]))
        sentences.append(f"The weakest label is {row['label']} (F1 {number(row['f1'], 2)}, n = {row['support']:,}).")
    if absent:
        which = ", ".join(absent) if len(absent) <= 3 else f"{len(absent)} of {len(table)} labels"
        sentences.append(f"Not in this split: {which}.")
    return sentences


def calibration_bins(predictions: Predictions) -> list[dict[str, Any]]:
    """Ten bins of equal width over [0, 1] of the probabilities that are judged; see `report_figures` for the keys."""
    probability, right = calibration_pairs(predictions)
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.digitize(probability, edges[1:-1], right=True), 0, BINS - 1)
    rows = []
    for i in range(BINS):
        inside = bins == i
        n, row = int(inside.sum()), {"low": float(edges[i]), "high": float(edges[i + 1])}
        share = float(right[inside].mean()) if n else None
        low, high = wilson(share, n) if share is not None else (None, None)
        mean = float(probability[inside].mean()) if n else None
        rows.append({**row, "n": n, "mean_probability": mean, "share": share, "share_low": low, "share_high": high})
    return rows


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share among `n` independent decisions (Wilson 1927), 95 % by default."""
    centre, width = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - width) / (1 + z * z / n)), min(1.0, (centre + width) / (1 + z * z / n))


def _confusion_table(predictions: Predictions) -> dict[str, Any]:
    """The column of abstentions is left out where there are none."""
    counts, labels = confusion(predictions), list(predictions.task.labels)
    if counts[:, -1].any():
        return {"rows": labels, "columns": [*labels, "(abstained)"], "counts": counts.tolist()}
    return {"rows": labels, "columns": labels, "counts": counts[:, :-1].tolist()}


def _label_errors(predictions: Predictions) -> list[dict[str, Any]]:
    return [
        {"label": label, "right": right, "spurious": spurious, "missed": missed}
        for label, ((_, spurious), (missed, right)) in zip(
            predictions.task.labels, confusion(predictions).tolist(), strict=True
        )
    ]


def mistakes(predictions: Predictions, most: int = MISTAKES) -> list[dict[str, Any]]:
    """The worst mistakes, worst first; see `report_figures` for the keys.

    Multiclass: wrong labels by the probability they were given; abstaining is no mistake. Multilabel: wrong decisions
    on a label by the distance of its probability from the truth.
    """
    labels = predictions.task.labels
    probabilities, gold, predicted = predictions.probabilities, predictions.gold, predictions.predicted
    if predictions.task.kind == "multiclass":
        rows = np.flatnonzero((predicted >= 0) & (predicted != gold))
        columns = predicted[rows].astype(np.int64)
        error = probabilities[rows, columns]
    else:
        rows, columns = np.nonzero(predicted != gold)
        error = np.abs(gold[rows, columns] - probabilities[rows, columns])

    def names(values: npt.NDArray[Any]) -> list[str]:
        indices = np.flatnonzero(values) if values.ndim else [int(values)] * bool(values >= 0)
        return [labels[i] for i in indices]

    return [
        {
            "id": predictions.ids[rows[k]],
            "target": predictions.targets[rows[k]],
            "source": predictions.sources[rows[k]],
            "label": labels[columns[k]],
            "gold": names(np.asarray(gold[rows[k]])),
            "predicted": names(np.asarray(predicted[rows[k]])),
            "probability": float(probabilities[rows[k], columns[k]]),
            "error": float(error[k]),
            "row": int(rows[k]),
        }
        for k in np.argsort(-error, kind="stable")[:most]
    ]


def _plain(value: Any) -> Any:
    """JSON-ready: dataclasses become objects, numpy values Python's, and NaN and infinities null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)


# --- pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """`name` is the file's stem, `description` what a reader who cannot see it is told."""

    name: str
    section: str
    description: str
    svg: str


def draw(data: ReportData, figures: Mapping[str, Any]) -> list[Picture]:
    """The report's pictures, in the order of its sections."""
    n, multilabel = figures["examples"], data.predictions.task.kind == "multilabel"
    if not n:
        return []
    decisions = figures["calibration"]["decisions"]
    bins, judged = figures["calibration"]["bins"], "label decisions" if multilabel else "examples"
    filled = "; ".join(
        f"{number(b['mean_probability'], 2)}: {number(b['share'], 2)}, n {b['n']:,}" for b in bins if b["n"]
    )
    title = f"Reliability, {'all labels pooled' if multilabel else 'most probable label'} (n = {decisions:,} {judged})"
    axes = ("predicted probability", "share that holds") if multilabel else ("confidence", "share that is right")
    pictures = [
        Picture(
            "reliability",
            "calibration",
            f"Reliability diagram, {decisions:,} {judged}. {axes[0].capitalize()}: {axes[1]}, by bin: {filled}.",
            plots.reliability(bins, title, *axes),
        )
    ]
    if multilabel:
        pictures += _curves(data.predictions, figures)
        rows = figures["confusion"]
        right, spurious, missed = ([row[key] for row in rows] for key in ("right", "spurious", "missed"))
        svg = plots.label_errors(figures["task"]["labels"], right, spurious, missed, n)
        description = (
            f"Right, wrongly given and missed labels, n = {n:,} examples; the per-label table has the figures."
        )
        pictures.append(Picture("label-errors", "confusion", description, svg))
    else:
        pictures += _risk_curve(figures)
        table = figures["confusion"]
        svg = plots.confusion(np.array(table["counts"]), table["rows"], table["columns"])
        pictures.append(Picture("confusion", "file", "Confusion matrix", svg))
    return [*pictures, *_training_curve(figures)]


def _risk_curve(figures: Mapping[str, Any]) -> list[Picture]:
    decision, n = figures["decision"], figures["examples"]
    selection = decision.get("selection")
    if not selection or not selection["coverage"]:
        return []
    abstains = selection["abstained"] and selection["risk"] is not None
    chosen = (1 - selection["abstained"], selection["risk"]) if abstains else None
    target = (decision.get("fitted") or {}).get("target_risk", {}).get("target")
    svg = plots.risk_coverage(selection["coverage"], selection["risks"], n, chosen, target)
    description = (
        f"Share of wrong answers among the most confident ones against the share answered, n = {n:,} examples: "
        f"{number(selection['risks'][-1])} of all answers are wrong; area under the curve {number(selection['aurc'])}."
    )
    return [Picture("risk-coverage", "thresholds", description, svg)]


def _training_curve(figures: Mapping[str, Any]) -> list[Picture]:
    folds = [fold for fold in figures["history"] if fold]
    losses, scores = (
        [[(step.get("epoch", step["step"]), step[key]) for step in fold if step.get(key) is not None] for fold in folds]
        for key in ("train_loss", "validation_score")
    )
    if not any(losses) and not any(scores):
        return []
    unit = "epoch" if all("epoch" in step for fold in folds for step in fold) else "step"
    best = max((score for fold in scores for _, score in fold), default=None)
    ends = [fold[-1][1] for fold in losses if fold]
    description = f"Training loss and validation score by {unit}, {len(folds)} fit{'s' * (len(folds) > 1)}"
    description += f"; last training loss {number(ends[0])}" if ends else ""
    description += f"; best validation score {number(best)}" if best is not None else ""
    return [Picture("training", "training", f"{description}.", plots.training(losses, scores, unit))]


def _curves(predictions: Predictions, figures: Mapping[str, Any]) -> list[Picture]:
    """Precision-recall curves of the most frequent labels that occur, in the order of the task."""
    gold, thresholds = predictions.gold.astype(bool), figures["decision"].get("thresholds") or {}
    support = gold.sum(axis=0)
    most = sorted(i for i in np.argsort(-support, kind="stable")[:CURVES] if support[i])
    pictures = []
    for i in most:
        label, row = predictions.task.labels[i], figures["labels"][i]
        precision, recall, _ = precision_recall_curve(
            gold[:, i], predictions.probabilities[:, i], drop_intermediate=True
        )
        keep = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).round().astype(int))
        chosen = None if row["precision"] is None or row["recall"] is None else (row["recall"], row["precision"])
        threshold = thresholds.get(label)
        note = "" if threshold is None else f"threshold {number(threshold, 2)}"
        description = (
            f"Precision-recall curve of {label}: average precision {number(row['average_precision'])}, "
            f"{support[i]:,} of {len(predictions):,} examples; {note or 'decision'} at "
            f"precision {number(row['precision'])}, recall {number(row['recall'])}."
        )
        name = f"precision-recall-{i + 1:02d}"
        svg = plots.precision_recall(
            name, label, recall[keep], precision[keep], int(support[i]), len(predictions), chosen, note
        )
        pictures.append(Picture(name, "thresholds", description, svg))
    return pictures


# --- page -------------------------------------------------------------------------------------------------------------


def render(data: ReportData, figures: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """The page. Jinja escapes every text; only the pictures' markup, whose texts are escaped already, goes in as is."""
    sections: dict[str, list[Markup]] = {name: [] for name in SECTIONS}
    for picture in pictures:
        element = plots.inline(picture.svg, picture.name, picture.description)
        sections[picture.section].append(Markup(element))
    texts = data.predictions.texts
    excerpts = {m["row"]: excerpt(texts[m["row"]], m["target"]) for m in figures["mistakes"]}
    of_labels = [f"{part}/{row['label']}" for row in figures["labels"] for part in LABEL_METRICS]
    page = template(
        "report.html.j2", number=number, signed=signed, metric_name=metric_name, breakable=breakable, interval=interval,
        share=share,
    )  # fmt: skip
    return page.render(
        figures,
        pictures=sections,
        excerpts=excerpts,
        of_labels=[name for name in of_labels if name in figures["metrics"]],
        ece_bins=CALIBRATION_BINS,
        unbounded=UNBOUNDED,
        shown_slices=SHOWN_SLICES,
        least_examples=LEAST_EXAMPLES,
        least_groups=LEAST_GROUPS,
        told=TOLD,
    )


def breakable(label: str) -> Markup:
    """The label, escaped, with a place to break the line after each underscore."""
    return Markup("_<wbr>").join(label.split("_"))


def metric_name(name: str) -> str:
    return METRIC_NAMES.get(name, name.replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    """.714, 1.320, −.052 or "undefined"."""
    if value is None:
        return "undefined"
    text = f"{abs(value):.{digits}f}"
    return ("−" if value < 0 and float(text) else "") + text.removeprefix("0" if digits else "")


def signed(value: float | None, digits: int = 3) -> str:
    """+.052, −.052 or "undefined"."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(f"{value:.{digits}f}") else text


def share(value: float | None) -> str:
    """12 %, 0.4 % or "undefined"."""
    if value is None:
        return "undefined"
    return f"{100 * value:.{0 if abs(value) >= 0.0995 or not value else 1}f} %".replace("-", "−")


def interval(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """.714 [.661, .752], without the brackets where there is no interval."""
    value = number(estimate["value"], digits)
    if estimate["value"] is None or estimate["low"] is None or estimate["high"] is None:
        return value
    return f"{value} [{number(estimate['low'], digits)}, {number(estimate['high'], digits)}]"
