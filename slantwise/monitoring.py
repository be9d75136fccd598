"""Monitoring: how far a batch of scores is from what the model was trained and tested on.

Of its test split a head keeps how often it gave each label and how sure it was, and of its training texts the words.
An article is far from the training data where more of its words are unknown than of nearly all (99 %) validation
articles: other subjects, another time, another language. No labels are needed, so none of this says that the model is
wrong; it says where to look, and when to label a sample.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slantwise.errors import ModelError
from slantwise.features import words

FORMAT = 1
FAR = 0.99  # quantile of the validation articles
LEAST = 20  # validation articles, below which a quantile says nothing
MOST_TEXTS = 20_000  # texts whose words are looked at: more hardly add any
BITS_A_WORD = 16  # of the table: a word that was never seen is taken for known in fewer than one of 16 cases
MODERATE, LARGE = 0.1, 0.25  # population stability index, by custom (Siddiqi 2006, Credit Risk Scorecards)


@dataclass(frozen=True)
class Vocabulary:
    """The words of the training texts as a table of bits (Bloom 1970, one hash), and the share of unknown words above
    which an article is far; None where validation was too small to tell."""

    bits: npt.NDArray[np.uint8]
    far_above: float | None

    @classmethod
    def of(cls, train: Sequence[str], validation: Sequence[str]) -> Vocabulary:
        """From the cleaned texts of the articles."""
        known = set().union(*map(words, _some(train)))
        size = max(1 << (BITS_A_WORD * max(len(known), 1) - 1).bit_length(), 8)
        table = np.zeros(size, np.uint8)
        table[_places(known, size)] = 1
        found = cls(np.packbits(table), None)
        if len(validation) < LEAST:
            return found
        return cls(found.bits, float(np.quantile([found.unknown(text) for text in _some(validation)], FAR)))

    def unknown(self, text: str) -> float:
        """The share of the text's distinct words that no training text has, 0 to 1; 0 for a text without words."""
        places = _places(set(words(text)), 8 * len(self.bits))
        if not len(places):
            return 0.0
        held = self.bits[places >> 3] >> (7 - (places & 7)) & 1
        return float(1 - held.mean())

    def far(self, text: str) -> bool:
        return self.far_above is not None and self.unknown(text) > self.far_above


