"""The shipped configurations read the published corpora: every count is the one that the corpus's card gives."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from data.config import CorpusConfig
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
    assert counts == card.labels
    assert set(corpus.tasks) == {card.task}


def test_marked_mentions_stand_where_the_corpus_says(loaded: tuple[Corpus, Card]) -> None:
    corpus, _ = loaded
    marked = [
        (row["text"], s) for row in corpus.table.to_pylist() for s in row["stance"] or [] if s["start"] is not None
    ]
    assert bool(marked) == corpus.name.startswith("newsmtsc")
    assert [s for text, s in marked if " ".join(text[s["start"] : s["end"]].split()) != s["target"]] == []
