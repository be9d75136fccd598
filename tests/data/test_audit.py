"""The audit's figures on corpora small enough to count by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from data.audit import audit, conflicts, languages, leakage, lengths, text_numbers, values_by_label
from data.config import CorpusConfig, FileConfig, LabelsConfig
from data.corpus import Corpus, load_corpus
from data.duplicates import cluster
from data.prepare import CleanCorpus, clean_corpus
from data.splitting import Split
from slantwise.cleaning import Cleaner
from tests.conftest import Row, WriteJsonl

BOTH = "The harbour board voted to deepen the channel before the winter storms arrive"
OTHER = "Nurses at the valley clinic asked for a second ward after a feverish autumn"
THIRD = "A referee stopped the cup match when fog rolled over the northern stand"
LABELS = LabelsConfig(columns=["topic"], labels=["health", "sport"])


def load(write_jsonl: WriteJsonl, rows: list[Row], **more: Any) -> Corpus:
    """Topic rows are read with the two labels of LABELS, stance rows as canonical ones."""
    if "topic" in rows[0]:
        more = {"topic": LABELS} | more
    return load_corpus(CorpusConfig(files=[FileConfig(path=str(write_jsonl(rows)))], **more))


def prepare(corpus: Corpus, task: str = "topic") -> CleanCorpus:
    return clean_corpus(corpus, corpus.task(task), Cleaner(furniture=False))


def topic_rows(*entries: tuple[str, str]) -> list[Row]:
    return [{"id": f"r{i}", "text": text, "topic": topic} for i, (text, topic) in enumerate(entries)]


def figures(corpus: Corpus, assignment: list[str], task: str = "topic") -> dict[str, Any]:
    clean = prepare(corpus, task)
    clusters = cluster(clean.bodies, 0.5)
    return audit(corpus, clean, clean.removed, [Split(assignment, 0)], clusters)


def test_same_text_with_two_labels_is_a_conflict_whatever_its_case(write_jsonl: WriteJsonl) -> None:
    rows = topic_rows((BOTH, "health"), (BOTH.upper() + "!", "sport"), (OTHER, "health"), (OTHER, "health"))
    found = figures(load(write_jsonl, rows), ["train"] * 3 + ["test"])["conflicts"]
    assert (found["texts"], found["examples"], found["repeats"]) == (1, 2, 2)
    assert found["shown"][0]["labels"] == {"health": 1, "sport": 1}
    assert found["shown"][0]["ids"] == ["r0", "r1"]


def test_same_text_with_two_targets_is_no_conflict(write_jsonl: WriteJsonl) -> None:
    stances = [{"target": "Warden", "stance": "favor"}, {"target": "Board", "stance": "against"}]
    corpus = load(write_jsonl, [{"id": "r", "text": BOTH, "stances": stances}])
    clean = prepare(corpus, "stance")
    labelled = clean.examples([0])
    assert conflicts(clean, text_numbers(clean.bodies), labelled, np.zeros(2, dtype=np.int64))["texts"] == 0


def test_leaks_are_counted_against_train_and_validation(write_jsonl: WriteJsonl) -> None:
    nearly = BOTH + " tonight"
    rows = topic_rows((BOTH, "health"), (OTHER, "sport"), (OTHER, "sport"), (nearly, "health"), (THIRD, "sport"))
    found = figures(load(write_jsonl, rows), ["train", "validation", "test", "test", "test"])["leakage"]
    assert (found["articles"], found["exact"], found["near"]) == (3, 1, 2)
    assert (found["exact_train"], found["near_train"]) == (0, 1)
    assert [(leak["id"], leak["other"]) for leak in found["shown"]] == [("r2", "r1"), ("r3", "r0")]


def test_repeats_inside_the_test_split_are_no_leak(write_jsonl: WriteJsonl) -> None:
    rows = topic_rows((BOTH, "health"), (OTHER, "sport"), (OTHER, "sport"))
    found = figures(load(write_jsonl, rows), ["train", "test", "test"])
    assert found["leakage"]["near"] == 0
    assert found["duplicates"]["exact"] == {"clusters": 1, "articles": 2, "surplus": 1}


def test_targets_of_test_that_stand_in_train_are_counted(write_jsonl: WriteJsonl) -> None:
    def row(id_: str, text: str, target: str) -> Row:
        return {"id": id_, "text": text, "stances": [{"target": target, "stance": "favor"}]}

    rows = [row("a", BOTH, "Warden"), row("b", OTHER, "WARDEN"), row("c", THIRD, "Board"), row("d", BOTH, "Warden")]
    corpus = load(write_jsonl, rows)
    shared = {r["what"]: r for r in figures(corpus, ["train", "test", "test", "test"], "stance")["leakage"]["shared"]}
    assert shared["target"] == {"what": "target", "distinct": 2, "shared": 1, "examples": 2, "of": 3}
    assert shared["text and target"]["examples"] == 1
    assert "source" not in shared


def test_what_is_left_out_of_a_fold_is_no_leak(write_jsonl: WriteJsonl) -> None:
    rows = topic_rows((BOTH, "health"), (BOTH, "health"), (OTHER, "sport"), (THIRD, "sport"))
    rows = [{**row, "source": source} for row, source in zip(rows, ["a", "b", "b", "b"], strict=True)]
    found = figures(load(write_jsonl, rows), ["test", "left out", "train", "validation"])
    assert (found["leakage"]["exact"], found["leakage"]["near"]) == (0, 0)
    shared = {row["what"]: row["shared"] for row in found["leakage"]["shared"]}
    assert shared["source"] == 0


def test_agreement_is_of_the_audited_task(write_jsonl: WriteJsonl) -> None:
    rows = [{"id": f"r{i}", "text": text, "topic": "x"} for i, text in enumerate((BOTH, OTHER, THIRD))]
    for row, votes in zip(rows, (["health"] * 3, ["sport", "sport", "health"], ["sport"] * 2), strict=True):
        row["votes"] = votes
    labels = LabelsConfig(annotators=["votes"], labels=["health", "sport"])
    corpus = load(write_jsonl, rows, topic=labels)
    found = figures(corpus, ["train", "validation", "test"])["agreement"]
    # by hand: 8 labels, 4 of each; one unit of three has two unlike pairs: 1 - 7 * (4 / 2) / (64 - 16 - 16)
    assert found == {"alpha": pytest.approx(0.5625), "annotators": 3, "items": 3}


def test_agreement_is_null_without_annotators(write_jsonl: WriteJsonl) -> None:
    rows = topic_rows((BOTH, "health"), (OTHER, "sport"), (THIRD, "sport"))
    assert figures(load(write_jsonl, rows), ["train", "validation", "test"])["agreement"] is None


def test_leakage_is_summed_over_folds(write_jsonl: WriteJsonl) -> None:
    clean = prepare(load(write_jsonl, topic_rows((BOTH, "health"), (BOTH, "health"))))
    splits = [Split(["train", "test"], 1), Split(["test", "train"], 1)]
    labelled = clean.examples([0, 1])
    numbers = text_numbers(clean.bodies)
    found = leakage(clean, numbers, np.zeros(2, dtype=np.int64), splits, labelled, np.arange(2))
    assert (found["articles"], found["exact"], found["exact_train"]) == (2, 2, 2)


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3, 4, 5, 6, 7, 8, 9, 1000], [5] * 7, list(range(1, 300))])
def test_every_length_is_in_one_bin(sizes: list[int]) -> None:
    found = lengths(["word " * n for n in sizes])
    assert sum(row["n"] for row in found["bins"]) == len(sizes)
    for row in found["bins"]:
        assert row["n"] == sum(row["low"] <= n < row["high"] for n in sizes)
    assert (found["min"], found["max"]) == (min(sizes), max(sizes))


def test_cooccurrence_has_the_label_counts_on_its_diagonal(tiny_path: Any, tiny_rows: list[Row]) -> None:
    corpus = load_corpus(CorpusConfig(path=str(tiny_path)))
    found = figures(corpus, ["train"] * 60 + ["test"] * 12, "framing")
    labels = corpus.task("framing").labels
    economic, morality = labels.index("economic"), labels.index("morality")
    both = sum(row["frames"] == ["economic", "morality"] for row in tiny_rows)
    assert found["cooccurrence"][economic][morality] == found["cooccurrence"][morality][economic] == both > 0
    assert [row["n"] for row in found["labels"][:-1]] == [found["cooccurrence"][i][i] for i in range(len(labels))]
    assert found["labels"][-1] == {
        "label": None,
        "n": (none := sum(not r["frames"] for r in tiny_rows)),
        "share": none / 72,
    }


def test_label_counts_of_sources_add_up_to_their_examples(tiny_path: Any) -> None:
    clean = prepare(load_corpus(CorpusConfig(path=str(tiny_path))))
    labelled = clean.examples(range(len(clean)))
    values = [*labelled.sources[:70], None, None]
    found = values_by_label(labelled, values)
    assert found is not None
    assert (found["distinct"], found["missing"]) == (3, 2)
    assert all(sum(row["counts"]) == row["n"] for row in found["table"])
    assert sum(row["n"] for row in found["table"]) == 70


def test_rows_of_the_counts_add_up(write_jsonl: WriteJsonl) -> None:
    rows = [
        *topic_rows((BOTH, "health"), (OTHER, "sport"), (THIRD, "unclear")),
        {"id": "x", "text": "", "topic": "sport"},
    ]
    labels = LabelsConfig(columns=["topic"], labels=["health", "sport"], drop=["unclear"])
    found = figures(load(write_jsonl, rows, topic=labels, max_bad_rows=1), ["train", "test"])
    counts = found["counts"]
    assert counts["rows"] == counts["articles"] + counts["merged"] + counts["quarantined"] + counts["set_aside"] == 4
    assert (counts["quarantined"], counts["set_aside"], counts["labelled"]) == (1, 1, 2)
    assert {row["set_aside"] for row in found["quarantine"]} == {True, False}
    assert "/" not in found["quarantine"][0]["example"]


def test_removed_lines_are_counted_by_reason_and_source(write_jsonl: WriteJsonl) -> None:
    page = "Subscribe to our newsletter\n\n{}, as the council had asked them to do in spring.\n\nRead more: {}"
    rows = [
        {"id": f"r{i}", "text": page.format(text, i), "topic": "health", "source": "north.example"}
        for i, text in enumerate((BOTH, OTHER, THIRD))
    ]
    corpus = load(write_jsonl, rows)
    clean = clean_corpus(corpus, corpus.task("topic"), Cleaner())
    split = Split(["train", "train", "test"], 0)
    found = audit(corpus, clean, clean.removed, [split], np.arange(3))["cleaning"]
    assert (found["articles"], found["lines"]) == (3, 6)
    assert sum(row["lines"] for row in found["reasons"]) == 6
    assert {line["text"]: line["n"] for line in found["recurring"][0]["lines"]} == {
        "Subscribe to our newsletter": 3,
        "Read more: 0": 3,
    }


def test_languages_found_are_compared_with_those_declared(write_jsonl: WriteJsonl) -> None:
    pytest.importorskip("py3langid")
    english = "The council voted on the new harbour plan after a long and heated debate in the town hall."
    german = "Der Stadtrat stimmte nach einer langen und hitzigen Debatte über den neuen Hafenplan ab."
    rows = [
        {"id": "a", "text": english, "topic": "sport", "language": "en-GB"},
        {"id": "b", "text": german, "topic": "sport", "language": "en"},
        {"id": "c", "text": "Oui, merci.", "topic": "sport", "language": "en"},
    ]
    found = languages(prepare(load(write_jsonl, rows)))
    assert found["found"] == {"de": 1, "en": 1}
    assert found["differing"] == 1


def test_figures_are_plain_json(tiny_path: Any) -> None:
    for task in ("topic", "framing", "stance"):
        found = figures(load_corpus(CorpusConfig(path=str(tiny_path))), ["train"] * 60 + ["test"] * 12, task)
        assert json.loads(json.dumps(found, allow_nan=False)).keys() == found.keys()
