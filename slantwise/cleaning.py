"""Cleaning: what a reader would not call the article's text is removed, and kept aside with the reason.

A page is a list of lines. Three kinds of evidence say that a line is page furniture:

* recurrence: the line (or its fixed head, as in "Photo: ...", or its fixed tail, as in "... | The Daily") stands in
  several articles of one outlet. `Cleaner.fit` learns these lines from a corpus, without looking at labels;
* position and shape: short lines without a sentence's end before the first or after the last paragraph of prose;
* wording: share bars, credits, bylines, "read more", newsletters, advertisements.

Precision matters more than recall: a line inside the prose goes only on strong wording or recurrence, and a text is
never emptied.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

NETWORKS = frozenset(
    "facebook twitter x youtube soundcloud rss instagram linkedin whatsapp telegram reddit pinterest tiktok threads "
    "mastodon bluesky flipboard email mail e-mail print copy link share tweet pin save listen follow us on this "
    "article page via comments comment like subscribe sms messenger vk weibo line pocket and or".split()
)
# A line that holds only words of NETWORKS counts as a share bar when at least one of these is among them.
NETWORK_NAMES = frozenset(
    "facebook twitter youtube soundcloud rss instagram linkedin whatsapp telegram reddit pinterest tiktok mastodon "
    "bluesky flipboard email mail e-mail print share tweet messenger vk weibo".split()
)
CREDIT = re.compile(
    r"\((?:image|photo|picture|credit|file photo|illustration|source)s?\s*[:/]"
    r"|^(?:image|photo|photograph|picture|pictured|caption|credit|illustration|file photo|file picture)s?\s*[:|–—-]"
    r"|\b(?:image|photo|picture)(?:graph)?s? (?:credit|courtesy|by)\b"
    r"|©|\bcourtesy of\b.*\)$",
    re.IGNORECASE,
)
READ_MORE = re.compile(
    r"^(?:>+\s*|»\s*|→\s*|\*\s*|• ?)?(?:read (?:more|also|next|on|the full)|see also|also read|more (?:on|from|in) "
    r"|related(?: stories| articles| content|:)|you (?:may|might) also like|most (?:read|popular)|recommended\b"
    r"|don['’]t miss|up next|in other news|further reading|trending\b|next:|previous:|tags?:|filed under|topics?:)",
    re.IGNORECASE,
)
ADVERTISEMENT = re.compile(
    r"^\W*(?:advertisements?|sponsored|promoted|paid (?:content|post|partner\w*)|ad\s*[:|–—-]"
    r"|partner content|anzeige)\b"
    r"|\b(?:get your copy|limited offer|special offer|free trial|use (?:the )?(?:promo )?code|shop now|buy now"
    r"|order now|book now|% off|vpn deal|click here)\b",
    re.IGNORECASE,
)
NEWSLETTER = re.compile(
    r"^\W*(?:subscribe\b|sign ?up\b|join our\b|get (?:our|the) .{0,40}(?:newsletter|inbox|briefing|app)\b"
    r"|follow (?:us|our|@|the author)|support our|donate\b|become a (?:member|subscriber|supporter)"
    r"|share (?:this|on|via)\b|like us\b|download (?:the|our) .{0,20}app\b|enjoyed this"
    r"|listen to this (?:article|story)|this article (?:was )?(?:first|originally) |reprinted with"
    r"|all rights reserved|copyright\b|log in\b|create (?:a|an) .{0,12}account|comments? (?:are )?(?:closed|off)"
    r"|\d+ (?:comments?|shares?)\b|back to top|we use cookies|skip to|jump to|enable javascript)"
    r"|\bnewsletters?\b.{0,60}\b(?:inbox|sign up|subscribe)\b",
    re.IGNORECASE,
)
# Furniture even as a whole sentence; the other wordings speak against fragments only ("Promoted to general in 1991, she
# led the army." is no advertisement).
NOTICE = re.compile(
    r"^\W*(?:read (?:more|also|next|on|the full)\b|see also\b|subscribe (?:to (?:our|the)|now|today|here|for)\b"
    r"|sign ?up (?:for|to|here|now|today)\b|follow (?:us|our|@|the author)|support our (?:work|journalism|reporting)\b"
    r"|become a (?:member|subscriber|supporter)\b|share this (?:article|story|page|post|on|via)\b|like us on\b"
    r"|join our (?:mailing|newsletter|community|channel|telegram|whatsapp)|donate (?:now|today|here|to (?:us|our))\b"
    r"|download (?:the|our) .{0,20}app\b|enjoyed this\b|listen to this (?:article|story)\b|get (?:our|your copy)\b"
    r"|this article (?:was )?(?:first|originally) |reprinted with\b|copyright (?:©|\(c\)|\d)|log in to\b"
    r"|create an? .{0,12}account\b|you (?:may|might) also like\b|we use cookies\b|enable javascript\b)",
    re.IGNORECASE,
)
NOTICE_INSIDE = re.compile(
    r"\ball rights reserved\b|\bclick here\b|\bpromo code\b|\bfree trial\b"
    r"|\bnewsletters?\b.{0,60}\b(?:inbox|sign up|subscribe)\b",
    re.IGNORECASE,
)
NOTICE_WORDS = ("all rights reserved", "click here", "promo code", "free trial", "newsletter")  # one is in each of them
BLURB = re.compile(
    r"^(?:about the author|the (?:author|writer)\b|authors?\s)"
    r"|\b(?:is|are) (?:an?|the|our)\b[^.]{0,80}\b(?:journalist|reporter|correspondent|columnist|contributor|freelancer"
    r"|staff writer|researcher|editor)s?\b[^.]{0,80}\b(?:based in|at|for|of|with|and)\b"
    r"|\b(?:see|read) (?:his|her|their|the author['’]s) archive\b|\bfollow (?:him|her|them) on\b",
    re.IGNORECASE,
)
DESK = re.compile(
    r"^(?:[A-Z]\.\s?){1,4}$"
    r"|^(?:the )?(?:[\w&'’-]+ ){0,4}(?:desk|staff|newsroom|team|correspondents?|editors?|reporters?|agency)$",
    re.IGNORECASE,
)
BYLINE = re.compile(
    r"^(?:by|from|words|text|reporting|reported by|written by|posted by|story)\s*:?\s+\S", re.IGNORECASE
)
DATE_LINE = re.compile(
    r"^(?:(?:published|updated|posted|last (?:modified|updated)|date)\b.{0,60}"
    r"|(?:\w{3,9},?\s+)?\d{1,2}(?:st|nd|rd|th)?\s+\w{3,9}\.?,?\s+\d{4}.{0,24}|(?:\w{3,9},\s+)?\w{3,9}\.?\s+\d{1,2},?\s+\d{4}.{0,24}"
    r"|\d{4}-\d{2}-\d{2}.{0,24}|\d{1,2}[./]\d{1,2}[./]\d{2,4}.{0,24})$",
    re.IGNORECASE,
)
READING_TIME = re.compile(
    r"^\W*(?:\d+|one|two|three|four|five)[ -]?min(?:ute)?s?\.? (?:read|listen)\b.{0,20}$", re.IGNORECASE
)
BREADCRUMB = re.compile(r"^\S[^.!?]{0,60}(?:\s[>›»/|·•]\s[^.!?>›»|·•]{1,60}){1,}$")
NAME = re.compile(
    r"^(?:[A-Z][\w.'’-]*|al|bin|da|de|del|der|van|von|la|le|of|and|&)(?:\s+(?:[A-Z][\w.'’-]*|al|bin|da|de|del|der|van|von|la|le)){1,3}$"
)
OUTLET = re.compile(r"^(?:The\s+)?(?:[A-Z0-9][\w.'’&-]*)(?:\s+(?:of|and|the|&|[A-Z0-9][\w.'’&-]*)){0,4}$")

LINE_ENDS = ("\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029")
UNBROKEN_SPACES = ("\u00a0", "\u202f")

MIN_PROSE_WORDS = 8
MAX_FURNITURE_WORDS = 60


def normalise(text: str) -> str:
    """NFC, plain spaces and line ends, no control characters. Words, quotes and dashes stay as they are."""
    if text.isprintable():  # one line, with none of the characters below
        return _normalise_line(text)
    for end in LINE_ENDS:  # most texts hold none of them, and then a replacement costs less than a table for all
        text = text.replace(end, "\n")
    for space in UNBROKEN_SPACES:
        text = text.replace(space, " ")
    return "\n".join(map(_normalise_line, text.split("\n")))


def _normalise_line(line: str) -> str:
    if not line.isprintable():
        line = "".join(c for c in line if c == "\t" or unicodedata.category(c) not in ("Cc", "Cf"))
    if not line.isascii():  # after that: what was removed may have stood between a letter and its accent
        line = unicodedata.normalize("NFC", line)
    if "  " in line or "\t" in line:
        line = re.sub(r"[ \t]+", " ", line)
    return line.strip()


LINE_END = re.compile("\r\n|[" + "".join(end for end in LINE_ENDS if len(end) == 1) + "\n]")
Span = tuple[int, int]


@dataclass(frozen=True)
class AlignedLine:
    """A line of a page that is not blank, as cleaning reads it, and where in the page it stands.

    number  in the page, from 1
    text    normalised
    spans   for each character of `text` the range of the page that it stands for: a blank for a run of them, a letter
            for it and its accents; what lies between two ranges is dropped by `normalise`
    page    the range of the whole line in the page, its end left out
    """

    number: int
    text: str
    spans: tuple[Span, ...]
    page: Span


def aligned_lines(text: str) -> list[AlignedLine]:
    """The lines that a `Cleaner` takes apart, each with its place in `text`: for showing a page as it was given."""
    found, start = [], 0
    for number, end in enumerate([*(match.span() for match in LINE_END.finditer(text)), (len(text),) * 2], start=1):
        aligned = _aligned(text, start, end[0])
        if aligned:
            found.append(
                AlignedLine(number, "".join(c for c, _ in aligned), tuple(s for _, s in aligned), (start, end[0]))
            )
        start = end[1]
    return found


def _aligned(text: str, start: int, end: int) -> list[tuple[str, Span]]:
    """The steps of `_normalise_line` on text[start:end], character by character."""
    held = [(" " if c in UNBROKEN_SPACES else c, (i, i + 1)) for i, c in enumerate(text[start:end], start)]
    held = [(c, span) for c, span in held if c == "\t" or unicodedata.category(c) not in ("Cc", "Cf")]
    if not text.isascii():
        held = _composed(held)
    runs: list[tuple[str, Span]] = []
    for c, span in held:
        if c in " \t" and runs and runs[-1][0] == " ":
            runs[-1] = (" ", (runs[-1][1][0], span[1]))
        else:
            runs.append((" " if c == "\t" else c, span))
    filled = [i for i, (c, _) in enumerate(runs) if not c.isspace()]
    return runs[filled[0] : filled[-1] + 1] if filled else []


def _composed(held: list[tuple[str, Span]]) -> list[tuple[str, Span]]:
    """NFC, cluster by cluster: a cluster ends where what follows changes nothing in it."""
    clusters: list[tuple[str, Span]] = []
    for c, span in held:
        before = clusters[-1][0] if clusters else ""
        apart = unicodedata.normalize("NFC", before) + unicodedata.normalize("NFC", c)
        if before and (unicodedata.combining(c) or unicodedata.normalize("NFC", before + c) != apart):
            clusters[-1] = (before + c, (clusters[-1][1][0], span[1]))
        else:
            clusters.append((c, span))
    return [(c, span) for cluster, span in clusters for c in unicodedata.normalize("NFC", cluster)]


@dataclass(frozen=True)
class Removed:
    """A removed line, its number in the page (from 1) and why it went."""

    line: int
    text: str
    reason: str


class CleanPage(NamedTuple):
    """A page taken apart. `body` keeps the paragraphs in order, one blank line between two."""

    body: str
    title: str | None = None
    author: str | None = None
    source: str | None = None
    removed: tuple[Removed, ...] = ()


class _Line(NamedTuple):
    """A line that is not blank, and what is asked of it again and again."""

    number: int
    text: str
    words: int
    is_prose: bool


def _ends_sentence(text: str) -> bool:
    return text.rstrip("\"'”’»)]").endswith((".", "!", "?", "…"))


def _fold(text: str) -> str:
    return re.sub(r"\d+", "0", " ".join(text.lower().split())).strip(" .:|-–—")


def _recurrence_keys(line: _Line) -> list[str]:
    """The line itself, its head before a colon and its tail after a bar or dash, folded."""
    keys = [_fold(line.text)]
    if not line.is_prose or line.words <= 14:
        head = re.match(r"^([^:.!?]{2,40}?)\s*:\s", line.text)
        if head and len(head[1].split()) <= 4:
            keys.append(_fold(head[1]) + " :")
        tail = re.search(r"\s[|/–—]\s*([^|/–—.!?]{2,40})$", line.text)
        if tail and not _ends_sentence(line.text):
            keys.append("| " + _fold(tail[1]))
    return keys


@dataclass(frozen=True)
class Cleaner:
    """Removes page furniture. `recurring` maps an outlet ("" for none) to the folded lines that recur in it."""

    furniture: bool = True
    recurring: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def fit(cls, pages: Iterable[tuple[str | None, str]], furniture: bool = True, min_articles: int = 4) -> Cleaner:
        """Learn the recurring lines of each outlet from (source, text) pairs; labels play no part.

        A line recurs when it stands in at least `min_articles` different pages of one outlet and in at least 3 % of
        them; pages without a source count as one outlet. The pages are gone through twice (an iterator is read into a
        list): lines are counted by 64-bit hashes, which takes a few bytes a line, and only then looked up.
        """
        if not furniture:
            return cls(furniture=False)
        pages = list(pages) if isinstance(pages, Iterator) else pages
        wanted = _recurring_hashes(pages, min_articles)
        recurring: dict[str, set[str]] = defaultdict(set)
        for source, text in pages:
            if sought := wanted.get(source or ""):  # most are found in the outlet's first pages
                found = {key: hash(key) for line in _lines(text) for key in _recurrence_keys(line)}
                recurring[source or ""].update(key for key, hashed in found.items() if key and hashed in sought)
                sought.difference_update(found.values())
        return cls(furniture=True, recurring={outlet: frozenset(keys) for outlet, keys in sorted(recurring.items())})

    def clean(self, text: str, source: str | None = None, title: str | None = None) -> CleanPage:
        """Take one page apart.

        A page of a single line is body. A known `title` is recognised on the page and not doubled.
        """
        text = normalise(text)
        if "\n" not in text:
            return CleanPage(body=text)
        lines = _lines_of(text)
        if not self.furniture or len(lines) < 2:
            return CleanPage(body="\n\n".join(line.text for line in lines))
        recurring = self.recurring.get(source or "", frozenset())
        reasons = {line.number: _wording(line) or _recurs(line, recurring) for line in lines}
        _read_blurb(lines, reasons)
        prose = [i for i, line in enumerate(lines) if line.is_prose and not reasons[line.number]]
        if not prose:  # nothing to tell the body by: keep what no wording speaks against
            kept = [line for line in lines if not reasons[line.number]] or lines
            return _page(kept, lines, reasons)
        head, tail = lines[: prose[0]], lines[prose[-1] + 1 :]
        scraped = any(reasons.values())
        found_title, author, outlet = _read_head(head, reasons, title)
        if title and scraped:  # a page with furniture whose headline is known: what else stands above is furniture too
            _mark_bare(head, reasons, "above the article")
        _read_tail(tail, reasons)
        kept = [line for line in lines if not reasons[line.number]]
        page = _page(kept, lines, reasons)
        return CleanPage(page.body, found_title, author, outlet, page.removed)

    def to_dict(self) -> dict[str, Any]:
        return {"furniture": self.furniture, "recurring": {k: sorted(v) for k, v in sorted(self.recurring.items())}}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Cleaner:
        return cls(state["furniture"], {k: frozenset(v) for k, v in state["recurring"].items()})


def _lines(text: str) -> list[_Line]:
    return _lines_of(normalise(text))


def _lines_of(text: str) -> list[_Line]:
    return [_line(number, line) for number, line in enumerate(text.split("\n"), start=1) if line]


def _line(number: int, text: str) -> _Line:
    words = len(text.split())
    return _Line(number, text, words, words >= 25 or (words >= MIN_PROSE_WORDS and _ends_sentence(text)))


def _recurring_hashes(pages: Iterable[tuple[str | None, str]], min_articles: int) -> dict[str, set[int]]:
    """The hashes of the recurrence keys of each outlet that stand in enough of its pages."""
    hashes: dict[str, array[int]] = defaultdict(lambda: array("q"))
    pages_of: Counter[str] = Counter()
    known: set[int] = set()
    for source, text in pages:
        if hash((source, text)) in known:  # a page stored twice (once a target, say) is one page
            continue
        known.add(hash((source, text)))
        outlet = source or ""
        pages_of[outlet] += 1
        lines = _lines(text)
        if len(lines) > 1:
            hashes[outlet].extend({hash(key) for line in lines for key in _recurrence_keys(line)})
    found = {}
    for outlet, of_outlet in hashes.items():
        distinct, counts = np.unique(np.frombuffer(of_outlet, dtype=np.int64), return_counts=True)
        enough = counts >= max(min_articles, 0.03 * pages_of[outlet])
        found[outlet] = set(distinct[enough].tolist())
    return found


def _page(kept: list[_Line], lines: list[_Line], reasons: Mapping[int, str | None]) -> CleanPage:
    numbers = {line.number for line in kept}
    removed = tuple(Removed(x.number, x.text, reasons[x.number] or "") for x in lines if x.number not in numbers)
    return CleanPage(body="\n\n".join(line.text for line in kept), removed=removed)


def _recurs(line: _Line, recurring: frozenset[str]) -> str | None:
    if recurring and line.words <= MAX_FURNITURE_WORDS and not recurring.isdisjoint(_recurrence_keys(line)):
        return "recurs across the outlet's articles"
    return None


def _wording(line: _Line) -> str | None:
    """The reason why the wording alone makes the line furniture wherever it stands, or None."""
    if _is_share_bar(line.text):
        return "share bar"
    if line.words > MAX_FURNITURE_WORDS:
        return None
    if line.words <= 30 and CREDIT.search(line.text):
        return "caption or picture credit"
    if line.is_prose and not _is_notice(line.text):
        return None
    if READ_MORE.search(line.text) and not (line.is_prose and line.words > 20):
        return "link to other articles"
    if ADVERTISEMENT.search(line.text) and line.words <= 30:
        return "advertisement"
    if NEWSLETTER.search(line.text) and line.words <= 40:
        return "newsletter, membership or site notice"
    return None


def _is_share_bar(text: str) -> bool:
    words = []
    for word in text.split():
        if bare := word.strip(".,:;|/•·()[]").lower():
            if bare not in NETWORKS:
                return False
            words.append(bare)
    return len(words) <= 20 and not NETWORK_NAMES.isdisjoint(words)


def _is_notice(text: str) -> bool:
    if NOTICE.match(text):
        return True
    folded = text.casefold()
    return any(words in folded for words in NOTICE_WORDS) and bool(NOTICE_INSIDE.search(text))


def _read_head(
    head: list[_Line], reasons: dict[int, str | None], title: str | None
) -> tuple[str | None, str | None, str | None]:
    """Title, author and outlet from the lines before the prose; their lines are marked as removed."""
    found_title, author, outlet = None, None, None
    for line in head:
        if author is None and (name := _author(line)):
            author = name
            reasons[line.number] = "byline"
        if reasons[line.number]:
            continue
        if _is_title(line, title if title else found_title, known=bool(title)):
            found_title = found_title or line.text
            reasons[line.number] = "title"
        elif DATE_LINE.match(line.text) or READING_TIME.match(line.text):
            reasons[line.number] = "date or reading time"
        elif BREADCRUMB.match(line.text):
            reasons[line.number] = "breadcrumb"
        elif author is None and NAME.match(line.text):
            author = line.text
            reasons[line.number] = "byline"
        elif outlet is None and line.words <= 5 and OUTLET.match(line.text) and not _ends_sentence(line.text):
            outlet = line.text
            reasons[line.number] = "name of the outlet"
    return title or found_title, author, outlet


def _author(line: _Line) -> str | None:
    """Whom a byline names ("By M.K., 3 March 2022"), or a bare desk or initials."""
    if DESK.match(line.text):
        return line.text
    byline = BYLINE.match(line.text)
    if byline is None or line.words > 14 or _ends_sentence(line.text.rstrip(".")):
        return None
    rest = line.text[byline.end() - 1 :]
    return re.split(r"\s*[|·•/–—]\s*|,\s+(?=\d|\w{3,9} \d)", rest)[0].strip() or None


def _is_title(line: _Line, title: str | None, known: bool) -> bool:
    """Whether the line is the known title (an outlet's name may follow it) or may be one."""
    if title:
        folded, wanted = _fold(line.text), _fold(title)
        extra = folded[len(wanted) :] if folded.startswith(wanted) else None
        return extra == "" or (
            known and extra is not None and len(extra.split()) <= 6 and extra.lstrip()[0] in "-–—|·•:/"
        )
    bare = not _ends_sentence(line.text.rstrip("?!")) and not line.text.endswith(":")
    return line.words >= 4 and bare and not DATE_LINE.match(line.text) and not BREADCRUMB.match(line.text)


def _mark_bare(lines: list[_Line], reasons: dict[int, str | None], reason: str) -> None:
    """Mark lines of at most 20 words that end no sentence."""
    for line in lines:
        if not reasons[line.number] and line.words <= 20 and not _ends_sentence(line.text) and line.text[-1] != ":":
            reasons[line.number] = reason


def _read_blurb(lines: list[_Line], reasons: dict[int, str | None]) -> None:
    """Mark the sentences about the author that close a page: at most two paragraphs, never the only prose."""
    prose = [line for line in lines if line.is_prose and not reasons[line.number]]
    for line in prose[:0:-1][:2]:
        if line.words > MAX_FURNITURE_WORDS or line.text[0] in "\"“‘'" or not BLURB.search(line.text):
            return
        reasons[line.number] = "about the author"


def _read_tail(tail: list[_Line], reasons: dict[int, str | None]) -> None:
    """Mark what follows the last paragraph of prose: blurbs, and bare lines once furniture has begun."""
    counts = Counter(_fold(line.text) for line in tail)
    for line in tail:
        if reasons[line.number] is None and counts[_fold(line.text)] > 1:
            reasons[line.number] = "repeated line"
        elif reasons[line.number] is None and line.words <= 8 and _author(line):
            reasons[line.number] = "byline"
    if any(reasons[line.number] for line in tail):
        _mark_bare(tail, reasons, "below the article")
