"""The network that is trained: losses against the libraries' own, and which parameters learn how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from slantwise.errors import ConfigurationError
from slantwise.network import WindowEncoder
from slantwise.task import Task
from training.network import Network, check_layers, depth_of, freeze, label_weights, losses, parameter_groups

TOPIC = Task("topic", "multiclass", ("a", "b", "c", "d"))
FRAMING = Task("framing", "multilabel", ("x", "y"))
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 4, generator=GENERATOR) * 2
GOLD = torch.arange(12) % 4
ONE_HOT = functional.one_hot(GOLD, 4).float()
SETS = (torch.rand(12, 4, generator=GENERATOR) > 0.6).float()
SHARES = torch.softmax(torch.randn(12, 4, generator=GENERATOR), dim=1)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# --- losses ---


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs_with_label_smoothing_and_weights(smoothing: float, weights: Tensor | None) -> None:
    expected = functional.cross_entropy(LOGITS, GOLD, weights, reduction="none", label_smoothing=smoothing)
    close(losses(LOGITS, ONE_HOT, "multiclass", weights, 0.0, smoothing), expected)


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    expected = log_loss(GOLD.numpy(), torch.softmax(LOGITS.double(), dim=1).numpy())
    assert losses(LOGITS, ONE_HOT, "multiclass", None, 0.0, 0.0).mean().item() == pytest.approx(expected, rel=1e-5)


def test_soft_labels_are_torchs_cross_entropy_with_probabilities() -> None:
    expected = functional.cross_entropy(LOGITS, SHARES, reduction="none")
    close(losses(LOGITS, SHARES, "multiclass", None, 0.0, 0.0), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_multilabel_loss_is_torchs_binary_cross_entropy_with_weights_of_positives(weights: Tensor | None) -> None:
    expected = functional.binary_cross_entropy_with_logits(LOGITS, SETS, pos_weight=weights, reduction="none")
    close(losses(LOGITS, SETS, "multilabel", weights, 0.0, 0.0), expected.mean(dim=1))


def test_multilabel_smoothing_moves_both_answers_towards_a_half() -> None:
    expected = functional.binary_cross_entropy_with_logits(LOGITS, SETS * 0.8 + 0.1, reduction="none")
    close(losses(LOGITS, SETS, "multilabel", None, 0.0, 0.2), expected.mean(dim=1))


def test_focal_loss_is_that_of_the_paper() -> None:
    p = torch.softmax(LOGITS, dim=1)[torch.arange(12), GOLD]
    close(losses(LOGITS, ONE_HOT, "multiclass", None, 2.0, 0.0), -((1 - p) ** 2) * p.log())


def test_focal_loss_of_several_labels_is_that_of_the_paper() -> None:
    p = torch.sigmoid(LOGITS)
    of_truth = torch.where(SETS > 0, p, 1 - p)
    close(losses(LOGITS, SETS, "multilabel", None, 2.0, 0.0), (-((1 - of_truth) ** 2) * of_truth.log()).mean(dim=1))


def test_focal_loss_looks_away_from_what_is_right_already() -> None:
    logits = torch.tensor([[6.0, 0, 0, 0], [0, 6.0, 0, 0]])  # the first is right, the second wrong
    wanted = functional.one_hot(torch.tensor([0, 0]), 4).float()
    plain, focal = (losses(logits, wanted, "multiclass", None, gamma, 0.0) for gamma in (0.0, 2.0))
    assert focal[0] / plain[0] < 1e-3
    assert focal[1] / plain[1] > 0.99


@pytest.mark.parametrize(("kind", "wanted"), [("multiclass", ONE_HOT), ("multilabel", SETS)])
def test_losses_of_extreme_logits_are_finite(kind: Any, wanted: Tensor) -> None:
    logits = (LOGITS * 1e4).requires_grad_()
    losses(logits, wanted, kind, None, 2.0, 0.1).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


# --- weights of labels ---


def test_balanced_weights_of_one_label_are_scikit_learns() -> None:
    gold = np.array([0] * 6 + [1] * 3 + [2] * 2 + [3])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=gold)
    found = label_weights(functional.one_hot(torch.from_numpy(gold), 4).float(), "multiclass")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_balanced_weights_of_several_labels_are_the_root_of_negatives_by_positives_up_to_ten() -> None:
    wanted = torch.zeros(1000, 3)
    wanted[:500, 0] = wanted[:100, 1] = wanted[:1, 2] = 1
    assert label_weights(wanted, "multilabel").tolist() == pytest.approx([1.0, 3.0, 10.0])


def test_a_label_that_never_occurs_changes_no_other_weight() -> None:
    gold = functional.one_hot(torch.tensor([0] * 6 + [1] * 3 + [2]), 3).float()
    more = functional.pad(gold, (0, 1))
    assert label_weights(more, "multiclass")[:3].tolist() == label_weights(gold, "multiclass").tolist()


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_a_label_that_never_occurs_has_weight_one(kind: Any) -> None:
    assert label_weights(torch.tensor([[1.0, 0.0]] * 5), kind)[1] == 1


# --- layers ---

SMALL: dict[str, Any] = {"vocab_size": 50, "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8}
ENCODERS: dict[str, Callable[[], Any]] = {
    "BERT": lambda: BertConfig(**SMALL, intermediate_size=16),
    "RoBERTa": lambda: RobertaConfig(**SMALL, intermediate_size=16),
    "XLM-R": lambda: XLMRobertaConfig(**SMALL, intermediate_size=16),
    "DeBERTa-v2": lambda: DebertaV2Config(
        **SMALL, intermediate_size=16, relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
    ),
    "ModernBERT": lambda: ModernBertConfig(**SMALL, intermediate_size=16, pad_token_id=0, global_attn_every_n_layers=2),
    "DistilBERT": lambda: DistilBertConfig(vocab_size=50, n_layers=3, n_heads=2, dim=8, hidden_dim=16),
    "ELECTRA": lambda: ElectraConfig(**SMALL, intermediate_size=16, embedding_size=4),
    "MPNet": lambda: MPNetConfig(**SMALL, intermediate_size=16),
}  # fmt: skip


def make_network(name: str, pooling: str = "mean") -> Network:
    encoder = AutoModel.from_config(ENCODERS[name]())
    encoder.pooler = None
    return Network(WindowEncoder(encoder, "mean", False), pooling, [TOPIC, FRAMING], 0.0)


def layers(encoder: nn.Module) -> nn.ModuleList:
    return next(m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == 3)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_of_a_layer_has_its_depth(name: str) -> None:
    network = make_network(name)
    depths = {id(parameter): depth_of(path) for path, parameter in network.windows.named_parameters()}
    for number, layer in enumerate(layers(network.windows.encoder), start=1):
        assert {depths[id(parameter)] for parameter in layer.parameters()} == {number}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_embeddings_have_depth_zero(name: str) -> None:
    encoder = make_network(name).windows.encoder
    of_embeddings = {id(parameter) for parameter in encoder.embeddings.parameters()}  # type: ignore[union-attr]
    found = {depth_of(f"encoder.{path}") for path, p in encoder.named_parameters() if id(p) in of_embeddings}
    assert found == {0}


@pytest.mark.parametrize("name", ENCODERS)
def test_only_few_parameters_are_outside_of_embeddings_and_layers(name: str) -> None:
    network = make_network(name)
    outside = {path for path, _ in network.windows.named_parameters() if depth_of(path) is None}
    known = {"norm", "LayerNorm", "relative_attention_bias"}
    assert all(known & set(path.replace("final_norm", "norm").split(".")) for path in outside), outside


@pytest.mark.parametrize("name", ENCODERS)
def test_freezing_two_layers_leaves_gradients_from_the_third_on(name: str) -> None:
    network = make_network(name)
    freeze(network, 2)
    first, second, third = layers(network.windows.encoder)
    frozen = [first, second, network.windows.encoder.embeddings]
    assert not any(p.requires_grad for module in frozen for p in module.parameters())  # type: ignore[union-attr]
    assert all(p.requires_grad for module in (third, network.heads) for p in module.parameters())


def test_more_layers_than_there_are_cannot_be_frozen() -> None:
    check_layers(make_network("BERT"), 3, 1.0)
    with pytest.raises(ConfigurationError, match=r"freeze_layers=4: the encoder has 3 layers; expected 3 at most"):
        check_layers(make_network("BERT"), 4, 1.0)


@pytest.mark.parametrize(("frozen", "decay"), [(1, 1.0), (0, 0.9)])
def test_layers_that_are_not_known_by_their_names_are_not_passed_over(frozen: int, decay: float) -> None:
    config = AlbertConfig(**SMALL, intermediate_size=16, embedding_size=4)  # its layers are one that is used repeatedly
    network = Network(WindowEncoder(AutoModel.from_config(config), "mean", False), "mean", [TOPIC], 0.0)
    check_layers(network, -1, 1.0)
    with pytest.raises(ConfigurationError, match="no layers that are known by their names"):
        check_layers(network, frozen, decay)


def test_the_embeddings_of_gpt2_are_known() -> None:
    encoder = AutoModel.from_config(GPT2Config(vocab_size=50, n_layer=2, n_head=2, n_embd=8, n_positions=16))
    found = {name: depth_of(f"encoder.{name}") for name, _ in encoder.named_parameters()}
    assert {name for name, depth in found.items() if depth == 0} == {"wte.weight", "wpe.weight"}


def test_freezing_nothing_leaves_all_gradients() -> None:
    network = make_network("BERT")
    freeze(network, 0)
    assert all(p.requires_grad for p in network.parameters())


def test_freezing_the_whole_encoder_leaves_heads_and_attention() -> None:
    network = make_network("ModernBERT", "attention")
    freeze(network, -1)
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {f"heads.{t}.{p}" for t in ("topic", "framing") for p in ("weight", "bias")} | {
        "attention.weight"
    }


# --- groups of the optimiser ---


def rates(network: Network, layer_decay: float) -> dict[int, tuple[float, float]]:
    """By the parameter's id: rate and weight decay."""
    groups: Any = parameter_groups(network, 1.0, 5.0, layer_decay, 0.01)
    return {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_rate_falls_by_the_decay_with_each_layer(name: str) -> None:
    network = make_network(name, "attention")
    found = rates(network, 0.5)
    encoder = network.windows.encoder
    for layer, rate in zip(layers(encoder), (0.125, 0.25, 0.5), strict=True):
        assert {found[id(p)][0] for p in layer.parameters()} == {rate}
    assert {found[id(p)][0] for p in encoder.embeddings.parameters()} == {0.0625}  # type: ignore[union-attr]
    assert {found[id(p)][0] for p in network.heads.parameters()} == {5.0}
    assert network.attention is not None
    assert found[id(network.attention.weight)][0] == 5.0


def test_without_layer_decay_the_whole_encoder_has_one_rate() -> None:
    network = make_network("BERT")
    assert {rates(network, 1.0)[id(p)][0] for p in network.windows.parameters()} == {1.0}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_is_in_one_group(name: str) -> None:
    network = make_network(name)
    groups: Any = list(parameter_groups(network, 1.0, 5.0, 0.9, 0.01))
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())


