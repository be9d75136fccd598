"""Tiny corpora for the tests: invented articles whose words give their labels away, made anew from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data.config import CorpusConfig
from data.corpus import Corpus, load_corpus

Row = dict[str, Any]
WriteJsonl = Callable[..., Path]


def _words(text: str) -> list[str]:
    return text.split()


WORDS = {
    "health": _words("clinic nurse vaccine ward surgeon fever patient doctor hospital remedy"),
    "sport": _words("goal referee striker stadium league sprint medal coach penalty keeper"),
    "weather": _words("storm drizzle frost gale forecast sunshine thunder blizzard humidity breeze"),
}
FRAMES = {"economic": _words("cost budget price"), "morality": _words("duty conscience virtue")}
STANCES = {"favor": _words("praised welcomed"), "against": _words("condemned rejected"), "neutral": _words("met saw")}
FILLER = _words("the a town people yesterday morning street report said early late north south bridge market")
TARGETS = ("City Mayor", "Harbour Plan")
OUTLETS = ("north.example", "south.example", "west.example")


def tiny_article(number: int, seed: int = 0) -> Row:
    """Canonical row `number`: topics, frames, stances, targets and outlets take turns; no two share a sentence."""
    draw = random.Random(f"{seed}:{number}")
    topic = list(WORDS)[number % 3]
    frames = [frame for i, frame in enumerate(FRAMES) if (number // 3) >> i & 1]
    stance, target = list(STANCES)[(number // 2) % 3], TARGETS[number % 2]
    words = draw.choices(WORDS[topic], k=20) + draw.choices(FILLER, k=20)
    words += [word for frame in frames for word in FRAMES[frame]]
    draw.shuffle(words)
    return {
        "id": f"a{number:03}",
        "text": f"Officials {draw.choice(STANCES[stance])} {target} on day {number}. " + " ".join(words) + ".",
        "title": f"{draw.choice(WORDS[topic]).title()} {draw.choice(FILLER)} {number}",
        "source": OUTLETS[number % len(OUTLETS)],
        "published": f"2024-{1 + number // 28 % 12:02}-{1 + number % 28:02}",
        "language": "en",
        "topic": topic,
        "frames": frames,
        "stances": [{"target": target, "stance": stance}],
    }


@pytest.fixture
def tiny_rows() -> list[Row]:
    """72 canonical rows, labelled for all three tasks: three topics, two frames, three stances, two targets."""
    return [tiny_article(number) for number in range(72)]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    """write_jsonl(rows, name="rows.jsonl") -> the path of the new file in tmp_path."""

    def write(rows: Iterable[Mapping[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def tiny_path(tiny_rows: list[Row], write_jsonl: WriteJsonl) -> Path:
    """`tiny_rows` as a JSONL file."""
    return write_jsonl(tiny_rows, "tiny.jsonl")


@pytest.fixture
def tiny_corpus(tiny_path: Path) -> Corpus:
    """`tiny_rows` as a Corpus."""
    return load_corpus(CorpusConfig(name="tiny", path=str(tiny_path)))
