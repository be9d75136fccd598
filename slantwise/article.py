"""Article and Example: what is read, and what a classifier sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from slantwise.cleaning import Cleaner, CleanPage


@dataclass(frozen=True)
class Article:
    """One news text with its metadata; `text` is as it was received, page furniture included."""

    id: str
    text: str
    title: str | None = None
    author: str | None = None
    source: str | None = None
    published: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Example:
    """What a classifier sees: cleaned text, and the target where the task has one.

    `span` is the character range of the target's marked mention where the corpus marks one (`text[start:end]` is the
    mention); without it the mentions are found by the target's name.
    """

    text: str
    target: str | None = None
    span: tuple[int, int] | None = None


def read_article(article: Article, cleaner: Cleaner) -> tuple[Article, CleanPage]:
    """The article with cleaned text and with the title, author and source that the page itself names.

    What the article already carries wins over what is found on the page.
    """
    page = cleaner.clean(article.text, source=article.source, title=article.title)
    found = replace(
        article,
        text=page.body,
        title=article.title or page.title,
        author=article.author or page.author,
        source=article.source or page.source,
    )
    return found, page


def classifier_text(article: Article) -> str:
    """Title and body of a cleaned article as one text; the title is not repeated where the body opens with it."""
    return _joined(article.title, article.text)


def cleaned_text(article: Article, cleaner: Cleaner) -> str:
    """What a classifier reads of the article as it was received: `classifier_text` of what `read_article` gives."""
    page = cleaner.clean(article.text, source=article.source, title=article.title)
    return _joined(article.title or page.title, page.body)


def _joined(title: str | None, text: str) -> str:
    return text if not title or text.startswith(title) else f"{title}\n\n{text}"


def examples(articles: Iterable[Article], cleaner: Cleaner) -> list[Example]:
    """One target-less example for each article, cleaned."""
    return [Example(cleaned_text(article, cleaner)) for article in articles]
