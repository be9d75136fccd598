"""The model card: front matter that the hub can read, figures with intervals, and nothing of a corpus as markup."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from slantwise.card import model_card
from slantwise.model import Model

TEST = {
    "macro_f1": {"value": 0.7142, "low": 0.6611, "high": 0.7523, "reason": None},
    "mcc": {"value": None, "low": None, "high": None, "reason": "undefined"},
}


def card_of(model: Model, **provenance: Any) -> str:
    return model_card(Model({"topic": replace(model.heads["topic"], provenance=provenance)}))


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    facts: dict[str, Any] = yaml.safe_load(head)
    return facts


def test_the_front_matter_names_licence_tags_and_metrics(model: Model) -> None:
    facts = front_matter(card_of(model, corpus="sample", test=TEST))
    assert facts["license"] == "unknown"
    assert {"slantwise", "topic", "text-classification"} <= set(facts["tags"])
    (result,) = facts["model-index"][0]["results"]
    assert result["dataset"] == {"type": "sample", "name": "sample", "split": "test"}
    assert result["metrics"] == [{"type": "macro_f1", "name": "macro_f1", "value": 0.7142}]


def test_metrics_stand_in_a_table_with_their_intervals(model: Model) -> None:
    card = card_of(model, corpus="sample", test=TEST, test_examples=1234)
    assert "Test scores, n = 1,234 examples:" in card
    assert "| macro_f1 | 0.714 | 0.661 to 0.752 |" in card
    assert "| mcc | undefined | none |" in card


def test_use_limits_data_and_worst_slices_are_named(model: Model) -> None:
    card = card_of(model, corpus="sample", corpus_sha256="ab12", worst_slices=["worst slice: source a.example"])
    for part in ("## Intended use", "## Limits", "corpus sample (sha256 `ab12`)", "- worst slice: source a.example"):
        assert part in card


def test_other_facts_are_kept(model: Model) -> None:
    assert "- split: " + json.dumps({"seed": 7}) in card_of(model, split={"seed": 7})


@pytest.mark.parametrize("payload", ["<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "---\nlicense: mit"])
def test_texts_of_a_corpus_are_no_markup(model: Model, payload: str) -> None:
    card = card_of(model, corpus=payload, test=TEST, worst_slices=[f"{payload} | `x`"], note=payload)
    assert "<" not in card.split("---\n", 2)[2].replace("&lt;", "")
    assert front_matter(card)["license"] == "unknown"


def test_a_model_without_provenance_has_a_card(model: Model) -> None:
    assert "## topic" in card_of(model)
