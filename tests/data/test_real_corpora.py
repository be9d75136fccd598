"""The shipped configurations read the published corpora: every count is the one that the corpus's card gives."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from data.config import ColumnsConfig, CorpusConfig, FileConfig
from data.corpus import Corpus, load_corpus
from slantwise.command import register_resolvers, to_object
from training.config import TrainConfig, register

CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = pytest.mark.skipif(
    "SLANTWISE_CORPORA" not in os.environ,
    reason="SLANTWISE_CORPORA is not set: the corpora may not be shipped, it names the folder that holds them",
)


@dataclass(frozen=True)
class Card:
    """What a corpus's card says, in articles and, for a stance corpus, in labelled targets."""

    rows: int
    articles: int
    dropped: int = 0  # rows set aside by the configuration
    task: str = "stance"
    labels: dict[str | None, dict[str, int]] = field(default_factory=dict)  # by split
    some_labels: bool = False  # the card counts the largest labels only
    without: dict[str | None, int] = field(default_factory=dict)  # by split: articles that no label applies to


CARDS = {
    "bbc_news": Card(
        rows=2225, articles=2122, dropped=103, task="topic",
        # the card counts files, and the files that stand in a pair of repeats, of which one stays
        labels={None: {
            "sport": 511 - 18 // 2, "business": 510 - 16 // 2, "politics": 417 - 28 // 2, "tech": 401 - 110 // 2,
            "entertainment": 386 - 34 // 2,
        }},
    ),
    "gvfc": Card(
        rows=1300, articles=1300, task="framing",
        labels={None: {
            "gun_rights": 66, "gun_control": 322, "politics": 427, "mental_health": 80, "public_space_safety": 182,
            "race_ethnicity": 134, "public_opinion": 263, "society_culture": 50, "economic_consequences": 95,
        }},
    ),
    "babe": Card(
        rows=3674, articles=3673, dropped=1, task="framing", labels={None: {"Non-biased": 1863, "Biased": 1810}}
    ),
    "semeval2016": Card(
        rows=2814 + 1249, articles=2814 + 1249,
        labels={
            "train": {"against": 1342, "favor": 731, "neutral": 741},
            "test": {"against": 715, "favor": 304, "neutral": 230},
        },
    ),
    "fnc1": Card(
        rows=49_972 + 25_413, articles=1683 + 904,
        labels={
            "train": {"unrelated": 36_545, "discuss": 8909, "agree": 3678, "disagree": 840},
            "test": {"unrelated": 18_349, "discuss": 4464, "agree": 1903, "disagree": 697},
        },
    ),
    "newsmtsc": Card(
        rows=7758 + 1067, articles=7758 + 1067,
        labels={
            "train": {"against": 3316, "neutral": 3028, "favor": 2395},
            "test": {"against": 429, "neutral": 455, "favor": 262},
        },
    ),
    "newsmtsc_mt": Card(
        rows=7758 + 721, articles=7758 + 721,
        labels={
            "train": {"against": 3316, "neutral": 3028, "favor": 2395},
            "test": {"against": 482, "neutral": 748, "favor": 246},
        },
    ),
    "allsides": Card(
        rows=1050 + 1300, articles=1050 + 1300, task="framing",
        labels={
            "train": {"left": 350, "center": 350, "right": 350},
            "test": {"left": 402, "center": 299, "right": 599},
        },
    ),
    "allsides_random": Card(
        rows=1290 + 1300, articles=1290 + 1300, task="framing",
        labels={
            "train": {"left": 430, "center": 430, "right": 430},
            "test": {"left": 402, "center": 299, "right": 599},
        },
    ),
    "arc": Card(
        rows=14_233 + 3559, articles=14_233 + 3559,
        labels={
            "train": {"unrelated": 10_670, "disagree": 1402, "agree": 1257, "discuss": 904},
            "test": {"unrelated": 2674, "disagree": 372, "agree": 334, "discuss": 179},
        },
    ),
    "gwsd": Card(
        rows=2300, articles=2050, dropped=250,
        labels={
            "train": {"neutral": 788, "favor": 701, "against": 361},
            "test": {"neutral": 85, "favor": 76, "against": 39},
        },
    ),
    "india_police_events": Card(
        rows=905 + 165 + 187, articles=1257, task="topic",
        labels={
            "train": {"KILL": 39, "ARREST": 89, "ANY_ACTION": 314, "FAIL": 80, "FORCE": 66},
            "validation": {"KILL": 7, "ARREST": 20, "ANY_ACTION": 69, "FAIL": 18, "FORCE": 15},
            "test": {"KILL": 4, "ARREST": 19, "ANY_ACTION": 74, "FAIL": 16, "FORCE": 9},
        },
        without={"train": 555, "validation": 93, "test": 110},
    ),
    "india_police_events_sentences": Card(
        rows=14_943 + 3172 + 3276, articles=21_391 - 8, dropped=8, task="topic",
        labels={
            "train": {"KILL": 67, "ARREST": 204, "ANY_ACTION": 1472, "FAIL": 146, "FORCE": 152},
            "validation": {"KILL": 15, "ARREST": 46, "ANY_ACTION": 298, "FAIL": 33, "FORCE": 33},
            "test": {"KILL": 14, "ARREST": 51, "ANY_ACTION": 322, "FAIL": 28, "FORCE": 37},
        },
        # the card counts the eight empty sentences, none of which has a label
        without={"train": 13_367 - 6, "validation": 2852 - 1, "test": 2933 - 1},
    ),
    "reuters21578": Card(
        rows=21_578, articles=7770 + 3019, dropped=21_578 - 7770 - 3019, task="topic", some_labels=True,
        # the card counts corn and trade once more: one document of each names the category twice
        labels={
            "train": {
                "earn": 2877, "acq": 1650, "money-fx": 538, "grain": 433, "crude": 389, "trade": 369, "interest": 347,
                "wheat": 212, "ship": 197, "corn": 182 - 1,
            },
            "test": {
                "earn": 1087, "acq": 719, "money-fx": 179, "grain": 149, "crude": 189, "trade": 118 - 1,
                "interest": 131, "wheat": 71, "ship": 89, "corn": 56,
            },
        },
    ),
    "gvfc_first": Card(
        rows=1300, articles=1300, task="framing",
        labels={None: {
            "gun_rights": 38, "gun_control": 215, "politics": 373, "mental_health": 65, "public_space_safety": 137,
            "race_ethnicity": 114, "public_opinion": 237, "society_culture": 41, "economic_consequences": 80,
        }},
    ),
    "gvfc_relevance": Card(
        rows=2990, articles=2990, task="topic", labels={None: {"relevant": 2609, "irrelevant": 381}}
    ),
}  # fmt: skip


