"""A day in the life of a champion, by the command line alone, against a tracking server in a process of its own:
train, promote, score by alias, promote a better one, score again, roll back, score again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slantwise.inputs import InputOptions, parse
from slantwise.model import load
from slantwise.scores import score_rows
from tests.tracking_servers import TrackingServer

FAST = ("corpus=sample", "task=topic", "tracking=server", "evaluation.resamples=100")
SMALL = ("classifier.word_ngrams=[1,1]", "classifier.char_ngrams=[0,0]", "classifier.C=[1.0]", "shortcuts=false")
# a small corpus: intervals are wide, so the gate asks for less than its default
GATE = ("gate.largest_ece=1.0", "gate.largest_slice_drop=1.0", "gate.margin=0.1", "gate.beat_shortcuts=false",
        "permutations=99")  # fmt: skip
ARTICLES = [
    {"id": "a", "text": "The striker scored twice and the coach praised his goalkeeper after the cup final."},
    {"id": "b", "text": "Nurses said that the clinic had run out of vaccine, and the hospital asked for help."},
    {"id": "c", "text": None},
    {"id": "d", "text": "Rebels shelled the town overnight; the army said that eleven soldiers were killed."},
]


@dataclass(frozen=True)
class Day:
    """A folder to work in and a server to tell."""

    folder: Path
    uri: str

    def begin(self, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.uri, "COLUMNS": "140"}
        return subprocess.Popen(
            [sys.executable, "-m", "slantwise", *command], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def end(self, process: subprocess.Popen[str], status: int = 0) -> str:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == status, said
        return said

    def slantwise(self, *command: str, status: int = 0) -> str:
        return self.end(self.begin(*command), status)

    def score(self, name: str) -> bytes:
        """The champion's scores, as they are written."""
        champion = "model=models:/slantwise-topic@champion"
        self.slantwise("score", champion, "input=articles.jsonl", f"output={name}.jsonl")
        return (self.folder / f"{name}.jsonl").read_bytes()

    def champion(self) -> str:
        """The version that carries the alias."""
        query = f"{self.uri}/api/2.0/mlflow/registered-models/alias?name=slantwise-topic&alias=champion"
        with urllib.request.urlopen(query, timeout=30) as answer:
            return str(json.load(answer)["model_version"]["version"])


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("day")
    (folder / "articles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ARTICLES))
    server = TrackingServer(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    try:
        yield Day(folder, server.uri)
    finally:
        server.kill()


def alone(run: Path) -> list[dict[str, Any]]:
    """What the run's own model says of the articles, to six decimals as the command writes them."""
    requests = [parse(row, number, InputOptions()) for number, row in enumerate(ARTICLES, start=1)]
    return [rounded(row) for row in score_rows(load(run), requests)]


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def rows(scores: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in scores.splitlines()]


@pytest.mark.timeout(600)  # eight commands, beside whatever else runs
def test_train_promote_score_promote_another_score_roll_back(day: Day) -> None:
    # two runs, side by side: what 20 words tell, and what all words do
    worse = day.begin("train", *FAST, *SMALL, "classifier.max_features=20", "run_dir=runs/worse")
    better = day.begin("train", *FAST, *SMALL, "run_dir=runs/better")
    day.end(worse)
    day.end(better)

    day.slantwise("promote", "model=runs/worse", *FAST, *GATE)
    assert day.champion() == "1"
    first = day.score("first")
    assert rows(first) == alone(day.folder / "runs" / "worse")
    assert [row["error"] for row in rows(first)] == [None, None, "missing_text", None]

    day.slantwise("promote", "model=runs/better", *FAST, *GATE)
    assert day.champion() == "2"
    second = day.score("second")
    assert rows(second) == alone(day.folder / "runs" / "better")
    assert second != first

    day.slantwise("promote", "rollback=true", "task=topic", "tracking=server")
    assert day.champion() == "1"
    assert day.score("third") == first
