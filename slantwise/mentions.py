"""Mentions: where a text speaks of a target.

The evidence is tried from the strongest to the weakest, and only the strongest kind that is found counts:

* `marked`: the corpus marks the mention;
* `name`: the target's words stand in the text in their order, spelt alike (case, apostrophes, plurals, possessives) or
  nearly alike (transliterations: Tahrir, Tahreer), or its acronym stands there in capitals; once a name is found, so
  are the acronym that the text gives it in brackets and its last word with a capital (a surname after the full name);
* `words`: single content words of the target.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from typing import Literal

Kind = Literal["marked", "name", "words", "none"]
Range = tuple[int, int]

# Words with inner apostrophes, whichever of their many signs; dotted acronyms as one word.
WORD = re.compile(r"(?:[^\W\d_]\.){2,}|[^\W_]+(?:['’‘ʼ`´][^\W_]+)*")
APOSTROPHES = str.maketrans("", "", "'’‘ʼ`´.")
POSSESSIVE = re.compile(r"['’‘ʼ`´]s$", re.IGNORECASE)
# A full stop after an initial or a title ends no sentence.
SENTENCE_END = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs)\.)(?<!\b(?:Mrs|Gen|Sen|Rep|Gov|Col)\.)"
    r"(?<=[.!?…])[\"'’”)\]]*\s+(?=[\"'‘“(\[]*[A-Z0-9])|\s*\n+\s*"
)
# What follows a name in brackets: (HTS, ...), (aka HTS), (also known as HTS).
ALIAS = re.compile(r"['’]?s?\s*\((?:aka|a\.k\.a\.|also known as|or|the)?\s*([A-Z][A-Z0-9.]+)\b", re.IGNORECASE)

# Words that acronyms skip and that alone are no sign of a target.
FUNCTION_WORDS = frozenset(
    "a an the of for and or in on at to by with from as is are was were be been being has have had do does did not no "
    "it its he she his her him they them their we our us you your i me my this that these those who whom which what "
    "when where why how will would can could may might must shall should than then there here about after before into "
    "over under out up down off again more most some any all both each few other such only own same so too very just "
    "but if because while during between against through al el de la le du des der die das von van bin ibn".split()
)


@dataclass(frozen=True)
class Mentions:
    """`ranges` are character ranges (start, end) of the text, sorted, without overlap."""

    kind: Kind
    ranges: tuple[Range, ...] = ()


@dataclass
class IndexedText:
    """A text's words, found once for all of its targets."""

    text: str
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    at: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    spelt: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        for match in WORD.finditer(self.text):
            key = word_key(match.group())
            self.at[key].append(len(self.keys))
            self.keys.append(key)
            self.starts.append(match.start())
            self.ends.append(match.end())
        for key in self.at:
            self.spelt[skeleton(key)].add(key)

    @cached_property
    def sentences(self) -> list[Range]:
        return sentences(self.text)

    def word(self, position: int) -> str:
        return self.text[self.starts[position] : self.ends[position]]

    def alike(self, key: str) -> set[str]:
        """The keys of the text that may be another form or spelling of `key`."""
        forms = {form for form in (key, key + "s", key + "es", key.removesuffix("s")) if form in self.at}
        if key.endswith("y") and key[:-1] + "ies" in self.at:
            forms.add(key[:-1] + "ies")
        # Short words have many neighbours that are other words (Iran, Iron).
        if len(key) >= 5:
            near = (other for other in self.spelt.get(skeleton(key), ()) if len(other) >= 4 and other[0] == key[0])
            forms.update(other for other in near if SequenceMatcher(None, key, other).ratio() >= 0.75)
        return forms


def word_key(word: str) -> str:
    """Lower case, without apostrophes, dots and the possessive: "Hay'at" and "Hay’at" are one, as U.S. and US."""
    return POSSESSIVE.sub("", word).translate(APOSTROPHES).lower()


@lru_cache(maxsize=100_000)
def skeleton(key: str) -> str:
    """The key without vowels and doubled letters: what transliterations of one name share."""
    consonants = re.sub(r"[aeiouyàáâäãåæèéêëìíîïòóôöõøùúûü]", "", key[1:])
    return re.sub(r"(.)\1+", r"\1", key[:1] + consonants)


def target_keys(target: str) -> list[str]:
    return [word_key(match.group()) for match in WORD.finditer(target)]