def compose_corpus(name: str, task: str) -> CorpusConfig:
    register_resolvers()
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", overrides=[f"task={task}", f"corpus={name}"])
    return to_object(config, TrainConfig).corpus


@pytest.fixture(scope="module", params=list(CARDS))
def loaded(request: pytest.FixtureRequest) -> tuple[Corpus, Card]:
    card = CARDS[request.param]
    return load_corpus(compose_corpus(request.param, card.task)), card


def test_row_counts_are_those_of_the_card(loaded: tuple[Corpus, Card]) -> None:
    corpus, card = loaded
    assert (corpus.rows_read, len(corpus)) == (card.rows, card.articles)
    assert len(corpus.quarantine) == card.dropped
    assert all(bad.expected_drop for bad in corpus.quarantine)
    assert corpus.merged == card.rows - card.articles - card.dropped


def test_label_counts_of_every_split_are_those_of_the_card(loaded: tuple[Corpus, Card]) -> None:
    corpus, card = loaded
    counts: dict[str | None, Counter[str]] = {}
    for row in corpus.table.to_pylist():
        labels = [s["stance"] for s in row["stance"]] if card.task == "stance" else row[card.task]
        counts.setdefault(row["split"], Counter()).update(labels)
    if card.some_labels:
        counts = {s: Counter({label: n for label, n in counts[s].items() if label in card.labels[s]}) for s in counts}
    assert counts == card.labels
    assert set(corpus.tasks) == {card.task}


