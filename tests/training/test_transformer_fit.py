"""Fine-tuning: it learns what was planted, keeps the best epoch, and each option does what its name says."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from transformers import RobertaConfig, RobertaModel, T5Config, T5Model, set_seed

import training.transformer
from data.examples import LabelledExamples
from slantwise.article import Example
from slantwise.body import Body
from slantwise.command import CHECKOUT
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.network import WEIGHTS, WindowEncoder
from slantwise.task import Task
from training.encoder_config import TransformerConfig
from training.fitting import Fitted, Part, Workspace
from training.network import Network, losses
from training.pretrained import load_encoder
from training.transformer import fit_all

TOPIC = Task("topic", "multiclass", ("health", "sport", "weather"))
FRAMING = Task("framing", "multilabel", ("economic", "morality"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
TOLD_BY = {"health": "clinic nurse vaccine", "sport": "goal referee league", "weather": "storm frost gale"}
FRAMES = {"economic": "cost budget price", "morality": "duty conscience virtue"}
FILLER = "the a town people yesterday morning street report said early late north south bridge market".split()
METRICS = {"topic": "macro_f1", "framing": "micro_f1", "stance": "macro_f1"}


def _text(draw: random.Random, words: Sequence[str], longest: int = 20) -> str:
    mixed = [*words, *draw.choices(FILLER, k=draw.randint(2, longest))]
    draw.shuffle(mixed)
    return " ".join(mixed)


def _labelled(task: Task, examples: list[Example], gold: Any, **more: Any) -> LabelledExamples:
    ids = [str(i) for i in range(len(examples))]
    return LabelledExamples(task, ids, examples, np.array(gold), ids, [None] * len(ids), **more)


def topic(n: int, seed: int = 0) -> LabelledExamples:
    draw = random.Random(seed)
    gold = [i % 3 for i in range(n)]
    words = [list(TOLD_BY.values())[label].split() for label in gold]
    return _labelled(TOPIC, [Example(_text(draw, draw.choices(own, k=3))) for own in words], gold)


def framing(n: int, seed: int = 0) -> LabelledExamples:
    draw = random.Random(seed)
    gold = [[i % 2 == 1, i // 2 % 2 == 1] for i in range(n)]
    lists = [own.split() for own in FRAMES.values()]
    words = [
        [w for holds, own in zip(row, lists, strict=True) if holds for w in draw.choices(own, k=3)] for row in gold
    ]
    return _labelled(FRAMING, [Example(_text(draw, own)) for own in words], gold)


def stance(n: int, seed: int = 0) -> LabelledExamples:
    """Towards the mayor the verb tells the stance, towards the plan it is always neutral."""
    draw = random.Random(seed)
    examples, gold = [], []
    for i in range(n):
        verb, of_mayor = ["praised", "condemned"][i % 2], i // 2 % 2 == 0
        examples.append(Example(_text(draw, [verb] * 2, 12), "City Mayor" if of_mayor else "Harbour Plan"))
        gold.append(i % 2 if of_mayor else 2)
    return _labelled(STANCE, examples, gold)


MAKERS: dict[str, Callable[..., LabelledExamples]] = {"topic": topic, "framing": framing, "stance": stance}
TASKS = {"topic": TOPIC, "framing": FRAMING, "stance": STANCE}


def part(name: str, n: int = 96, validation: int = 24) -> Part:
    return Part(TASKS[name], MAKERS[name](n), MAKERS[name](validation, seed=1))


def config(encoder: Path, **changes: Any) -> TransformerConfig:
    plain: dict[str, Any] = {
        "max_tokens": 64, "overlap": 8, "epochs": 2, "patience": 0, "learning_rate": 5e-3, "dropout": 0.0,
        "batch_tokens": 1024, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    return TransformerConfig(encoder=str(encoder), **{**plain, **changes})


def fit(encoder: Path, *parts: Part, **changes: Any) -> dict[str, Fitted]:
    return fit_all(parts, config(encoder, **changes), Workspace(METRICS))


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    classifier: Any = fitted.classifier
    head = {"head": torch.from_numpy(classifier.weights), "bias": torch.from_numpy(classifier.bias)}
    return head | dict(classifier.body.runtime.module.encoder.state_dict())


def same(one: Fitted, other: Fitted) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


# --- it learns ---


@pytest.fixture(scope="module")
def learned(tiny_encoder: Path) -> dict[str, Fitted]:
    """A classifier for each task, each fitted alone."""
    return {name: fit(tiny_encoder, part(name, 144), epochs=8)[name] for name in TASKS}


@pytest.mark.parametrize("name", ["topic", "stance"])
def test_planted_labels_are_learned(learned: dict[str, Fitted], name: str) -> None:
    test = MAKERS[name](60, seed=2)
    predicted = learned[name].classifier.predict_proba(test.examples).argmax(axis=1)
    assert (predicted == test.gold).mean() > 0.9


def test_planted_sets_of_labels_are_learned(learned: dict[str, Fitted]) -> None:
    test = framing(60, seed=2)
    predicted = learned["framing"].classifier.predict_proba(test.examples) > 0.5
    assert f1_score(test.gold, predicted, average="micro") > 0.9


def test_a_swapped_target_changes_the_stance(learned: dict[str, Fitted]) -> None:
    of_mayor = [example for example in stance(60, seed=2).examples if example.target == "City Mayor"]
    of_plan = [replace(example, target="Harbour Plan") for example in of_mayor]
    first, second = (learned["stance"].classifier.predict_proba(e).argmax(axis=1) for e in (of_mayor, of_plan))
    assert (first != 2).mean() > 0.9
    assert (second == 2).mean() > 0.9


def test_validation_probabilities_are_those_of_the_classifier(learned: dict[str, Fitted]) -> None:
    for name, fitted in learned.items():
        again = fitted.classifier.predict_proba(part(name).validation.examples)
        np.testing.assert_allclose(fitted.validation_probabilities, again, atol=1e-5)


def test_the_course_of_the_fit_is_told_step_by_step(learned: dict[str, Fitted]) -> None:
    history = learned["topic"].history
    epochs = [entry["epoch"] for entry in history if "validation_score" in entry]
    assert epochs == list(range(1, 9))
    told = [entry["train_loss"] for entry in history if "train_loss" in entry]
    assert len(told) == 8
    assert told[-1] < told[0] / 2


def test_the_facts_name_the_encoder_the_epoch_and_what_was_cut(learned: dict[str, Fitted], tiny_encoder: Path) -> None:
    facts = learned["topic"].chosen
    assert facts["encoder"] == str(tiny_encoder)
    assert len(facts["sha256"]) == 64
    scores = facts["validation_scores"]
    assert scores[str(facts["epoch"])] == max(scores.values())
    assert facts["cut_articles"] == 0
    assert 0 <= facts["padding_share"] < 0.3


# --- which epoch is kept ---


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], list[npt.NDArray[np.float32]]]:
    """scripted(scores): validation gives these scores, epoch by epoch; the list fills with its probabilities."""

    def script(scores: list[float]) -> list[npt.NDArray[np.float32]]:
        seen: list[npt.NDArray[np.float32]] = []

        def score(part: Part, probabilities: npt.NDArray[np.float32], metric: str) -> float:
            seen.append(probabilities)
            return scores[len(seen) - 1]

        monkeypatch.setattr(training.transformer, "primary_score", score)
        return seen

    return script


def test_the_best_epoch_is_returned_not_the_last(tiny_encoder: Path, scripted: Any) -> None:
    seen = scripted([0.1, 0.9, 0.5, 0.2])
    fitted = fit(tiny_encoder, part("topic", 24, 9), epochs=4)["topic"]
    assert fitted.chosen["epoch"] == 2
    np.testing.assert_allclose(fitted.validation_probabilities, seen[1], atol=1e-6)
    assert not np.allclose(seen[1], seen[3], atol=1e-3)


def test_of_equal_epochs_the_first_is_returned(tiny_encoder: Path, scripted: Any) -> None:
    seen = scripted([0.5, 0.5, 0.5])
    fitted = fit(tiny_encoder, part("topic", 24, 9), epochs=3)["topic"]
    np.testing.assert_allclose(fitted.validation_probabilities, seen[0], atol=1e-6)
    assert fitted.chosen["epoch"] == 1


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (0, 6)])
def test_training_stops_after_patience_epochs_without_a_better_score(
    tiny_encoder: Path, scripted: Any, patience: int, epochs: int
) -> None:
    seen = scripted([0.5, 0.9, 0.8, 0.7, 0.6, 0.5])
    fit(tiny_encoder, part("topic", 24, 9), epochs=6, patience=patience)
    assert len(seen) == epochs


def test_a_metric_that_is_better_lower_keeps_the_lowest_epoch(tiny_encoder: Path) -> None:
    fitted = fit_all([part("topic")], config(tiny_encoder, epochs=3), Workspace({"topic": "log_loss"}))["topic"]
    scores = fitted.chosen["validation_scores"]
    assert scores[str(fitted.chosen["epoch"])] == min(scores.values())
    assert min(scores.values()) > 0


def test_the_epoch_of_several_tasks_is_chosen_by_the_mean_of_their_scores(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"topic": iter([0.9, 0.6, 0.1]), "framing": iter([0.1, 0.6, 0.8])}
    monkeypatch.setattr(training.transformer, "primary_score", lambda part, p, metric: next(told[part.task.name]))
    fitted = fit(tiny_encoder, part("topic", 24, 9), part("framing", 24, 9), epochs=3)
    assert {one.chosen["epoch"] for one in fitted.values()} == {2}


# --- seeds ---


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_encoder: Path) -> None:
    own = part("topic", 48, 12)
    first, again, other = (fit(tiny_encoder, own, dropout=0.2, seed=seed)["topic"] for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


# --- every example counts alike ---


def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Fills with the gradients, after clipping, of every step that follows."""
    seen: list[dict[str, torch.Tensor]] = []

    def record(self: Any, *arguments: Any, **more: Any) -> None:
        seen.append({name: p.grad.clone() for name, p in self.trainer.model.named_parameters() if p.grad is not None})

    monkeypatch.setattr(training.transformer._Watcher, "on_pre_optimizer_step", record)
    return seen