def find_mentions(text: str | IndexedText, target: str, span: Range | None = None) -> Mentions:
    """Mentions of `target` in `text`, of the strongest kind that is found.

    `span` is the range of the marked mention; one that selects nothing is ignored. An IndexedText saves the work of
    indexing where one text has many targets.
    """
    indexed = IndexedText(text) if isinstance(text, str) else text
    if span is not None and indexed.text[span[0] : span[1]].strip():
        return Mentions("marked", (span,))
    keys = target_keys(target)
    names = _phrase(indexed, keys) + _acronym(indexed, target)
    if names:
        return Mentions("name", _merged([*names, *_aliases(indexed, names), *_last_word(indexed, target, keys)]))
    words = _densest(indexed, _merged(_content_words(indexed, keys)))
    return Mentions("words", _merged(words, indexed.text)) if words else Mentions("none")


def sentences(text: str) -> list[Range]:
    """Character ranges of the sentences, in order, with the blanks that follow them; a line end closes one, too."""
    ends = [*(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    ranges = zip([0, *ends[:-1]], ends, strict=True)
    return [(start, end) for start, end in ranges if text[start:end].strip()]


def _phrase(text: IndexedText, keys: list[str]) -> list[Range]:
    """The target's words in their order, each in some spelling."""
    if not keys:
        return []
    forms = [text.alike(key) for key in keys]
    found = []
    for start in sorted(position for form in forms[0] for position in text.at[form]):
        stop = start + len(keys)
        if stop <= len(text.keys) and all(text.keys[start + i] in forms[i] for i in range(1, len(keys))):
            found.append((text.starts[start], text.ends[stop - 1]))
    return found


def acronym(target: str) -> str:
    """Initials of the target's words without function words, or "" where there are fewer than two."""
    words = re.split(r"[\s\-‐‑–/]+", target.strip())
    initials = [word[0].upper() for word in words if word[:1].isalpha() and word.lower() not in FUNCTION_WORDS]
    return "".join(initials) if len(initials) >= 2 else ""


def _acronym(text: IndexedText, target: str) -> list[Range]:
    """The acronym in capitals, but not within a line of capitals, where any word would look like one."""
    short = acronym(target)
    found = []
    for position in text.at.get(short.lower(), ()) if short else ():
        around = [text.word(i) for i in (position - 1, position + 1) if 0 <= i < len(text.keys)]
        shouted = any(len(word) > 1 and word.isupper() for word in around)
        if text.word(position).replace(".", "") == short and not (shouted and len(short) < 3):
            found.append((text.starts[position], text.ends[position]))
    return found


def _aliases(text: IndexedText, names: Iterable[Range]) -> list[Range]:
    """Acronyms that the text gives a name in brackets, wherever they stand in capitals."""
    found = []
    for _, end in names:
        match = ALIAS.match(text.text, end)
        if match and match.group(1).isupper():
            positions = text.at.get(word_key(match.group(1)), ())
            found += [(text.starts[i], text.ends[i]) for i in positions if text.word(i).isupper()]
    return found


def _last_word(text: IndexedText, target: str, keys: list[str]) -> list[Range]:
    """The last word of a name of several words, where it stands with a capital as in the name."""
    last = target.split()[-1] if len(keys) > 1 else ""
    if not last[:1].isupper() or last.isupper() or len(keys[-1]) < 4:
        return []
    return [(text.starts[i], text.ends[i]) for i in text.at.get(keys[-1], ()) if text.word(i)[:1].isupper()]


def _content_words(text: IndexedText, keys: list[str]) -> list[Range]:
    """Single words of the target. Length stands in for rarity: words under half of the longest found are dropped."""
    words = [key for key in dict.fromkeys(keys) if key not in FUNCTION_WORDS and len(key) > 1]
    found = {key: [i for form in text.alike(key) for i in text.at[form]] for key in words}
    present = {key: positions for key, positions in found.items() if positions}
    if not present:
        return []
    longest = max(map(len, present))
    return [(text.starts[i], text.ends[i]) for key, at in present.items() if len(key) * 2 >= longest for i in at]


def _densest(text: IndexedText, words: tuple[Range, ...]) -> list[Range]:
    """The words within the sentences that hold the most of them: there the target is meant most likely."""
    if len(words) < 2:
        return list(words)
    ends = [end for _, end in text.sentences]
    sentence = [bisect_right(ends, start) for start, _ in words]
    held = Counter(sentence)
    most = max(held.values())
    return [word for word, i in zip(words, sentence, strict=True) if held[i] == most]


def _merged(ranges: Iterable[Range], text: str | None = None) -> tuple[Range, ...]:
    """Sorted ranges without overlap; given the text, ranges with nothing but blanks between them become one."""
    merged: list[Range] = []
    for start, end in sorted(set(ranges)):
        if merged and (start < merged[-1][1] or (text is not None and not text[merged[-1][1] : start].strip(" -"))):
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)
