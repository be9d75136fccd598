"""Task: what is predicted, of which kind, over which ordered labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slantwise.errors import ConfigurationError

Kind = Literal["multiclass", "multilabel"]

TASK_NAMES = ("topic", "framing", "stance")

# IPTC Media Topics, the 17 top-level concepts, https://www.iptc.org/newscodes/
IPTC_TOPICS = (
    "arts_culture_entertainment_and_media",
    "conflict_war_and_peace",
    "crime_law_and_justice",
    "disaster_accident_and_emergency_incident",
    "economy_business_and_finance",
    "education",
    "environment",
    "health",
    "human_interest",
    "labour",
    "lifestyle_and_leisure",
    "politics_and_government",
    "religion",
    "science_and_technology",
    "society",
    "sport",
    "weather",
)

# Policy Frames Codebook (Boydstun et al. 2014), named as in SemEval-2023 task 3, and the codebook's rest class.
POLICY_FRAMES = (
    "economic",
    "capacity_and_resources",
    "morality",
    "fairness_and_equality",
    "legality_constitutionality_and_jurisprudence",
    "policy_prescription_and_evaluation",
    "crime_and_punishment",
    "security_and_defense",
    "health_and_safety",
    "quality_of_life",
    "cultural_identity",
    "public_opinion",
    "political",
    "external_regulation_and_reputation",
    "other",
)

STANCES = ("favor", "against", "neutral")


@dataclass(frozen=True)
class Task:
    """What is predicted.

    `labels` gives the column order of every probability array of the task. `has_target` says that an example is an
    article and a target, not an article alone.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    has_target: bool = False

    def __post_init__(self) -> None:
        if self.name not in TASK_NAMES:
            raise ConfigurationError(f"task {self.name!r} is unknown; expected one of {', '.join(TASK_NAMES)}")
        if self.kind not in ("multiclass", "multilabel"):
            raise ConfigurationError(f"task {self.name}: kind {self.kind!r}; expected multiclass or multilabel")
        least = 2 if self.kind == "multiclass" else 1
        if len(self.labels) < least:
            raise ConfigurationError(f"task {self.name}: {len(self.labels)} labels; expected at least {least}")
        if len(set(self.labels)) != len(self.labels):
            repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
            raise ConfigurationError(f"task {self.name}: labels named twice: {', '.join(repeated)}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "labels": list(self.labels), "has_target": self.has_target}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Task:
        return cls(state["name"], state["kind"], tuple(state["labels"]), bool(state["has_target"]))
