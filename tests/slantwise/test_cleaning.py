"""Cleaning: the seed page and the bundled corpus come out as their bodies; no text is emptied or made up."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import CorpusConfig
from data.labels import STANDARD, LabelReader, label_configs  # the seed's labels are checked by what reads corpora
from slantwise.cleaning import Cleaner, CleanPage, normalise

CHECKOUT = Path(__file__).parents[2]
SEED = CHECKOUT / "seeds" / "000_c69c3c6dcd667f41.txt"
SAMPLE = CHECKOUT / "data" / "sample"
FURNITURE = "Share on Facebook Twitter Email"
PROSE = "The city council voted on Monday to build the tram line."


@pytest.fixture(scope="module")
def seed_lines() -> list[str]:
    return SEED.read_text(encoding="utf-8").split("\n")


@pytest.fixture(scope="module")
def seed() -> CleanPage:
    return Cleaner().clean(SEED.read_text(encoding="utf-8"))


def test_the_seed_is_byte_for_byte_the_one_that_its_card_names() -> None:
    digest = hashlib.sha256(SEED.read_bytes()).hexdigest()
    assert digest in (SEED.parent / "README.md").read_text(encoding="utf-8")


def test_the_labels_of_the_seed_are_a_canonical_row() -> None:
    row = json.loads(SEED.with_suffix(".json").read_text(encoding="utf-8"))
    readers = {
        name: LabelReader(STANDARD[name], config) for name, config in label_configs(CorpusConfig(path="x")).items()
    }
    assert row["id"] == SEED.stem
    assert readers["topic"].labels_of(row) == ["conflict_war_and_peace"]
    assert readers["framing"].labels_of(row) == ["security_and_defense", "external_regulation_and_reputation"]
    assert [(s["target"], s["stance"]) for s in readers["stance"].stances_of(row) or []] == [
        ("Syrian Army", "favor"), ("Russia", "favor"), ("Hay'at Tahrir al-Sham", "against"), ("Turkey", "against"),
    ]  # fmt: skip


def test_the_seed_names_its_title_author_and_outlet(seed: CleanPage, seed_lines: list[str]) -> None:
    assert (seed.title, seed.author, seed.source) == (seed_lines[2], "Khaled Iskef", "21st Century Wire")


def test_the_body_of_the_seed_is_all_of_its_paragraphs_and_nothing_else(seed: CleanPage, seed_lines: list[str]) -> None:
    paragraphs = [normalise(line) for line in seed_lines[9:26] if line]
    assert len(paragraphs) == 9
    assert paragraphs[0].startswith("The military situation in southern and western Aleppo")
    assert paragraphs[-1].startswith("Despite these latest terrorist incursions")
    assert seed.body.split("\n\n") == paragraphs


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (1, "share bar"),
        (5, "caption or picture credit"),
        (29, "about the author"),
        (31, "link to other articles"),
        (36, "advertisement"),
        (37, "advertisement"),
        (38, "advertisement"),
    ],
)
def test_furniture_of_the_seed_is_kept_aside_with_its_reason(
    seed: CleanPage, seed_lines: list[str], line: int, reason: str
) -> None:
    assert (line, seed_lines[line - 1], reason) in [(r.line, r.text, r.reason) for r in seed.removed]


# --- the bundled corpus ---


@pytest.fixture(scope="module")
def articles() -> list[dict[str, Any]]:
    return read("articles.jsonl")


@pytest.fixture(scope="module")
def sample_cleaner(articles: list[dict[str, Any]]) -> Cleaner:
    return Cleaner.fit((a["source"], a["text"]) for a in articles)


@pytest.fixture(scope="module")
def pages(articles: list[dict[str, Any]], sample_cleaner: Cleaner) -> list[CleanPage]:
    return [sample_cleaner.clean(a["text"], a["source"], a["title"]) for a in articles]


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLE / name).read_text(encoding="utf-8").splitlines()]


def lines_of(text: str) -> Counter[str]:
    return Counter(line for line in normalise(text).split("\n") if line)


def sentences(lines: Counter[str]) -> Counter[str]:
    """The sentences of lines, each as often as its line."""
    found: Counter[str] = Counter()
    for line, n in lines.items():
        for sentence in re.split(r"(?<=[.!?])[\"'”’)]*\s+", line):
            found[sentence] += n
    return found


def test_of_the_sample_95_percent_of_the_furniture_goes(pages: list[CleanPage]) -> None:
    furniture = [lines_of("\n".join(row["lines"])) for row in read("furniture.jsonl")]
    gone = sum(
        (truth & Counter(r.text for r in page.removed)).total() for truth, page in zip(furniture, pages, strict=True)
    )
    total = sum(truth.total() for truth in furniture)
    assert total > 3000
    assert gone / total >= 0.95


def test_of_the_sample_999_in_1000_body_sentences_stay(articles: list[dict[str, Any]], pages: list[CleanPage]) -> None:
    total, lost = 0, []
    for article, row, page in zip(articles, read("furniture.jsonl"), pages, strict=True):
        title = [row["title_line"]] if "title_line" in row else []
        body = sentences(lines_of(article["text"]) - lines_of("\n".join([*row["lines"], *title])))
        total += body.total()
        lost += list(body - sentences(lines_of(page.body)))
    assert total > 3000
    assert len(lost) / total <= 0.001, lost


def test_the_title_line_is_not_doubled(articles: list[dict[str, Any]], pages: list[CleanPage]) -> None:
    rows = read("furniture.jsonl")
    repeated = [i for i, row in enumerate(rows) if "title_line" in row]
    left = [i for i in repeated if normalise(rows[i]["title_line"]) in pages[i].body.split("\n")]
    assert len(repeated) == 99
    assert not left
    assert all(page.title == article["title"] for page, article in zip(pages, articles, strict=True))


def test_a_cleaned_page_of_the_sample_is_clean(
    articles: list[dict[str, Any]], pages: list[CleanPage], sample_cleaner: Cleaner
) -> None:
    again = [sample_cleaner.clean(p.body, a["source"], a["title"]).body for a, p in zip(articles, pages, strict=True)]
    assert again == [page.body for page in pages]


# --- any text ---

LINE = st.one_of(
    st.sampled_from(
        [FURNITURE, PROSE, "By A. Reporter", "Advertisement", "READ MORE: Trams", "Photo: A tram", "2 May 2024", ""]
    ),
    st.text(max_size=60),
)
PAGE = st.lists(LINE, max_size=12).map("\n".join)


@given(PAGE, st.none() | st.text(max_size=40))
def test_a_text_is_never_emptied(text: str, title: str | None) -> None:
    assert bool(Cleaner().clean(text, title=title).body) == bool(normalise(text).strip())


@given(PAGE, st.none() | st.text(max_size=40))
def test_every_line_is_in_the_body_or_removed_and_in_order(text: str, title: str | None) -> None:
    lines = [(i, line) for i, line in enumerate(normalise(text).split("\n"), start=1) if line]
    page = Cleaner().clean(text, title=title)
    removed = {r.line for r in page.removed}
    assert [(r.line, r.text) for r in page.removed] == [x for x in lines if x[0] in removed]
    assert page.body == "\n\n".join(line for number, line in lines if number not in removed)
    assert all(r.reason for r in page.removed)


@given(st.text(alphabet=st.characters(exclude_characters="\n\r\v\f\x85\u2028\u2029")))
def test_a_text_of_one_line_is_only_normalised(line: str) -> None:
    page = Cleaner().clean(line)
    assert (page.body, page.removed) == (normalise(line), ())


@pytest.mark.parametrize("line", [FURNITURE, "READ MORE: Trams", "Advertisement", "Photo: A tram"])
def test_a_text_of_one_line_stays_even_where_it_looks_like_furniture(line: str) -> None:
    assert Cleaner().clean(line).body == line


@given(PAGE)
def test_without_furniture_removal_every_line_stays(text: str) -> None:
    page = Cleaner(furniture=False).clean(text)
    assert page.removed == ()
    assert page.body == "\n\n".join(line for line in normalise(text).split("\n") if line)


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_normalising_keeps_words_apart_and_quotes_as_they_are() -> None:
    assert normalise("a\fb\x85c\u2028d\r\ne\rf") == "a\nb\nc\nd\ne\nf"
    assert normalise(" “it’s”\u00a0– \u200bfine\tthere ") == "“it’s” – fine there"
    assert normalise("e\u200b\u0301") == "é"


# --- single rules ---


@pytest.mark.parametrize(
    "sentence",
    [
        "Promoted to general in 1991, he led the army for a decade.",
        "Sponsored by a senator from the north, the bill passed by 52 votes to 48.",
        "Donate blood, doctors urged after the flood on Monday.",
        "More in sorrow than in anger, the minister resigned on Friday.",
        "“Join our fight,” the general told the recruits on Sunday.",
        "Copyright law must change, the minister told parliament on Monday.",
        "Most popular among voters was the plan to cut fares, the poll said.",
    ],
)
def test_a_sentence_inside_the_prose_stays(sentence: str) -> None:
    page = Cleaner().clean("\n\n".join([PROSE, sentence, PROSE.replace("Monday", "Friday")]))
    assert page.removed == ()


@pytest.mark.parametrize(
    "notice",
    [
        "Sign up for our newsletter and get the news in your inbox every day.",
        "Follow us on all our channels for the latest news from the city.",
        "This article was first published by another outlet on its own pages.",
        "Support our journalism and become a member of the paper today.",
        "READ MORE: Trams are coming",
        "Photo: A tram in the rain",
        FURNITURE,
        "Advertisement",
    ],
)
def test_a_notice_goes_wherever_it_stands(notice: str) -> None:
    page = Cleaner().clean("\n\n".join([PROSE, notice, PROSE.replace("Monday", "Friday")]))
    assert [r.text for r in page.removed] == [notice]


def test_a_known_title_wins_over_what_stands_on_the_page() -> None:
    text = f"Council backs the tram line | The Daily\n{FURNITURE}\n{PROSE}"
    page = Cleaner().clean(text, title="Council backs the tram line")
    assert (page.title, page.body) == ("Council backs the tram line", PROSE)


# --- recurrence ---


def outlet_pages(n: int, line: str) -> list[str]:
    names = ["heron", "otter", "lynx", "badger", "stoat", "marten", "vole", "hare", "wren"]
    return [
        f"On Monday a {name} was seen at the river.\n{line}\nNobody knows where the {name} is." for name in names[:n]
    ]


def test_a_line_that_recurs_in_one_outlet_goes_there_and_only_there() -> None:
    line = "Tidings carried upriver since the great frost"
    seen = [("river.example", text) for text in outlet_pages(6, line)]
    cleaner = Cleaner.fit([*seen, *(("hill.example", text) for text in outlet_pages(6, "Another line of its own"))])
    text = outlet_pages(1, line)[0]
    assert line not in cleaner.clean(text, source="river.example").body
    assert line in cleaner.clean(text, source="hill.example").body
    assert line in cleaner.clean(text).body


def test_a_line_recurs_from_min_articles_on() -> None:
    line = "Tidings carried upriver since the great frost"
    pages = [("river.example", text) for text in outlet_pages(4, line)]
    assert line in Cleaner.fit(pages[:3], min_articles=4).clean(pages[0][1], "river.example").body
    assert line not in Cleaner.fit(pages, min_articles=4).clean(pages[0][1], "river.example").body


def test_a_page_that_is_stored_several_times_counts_once() -> None:
    line = "Tidings carried upriver since the great frost"
    cleaner = Cleaner.fit([("river.example", outlet_pages(1, line)[0])] * 10)
    assert cleaner.recurring == {}


def test_a_head_before_a_colon_recurs_with_other_words_behind_it() -> None:
    seen = ["a barge", "two boats", "the weir", "low water", "a ferry"]
    texts = [outlet_pages(i + 1, f"River view: {what} at noon")[-1] for i, what in enumerate(seen)]
    cleaned = Cleaner.fit([("river.example", text) for text in texts])
    page = cleaned.clean(outlet_pages(1, "River view: a marten at dawn")[0], "river.example")
    assert [r.text for r in page.removed] == ["River view: a marten at dawn"]


def test_without_furniture_nothing_is_learned() -> None:
    pages = [(None, text) for text in outlet_pages(9, "Tidings")]
    assert Cleaner.fit(pages, furniture=False) == Cleaner(furniture=False)


def test_a_cleaner_survives_json(sample_cleaner: Cleaner) -> None:
    assert sample_cleaner.recurring
    assert Cleaner.from_dict(json.loads(json.dumps(sample_cleaner.to_dict()))) == sample_cleaner
    assert Cleaner.from_dict(Cleaner(furniture=False).to_dict()) == Cleaner(furniture=False)
