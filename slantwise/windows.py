"""Windows: an example of any length as token windows that an encoder can read, nothing lost without a word.

An article that fits is one window. A longer one becomes several that overlap (`windows`), or keeps its start (`head`)
or its start and end (`head_tail`; Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?"). With a target,
each window is a text pair: article tokens, then the whole target; the windows of a long article lie around the target's
mentions. What no window holds is counted in `Encoded`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slantwise.article import Example
from slantwise.errors import ConfigurationError, ScoringError
from slantwise.mentions import IndexedText, find_mentions

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Ints = npt.NDArray[np.int64]
Range = tuple[int, int]
ONE_WINDOW = ("head", "head_tail")
LONG = ("windows", *ONE_WINDOW)
HEAD_SHARE = 0.25  # of head_tail: 128 of 510 tokens in Sun et al. (2019)
LEAST_ARTICLE = 16  # tokens of the article that must fit beside the target
CHUNK = 1000


@dataclass(frozen=True)
class Windowing:
    """How an article becomes windows; token counts include the special tokens."""

    max_tokens: int = 256
    long: str = "windows"
    overlap: int = 32  # tokens that neighbouring windows share
    max_windows: int = 8  # of one example; of a longer article as many, evenly spread, or around the first mentions

    def __post_init__(self) -> None:
        problems = []
        if self.max_tokens < 2 * LEAST_ARTICLE:
            problems.append(f"max_tokens={self.max_tokens}; expected {2 * LEAST_ARTICLE} or more")
        if self.long not in LONG:
            problems.append(f"long={self.long!r}; expected one of {', '.join(LONG)}")
        if self.long not in ONE_WINDOW and not 0 <= self.overlap <= self.max_tokens // 2:
            problems.append(f"overlap={self.overlap}; expected 0 to half of max_tokens={self.max_tokens}")
        if self.max_windows < 1:
            problems.append(f"max_windows={self.max_windows}; expected 1 or more")
        if problems:
            raise ConfigurationError("classifier: " + "; ".join(problems))


@dataclass(frozen=True)
class Frame:
    """The special tokens around one segment or two, as the tokenizer's own template sets them."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, pair: bool) -> Frame:
        probe = tokenizer.encode("a", "b") if pair else tokenizer.encode("a")
        segments = probe.sequence_ids
        first = [i for i, s in enumerate(segments) if s == 0]
        second = [i for i, s in enumerate(segments) if s == 1] or [len(segments)]
        if not first:
            raise ConfigurationError("the tokenizer has no token for the letter 'a'; it cannot be used")
        ids = probe.ids
        if not pair:
            return cls(tuple(ids[: first[0]]), (), tuple(ids[first[-1] + 1 :]))
        return cls(tuple(ids[: first[0]]), tuple(ids[first[-1] + 1 : second[0]]), tuple(ids[second[-1] + 1 :]))

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


@dataclass(frozen=True)
class Encoded:
    """The windows of a list of examples, those of one example next to each other.

    ids       int32 (n_tokens,), all windows after one another
    ends      int64 (n_windows + 1,): window w is ids[ends[w]:ends[w + 1]]
    second    int64 (n_windows,): where in the window the second segment starts; its length where there is none
    owners    int64 (n_windows,): the example of each window, ascending
    n         examples
    tokens    tokens of all articles; cut_tokens: those that no window holds; cut_articles: examples that have such
    """

    ids: npt.NDArray[np.int32]
    ends: Ints
    second: Ints
    owners: Ints
    n: int
    tokens: int
    cut_tokens: int
    cut_articles: int

    @property
    def lengths(self) -> Ints:
        return np.diff(self.ends)

    @property
    def starts(self) -> Ints:
        """int64 (n + 1,): the windows of example i are starts[i]:starts[i + 1]."""
        return np.searchsorted(self.owners, np.arange(self.n + 1))

    def padded(self, windows: Ints, pad: int) -> tuple[Ints, Ints, Ints]:
        """ids, attention mask and segment of the given windows: three int64 (len(windows), longest)."""
        lengths = self.lengths[windows]
        longest = int(lengths.max())
        places = np.arange(longest)
        mask = places < lengths[:, None]
        ids = np.full((len(windows), longest), pad, np.int64)
        ids[mask] = np.concatenate([self.ids[self.ends[w] : self.ends[w + 1]] for w in windows])
        segments = (places >= self.second[windows][:, None]) & mask
        return ids, mask.astype(np.int64), segments.astype(np.int64)


