"""The network that is trained: windows through the encoder, pooled to examples, and a linear head for each task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slantwise.errors import ConfigurationError
from slantwise.network import WindowEncoder
from slantwise.task import Kind, Task

LAYER = re.compile(r"\.(?:layer|layers|h|blocks?)\.(\d+)\.")
EMBEDDINGS = re.compile(r"embed|\.w[tp]e\.")  # GPT-2 has wte and wpe


class Network(nn.Module):
    """Window ids (w, length), owners (w,) and the number of examples n -> for each task logits (n, n_labels)."""

    def __init__(self, windows: WindowEncoder, pooling: str, tasks: Sequence[Task], dropout: float) -> None:
        super().__init__()
        encoder: Any = windows.encoder
        hidden = int(encoder.config.hidden_size)
        self.windows, self.pooling = windows, pooling
        self.attention = nn.Linear(hidden, 1, bias=False) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        heads = {task.name: nn.Linear(hidden, len(task.labels)) for task in tasks}
        self.heads = nn.ModuleDict(heads)
        for head in heads.values():
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        if self.attention is not None:
            nn.init.zeros_(self.attention.weight)  # it starts as the mean

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor, owners: Tensor, n: int) -> dict[str, Tensor]:
        pooled = self.dropout(self.pool(self.windows(ids, mask, segments), owners, n))
        return {name: head(pooled) for name, head in self.heads.items()}

    def pool(self, vectors: Tensor, owners: Tensor, n: int) -> Tensor:
        """(w, hidden) -> (n, hidden), as slantwise.body.Body.pool does with numpy."""
        index = owners.unsqueeze(1).expand_as(vectors)
        empty = vectors.new_zeros((n, vectors.shape[1]))
        if self.pooling == "max":
            return empty.scatter_reduce(0, index, vectors, "amax", include_self=False)
        if self.attention is not None:
            scores = self.attention(vectors).squeeze(1)
            highest = scores.new_zeros(n).scatter_reduce(0, owners, scores, "amax", include_self=False)
            weights = torch.exp(scores - highest[owners])
            weights = weights / weights.new_zeros(n).index_add(0, owners, weights)[owners]
            return empty.index_add(0, owners, vectors * weights.unsqueeze(1))
        counts = torch.bincount(owners, minlength=n).unsqueeze(1).to(vectors.dtype)
        return empty.index_add(0, owners, vectors) / counts


def losses(
    logits: Tensor, wanted: Tensor, kind: Kind, weights: Tensor | None, focal: float, smoothing: float
) -> Tensor:
    """The loss of each example, (n,).

    logits, wanted (n, n_labels): `wanted` holds the share of each label, 0 or 1 where annotators are not given
    weights        (n_labels,): the weight of each label (multiclass), of its positives (multilabel)
    focal          gamma of the focal loss (Lin et al. 2017); 0: cross-entropy
    smoothing      label smoothing (Szegedy et al. 2016)
    """
    if kind == "multiclass":
        wanted = wanted * (1 - smoothing) + smoothing / wanted.shape[1]
        logs = functional.log_softmax(logits, dim=1)
        terms = -wanted * logs
        if focal:
            terms = terms * (1 - logs.exp()) ** focal
        if weights is not None:
            terms = terms * weights
        return terms.sum(dim=1)
    wanted = wanted * (1 - smoothing) + smoothing / 2
    terms = functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")
    if focal:
        p = torch.sigmoid(logits)
        terms = terms * (wanted * (1 - p) + (1 - wanted) * p) ** focal
    return terms.mean(dim=1)


def label_weights(wanted: Tensor, kind: Kind) -> Tensor:
    """`balanced`: multiclass, n / (labels that occur * n_label), as in scikit-learn; multilabel, the square root of
    negatives by positives, at most 10: the full ratio drowns the negatives of rare labels. Labels that never occur have
    weight 1."""
    positives = wanted.sum(dim=0)
    n = float(len(wanted))
    if kind == "multiclass":
        weights = n / ((positives > 0).sum() * positives.clamp(min=1e-9))
    else:
        weights = ((n - positives) / positives.clamp(min=1e-9)).sqrt().clamp(max=10.0)
    return torch.where(positives > 0, weights, torch.ones_like(weights))


def depth_of(name: str) -> int | None:
    """The encoder layer that a parameter belongs to: 0 for the embeddings, None for what comes after the layers."""
    found = LAYER.search(name)
    if found:
        return int(found.group(1)) + 1
    return 0 if EMBEDDINGS.search(name) else None


def check_layers(network: Network, freeze_layers: int, layer_decay: float) -> None:
    """Raises ConfigurationError where an option speaks of layers that the encoder does not have."""
    depths = (depth_of(name) for name, _ in network.windows.named_parameters())
    n = max((depth for depth in depths if depth is not None), default=0)
    if freeze_layers > n:
        raise ConfigurationError(
            f"classifier.freeze_layers={freeze_layers}: {_layers(n)}; expected {n} at most, or -1 for the whole encoder"
        )
    if layer_decay != 1 and not n:
        raise ConfigurationError(f"classifier.layer_decay={layer_decay}: {_layers(n)}; expected 1")


def _layers(n: int) -> str:
    return f"the encoder has {n} layers" if n else "the encoder has no layers that are known by their names"


def freeze(network: Network, layers: int) -> None:
    """No gradient for the embeddings and the first `layers` layers; 0 freezes nothing, -1 the whole encoder."""
    for name, parameter in network.windows.named_parameters():
        depth = depth_of(name)
        if layers < 0 or (layers and depth is not None and depth <= layers):
            parameter.requires_grad_(False)


def parameter_groups(
    network: Network, rate: float, head_rate: float, layer_decay: float, weight_decay: float
) -> Iterator[dict[str, Any]]:
    """Optimiser groups: the rate falls by `layer_decay` with each layer towards the embeddings (Howard & Ruder 2018,
    discriminative fine-tuning); biases and norms do not decay (one-dimensional parameters)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    depths = [depth for name, _ in network.windows.named_parameters() if (depth := depth_of(name)) is not None]
    top = max(depths, default=0) + 1
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = depth_of(name)
        if name.startswith("windows."):
            own = rate * layer_decay ** (top - (top if depth is None else depth))
        else:
            own = head_rate
        groups.setdefault((own, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    for (own, decay), parameters in groups.items():
        yield {"params": parameters, "lr": own, "weight_decay": decay}