@dataclass(frozen=True)
class Reference:
    """What a head's batches are compared with: the summary of its scores of the test split (slantwise.summary), and
    the words of its training articles."""

    summary: Mapping[str, Any]
    vocabulary: Vocabulary

    def save(self, path: Path) -> None:
        vocabulary = {
            "bits": base64.b64encode(self.vocabulary.bits.tobytes()).decode(), "far_above": self.vocabulary.far_above,
        }  # fmt: skip
        state = {"format": FORMAT, "summary": self.summary, "vocabulary": vocabulary}
        path.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Raises ModelError naming the file."""
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']!r}; expected {FORMAT}")
            bits = np.frombuffer(base64.b64decode(state["vocabulary"]["bits"], validate=True), np.uint8)
            above = state["vocabulary"]["far_above"]
            return cls(dict(state["summary"]), Vocabulary(bits, None if above is None else float(above)))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def _some(texts: Sequence[str]) -> Iterator[str]:
    step = -(-len(texts) // MOST_TEXTS) or 1
    return (texts[i] for i in range(0, len(texts), step))


def _places(found: Iterable[str], size: int) -> npt.NDArray[np.int64]:
    """The bit of each word. zlib's checksum is the same on every machine, which Python's hash is not."""
    return np.fromiter((zlib.crc32(word.encode("utf-8", "replace")) for word in found), np.int64) & (size - 1)


WATCHED = 10_000  # rows; of the later ones every tenth: the share of far articles is known well enough


def watched(number: int) -> bool:
    """Whether the row of this number, from 1, is looked at for its words."""
    return number <= WATCHED or number % 10 == 0


@dataclass(frozen=True)
class Drift:
    """How far the summary of a task is from an earlier one.

    index    population stability index of the label shares, less what two samples of these sizes show by chance:
             (labels - 1) (1 / n + 1 / m), its mean where nothing has changed (Yurdakul and Naranjo 2020)
    labels   by label the share before and now
    sure     mean confidence before and now; None for multilabel tasks
    left     share of abstentions before and now; None for multilabel tasks
    """

    task: str
    index: float
    few: bool  # chance alone may make more than a moderate index
    labels: Mapping[str, tuple[float, float]]
    sure: tuple[float, float] | None
    left: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        if self.few:
            return "unknown"
        return "large" if self.index > LARGE else "moderate" if self.index > MODERATE else "small"


def drift(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Drift | None:
    """From two summaries of a task; None where one of them has no scores."""
    n, m = before["scored"], now["scored"]
    if not n or not m:
        return None
    labels = {label: (before["labels"].get(label, 0) / n, count / m) for label, count in now["labels"].items()}
    sure = left = None
    if "confidence_sum" in before and "confidence_sum" in now:
        sure = before["confidence_sum"] / n, now["confidence_sum"] / m
        left = before["abstained"] / n, now["abstained"] / m
    groups = [(before["labels"].get(label, 0), count) for label, count in now["labels"].items()]
    if sure is None:  # several labels may hold at once: each label is a yes or no of its own, and the worst counts
        index = max(stability([a, n - a], [b, m - b]) for a, b in groups)
    else:
        groups.append((before["abstained"], now["abstained"]))
        index = stability(*zip(*groups, strict=True))
    few = (len(labels) - 1 if sure is not None else 1) * (1 / n + 1 / m) > MODERATE
    return Drift(name, index, few, labels, sure, left)


def drift_of(references: Mapping[str, Reference | None], summary: Mapping[str, Any]) -> dict[str, Any]:
    """By task, how far a summary of scores is from the test split of its model, ready for JSON."""
    found: dict[str, Any] = {}
    for name, reference in references.items():
        now = summary["tasks"][name]
        if reference is None or (moved := drift(name, reference.summary, now)) is None:
            continue
        found[name] = {"index": round(moved.index, 4), "verdict": moved.verdict, "labels": moved.labels}
        if moved.sure is not None:
            found[name] |= {"confidence": moved.sure, "abstained": moved.left}
        if (looked := now.get("words", {}).get("looked_at")) and reference.vocabulary.far_above is not None:
            found[name]["far"] = [round(1 - FAR, 4), now["words"]["far"] / looked]
    return found


def in_words(found: Mapping[str, Any]) -> list[str]:
    """A line for each task: the drift, what moved most, and how many articles are far from the training data."""
    lines = []
    for name, facts in found.items():
        label, (before, now) = max(facts["labels"].items(), key=lambda entry: abs(entry[1][1] - entry[1][0]))
        size = f"{facts['verdict']} drift from the test split (index {facts['index']:.2f})"
        size = "too few scores to tell a drift" if facts["verdict"] == "unknown" else size
        line = f"{name}: {size}; most {label}, {before:.0%} then, {now:.0%} now"
        if "confidence" in facts:
            line += "; mean confidence {:.2f} then, {:.2f} now".format(*facts["confidence"])
        if "far" in facts:
            line += f"; {facts['far'][1]:.1%} of the articles far from the training data (1 % expected)"
        lines.append(line)
    return lines


def stability(before: Sequence[int], now: Sequence[int]) -> float:
    """The population stability index of two sets of counts, corrected for chance; 0 or more.

    Half a count is added to each group, so that an empty one does not make it infinite.
    """
    a, b = (np.asarray(counts, float) + 0.5 for counts in (before, now))
    p, q = a / a.sum(), b / b.sum()
    expected = (len(a) - 1) * (1 / a.sum() + 1 / b.sum())
    return max(float(np.sum((q - p) * np.log(q / p)) - expected), 0.0)