class Windower:
    """Cuts examples into windows with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, windowing: Windowing) -> None:
        self.tokenizer, self.windowing = tokenizer, windowing
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "[SEP]" in an article is text, no end of a segment
        self.single, self.pair = Frame.of(tokenizer, pair=False), Frame.of(tokenizer, pair=True)

    def encode(self, examples: Sequence[Example], pair: bool = True) -> Encoded:
        """Windows of the examples; `pair=False` leaves the targets out of them, but still looks for their mentions.

        Raises ScoringError where a target leaves no room for its article.
        """
        collected = _Collected()
        remaining = iter(examples)
        while chunk := list(islice(remaining, CHUNK)):
            for example, text, target in self._tokens(chunk):
                self._add(collected, example, text, target if pair else None)
        return collected.encoded()

    def _tokens(self, chunk: Sequence[Example]) -> Iterator[tuple[Example, Encoding, list[int] | None]]:
        """Each text and each target of the chunk is tokenised once."""
        texts = list(dict.fromkeys(example.text for example in chunk))
        targets = list(dict.fromkeys(example.target for example in chunk if example.target is not None))
        of_text = dict(zip(texts, self.tokenizer.encode_batch(texts, add_special_tokens=False), strict=True))
        found = self.tokenizer.encode_batch(targets, add_special_tokens=False)
        of_target = {target: list(encoding.ids) for target, encoding in zip(targets, found, strict=True)}
        for example in chunk:
            yield example, of_text[example.text], None if example.target is None else of_target[example.target]

    def room(self, target: str) -> int:
        """The tokens of an article that a window has beside this target; LEAST_ARTICLE or more are needed."""
        tokens = len(self.tokenizer.encode(target, add_special_tokens=False).ids)
        return self.windowing.max_tokens - self.pair.size - tokens

    def _add(self, collected: _Collected, example: Example, text: Encoding, target: list[int] | None) -> None:
        frame = self.single if target is None else self.pair
        room = self.windowing.max_tokens - frame.size - len(target or ())
        if room < LEAST_ARTICLE:
            raise ScoringError(
                f"the target {example.target!r:.80} has {len(target or ())} tokens and leaves room for {max(room, 0)} "
                f"of its article in windows of max_tokens={self.windowing.max_tokens}; expected {LEAST_ARTICLE} or more"
            )
        ids = text.ids
        pieces = self._pieces(example, text, len(ids), room)
        for piece in pieces:
            article = [token for first, last in piece for token in ids[first:last]]
            collected.add_window([*frame.before, *article, *frame.between], target, frame.after)
        collected.close_example(len(pieces), len(ids), _covered([r for piece in pieces for r in piece]))

    def _pieces(self, example: Example, text: Encoding, n: int, room: int) -> list[list[Range]]:
        """For each window the token ranges of the article that it holds."""
        if n <= room:
            return [[(0, n)]]
        if self.windowing.long == "head":
            return [[(0, room)]]
        if self.windowing.long == "head_tail":
            head = int(room * HEAD_SHARE)
            return [[(0, head), (n - (room - head), n)]]
        begins = self._around_mentions(example, text, n, room) if example.target is not None else []
        return [[(begin, begin + room)] for begin in begins or self._spread(n, room)]

    def _spread(self, n: int, room: int) -> list[int]:
        step = room - min(self.windowing.overlap, room // 2)
        count = -(-(n - room) // step) + 1
        count = min(count, self.windowing.max_windows)
        return [round(begin) for begin in np.linspace(0, n - room, count)] if count > 1 else [0]

    def _around_mentions(self, example: Example, text: Encoding, n: int, room: int) -> list[int]:
        """Starts of windows that hold the mentions, each in its window's middle or with others before it."""
        assert example.target is not None
        mentions = find_mentions(IndexedText(example.text), example.target, example.span)
        first_characters = [start for start, _ in text.offsets]
        begins: list[int] = []
        for start, _ in mentions.ranges:
            token = max(bisect_right(first_characters, start) - 1, 0)
            if begins and token < begins[-1] + room - self.windowing.overlap:
                continue  # it stands in the last window, with some text after it
            begins.append(min(max(token - room // 2, begins[-1] if begins else 0), n - room))
        return list(dict.fromkeys(begins))[: self.windowing.max_windows]


class _Collected:
    def __init__(self) -> None:
        self.ids: list[npt.NDArray[np.int32]] = []
        self.second: list[int] = []
        self.counts: list[int] = []
        self.tokens = self.cut_tokens = self.cut_articles = 0

    def add_window(self, article: list[int], target: list[int] | None, after: tuple[int, ...]) -> None:
        ids = [*article, *(target or ()), *after]
        self.second.append(len(ids) if target is None else len(article))
        self.ids.append(np.array(ids, np.int32))

    def close_example(self, windows: int, tokens: int, covered: int) -> None:
        self.counts.append(windows)
        self.tokens += tokens
        self.cut_tokens += tokens - covered
        self.cut_articles += covered < tokens

    def encoded(self) -> Encoded:
        lengths = np.array([len(ids) for ids in self.ids], np.int64)
        return Encoded(
            np.concatenate([np.zeros(0, np.int32), *self.ids]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            np.array(self.second, np.int64),
            np.repeat(np.arange(len(self.counts)), self.counts),
            len(self.counts),
            self.tokens,
            self.cut_tokens,
            self.cut_articles,
        )


def _covered(ranges: list[Range]) -> int:
    covered, last = 0, 0
    for start, end in sorted(ranges):
        covered += max(0, end - max(start, last))
        last = max(last, end)
    return covered


def cut_facts(encoded: Encoded) -> dict[str, Any]:
    """How much of the articles no window holds, for records and reports."""
    return {
        "cut_articles": round(encoded.cut_articles / max(encoded.n, 1), 4),
        "cut_tokens": round(encoded.cut_tokens / max(encoded.tokens, 1), 4),
        "windows_per_example": round(len(encoded.second) / max(encoded.n, 1), 2),
    }
