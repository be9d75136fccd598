"""The report is judged as a reader's browser and as a program would read it: parsed HTML, parsed JSON, parsed SVG."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest

from evaluation import plots
from evaluation.evidence import EXCERPT, excerpt
from evaluation.intervals import Estimate, evaluate
from evaluation.predictions import Predictions
from evaluation.report import (
    ReportData,
    calibration_bins,
    interval,
    mistakes,
    number,
    report_figures,
    share,
    signed,
    verdict,
    wilson,
    write_report,
)
from evaluation.slices import find_slices
from slantwise.task import Task

SCHEMA = Path(__file__).parents[2] / "docs" / "report-schema.json"
SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(2)>"
CLOSING = "</details></style></svg></title>]]>-->"
QUOTES = '"><a href=\'https://evil.example/\' onclick="alert(3)">x</a>'
MATHS = "$x^2$ {{ 7 * 7 }} {% raw %} &amp;"
PAYLOADS = (SCRIPT, IMAGE, CLOSING, QUOTES, MATHS)
# Every element that the page needs; whatever else is found came in through the data.
PAGE = """html head meta title style body main header section nav h1 h2 h3 p a ul ol li dl dt dd div span b i u small
abbr bdi wbr table thead tbody tr th td figure details summary pre mark"""
PICTURE = "svg g defs style path use clippath rect text tspan"
ELEMENTS = {*PAGE.split(), *PICTURE.split()}


class Page(HTMLParser):
    """The elements, attributes and text of a page; the style sheet's text is kept apart."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.style, self._open_style = "", "", False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._open_style = False

    def handle_data(self, data: str) -> None:
        if self._open_style:
            self.style += data
        else:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, attribute: str) -> list[str]:
        return [value or "" for _, attributes in self.elements for key, value in attributes.items() if key == attribute]


def multiclass(n: int, labels: Sequence[str], seed: int = 0, abstain_below: float = 0.0, **texts: Any) -> Predictions:
    rng = np.random.default_rng(seed)
    gold = rng.integers(len(labels), size=n)
    scores = rng.normal(size=(n, len(labels)))
    scores[np.arange(n), gold] += 1.5
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    predicted = np.where(probabilities.max(axis=1) < abstain_below, -1, probabilities.argmax(axis=1))
    return predictions_of(
        Task("stance", "multiclass", tuple(labels), has_target=True), gold, probabilities, predicted, **texts
    )


def multilabel(n: int, labels: Sequence[str], seed: int = 0, absent: Sequence[int] = (), **texts: Any) -> Predictions:
    rng = np.random.default_rng(seed)
    gold = rng.random((n, len(labels))) < 0.3
    gold[:, list(absent)] = False
    probabilities = np.clip(0.25 + 0.35 * gold + 0.2 * rng.normal(size=gold.shape), 0.01, 0.99)
    return predictions_of(
        Task("framing", "multilabel", tuple(labels)), gold, probabilities, probabilities > 0.45, **texts
    )


def predictions_of(
    task: Task,
    gold: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    ids: Sequence[str] | None = None,
    text: str = "A short text.",
    target: str | None = None,
    source: str | None = None,
) -> Predictions:
    n = len(gold)
    ids = ids or [f"a{i}" for i in range(n)]
    return Predictions(
        task, "test", ids, [text] * n, gold, probabilities.astype(np.float32), predicted, ids,
        [target] * n, [source] * n,
    )  # fmt: skip


def report_data(predictions: Predictions, **changes: Any) -> ReportData:
    name = "macro_f1" if predictions.task.kind == "multiclass" else "micro_f1"
    metrics = evaluate(predictions, resamples=20)
    thresholds = dict.fromkeys(predictions.task.labels, 0.45)
    data = ReportData(
        title="Stance",
        model="linear",
        corpus="sample",
        split="test",
        predictions=predictions,
        metrics=metrics,
        headline=[name, "ece"],
        baseline={name: Estimate(0.1, 0.05, 0.15, None)},
        decision={"temperature": 1.25, "thresholds": thresholds, "uncalibrated_ece": 0.2, "uncalibrated_log_loss": 1.5},
        data={
            "examples": {"train": 80, "validation": 10, "test": len(predictions)},
            "quarantined": 2,
            "fingerprint": "ab12",
        },
        configuration="seed: 7\n",
    )
    return replace(data, **changes)