def plain_gradient(settings: TransformerConfig, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
    """Of the mean loss over all labelled examples, one example at a time, clipped to a norm of 1."""
    set_seed(settings.seed)
    encoder, tokenizer, _, _ = load_encoder(settings)
    network = Network(WindowEncoder(encoder, "mean", True), "mean", [one.task for one in parts], 0.0)
    total: Any = 0.0
    for one in parts:
        gold = np.eye(3)[one.train.gold] if one.task.kind == "multiclass" else one.train.gold
        for example, label in zip(one.train.examples, gold, strict=True):
            ids = torch.tensor([tokenizer.encode(example.text).ids])
            logits = network(ids, torch.ones_like(ids), ids * 0, torch.tensor([0]), 1)[one.task.name]
            wanted = torch.tensor(np.array([label]), dtype=torch.float32)
            total = total + losses(logits, wanted, one.task.kind, None, 0.0, 0.0).sum()
    (total / sum(len(one.train) for one in parts)).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("accumulate", [1, 5])
def test_the_gradient_of_a_step_is_that_of_the_plain_mean_loss(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """All examples in one step: one batch, or five of unlike sizes."""
    seen = gradients(monkeypatch)
    settings = {"epochs": 1, "accumulate": accumulate, "batch_size": 99 if accumulate == 1 else 8, "batch_tokens": 9999}
    own = part("topic", 31, 9)
    fit(tiny_encoder, own, **settings)
    assert len(seen) == 1
    assert_close(seen[0], plain_gradient(config(tiny_encoder), [own]))


def test_single_examples_that_do_not_fill_the_last_step_count_like_the_others(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = gradients(monkeypatch)
    own = part("topic", 5, 9)
    fit(tiny_encoder, own, epochs=1, batch_size=1, accumulate=3)
    assert len(seen) == 2
    together = {name: seen[0][name] + seen[1][name] for name in seen[0]}
    assert all(torch.isfinite(gradient).all() for gradient in together.values())


def test_articles_that_are_labelled_for_one_task_alone_count_for_that_task_alone(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some texts carry both labels, some one: the loss is the mean over all labels that there are."""
    seen = gradients(monkeypatch)
    own, other = part("topic", 9, 6), part("framing", 13, 8)
    shared = [*own.train.examples[:5], *other.train.examples[5:]]
    other = replace(other, train=replace(other.train, examples=shared))
    fit(tiny_encoder, own, other, epochs=1, batch_size=99, batch_tokens=9999)
    assert len(seen) == 1
    assert_close(seen[0], plain_gradient(config(tiny_encoder), [own, other]))


def test_a_text_that_occurs_twice_counts_twice(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = gradients(monkeypatch)
    own = part("topic", 6, 6)
    own = replace(own, train=replace(own.train, examples=[own.train.examples[0]] * 2 + list(own.train.examples[2:])))
    fit(tiny_encoder, own, epochs=1, batch_size=99)
    assert_close(seen[0], plain_gradient(config(tiny_encoder), [own]))


# --- options ---


def test_class_weights_raise_the_probability_of_the_rare_labels(tiny_encoder: Path, scripted: Any) -> None:
    draw = random.Random(0)
    gold = [0] * 40 + [1] * 4 + [2] * 4  # nothing in the texts tells the label
    train = _labelled(TOPIC, [Example(_text(draw, [])) for _ in gold], gold)
    settings = {"epochs": 15, "batch_size": 48, "batch_tokens": 9999, "freeze_layers": -1, "head_learning_rate": 0.1}
    rare = {}
    for chosen in ("none", "balanced"):
        scripted([float(epoch) for epoch in range(15)])  # the last epoch is the best
        fitted = fit(tiny_encoder, Part(TOPIC, train, topic(12, 1)), class_weight=chosen, **settings)["topic"]
        rare[chosen] = fitted.classifier.predict_proba(train.examples)[:, 1:].sum(axis=1).mean()
    assert rare["none"] < 0.35
    assert rare["balanced"] > 0.5


@pytest.mark.parametrize("changes", [{"loss": "focal"}, {"label_smoothing": 0.3}], ids=["focal", "smoothing"])
def test_focal_loss_and_smoothing_make_less_sure(
    tiny_encoder: Path, learned: dict[str, Fitted], changes: dict[str, Any]
) -> None:
    fitted = fit(tiny_encoder, part("topic", 144), epochs=8, **changes)["topic"]
    examples = topic(60, seed=2).examples
    sure, less = (f.classifier.predict_proba(examples).max(axis=1).mean() for f in (learned["topic"], fitted))
    assert less < sure - 0.02


def test_soft_labels_are_learned_as_shares(tiny_encoder: Path) -> None:
    texts = [Example("clinic nurse"), Example("goal referee")] * 8
    shares = np.array([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0]] * 8, np.float32)
    train = _labelled(TOPIC, texts, [0, 1] * 8, shares=shares)
    found = fit_all([Part(TOPIC, train, train)], config(tiny_encoder, epochs=30), Workspace({"topic": "log_loss"}))
    np.testing.assert_allclose(found["topic"].classifier.predict_proba(texts[:2]), shares[:2], atol=0.1)


def changed(fitted: Fitted, encoder: Path) -> dict[str, float]:
    """By the parameter's name, how far it is from where it began."""
    before = load_file(encoder / WEIGHTS)
    return {name: (t - before[name]).abs().max().item() for name, t in weights(fitted).items() if name in before}


def test_frozen_layers_stay_as_they_were(tiny_encoder: Path) -> None:
    moved = changed(fit(tiny_encoder, part("topic", 24, 9), freeze_layers=1)["topic"], tiny_encoder)
    frozen = {name for name in moved if name.startswith(("embeddings", "encoder.layer.0"))}
    assert {moved[name] for name in frozen} == {0.0}
    assert min(moved[name] for name in moved if name.startswith("encoder.layer.1") and "key.bias" not in name) > 0


def test_a_frozen_encoder_still_has_heads_that_learn(tiny_encoder: Path) -> None:
    fitted = fit(tiny_encoder, part("topic", 24, 9), freeze_layers=-1)["topic"]
    assert set(changed(fitted, tiny_encoder).values()) == {0.0}
    assert fitted.history[-2]["grad_norm"] > 0


def test_layer_decay_slows_the_lower_layers_down(tiny_encoder: Path) -> None:
    moved = changed(fit(tiny_encoder, part("topic", 24, 9), layer_decay=0.01)["topic"], tiny_encoder)
    top, low, words = (
        moved[name]
        for name in (
            "encoder.layer.1.output.dense.weight",
            "encoder.layer.0.output.dense.weight",
            "embeddings.word_embeddings.weight",
        )
    )
    assert top > 20 * low > 20 * 20 * words > 0


def test_the_heads_rate_is_their_own(tiny_encoder: Path) -> None:
    own = part("topic", 24, 9)
    slow, fast = (fit(tiny_encoder, own, epochs=1, head_learning_rate=rate)["topic"] for rate in (1e-6, 1e-1))
    biases = [float(np.abs(f.classifier.bias).max()) for f in (slow, fast)]  # type: ignore[attr-defined]
    assert biases[0] < 1e-4 < 1e-2 < biases[1]


def test_accumulated_batches_make_fewer_steps(tiny_encoder: Path) -> None:
    own = part("topic", 48, 9)
    one, four = (fit(tiny_encoder, own, accumulate=n, batch_size=6)["topic"].history[-1]["step"] for n in (1, 4))
    assert (one, four) == (16, 4)


def buried(n: int, seed: int) -> LabelledExamples:
    """Articles of two hundred words that tell their topic in the last ten alone."""
    draw = random.Random(seed)
    gold = [i % 3 for i in range(n)]
    telling = [draw.choices(list(TOLD_BY.values())[label].split(), k=10) for label in gold]
    return _labelled(TOPIC, [Example(" ".join([*draw.choices(FILLER, k=190), *own])) for own in telling], gold)


def accuracy(encoder: Path, **changes: Any) -> tuple[float, Fitted]:
    fitted = fit(encoder, Part(TOPIC, buried(60, 0), buried(24, 1)), epochs=6, **changes)["topic"]
    test = buried(30, 2)
    return float((fitted.classifier.predict_proba(test.examples).argmax(axis=1) == test.gold).mean()), fitted


def test_what_stands_at_the_end_is_learned_from_head_and_tail_but_not_from_the_head(tiny_encoder: Path) -> None:
    assert accuracy(tiny_encoder, long="head_tail")[0] > 0.9
    found, fitted = accuracy(tiny_encoder, long="head")
    assert found < 0.6
    assert fitted.chosen["cut_articles"] == 1.0
    assert fitted.chosen["cut_tokens"] == pytest.approx(1 - 62 / 200)


@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_what_stands_in_one_window_is_learned_from_all_windows(tiny_encoder: Path, pooling: str) -> None:
    found, fitted = accuracy(tiny_encoder, pooling=pooling)
    body: Any = fitted.classifier.body  # type: ignore[attr-defined]
    assert found > 0.9
    assert fitted.chosen["cut_tokens"] == 0
    assert (body.attention is not None and np.abs(body.attention).max() > 0) == (pooling == "attention")


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_half_precision_trains_and_predicts(tiny_encoder: Path, pooling: str) -> None:
    fitted = fit(tiny_encoder, part("topic"), epochs=6, precision="bfloat16", pooling=pooling)["topic"]
    test = topic(30, seed=2)
    found = fitted.classifier.predict_proba(test.examples)
    assert found.dtype == np.float32
    assert (found.argmax(axis=1) == test.gold).mean() > 0.8


def test_single_precision_stays_single_whatever_the_launcher_has_set(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = part("topic", 24, 9)
    alone = fit(tiny_encoder, own)["topic"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    launched = fit(tiny_encoder, own)["topic"]
    assert same(alone, launched)
    assert launched.chosen["precision"] == "float32"


def test_a_model_of_single_precision_is_saved_as_one(tiny_encoder: Path, tmp_path: Path) -> None:
    for precision, full in (("float32", True), ("auto", False)):
        fitted = fit(tiny_encoder, part("topic", 24, 9), epochs=1, precision=precision)["topic"]
        fitted.classifier.body.save(tmp_path / precision)  # type: ignore[attr-defined]
        assert Body.load(tmp_path / precision, "cpu").runtime.full == full  # type: ignore[attr-defined]


def test_dropout_changes_training(tiny_encoder: Path) -> None:
    own = part("topic", 24, 9)
    assert not same(fit(tiny_encoder, own)["topic"], fit(tiny_encoder, own, dropout=0.3)["topic"])


# --- several tasks ---


def test_tasks_that_are_fitted_together_share_one_body_and_are_all_learned(tiny_encoder: Path) -> None:
    fitted = fit(tiny_encoder, *(part(name, 120) for name in TASKS), epochs=8)
    assert len({id(one.classifier.body) for one in fitted.values()}) == 1  # type: ignore[attr-defined]
    for name in ("topic", "stance"):
        test = MAKERS[name](30, seed=2)
        assert (fitted[name].classifier.predict_proba(test.examples).argmax(axis=1) == test.gold).mean() > 0.85
    frames = framing(30, seed=2)
    assert (
        f1_score(frames.gold, fitted["framing"].classifier.predict_proba(frames.examples) > 0.5, average="micro") > 0.85
    )


def test_scores_keep_their_sign(tiny_encoder: Path) -> None:
    wrong = topic(24, 1)
    wrong = replace(wrong, gold=(wrong.gold + 1) % 3)
    fitted = fit_all([Part(TOPIC, topic(144), wrong)], config(tiny_encoder, epochs=4), Workspace({"topic": "mcc"}))
    assert fitted["topic"].chosen["validation_scores"]["4"] < -0.2
    assert fitted["topic"].history[-1]["validation_score"] == fitted["topic"].chosen["validation_scores"]["4"]
    least = fit_all([part("topic")], config(tiny_encoder), Workspace({"topic": "log_loss"}))
    assert min(least["topic"].chosen["validation_scores"].values()) > 0


# --- what cannot work ---


def test_a_fit_that_diverges_is_an_error(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"diverged.*learning_rate than 1e\+30"):
        fit(tiny_encoder, part("topic"), learning_rate=1e30)


def test_a_metric_that_validation_does_not_define_is_an_error(tiny_encoder: Path) -> None:
    one_label = _labelled(TOPIC, list(topic(9, 1).examples), [0] * 9)
    with pytest.raises(CorpusError, match="mcc is not defined on the 9 validation examples of task topic"):
        fit_all([Part(TOPIC, topic(24), one_label)], config(tiny_encoder), Workspace({"topic": "mcc"}))


def test_no_training_or_validation_examples_are_an_error(tiny_encoder: Path) -> None:
    with pytest.raises(CorpusError, match="24 train and 0 validation examples of task topic"):
        fit(tiny_encoder, Part(TOPIC, topic(24), topic(24).select([])))


def test_an_encoder_that_is_not_there_is_an_error_that_names_it(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"classifier.encoder=.*empty: cannot be loaded"):
        load_encoder(config(tmp_path / "empty"))


def test_pickled_weights_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "pickled"))
    torch.save(load_file(copy / WEIGHTS), copy / "pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    with pytest.raises(ConfigurationError, match=r"pickled: cannot be loaded .*weights are a pickle, which is never"):
        load_encoder(config(copy))


def test_more_tokens_than_the_encoder_reads_are_an_error(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"max_tokens=300: .* reads 256 tokens at most"):
        load_encoder(config(tiny_encoder, max_tokens=300))


def test_the_positions_of_roberta_begin_after_its_padding(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "roberta"))
    shape: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    RobertaModel(
        RobertaConfig(vocab_size=200, max_position_embeddings=66, intermediate_size=8, pad_token_id=1, **shape)
    ).save_pretrained(copy)
    load_encoder(config(copy, max_tokens=64))
    with pytest.raises(ConfigurationError, match="reads 64 tokens at most"):
        load_encoder(config(copy, max_tokens=65))


def test_weights_under_other_names_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "wrapped"))
    tensors = load_file(copy / WEIGHTS)
    save_file({f"wrapper.{name}": tensor for name, tensor in tensors.items()}, copy / WEIGHTS, {"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"\d\d of its weights are missing \(embeddings.* random numbers"):
        load_encoder(config(copy))


def test_an_encoder_without_a_tokenizer_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "mute"))
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigurationError, match=r"its tokenizer knows \d tokens, the encoder reads \d+; expected"):
        load_encoder(config(copy))


def test_what_an_encoder_says_of_code_of_its_own_does_not_reach_the_model(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "mapped"))
    shape = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**shape, "auto_map": {"AutoModel": "modeling.Mine"}}))
    load_encoder(config(copy))[0].config.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**shape, "attn_implementation": "some/kernel"}))
    with pytest.raises(ConfigurationError, match="attention computed by code of the hub, which is never run"):
        load_encoder(config(copy))
    (copy / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    with pytest.raises(ConfigurationError, match="own code is never run; expected one that transformers knows"):
        load_encoder(config(copy))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("./nowhere", "there is no such folder"), ("a/b/c", "there is no such folder"),
     ("some/encoder", "neither does the hub answer nor is the encoder in its cache; expected .*`hf download some/enc"),
     ("no such name", "the hub says: .*no such name")],
)  # fmt: skip
def test_an_encoder_that_is_nowhere_is_known_before_the_corpus_is_read(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=f"classifier.encoder={name}: .*{expected}"):
        TransformerConfig(encoder=name, device="cpu").check_place()