def test_counts_of_articles_without_a_label_are_those_of_the_card(loaded: tuple[Corpus, Card]) -> None:
    corpus, card = loaded
    assert Counter(row["split"] for row in corpus.table.to_pylist() if not row[card.task]) == card.without


def test_marked_mentions_stand_where_the_corpus_says(loaded: tuple[Corpus, Card]) -> None:
    corpus, _ = loaded
    marked = [
        (row["text"], s) for row in corpus.table.to_pylist() for s in row["stance"] or [] if s["start"] is not None
    ]
    assert bool(marked) == corpus.name.startswith("newsmtsc")
    assert [s for text, s in marked if " ".join(text[s["start"] : s["end"]].split()) != s["target"]] == []


def test_reuters_documents_are_those_of_the_card() -> None:
    rows = load_corpus(compose_corpus("reuters21578", "topic")).table.to_pylist()
    tokens = {split: [len(row["text"].split()) for row in rows if row["split"] == split] for split in ("train", "test")}
    figures = {s: (len(n), np.median(n), round(float(np.percentile(n, 95))), max(n)) for s, n in tokens.items()}
    assert figures == {"train": (7770, 87, 430, 1317), "test": (3019, 81, 396, 1673)}
    train = [row["topic"] for row in rows if row["split"] == "train"]
    several = Counter(min(len(topics), 4) for topics in train)
    assert several == {1: 6578, 2: 865, 3: 192, 4: 135}
    sizes = Counter(topic for topics in train for topic in topics)
    assert (len(sizes), sum(n < 10 for n in sizes.values()), sum(n == 1 for n in sizes.values())) == (90, 30, 7)


def test_gwsd_annotators_give_a_majority_or_a_tie() -> None:
    config = compose_corpus("gwsd", "stance")
    config.stance.columns, config.stance.largest = [], False
    corpus = load_corpus(config)
    ties = [bad for bad in corpus.quarantine if bad.reason.startswith("a tie")]
    assert (len(corpus), len(ties), len(corpus.quarantine)) == (2050 - 203, 203, 203 + 250)
    agreement = corpus.agreement["stance"]
    assert (agreement["annotators"], agreement["items"]) == (8, 2050)
    assert agreement == load_corpus(compose_corpus("gwsd", "stance")).agreement["stance"]


def test_gwsd_labels_are_those_of_the_held_out_file() -> None:
    config = compose_corpus("gwsd", "stance")
    given = compose_corpus("gwsd", "stance")
    given.files, given.where_not = [FileConfig(path="held_out_balanced_test.tsv", split="test")], {}
    given.columns.split = None
    given.stance.annotators, given.stance.columns, given.stance.largest = [], ["stance"], False
    found, expected = (
        {row["id"]: row["stance"][0]["stance"] for row in load_corpus(each).table.to_pylist() if row["split"] == "test"}
        for each in (config, given)
    )
    assert found == expected


def test_the_workbook_of_babe_holds_the_same_rows_as_the_table() -> None:
    table, book = compose_corpus("babe", "framing"), compose_corpus("babe", "framing")
    book.files = [FileConfig(path="final_labels_SG2.xlsx")]
    rows = [
        [(row["text"].strip(), row["source"], row["framing"]) for row in load_corpus(config).table.to_pylist()]
        for config in (table, book)
    ]
    assert rows[0] == rows[1]


def test_double_encoded_punctuation_of_the_india_documents_is_mended() -> None:
    config = compose_corpus("india_police_events", "topic")
    config.files, config.columns = [FileConfig(path="final/docs.csv")], ColumnsConfig(id="doc_id", text="doc_text")
    broken = load_corpus(config).table["text"].to_pylist()
    config.fix_encoding = True
    mended = load_corpus(config).table["text"].to_pylist()
    assert len(broken) == 1257
    assert sum("â€œ" in text or "â€˜" in text for text in broken) > 300
    assert not any("â€" in text for text in mended)
