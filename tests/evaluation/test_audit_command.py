"""The command from a corpus to its files, as a user runs it, and the card as a browser reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data.config import CleaningConfig, CorpusConfig, SplitConfig, TaskConfig
from evaluation.audit import (
    AuditConfig,
    agreement_text,
    audit_corpus,
    data_findings,
    percent,
    plural,
    write_audit,
)
from slantwise.command import Progress
from slantwise.errors import ConfigurationError, CorpusError
from tests.conftest import Row, WriteJsonl

CHECKOUT = Path(__file__).resolve().parents[2]
PAYLOAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 7 * 7 }} $x$"
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Page(HTMLParser):
    """Element names and attributes; and that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def audited(path: Path, task: str | None, prefer_given: bool = True, **split: Any) -> dict[str, Any]:
    config = AuditConfig(
        CorpusConfig(path=str(path), name="tiny"), CleaningConfig(), SplitConfig(**split),
        TaskConfig(task) if task else None, output="",
    )  # fmt: skip
    config.evaluation.resamples = 50
    return audit_corpus(config, Progress(quiet=True), prefer_given)[0]


def slantwise(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slantwise", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("task", ["topic", "framing", "stance"])
def test_card_of_each_task_is_whole_and_carries_its_verdict(task: str, tiny_path: Path, tmp_path: Path) -> None:
    figures = audited(tiny_path, task)
    page = Page(write_audit(figures, "seed: 1", tmp_path / "out").read_text(encoding="utf-8"))
    assert page.open == []
    assert figures["verdict"]
    for sentence in figures["verdict"]:
        assert sentence in page.text
    assert {"script", "img", "link", "iframe"}.isdisjoint(page.elements)
    assert not [v for k, v in page.attributes if k in ("src", "href") and not str(v).startswith("#")]
    saved = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert saved.keys() == figures.keys()
    for picture in (tmp_path / "out" / "plots").glob("*.svg"):
        ET.parse(picture)


def test_text_of_the_corpus_is_never_markup(tiny_rows: list[Row], write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    for i, row in enumerate(tiny_rows):
        row["source"] = f"{PAYLOAD} {i % 4}"
        row["stances"][0]["target"] = f"{PAYLOAD} target {i % 2}"
    tiny_rows[1]["text"] = tiny_rows[0]["text"] = f"{PAYLOAD} {tiny_rows[0]['text']}"
    figures = audited(write_jsonl(tiny_rows), "stance")
    html = write_audit(figures, PAYLOAD, tmp_path / "out").read_text(encoding="utf-8")
    page = Page(html)
    assert {"script", "img"}.isdisjoint(page.elements)
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_split_that_the_corpus_gives_is_preferred(tiny_rows: list[Row], write_jsonl: WriteJsonl) -> None:
    for i, row in enumerate(tiny_rows):
        row["split"] = "test" if i >= 60 else "train"
    path = write_jsonl(tiny_rows)
    given = audited(path, "topic")
    assert given["split"]["kind"] == "given"
    assert given["splits"]["parts"]["test"]["articles"] == 12
    assert audited(path, "topic", prefer_given=False)["split"]["kind"] == "stratified"


def test_split_is_stratified_where_the_corpus_gives_none(tiny_path: Path) -> None:
    assert audited(tiny_path, "topic")["split"]["kind"] == "stratified"


def test_folds_are_pooled(tiny_path: Path) -> None:
    figures = audited(tiny_path, "topic", prefer_given=False, kind="kfold", folds=3)
    assert figures["probes"][0]["n"] == figures["leakage"]["articles"] == 72


def test_corpus_of_several_tasks_asks_for_one(tiny_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"topic, framing, stance; choose one with task="):
        audited(tiny_path, None)


def test_task_without_labels_is_an_error(tiny_rows: list[Row], write_jsonl: WriteJsonl) -> None:
    for row in tiny_rows:
        del row["stances"]
    with pytest.raises(CorpusError, match="no labels for task stance"):
        audited(write_jsonl(tiny_rows), "stance")


def test_findings_are_empty_for_clean_data(tiny_path: Path) -> None:
    figures = audited(tiny_path, "topic")
    assert data_findings(figures, has_target=False) == []


def test_findings_tell_leaks_conflicts_and_known_targets() -> None:
    figures = {
        "counts": {"quarantined": 3, "rows": 1000},
        "conflicts": {"texts": 1, "examples": 2},
        "leakage": {
            "articles": 100, "exact": 14, "near": 20, "exact_train": 12,
            "shared": [{"what": "target", "distinct": 5, "shared": 5, "examples": 100, "of": 100}],
        },
    }  # fmt: skip
    leak, targets, conflict, bad = data_findings(figures, has_target=True)
    assert leak.startswith("14 of 100 test articles (14 %) repeat one of train or validation word for word (12 one of")
    assert "6 more nearly: scores on this split are too good" in leak
    assert targets.startswith("All 5 test targets stand in train or validation (100 % of the test examples)")
    assert conflict.startswith("1 distinct pair of text and target labelled in more than one way, in 2 examples")
    assert bad == "3 of 1,000 rows cannot be used."


def test_percent_never_rounds_something_to_nothing_or_all() -> None:
    assert [percent(n, 10_000) for n in (0, 1, 40, 1400, 9950, 9999, 10_000)] == [
        "0 %", "under 0.1 %", "0.4 %", "14 %", "99.5 %", "over 99.9 %", "100 %"
    ]  # fmt: skip
    assert plural(1, "pair of text") == "1 pair of text"
    assert plural(2000, "pair of text") == "2,000 pairs of text"


def test_agreement_stands_in_the_terminal_the_json_and_the_card(
    tiny_rows: list[Row], write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    labels = sorted({row["topic"] for row in tiny_rows})
    for i, row in enumerate(tiny_rows):
        row["second"] = labels[0] if i % 4 == 0 else row["topic"]
    path = write_jsonl(tiny_rows)
    done = slantwise(
        "audit", "corpus=file", f"corpus.path={path}", "task=topic", "output=card", "evaluation.resamples=20",
        "corpus.topic.columns=[topic]", "corpus.topic.annotators=[topic,second]", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    agreement = json.loads((tmp_path / "card" / "audit.json").read_text(encoding="utf-8"))["agreement"]
    assert 0 < agreement["alpha"] < 1
    assert (agreement["annotators"], agreement["items"]) == (2, len(tiny_rows))
    text = agreement_text(agreement)
    assert text in " ".join((done.stdout + done.stderr).split())
    assert text in Page((tmp_path / "card" / "audit.html").read_text(encoding="utf-8")).text


def test_agreement_is_told_in_words() -> None:
    said = agreement_text({"alpha": 0.4014, "annotators": 8, "items": 2050})
    assert said == "Krippendorff's alpha .401 (nominal), 2,050 items with up to 8 annotators each"
    assert "undefined, as all labels are the same" in agreement_text({"alpha": None, "annotators": 2, "items": 1})


def test_card_without_annotators_says_nothing_of_agreement(tiny_path: Path, tmp_path: Path) -> None:
    page = write_audit(audited(tiny_path, "topic"), "", tmp_path / "out").read_text(encoding="utf-8")
    assert "Krippendorff" not in page


def test_command_writes_its_folder_and_mistakes_exit_2_in_one_line(tiny_path: Path, tmp_path: Path) -> None:
    done = slantwise("audit", "corpus=file", f"corpus.path={tiny_path}", "task=topic", "output=card", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "card").iterdir()}
    assert names == {"audit.html", "audit.json", "config.yaml", "plots", "quarantine.jsonl"}
    again = slantwise("audit", "corpus=file", f"corpus.path={tiny_path}", "task=topic", "output=card", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.splitlines() == ["error: output=card exists; expected a new folder"]
