"""What a scoring job says of its batch beside the model's own test split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from slantwise.model import Model, load
from slantwise.monitoring import Reference, Vocabulary
from slantwise.scoring import SUMMARY, ScoreConfig, score, summary_path
from tests.slantwise.conftest import text

N = 60


@pytest.fixture
def watched(model: Model, tmp_path: Path) -> Model:
    """The model as it is loaded, with a test split that held each topic alike."""
    known = Vocabulary.of([text(n) for n in range(N)], [text(n) for n in range(N)])
    summary = {"scored": 300, "labels": dict.fromkeys(("health", "sport", "weather"), 100), "abstained": 0,
               "confidence_sum": 150.0}  # fmt: skip
    topic = replace(model.heads["topic"], reference=Reference(summary, known))
    Model({"topic": topic, "framing": model.heads["framing"]}).save(tmp_path / "model")
    return load(tmp_path / "model")


def scored(model: Model, texts: list[str], output: Path) -> dict[str, object]:
    rows = output.with_suffix(".input.jsonl")
    rows.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    return score(ScoreConfig(model="", input=str(rows), output=str(output), part_rows=20), model)


def test_a_batch_like_the_test_split_has_drifted_little(watched: Model, tmp_path: Path) -> None:
    found = scored(watched, [text(n) for n in range(N)], tmp_path / "scores")
    assert found["drift"]["topic"]["verdict"] == "small"  # type: ignore[index]
    assert found["tasks"]["topic"]["words"] == {"looked_at": N, "far": 0}  # type: ignore[index]


def test_a_batch_of_one_topic_in_other_words_has_drifted_far(watched: Model, tmp_path: Path) -> None:
    strange = "storm und frost und wind ueber dem hafen am ganzen montag"
    found = scored(watched, [strange] * N, tmp_path / "scores")
    assert found["drift"]["topic"]["verdict"] == "large"  # type: ignore[index]
    assert found["drift"]["topic"]["far"] == [0.01, 1.0]  # type: ignore[index]


def test_a_head_without_a_reference_is_left_out(watched: Model, tmp_path: Path) -> None:
    found = scored(watched, [text(n) for n in range(N)], tmp_path / "scores")
    assert list(found["drift"]) == ["topic"]  # type: ignore[call-overload]
    assert "words" not in found["tasks"]["framing"]  # type: ignore[index]


def test_the_summary_is_written_beside_the_scores(watched: Model, tmp_path: Path) -> None:
    texts = [text(n) for n in range(N)]
    found = scored(watched, texts, tmp_path / "scores")
    assert json.loads((tmp_path / "scores" / SUMMARY).read_text()) == json.loads(json.dumps(found))
    scored(watched, texts, tmp_path / "scores.jsonl")
    assert json.loads(summary_path(tmp_path / "scores.jsonl").read_text())["drift"] == json.loads(
        json.dumps(found["drift"])
    )