def test_frozen_parameters_are_in_no_group() -> None:
    network = make_network("BERT")
    freeze(network, -1)
    assert set(rates(network, 1.0)) == {id(p) for p in network.heads.parameters()}


def test_biases_and_norms_do_not_decay() -> None:
    network = make_network("BERT")
    found = rates(network, 1.0)
    for name, parameter in network.named_parameters():
        assert found[id(parameter)][1] == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.01), name


# --- forward ---


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_logits_do_not_depend_on_what_else_is_in_the_batch(pooling: str) -> None:
    network = make_network("BERT", pooling).eval()
    if network.attention is not None:
        nn.init.normal_(network.attention.weight)
    ids = torch.randint(1, 50, (5, 7), generator=torch.Generator().manual_seed(1))
    mask, owners = torch.ones_like(ids), torch.tensor([0, 0, 1, 2, 2])
    with torch.no_grad():
        together = network(ids, mask, mask * 0, owners, 3)
        alone = network(ids[3:], mask[3:], mask[3:] * 0, torch.tensor([0, 0]), 1)
    for task in ("topic", "framing"):
        torch.testing.assert_close(together[task][2:], alone[task], rtol=1e-4, atol=1e-5)


def test_attention_pooling_starts_as_the_mean() -> None:
    vectors, owners = torch.randn(5, 8, generator=GENERATOR), torch.tensor([0, 0, 0, 1, 1])
    found = make_network("BERT", "attention").pool(vectors, owners, 2)
    close(found, torch.stack([vectors[:3].mean(dim=0), vectors[3:].mean(dim=0)]))


def test_attention_pooling_learns_its_weights() -> None:
    network = make_network("BERT", "attention")
    assert network.attention is not None
    vectors, owners = torch.randn(5, 8, generator=GENERATOR), torch.tensor([0, 0, 0, 1, 1])
    network.pool(vectors, owners, 2).square().sum().backward()
    assert network.attention.weight.grad is not None
    assert network.attention.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_pooling_works_on_half_precision_vectors(pooling: str) -> None:
    network = make_network("BERT", pooling)
    vectors, owners = torch.randn(5, 8, generator=GENERATOR), torch.tensor([0, 0, 0, 1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        found = network.pool(vectors.bfloat16(), owners, 2)
    expected = network.pool(vectors, owners, 2)
    torch.testing.assert_close(found.float(), expected, rtol=0.03, atol=0.03)