def full(predictions: Predictions, text: str = "a probe", **changes: Any) -> ReportData:
    """A report with every section that there is; `text` stands wherever a corpus or a model puts in words."""
    name = "macro_f1" if predictions.task.kind == "multiclass" else "micro_f1"
    half = [text if i % 2 else f"{text} too" for i in range(len(predictions))]
    cut = replace(predictions, columns={text: half, "language": ["en"] * len(predictions)})
    score = Estimate(0.5, 0.4, 0.6, None)
    probes = [
        {"name": "source", "title": text, "estimate": score, "share": 0.25, "difference": score},
        {"name": "date", "title": "date alone", "estimate": Estimate(None, None, None, text), "share": None,
         "difference": None},
    ]  # fmt: skip
    shortcuts = {
        "metric": name, "n": len(predictions), "model": score, "chance": 0.2, "shuffled_targets": score,
        "probes": probes, "verdict": [text],
    }  # fmt: skip
    steps = [{"step": 10 * i, "epoch": i, "train_loss": 1 / i, "validation_score": 1 - 1 / i} for i in (1, 2, 3)]
    words = {(m["row"], m["label"]): [(text, 0.75), ("plain", 0.5)] for m in mistakes(predictions)}
    own = {"long": "windows", "n": 60, "tokens": 412.0, "cut_tokens": 0.004, "metric": name, "difference": None}
    head = {
        **own,
        "long": "head",
        "tokens": 256.0,
        "cut_tokens": 0.39,
        "difference": Estimate(-0.02, -0.06, 0.01, None),
    }
    readings = [
        {**own, "estimate": Estimate(0.7, 0.65, 0.75, None)},
        {**head, "estimate": Estimate(0.68, 0.63, 0.73, None)},
    ]
    return report_data(
        predictions, slices=find_slices(cut, name, resamples=20), shortcuts=shortcuts, evidence=words, history=[steps],
        cut={"cut_articles": 0.125, "cut_tokens": 0.004, "windows_per_example": 1.5, "readings": readings}, **changes,
    )  # fmt: skip


def page_of(data: ReportData, directory: Path) -> Page:
    return Page(write_report(data, directory).read_text(encoding="utf-8"))


@cache
def hostile(kind: str) -> ReportData:
    """A report all of whose texts are payloads."""
    make = multiclass if kind == "multiclass" else multilabel
    everything = " ".join(PAYLOADS)
    ids = [f"{i} {everything}" for i in range(40)]
    made = make(40, PAYLOADS, ids=ids, text=everything, target=everything, source=everything)
    data = full(made, everything)
    undefined = Estimate(None, None, None, everything)
    return replace(
        data,
        title=everything,
        model=everything,
        corpus=everything,
        split=everything,
        metrics={**data.metrics, everything: undefined},
        headline=[*data.headline, everything],
        decision={**data.decision, everything: everything},
        data={everything: {everything: [everything]}},
        configuration=f"key: {everything}\n",
        warnings=[everything],
    )


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
class TestHostileTexts:
    def test_no_element_comes_in_through_the_data(self, kind: str, tmp_path: Path) -> None:
        assert {tag for tag, _ in page_of(hostile(kind), tmp_path).elements} <= ELEMENTS

    def test_no_event_handler_comes_in_through_the_data(self, kind: str, tmp_path: Path) -> None:
        names = {name for _, attributes in page_of(hostile(kind), tmp_path).elements for name in attributes}
        assert not [name for name in names if name.startswith("on")]

    def test_nothing_is_loaded_from_elsewhere(self, kind: str, tmp_path: Path) -> None:
        page = page_of(hostile(kind), tmp_path)
        assert not page.values("src")
        assert all(value.startswith("#") for value in page.values("href") + page.values("xlink:href"))
        for style in [page.style, *page.values("style"), *page.values("clip-path")]:
            assert "@import" not in style
            assert not re.search(r"url\((?!#)", style)

    def test_the_texts_are_shown_as_they_are(self, kind: str, tmp_path: Path) -> None:
        page = page_of(hostile(kind), tmp_path)
        assert [text for text in PAYLOADS if text not in page.text] == []
        assert " ".join(PAYLOADS) in [attributes["title"] for attributes in page.of("abbr")]

    def test_the_pictures_hold_text_only(self, kind: str, tmp_path: Path) -> None:
        write_report(hostile(kind), tmp_path)
        for path in (tmp_path / "plots").iterdir():
            elements = {element.tag.split("}")[-1].lower() for element in ET.parse(path).iter()}
            assert elements <= set(PICTURE.split())

    def test_the_json_gives_them_back(self, kind: str, tmp_path: Path) -> None:
        data = hostile(kind)
        write_report(data, tmp_path)
        stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
        assert (stored["title"], stored["configuration"]) == (data.title, data.configuration)
        assert stored["task"]["labels"] == list(PAYLOADS)


