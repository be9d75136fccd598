"""The configuration of a sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from data.config import SplitKind
from slantwise.errors import ConfigurationError
from training import config as schemas
from training.config import TrainConfig
from training.space import Dimension

SAMPLERS = ("auto", "tpe", "random", "grid")
PRUNERS = ("none", "median", "hyperband")


@dataclass
class SearchConfig:
    """See configs/sweep/linear.yaml for what each option does."""

    space: dict[str, Any] = field(default_factory=dict)  # Dimension by option; Any, so that "+" can add one
    sampler: str = "auto"  # tpe, random or grid; auto: a grid where the space is finite and small, else tpe
    pruner: str = "none"  # end trials early that are behind the others: median or hyperband
    folds: int = 1  # 1: the validation split judges; more: the mean over folds of train and validation
    seed: int = 0  # of the sampler
    cache_gigabytes: float = 5.0  # on the disk, for features, windows and embeddings that trials share
    memory_gigabytes: float = 2.0  # for what is ready to be used again in memory

    def __post_init__(self) -> None:
        problems = []
        known = {one.name for one in fields(Dimension)}
        for name, one in self.space.items():
            if isinstance(one, Mapping) and one.keys() <= known:
                self.space[name] = Dimension(**one)
            elif not isinstance(one, Dimension):
                problems.append(f"sweep.space.{name}={one!r}; expected some of {', '.join(sorted(known))}")
        if self.sampler not in SAMPLERS:
            problems.append(f"sweep.sampler={self.sampler!r}; expected one of {', '.join(SAMPLERS)}")
        if self.pruner not in PRUNERS:
            problems.append(f"sweep.pruner={self.pruner!r}; expected one of {', '.join(PRUNERS)}")
        if self.folds < 1:
            problems.append(f"sweep.folds={self.folds}; expected 1 (the validation split), or 2 folds or more")
        for name in ("cache_gigabytes", "memory_gigabytes"):
            if not getattr(self, name) > 0:
                problems.append(f"sweep.{name}={getattr(self, name)}; expected more than 0")
        if problems:
            raise ConfigurationError("; ".join(problems))


@dataclass
class SweepConfig(TrainConfig):
    """`slantwise sweep`: a training run, and what is looked for."""

    sweep: SearchConfig = MISSING
    trials: int | None = None
    minutes: float | None = None
    sweep_dir: str | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = []
        if self.trials is None and self.minutes is None:
            problems.append("a sweep needs an end: trials=30, or minutes=60")
        if self.trials is not None and self.trials < 1:
            problems.append(f"trials={self.trials}; expected 1 or more")
        if self.minutes is not None and not self.minutes > 0:
            problems.append(f"minutes={self.minutes}; expected more than 0")
        if self.split.kind.has_folds:
            held = ", ".join(kind.value for kind in SplitKind if not kind.has_folds)
            problems.append(
                f"split={self.split.kind}: each article is a test article there, and a sweep must not see those that "
                f"judge its result; expected one of {held} (sweep.folds=5 makes folds of train and validation)"
            )
        if self.storage is not None and not re.match(r"postgresql(\+psycopg)?://", self.storage):
            problems.append("storage: expected postgresql://…, or null for a file in the sweep's directory")
        if problems:
            raise ConfigurationError("; ".join(problems))


def register() -> None:
    """Make the schemas known to Hydra."""
    schemas.register()
    store = ConfigStore.instance()
    store.store(name="sweep_schema", node=SweepConfig)
    store.store(group="sweep", name="search_schema", node=SearchConfig)
