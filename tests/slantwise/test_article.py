"""Articles: what the page says fills the gaps of what the row says, and a classifier sees title and body once."""

from __future__ import annotations

import pytest

from slantwise.article import Article, Example, classifier_text, examples, read_article
from slantwise.cleaning import Cleaner

BODY = "The city council voted on Monday to build the tram line."
TITLE = "Council backs the tram line"
PAGE = f"Share Facebook Twitter\n{TITLE}\nNora Field\nThe Daily Tram\n{BODY}"


def test_what_the_page_names_fills_the_gaps() -> None:
    article, page = read_article(Article("a", PAGE), Cleaner())
    assert article == Article("a", BODY, TITLE, "Nora Field", "The Daily Tram")
    assert [removed.text for removed in page.removed] == PAGE.split("\n")[:4]


def test_what_the_row_carries_wins_over_the_page() -> None:
    given = Article("a", PAGE, "Trams at last", "A. Desk", "tram.example", "2024-05-02", "en")
    article, _ = read_article(given, Cleaner())
    assert article == Article("a", BODY, "Trams at last", "A. Desk", "tram.example", "2024-05-02", "en")


def test_without_furniture_removal_the_text_keeps_its_lines() -> None:
    article, page = read_article(Article("a", PAGE), Cleaner(furniture=False))
    assert article.text == PAGE.replace("\n", "\n\n")
    assert (article.title, article.author, article.source, page.removed) == (None, None, None, ())


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        (TITLE, BODY, f"{TITLE}\n\n{BODY}"),
        (TITLE, f"{TITLE}. {BODY}", f"{TITLE}. {BODY}"),
        (None, BODY, BODY),
        ("", BODY, BODY),
    ],
)
def test_the_classifier_sees_the_title_once(title: str | None, text: str, expected: str) -> None:
    assert classifier_text(Article("a", text, title)) == expected


def test_examples_are_cleaned_and_in_order() -> None:
    articles = [Article("a", PAGE), Article("b", "A single line", "With a title")]
    assert examples(articles, Cleaner()) == [Example(f"{TITLE}\n\n{BODY}"), Example("With a title\n\nA single line")]