def test_a_policy_in_the_page_forbids_scripts_and_the_network(tmp_path: Path) -> None:
    policies = [
        m["content"] for m in page_of(report_data(multiclass(20, "ab")), tmp_path).of("meta") if "http-equiv" in m
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


SELECTION = {"abstained": 0.1, "risk": 0.2, "aurc": 0.1, "coverage": [0.5, 1.0], "risks": [0.1, 0.25]}


@pytest.mark.parametrize(
    ("data", "sections"),
    [
        (
            report_data(multiclass(30, "abc")),
            "verdict headline calibration confusion labels mistakes data configuration",
        ),
        (
            full(multiclass(60, "abc"), decision={"selection": SELECTION}),
            "verdict headline calibration thresholds confusion labels slices shortcuts mistakes cut training data "
            "configuration",
        ),
        (
            full(multilabel(60, "abc")),
            "verdict headline calibration thresholds confusion labels slices shortcuts mistakes cut training data "
            "configuration",
        ),
    ],
    ids=["least", "multiclass", "multilabel"],
)
def test_sections_stand_in_order(data: ReportData, sections: str, tmp_path: Path) -> None:
    page = page_of(data, tmp_path)
    assert [attributes["id"] for attributes in page.of("section")] == sections.split()
    links = [a["href"] for a in page.of("a")]
    assert links == [f"#{name}" for name in sections.split() if name != "verdict"]


@pytest.mark.parametrize(
    "predictions", [multiclass(60, "abc"), multilabel(60, "abc")], ids=["multiclass", "multilabel"]
)
def test_ids_are_unique_and_references_resolve(predictions: Predictions, tmp_path: Path) -> None:
    page = page_of(full(predictions), tmp_path)
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    references = [v.removeprefix("#") for v in page.values("href")] + page.values("aria-labelledby")
    references += [match for value in page.values("clip-path") for match in re.findall(r"url\(#(.*?)\)", value)]
    assert set(references) <= set(ids)


def test_json_holds_the_figures_that_were_passed_in(tmp_path: Path) -> None:
    data = report_data(multiclass(60, "abc"))
    write_report(data, tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["metrics"] == {name: dataclasses.asdict(estimate) for name, estimate in data.metrics.items()}
    assert stored["baseline"] == {name: dataclasses.asdict(estimate) for name, estimate in data.baseline.items()}
    assert (stored["decision"], stored["data"]) == (data.decision, data.data)
    assert (stored["examples"], stored["headline"]) == (60, list(data.headline))


def test_page_and_json_show_the_same_primary_metric(tmp_path: Path) -> None:
    page = page_of(report_data(multiclass(60, "abc")), tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert number(stored["metrics"]["macro_f1"]["value"]) in page.text
    assert interval(stored["metrics"]["macro_f1"], 2) in page.text


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    data = report_data(multiclass(20, "ab"), decision={"temperature": np.float32("nan"), "abstain_below": float("inf")})
    write_report(data, tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["decision"] == {"temperature": None, "abstain_below": None}


def test_an_undefined_metric_carries_its_reason(tmp_path: Path) -> None:
    data = report_data(multiclass(20, "ab"), headline=["mcc"])
    data = replace(data, metrics={"mcc": Estimate(None, None, None, "all labels are the same")})
    page = page_of(data, tmp_path)
    assert page.of("abbr")[0]["title"] == "all labels are the same"
    assert "Matthews correlation is undefined on 20 examples: all labels are the same." in page.text


def test_abstentions_have_their_own_column(tmp_path: Path) -> None:
    predictions = multiclass(80, "abc", abstain_below=0.6)
    figures = report_figures(report_data(predictions))
    assert figures["confusion"]["columns"] == ["a", "b", "c", "(abstained)"]
    assert sum(row[-1] for row in figures["confusion"]["counts"]) == figures["abstained"] > 0
    assert f"abstains on {figures['abstained']} of 80 examples" in page_of(report_data(predictions), tmp_path).text


def test_a_label_that_never_occurs_is_undefined_and_has_no_curve(tmp_path: Path) -> None:
    predictions = multilabel(50, ["often", "never", "also"], absent=[1])
    page = page_of(report_data(predictions), tmp_path)
    assert [path.name for path in sorted((tmp_path / "plots").glob("precision-recall-*"))] == [
        "precision-recall-01.svg",
        "precision-recall-03.svg",
    ]
    assert "Not in this split: never." in page.text
    assert "never occurs" in {attributes["title"] for attributes in page.of("abbr")}


@pytest.mark.parametrize(
    "predictions",
    [
        multiclass(0, "ab"),
        multiclass(1, "ab"),
        multilabel(0, "a"),
        multilabel(1, "a"),
        multilabel(40, "ab", absent=[0, 1]),
        multiclass(40, "ab", abstain_below=1.1),
        multiclass(90, [f"label {i}" for i in range(60)]),
        multilabel(90, [f"label {i}" for i in range(60)]),
        multiclass(30, ["日本", "العربية", "emoji 🙂", "bell\x07", ""]),
        multilabel(30, ["日本", "العربية", "emoji 🙂", "bell\x07", ""]),
    ],
    ids=[
        "none", "one", "none-multilabel", "one-multilabel", "all-absent", "all-abstained", "60", "60-multilabel",
        "scripts", "scripts-multilabel",
    ],
)  # fmt: skip
def test_unusual_predictions_make_a_report(predictions: Predictions, tmp_path: Path) -> None:
    page = page_of(report_data(predictions), tmp_path)
    assert len(page.of("section")) == (8 if predictions.task.kind == "multiclass" else 9)
    for path in (tmp_path / "plots").iterdir():
        ET.parse(path)


def test_at_most_sixteen_curves_of_the_most_frequent_labels(tmp_path: Path) -> None:
    predictions = multilabel(60, [f"label {i}" for i in range(20)], absent=[3, 7])
    page = page_of(report_data(predictions), tmp_path)
    assert len(list((tmp_path / "plots").glob("precision-recall-*"))) == 16
    assert "the 16 most frequent of 20 labels" in page.text


def test_the_same_report_is_written_twice(tmp_path: Path) -> None:
    data = report_data(multilabel(40, "abc"))
    first, second = (write_report(data, tmp_path / name).read_bytes() for name in ("first", "second"))
    assert first == second


def test_matplotlib_keeps_its_settings(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_report(report_data(multiclass(20, "ab")), tmp_path)
    assert dict(matplotlib.rcParams) == before


# --- figures ----------------------------------------------------------------------------------------------------------


def test_multiclass_mistakes_are_the_most_confident_wrong_answers() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.55, 0.45], [0.2, 0.8]])
    gold, predicted = np.array([1, 1, 1, 1, 0]), np.array([0, 0, 1, -1, 1])
    task = Task("stance", "multiclass", ("favor", "against"), has_target=True)
    found = mistakes(predictions_of(task, gold, probabilities, predicted))
    assert [m["row"] for m in found] == [0, 4, 1]  # 2 is right and 3 abstained
    assert found[1] == {
        "id": "a4", "target": None, "source": None, "label": "against", "gold": ["favor"], "predicted": ["against"],
        "probability": pytest.approx(0.8), "error": pytest.approx(0.8), "row": 4,
    }  # fmt: skip


def test_multilabel_mistakes_are_the_decisions_furthest_from_the_truth() -> None:
    gold = np.array([[True, False], [False, True], [True, True]])
    probabilities = np.array([[0.05, 0.2], [0.6, 0.3], [0.9, 0.45]])
    task = Task("framing", "multilabel", ("economic", "political"))
    found = mistakes(predictions_of(task, gold, probabilities, probabilities > 0.5))
    assert [(m["row"], m["label"]) for m in found] == [
        (0, "economic"), (1, "political"), (1, "economic"), (2, "political"),
    ]  # fmt: skip
    assert [m["error"] for m in found] == pytest.approx([0.95, 0.7, 0.6, 0.55])


def test_at_most_twenty_mistakes() -> None:
    predictions = multiclass(400, "abcdef")
    found = mistakes(predictions)
    wrong = predictions.probabilities.max(axis=1)[predictions.predicted != predictions.gold]
    assert [m["error"] for m in found] == pytest.approx(np.sort(wrong)[::-1][:20])


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    predictions = multiclass(40, "ab", text="x" * EXCERPT + "yz")
    text = page_of(report_data(predictions), tmp_path).text
    assert "x" * EXCERPT + " …" in text
    assert "yz" not in text


def test_bins_hold_every_decision_with_its_outcome() -> None:
    gold = np.array([[True, False], [False, True]])
    probabilities = np.array([[0.95, 0.05], [0.02, 1.0]])
    bins = calibration_bins(
        predictions_of(Task("framing", "multilabel", ("a", "b")), gold, probabilities, probabilities > 0.5)
    )
    assert [b["n"] for b in bins] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[0]["share"], bins[9]["share"], bins[4]["share"]) == (0.0, 1.0, None)
    assert bins[0]["mean_probability"] == pytest.approx(0.035)


@pytest.mark.parametrize(
    ("share", "n", "low", "high"), [(0.5, 10, 0.2366, 0.7634), (0.0, 10, 0.0, 0.2775), (1.0, 1, 0.2065, 1.0)]
)
def test_wilson_interval(share: float, n: int, low: float, high: float) -> None:
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("metric", "base", "sentence"),
    [
        ((0.71, 0.66, 0.75), 0.09, "Macro-F1 is .71 [.66, .75] on 30 examples; {} reaches .09."),
        ((0.3, 0.2, 0.4), 0.25, "Macro-F1 is .30 [.20, .40] on 30 examples, not clearly different from {}: .25."),
        ((0.1, 0.05, 0.2), 0.4, "Macro-F1 is .10 [.05, .20] on 30 examples; {} does better: .40."),
        ((0.71, None, None), 0.09, "Macro-F1 is .71 on 30 examples; {} reaches .09."),
    ],
    ids=["better", "undecided", "worse", "no interval"],
)  # fmt: skip
def test_verdict_weighs_the_metric_against_the_baseline(
    metric: tuple[float, float | None, float | None], base: float, sentence: str
) -> None:
    data = report_data(multiclass(30, "ab"), baseline={"macro_f1": Estimate(base, None, None, None)})
    figures = report_figures(replace(data, metrics={**data.metrics, "macro_f1": Estimate(*metric, None)}))
    assert verdict(figures)[0] == sentence.format("always answering the most frequent label")


