"""Models that earlier releases exported: each loads, and gives the scores that it gave then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slantwise.model import load
from tests.golden.remake_models import HERE, scores

GOLDEN = sorted(HERE.glob("model-*"), key=lambda path: int(path.name.removeprefix("model-")))
# one file of a classifier's sums; an encoder's depend on the processor
TOLERANCE = {"linear": 1e-6, "onnx": 1e-5}


def test_there_is_one() -> None:
    assert [path.name for path in GOLDEN] == [f"model-{number}" for number in range(1, len(GOLDEN) + 1)]
    assert GOLDEN


@pytest.mark.parametrize("name", list(TOLERANCE))
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_a_golden_model_gives_the_scores_of_its_release(golden: Path, name: str) -> None:
    articles = [json.loads(line) for line in (golden / "articles.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = json.loads((golden / "scores.json").read_text(encoding="utf-8"))[name]
    assert close(scores(load(golden / name, "cpu"), articles), expected, TOLERANCE[name])


def close(found: Any, expected: Any, tolerance: float) -> bool:
    """Equal but for the last digits of numbers; raises AssertionError at the first place that is not."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        return all(close(found[key], expected[key], tolerance) for key in expected)
    if isinstance(expected, list):
        assert len(found) == len(expected)
        return all(close(*pair, tolerance) for pair in zip(found, expected, strict=True))
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance)
        return True
    assert found == expected
    return True


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_the_golden_articles_try_what_can_differ(golden: Path) -> None:
    """Every label of stance, rejected rows, abstentions, several frames and none: an answer that changes is noticed."""
    expected = json.loads((golden / "scores.json").read_text(encoding="utf-8"))
    rows = expected["linear"]
    assert {entry["label"] for row in rows for entry in row["stance"] or ()} == {"favor", "against", "neutral"}
    assert {row["error"] for row in rows} == {None, "missing_text"}
    assert len({row["topic"]["label"] for row in rows if row["topic"]}) > 5
    assert {min(len(row["framing"]["labels"]), 2) for row in rows if row["framing"]} == {0, 1, 2}
    assert None in {row["topic"]["label"] for row in expected["onnx"] if row["topic"]}
