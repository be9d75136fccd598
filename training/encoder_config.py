"""The configurations of the backends that stand on an encoder, apart from them: a command that only reads a
configuration need not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from omegaconf import MISSING

from slantwise.errors import ConfigurationError
from slantwise.windows import Windowing

POOLINGS = ("mean", "max", "attention")
FROZEN_POOLINGS = ("mean", "max")  # attention would have to be trained
CHOICES = {"pooling": POOLINGS, "token_pooling": ("mean", "cls"), "class_weight": ("none", "balanced")}
TRAINING_CHOICES = {"loss": ("cross_entropy", "focal"), "precision": ("auto", "float32", "bfloat16")}


@dataclass
class EncoderOptions:
    """What both have: which encoder reads how much of an article, and where it runs."""

    encoder: str = MISSING
    revision: str | None = None
    max_tokens: int = 256
    long: str = "windows"
    overlap: int = 32
    max_windows: int = 8
    pooling: str = "mean"
    token_pooling: str = "mean"
    class_weight: str = "none"
    device: str = "auto"
    threads: int | None = None

    @property
    def windowing(self) -> Windowing:
        return Windowing(self.max_tokens, self.long, self.overlap, self.max_windows)

    def check_place(self) -> None:
        """Before anything is read: the device is there, and so is the encoder. Raises ConfigurationError."""
        from training.pretrained import check_place  # it imports torch

        check_place(self)

    def check(self, choices: Mapping[str, Sequence[str]], problems: Iterable[str] = ()) -> None:
        """Raises ConfigurationError that names all that is wrong; `problems` are those found already."""
        found = [
            f"{name}={getattr(self, name)!r}; expected one of {', '.join(known)}"
            for name, known in choices.items()
            if getattr(self, name) not in known
        ]
        if self.threads is not None and self.threads < 1:
            found.append(f"threads={self.threads}; expected 1 or more, or null")
        found += problems
        try:
            _ = self.windowing
        except ConfigurationError as error:
            found.append(str(error).removeprefix("classifier: "))
        if found:
            raise ConfigurationError("classifier: " + "; ".join(found))


@dataclass
class TransformerConfig(EncoderOptions):
    """See configs/classifier/transformer.yaml for what each option does."""

    _target_: str = "training.transformer.fit_all"
    encoder: str = "answerdotai/ModernBERT-base"
    epochs: int = 4
    patience: int = 2
    learning_rate: float = 5e-5
    head_learning_rate: float | None = None
    layer_decay: float = 1.0
    freeze_layers: int = 0
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float = 0.1
    batch_size: int = 16
    batch_tokens: int = 4096
    accumulate: int = 1
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    checkpoint_steps: int | None = None
    precision: str = "auto"
    seed: int = 0

    resumable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        problems = []
        for name, least in (
            ("epochs", 1),
            ("patience", 0),
            ("batch_size", 1),
            ("accumulate", 1),
            ("freeze_layers", -1),
        ):
            if getattr(self, name) < least:
                problems.append(f"{name}={getattr(self, name)}; expected {least} or more")
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            problems.append(f"checkpoint_steps={self.checkpoint_steps}; expected 1 or more, or null")
        for name in ("learning_rate", "head_learning_rate"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                problems.append(f"{name}={getattr(self, name)}; expected more than 0")
        if not 0 < self.layer_decay <= 1:
            problems.append(f"layer_decay={self.layer_decay}; expected more than 0, 1 at most")
        if not self.weight_decay >= 0:
            problems.append(f"weight_decay={self.weight_decay}; expected 0 or more")
        for name in ("warmup", "dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name}={getattr(self, name)}; expected 0 or more, less than 1")
        if self.loss == "focal" and self.label_smoothing:
            # smoothing bounds what is wanted of an example, focal stops wanting it: together neither does what it says
            problems.append(f"label_smoothing={self.label_smoothing} with loss=focal; expected one of the two")
        if self.batch_tokens < self.max_tokens:
            problems.append(f"batch_tokens={self.batch_tokens}; expected max_tokens={self.max_tokens} or more")
        self.check(CHOICES | TRAINING_CHOICES, problems)

    def settled(self, chosen: Mapping[str, Any]) -> TransformerConfig:
        """The same: early stopping chooses the epoch anew in every fit."""
        return replace(self)


@dataclass
class EncoderConfig(EncoderOptions):
    """See configs/classifier/encoder.yaml for what each option does."""

    _target_: str = "training.encoder.fit_all"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    C: list[float] = field(default_factory=lambda: [0.0003, 0.001, 0.003, 0.01, 0.03])
    class_weight: str = "balanced"
    refit: bool = True
    cache: str | None = "~/.cache/slantwise/embeddings"
    cache_gigabytes: float = 10.0

    def __post_init__(self) -> None:
        problems = []
        if not self.C or min(self.C) <= 0:
            problems.append(f"C={self.C}; expected one or more numbers above 0")
        if not self.cache_gigabytes > 0:
            problems.append(f"cache_gigabytes={self.cache_gigabytes}; expected more than 0 (cache=null keeps nothing)")
        self.check(CHOICES | {"pooling": FROZEN_POOLINGS}, problems)

    def settled(self, chosen: Mapping[str, Any]) -> EncoderConfig:
        """The same with the choices that validation has made: for further fits that must be like the first."""
        return replace(self, C=[chosen["C"]], refit=False)