def test_verdict_knows_that_a_lower_loss_is_better() -> None:
    figures = report_figures(
        report_data(
            multiclass(30, "ab"),
            headline=["log_loss"],
            metrics={"log_loss": Estimate(0.4, 0.3, 0.5, None)},
            baseline={"log_loss": Estimate(0.9, 0.8, 1.0, None)},
        )
    )
    assert verdict(figures)[0].endswith("reaches .90.")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.7142, 3, ".714"), (0.0, 3, ".000"), (1.0, 3, "1.000"), (0.9999, 3, "1.000"), (-0.0521, 3, "−.052"),
        (-0.0001, 3, ".000"), (1.3196, 3, "1.320"), (12.345, 2, "12.35"), (10.0, 2, "10.00"), (None, 3, "undefined"),
    ],
)  # fmt: skip
def test_numbers_are_written_without_the_leading_zero(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_dollars_in_labels_are_no_formula() -> None:
    svg = plots.confusion(np.eye(2, dtype=np.int64), ["$x^2$", "b"], ["$x^2$", "b"])
    assert "$x^2$" in [text for element in ET.fromstring(svg).iter() if (text := element.text)]


def test_inline_pictures_take_their_colours_from_the_page() -> None:
    counts = np.array([[3, 1, 2], [0, 4, 1]])
    svg = plots.inline(plots.confusion(counts, ["a", "b"], ["a", "b", "(abstained)"]), "name", "Description")
    styles = re.findall(r'style="([^"]*)"', svg)
    assert any("var(--accent, #2b62b0)" in style for style in styles)
    assert not [style for style in styles if re.search("#[0-9a-f]{3,6}", re.sub(r"var\([^)]*\)", "", style))]


def test_inline_pictures_rule_nothing_outside_themselves_and_have_a_name() -> None:
    svg = plots.inline(plots.confusion(np.eye(2, dtype=np.int64), "ab", "ab"), "name", 'A "description"')
    root = ET.fromstring(svg)
    assert not root.findall(".//style")
    assert (root.get("role"), root.get("aria-label")) == ("img", 'A "description"')
    assert all(element.get("id", "name-").startswith("name-") for element in root.iter())


# --- sections ---------------------------------------------------------------------------------------------------------


def test_the_verdict_says_how_far_probabilities_are_off_without_noise() -> None:
    found = {"ece": Estimate(0.08, 0.0, 0.09, None), "ece_debiased": Estimate(0.034, 0.0, 0.061, None)}
    data = report_data(multiclass(60, ["favor", "against", "neutral"]))
    decision = {"uncalibrated_ece": 0.17, "uncalibrated_ece_debiased": 0.152}
    figures = report_figures(replace(data, metrics={**data.metrics, **found}, decision=decision))
    assert "Probabilities are off by .03 [.00, .06] on average (.15 before calibration)." in figures["verdict"]


def test_the_calibration_section_shows_what_was_tried_and_what_chance_makes(tmp_path: Path) -> None:
    tried = {"none": {"log_loss": 0.912, "ece": 0.123}, "temperature": {"log_loss": 0.845, "ece": 0.067}}
    fitted = {"calibration": "temperature", "examples": 400, "held_out": tried, "not_compared": {"isotonic": "too few"}}
    decision = {"calibration": "temperature", "temperature": 1.4, "ece_by_chance": 0.031, "fitted": fitted}
    text = page_of(report_data(multiclass(60, "abc"), decision=decision), tmp_path).text
    for part in (".912", ".123", ".845", ".067", "temperature chosen", ".031", "400 validation", "isotonic (too few)"):
        assert part in " ".join(text.split())


def test_costs_and_abstention_have_a_section_with_their_curve(tmp_path: Path) -> None:
    costs = {"a": {"a": 0.0, "b": 3.25}, "b": {"a": 1.75, "b": 0.0}}
    decision = {"selection": SELECTION, "costs": costs, "mean_cost": 0.4125, "mean_cost_of_most_probable": 0.6875,
                "abstain_below": 0.625}  # fmt: skip
    page = page_of(report_data(multiclass(60, "ab"), decision=decision), tmp_path)
    text = " ".join(page.text.split())
    for part in ("confidence .625", "3.25", "1.75", ".412 (.688 with the most probable labels)"):
        assert part in text
    assert (tmp_path / "plots" / "risk-coverage.svg").exists()


def test_the_slices_section_lists_each_slice_with_its_gap(tmp_path: Path) -> None:
    data = full(multiclass(200, "abc"), "desk")
    assert data.slices is not None
    text = " ".join(page_of(data, tmp_path).text.split())
    for each in data.slices.slices:
        assert f"{each.column} {each.value} {each.n}" in text
        assert f"{signed(each.gap.value)} [" in text
    assert "Not cut by source (not given)" in text


def test_a_worse_slice_is_in_the_verdict(tmp_path: Path) -> None:
    data = full(multiclass(60, "abc"))
    assert data.slices is not None
    worse = replace(data.slices.slices[0], column="source", value="far.example", worse=True, p_corrected=0.001)
    found = report_figures(replace(data, slices=replace(data.slices, slices=[worse])))
    assert any("On source far.example it is clearly worse" in sentence for sentence in found["verdict"])


def test_the_shortcuts_section_sets_each_probe_beside_the_model(tmp_path: Path) -> None:
    text = page_of(full(multiclass(60, "abc"), "outlet alone"), tmp_path).text
    assert "the model.500 [.400, .600]" in text
    assert "the model, with the targets of other examples.500 [.400, .600]" in text
    assert "outlet alone.500 [.400, .600]25 %+.500" in text
    assert "Not probed: date alone (outlet alone)" in text


def test_what_is_cut_of_long_articles_is_shown(tmp_path: Path) -> None:
    text = "".join(page_of(full(multiclass(60, "abc")), tmp_path).text.split())
    assert "trainingexamplesthatlosetext12%ofalltheirtokens0.4%windowsanexample1.50" in text
    assert "windows(astrained)4120.4%.700[.650,.750]–" in text
    assert "head25639%.680[.630,.730]−.020[−.060,+.010]" in text


def test_mentions_of_the_target_are_marked_in_a_mistake(tmp_path: Path) -> None:
    text = "x " * 400 + "Then the City Mayor spoke. " + "y " * 400
    page = page_of(report_data(multiclass(40, "ab", text=text, target="City Mayor")), tmp_path)
    assert len(page.of("mark")) == len(mistakes(multiclass(40, "ab")))
    pieces = excerpt(text, "City Mayor")
    assert [piece for piece, mention in pieces if mention] == ["City Mayor"]
    assert pieces[0] == ("… ", False)
    assert pieces[-1][0].endswith(" …")
    assert len("".join(piece for piece, _ in pieces)) <= EXCERPT + 4


def test_an_excerpt_is_the_text_where_it_is_short() -> None:
    assert excerpt("The Harbour Plan is here.", "Harbour Plan") == [
        ("The ", False), ("Harbour Plan", True), (" is here.", False),
    ]  # fmt: skip
    assert excerpt("No word of it.", "Harbour Plan") == [("No word of it.", False)]
    assert excerpt("", None) == []


def test_the_words_that_misled_stand_beside_a_mistake(tmp_path: Path) -> None:
    text = " ".join(page_of(full(multiclass(60, "abc"), "striker"), tmp_path).text.split())
    assert "striker +.750, plain +.500" in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0 %"), (0.004, "0.4 %"), (0.125, "12 %"), (1, "100 %"), (None, "undefined")]
)
def test_share(value: float | None, shown: str) -> None:
    assert share(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0519, "+.052"), (-0.0519, "−.052"), (0.0, ".000"), (None, "undefined")]
)
def test_signed(value: float | None, shown: str) -> None:
    assert signed(value) == shown