def test_an_encoder_with_a_decoder_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "t5"))
    T5Model(T5Config(vocab_size=200, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(copy)
    with pytest.raises(ConfigurationError, match=r"t5: it is an encoder and a decoder; expected an encoder"):
        load_encoder(config(copy))


def test_the_checksum_of_weights_in_parts_is_of_all_parts(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "parts"))
    (copy / WEIGHTS).unlink()
    load_encoder(config(tiny_encoder))[0].save_pretrained(copy, max_shard_size="20KB")
    first = load_encoder(config(copy))[3]["sha256"]
    path = sorted(copy.glob("model-*.safetensors"))[-1]
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, {"format": "pt"})
    assert load_encoder(config(copy))[3]["sha256"] != first


def test_of_an_encoder_from_the_hub_the_commit_is_recorded(tiny_encoder: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--some--encoder"
    shutil.copytree(tiny_encoder, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    program = (
        "from training.encoder_config import TransformerConfig; from training.pretrained import load_encoder\n"
        "for revision in (None, 'main'):\n"
        "    print(load_encoder(TransformerConfig(encoder='some/encoder', revision=revision))[3]['revision'])"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == ([commit] * 2, 0), done.stderr


def test_a_target_of_the_test_split_that_leaves_no_room_is_an_error_before_training(tiny_encoder: Path) -> None:
    targets = {"City Mayor": "a1", "mayor " * 60: "a7", "harbour plan " * 40: "a8"}
    with pytest.raises(CorpusError, match=r"task stance: no room beside 2 targets .*\(a7: 'mayor .* …'; a8: 'harbour"):
        fit(tiny_encoder, replace(part("stance"), targets=targets))


def test_a_single_gpu_of_several_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.transformer, "choose_device", torch.device)
    with pytest.raises(ConfigurationError, match=r"device=cuda:1: .*; expected classifier.device=cuda, and CUDA"):
        training.transformer._device(TransformerConfig(device="cuda:1"))


def test_focal_loss_takes_no_smoothing() -> None:
    with pytest.raises(ConfigurationError, match=r"label_smoothing=0.1 with loss=focal; expected one of the two"):
        TransformerConfig(loss="focal", label_smoothing=0.1)


def test_all_mistakes_of_a_configuration_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        TransformerConfig(pooling="sum", epochs=0, dropout=1.0, learning_rate=0, checkpoint_steps=0, batch_tokens=8)
    for name in ("pooling='sum'", "epochs=0", "dropout=1.0", "learning_rate=0", "checkpoint_steps=0", "batch_tokens=8"):
        assert name in str(raised.value)
