"""The bundled corpus is what its card says it is."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from slantwise.task import IPTC_TOPICS, POLICY_FRAMES, STANCES

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
FIELDS = ["id", "text", "title", "source", "published", "language", "topic", "frames", "stances"]

Row = dict[str, Any]


def read(name: str) -> list[Row]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def articles() -> list[Row]:
    return read("articles.jsonl")


@pytest.fixture(scope="module")
def furniture() -> dict[str, Row]:
    return {row["id"]: row for row in read("furniture.jsonl")}


@pytest.fixture(scope="module")
def bodies(articles: list[Row], furniture: dict[str, Row]) -> dict[str, str]:
    """The bodies by id: the text without its furniture and without the repeated title."""
    return {row["id"]: split_page(row, furniture[row["id"]])[0] for row in articles}


def split_page(article: Row, page: Row) -> tuple[str, list[str]]:
    """The body, one paragraph a line, and the furniture lines that were not found in the text in their order."""
    expected, kept = list(page["lines"]), []
    for line in article["text"].split("\n"):
        if expected and line == expected[0]:
            del expected[0]
        elif line and line != page.get("title_line"):
            kept.append(line)
    return "\n".join(kept), expected


def sentences_of(body: str) -> set[str]:
    """Folded sentences of at least four words."""
    parts = re.split(r"(?<=[.!?])[\"'”’]?\s+|\n+", body)
    folded = (" ".join(re.findall(r"\w+", part.lower())) for part in parts)
    return {sentence for sentence in folded if len(sentence.split()) >= 4}


def stances_of(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return [(pair["target"], pair["stance"]) for row in rows for pair in row["stances"] or []]


def is_opposed(row: Row) -> bool:
    return {"favor", "against"} <= {stance for _, stance in stances_of([row])}


def test_every_row_has_the_fields_of_an_article(articles: list[Row]) -> None:
    assert all(list(row) == FIELDS for row in articles)
    assert all(row["language"] == "en" for row in articles)
    assert all(date.fromisoformat(row["published"]).year in range(2021, 2025) for row in articles)


def test_ids_and_titles_are_unique(articles: list[Row]) -> None:
    for key in ("id", "title"):
        assert len({row[key].lower() for row in articles}) == len(articles)


def test_the_furniture_file_covers_the_same_articles(articles: list[Row]) -> None:
    assert [row["id"] for row in read("furniture.jsonl")] == [row["id"] for row in articles]


def test_at_least_300_articles_of_60_to_180_words(bodies: dict[str, str]) -> None:
    words = [len(body.split()) for body in bodies.values()]
    assert len(words) >= 300
    assert min(words) >= 60
    assert max(words) <= 180


def test_labels_are_legal(articles: list[Row]) -> None:
    for row in articles:
        assert row["topic"] in IPTC_TOPICS, row["id"]
        assert row["frames"], row["id"]
        assert set(row["frames"]) <= set(POLICY_FRAMES), row["id"]
        assert len(set(row["frames"])) == len(row["frames"]), row["id"]
        assert row["stances"] is None or row["stances"], row["id"]
        targets = [target for target, _ in stances_of([row])]
        assert len(set(targets)) == len(targets), row["id"]
    assert {stance for _, stance in stances_of(articles)} == set(STANCES)


def test_all_topics_occur_and_eight_of_them_often(articles: list[Row]) -> None:
    counts = Counter(row["topic"] for row in articles)
    assert set(counts) == set(IPTC_TOPICS)
    assert sum(count >= 20 for count in counts.values()) >= 8


def test_all_frames_occur(articles: list[Row]) -> None:
    assert {frame for row in articles for frame in row["frames"]} == set(POLICY_FRAMES)


def test_25_targets_have_all_three_stances_without_counting_second_printings(
    articles: list[Row], furniture: dict[str, Row]
) -> None:
    stances: dict[str, set[str]] = defaultdict(set)
    for target, stance in stances_of(row for row in articles if "wire" not in furniture[row["id"]]):
        stances[target].add(stance)
    assert sum(found == set(STANCES) for found in stances.values()) >= 25


def test_40_articles_are_for_one_target_and_against_another(articles: list[Row]) -> None:
    assert sum(is_opposed(row) for row in articles) >= 40


def test_every_target_is_named_in_its_article(articles: list[Row], bodies: dict[str, str]) -> None:
    for row in articles:
        words = f"{row['title']}\n{bodies[row['id']]}".lower()
        assert [target for target, _ in stances_of([row]) if target.lower() not in words] == [], row["id"]


def test_at_least_12_outlets(articles: list[Row]) -> None:
    assert len({row["source"] for row in articles}) >= 12


def test_a_dozen_stories_are_printed_again_by_another_outlet(
    articles: list[Row], furniture: dict[str, Row], bodies: dict[str, str]
) -> None:
    by_id = {row["id"]: row for row in articles}
    pairs = [(by_id[page["wire"]], by_id[page["id"]]) for page in furniture.values() if "wire" in page]
    assert len(pairs) >= 12
    for first, second in pairs:
        assert first["source"] != second["source"]
        assert [first[key] for key in ("topic", "frames", "stances")] == [
            second[key] for key in ("topic", "frames", "stances")
        ]
        sentences, reprinted = sentences_of(bodies[first["id"]]), sentences_of(bodies[second["id"]])
        assert sentences != reprinted
        assert len(sentences & reprinted) >= 0.5 * len(sentences)


def test_no_other_two_articles_share_a_sentence(furniture: dict[str, Row], bodies: dict[str, str]) -> None:
    stories: dict[str, set[str]] = defaultdict(set)
    for name, body in bodies.items():
        for sentence in sentences_of(body):
            stories[sentence].add(furniture[name].get("wire", name))
    assert {sentence: names for sentence, names in stories.items() if len(names) > 1} == {}


def test_furniture_lines_stand_in_the_text_in_order(articles: list[Row], furniture: dict[str, Row]) -> None:
    for row in articles:
        assert furniture[row["id"]]["lines"], row["id"]
        assert split_page(row, furniture[row["id"]])[1] == [], row["id"]


def test_a_title_line_stands_in_the_text_and_holds_the_title(articles: list[Row], furniture: dict[str, Row]) -> None:
    titled = [(row, furniture[row["id"]]["title_line"]) for row in articles if "title_line" in furniture[row["id"]]]
    assert titled
    for row, line in titled:
        assert line in row["text"].split("\n"), row["id"]
        assert row["title"] in line, row["id"]


def test_the_figures_of_the_card_are_those_of_the_data(
    articles: list[Row], furniture: dict[str, Row], bodies: dict[str, str]
) -> None:
    card = (SAMPLE / "README.md").read_text(encoding="utf-8").splitlines()
    printed = [line for line in card if re.match(r"\| .*\d+ \|$", line)]
    assert printed == [f"| {' | '.join(map(str, cells))} |" for cells in figures(articles, furniture, bodies)]


def figures(articles: list[Row], furniture: dict[str, Row], bodies: dict[str, str]) -> list[tuple[object, ...]]:
    """The rows of the card's tables, in their order."""
    words = [len(body.split()) for body in bodies.values()]
    lines = [len(page["lines"]) for page in furniture.values()]
    labelled = [row for row in articles if row["stances"]]
    stances = Counter(stances_of(articles))
    by_outlet = {name: [row for row in articles if row["source"] == name] for name in sorted(outlets_of(articles))}
    frames = Counter(frame for row in articles for frame in row["frames"])
    days = sorted(row["published"] for row in articles)
    return [
        ("articles", len(articles)),
        ("of these second printings of a wire story", sum("wire" in page for page in furniture.values())),
        ("labelled for stance", len(labelled)),
        ("with two or three targets", sum(len(row["stances"]) > 1 for row in labelled)),
        ("for one target and against another", sum(is_opposed(row) for row in labelled)),
        ("stance labels", stances.total()),
        ("targets", len({target for target, _ in stances})),
        ("words of a body: fewest, median, most", f"{min(words)}, {median(words):g}, {max(words)}"),
        ("furniture lines of a page: fewest, median, most", f"{min(lines)}, {median(lines):g}, {max(lines)}"),
        ("pages that repeat the title", sum("title_line" in page for page in furniture.values())),
        ("first and last day", f"{days[0]}, {days[-1]}"),
        *sorted(Counter(day[:4] for day in days).items()),
        *[(topic, sum(row["topic"] == topic for row in articles)) for topic in IPTC_TOPICS],
        *[(frame, frames[frame]) for frame in POLICY_FRAMES],
        *[(name, len(rows), *by_stance(rows)) for name, rows in by_outlet.items()],
        *[
            (target, *(stances[target, stance] for stance in STANCES))
            for target in sorted({target for target, _ in stances}, key=str.lower)
        ],
    ]


def outlets_of(articles: list[Row]) -> set[str]:
    return {row["source"] for row in articles}


def by_stance(rows: list[Row]) -> list[int]:
    counts = Counter(stance for _, stance in stances_of(rows))
    return [counts[stance] for stance in STANCES]