# --- schema -----------------------------------------------------------------------------------------------------------


def mistakes_of_schema(value: Any, schema: dict[str, Any], root: dict[str, Any], place: str = "report") -> list[str]:
    """Where the value breaks the schema; knows the keywords that docs/report-schema.json uses and no others."""
    known = {"$schema", "$defs", "title", "$ref", "type", "properties", "required", "additionalProperties", "items",
             "enum", "const", "anyOf"}  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        return mistakes_of_schema(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, place)
    if "anyOf" in schema:
        tries = [mistakes_of_schema(value, each, root, place) for each in schema["anyOf"]]
        return [] if [] in tries else min(tries, key=len)
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return [f"{place}: {value!r}"]
    types: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
        "null": type(None),
    }  # fmt: skip
    asked = schema.get("type", list(types))
    right = [name for name in ([asked] if isinstance(asked, str) else asked) if isinstance(value, types[name])]
    if not right or (isinstance(value, bool) and "boolean" not in right):
        return [f"{place}: {value!r} is no {asked}"]
    if isinstance(value, list):
        each = schema.get("items", {})
        return [m for i, item in enumerate(value) for m in mistakes_of_schema(item, each, root, f"{place}[{i}]")]
    if not isinstance(value, dict):
        return []
    properties, further = schema.get("properties", {}), schema.get("additionalProperties", True)
    found = [f"{place}: {key} is missing" for key in schema.get("required", []) if key not in value]
    for key, item in value.items():
        inner = properties.get(key, further)
        if inner is False:
            found.append(f"{place}: {key} is unknown")
        elif inner is not True:
            found += mistakes_of_schema(item, inner, root, f"{place}.{key}")
    return found


@pytest.mark.parametrize(
    "data",
    [report_data(multiclass(0, "ab")), full(multiclass(60, "abc", abstain_below=0.6)), full(multilabel(60, "abc")),
     hostile("multiclass")],
    ids=["none", "multiclass", "multilabel", "hostile"],
)  # fmt: skip
def test_what_is_written_keeps_to_the_schema(data: ReportData, tmp_path: Path) -> None:
    write_report(data, tmp_path)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert mistakes_of_schema(stored, schema, schema) == []


@pytest.mark.parametrize(
    ("key", "value"), [("examples", "60"), ("format", 2), ("metrics", {"accuracy": 0.5}), ("new", 1), ("labels", None)]
)
def test_the_schema_sees_what_breaks_it(key: str, value: Any) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    figures = report_figures(full(multiclass(60, "abc")))
    assert mistakes_of_schema(figures, schema, schema) == []
    assert mistakes_of_schema(figures | {key: value}, schema, schema) != []


def test_every_key_of_the_schema_is_described() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    page = SCHEMA.with_suffix(".md").read_text(encoding="utf-8")
    keys = [*schema["properties"], *schema["$defs"]["slice"]["properties"]]
    assert [key for key in keys if f"`{key}`" not in page] == []
