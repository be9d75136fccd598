"""A frozen encoder with a logistic head: what is learned, what is kept, and what is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel

from data.examples import LabelledExamples
from slantwise import model as models
from slantwise.article import Example
from slantwise.body import Body
from slantwise.cleaning import Cleaner
from slantwise.command import Progress
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError, CorpusError, ScoringError
from slantwise.model import Head, Model
from slantwise.network import TorchRuntime
from slantwise.task import Task
from training.encoder import fit_all
from training.encoder_config import EncoderConfig
from training.fitting import Fitted, Part, Workspace

TOPIC = Task("topic", "multiclass", ("sport", "weather", "health"))
FRAMING = Task("framing", "multilabel", ("economic", "morality"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
WORDS = (("goal", "striker", "league"), ("storm", "frost", "gale"), ("nurse", "clinic", "vaccine"))
FRAMES = (("cost", "budget"), ("duty", "virtue"))
VERBS = ("praised", "condemned", "met")
TARGETS = ("City Mayor", "Harbour Plan")
FILLER = ("street", "bridge", "market", "morning", "report", "people", "town")

Fit = Callable[..., dict[str, Fitted]]


def text(number: int, filler: int = 4) -> str:
    """Text `number`: topic number % 3, stance number // 2 % 3, its frames by number // 3 % 4."""
    draw = np.random.default_rng(number)
    words = [*draw.choice(WORDS[number % 3], 4), *draw.choice(FILLER, filler)]
    words += [word for i, frame in enumerate(FRAMES) if number // 3 >> i & 1 for word in frame * 2]
    return f"officials {VERBS[number // 2 % 3]} {TARGETS[number % 2]} {' '.join(words)}"


def labelled(task: Task, numbers: Sequence[int], filler: int = 4) -> LabelledExamples:
    gold: dict[str, list[Any]] = {
        "topic": [n % 3 for n in numbers],
        "framing": [[bool(n // 3 >> i & 1) for i in range(2)] for n in numbers],
        "stance": [n // 2 % 3 for n in numbers],
    }
    examples = [Example(text(n, filler), TARGETS[n % 2] if task.has_target else None) for n in numbers]
    ids = [str(n) for n in numbers]
    return LabelledExamples(task, ids, examples, np.array(gold[task.name]), ids, [None] * len(ids))


def part(task: Task, train: int = 48, validation: int = 24, filler: int = 4) -> Part:
    return Part(task, labelled(task, range(train), filler), labelled(task, range(train, train + validation), filler))


@pytest.fixture
def config(tiny_encoder: Path, tmp_path: Path) -> EncoderConfig:
    return EncoderConfig(
        encoder=str(tiny_encoder), max_tokens=64, overlap=8, C=[0.01, 0.1], cache=str(tmp_path / "cache"), device="cpu",
        threads=1,
    )  # fmt: skip


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows each pass of the encoder has computed."""
    counts: list[int] = []
    vectors = TorchRuntime.vectors

    def counting(self: TorchRuntime, ids: Any, mask: Any, segments: Any) -> Any:
        counts.append(len(ids))
        return vectors(self, ids, mask, segments)

    monkeypatch.setattr(TorchRuntime, "vectors", counting)
    return counts


def fit(parts: Sequence[Part], config: EncoderConfig, progress: Progress | None = None) -> dict[str, Fitted]:
    return fit_all(parts, config, Workspace({}, progress=progress or Progress(quiet=True)))


def body_of(fitted: Fitted) -> Body:
    classifier: Any = fitted.classifier
    return classifier.body


@pytest.mark.parametrize("task", [TOPIC, STANCE], ids=lambda task: task.name)
def test_multiclass_labels_are_learned(task: Task, config: EncoderConfig) -> None:
    fitted = fit([part(task, 96)], config)[task.name]
    test = labelled(task, range(200, 260))
    assert (fitted.classifier.predict_proba(test.examples).argmax(axis=1) == test.gold).mean() > 0.8


def test_multilabel_labels_are_learned(config: EncoderConfig) -> None:
    fitted = fit([part(FRAMING, 96)], config)["framing"]
    test = labelled(FRAMING, range(200, 260))
    assert ((fitted.classifier.predict_proba(test.examples) > 0.5) == test.gold).mean() > 0.8


def test_a_saved_model_gives_the_probabilities_of_the_fit(config: EncoderConfig, tmp_path: Path) -> None:
    parts = [part(TOPIC, filler=90), part(FRAMING, filler=90), part(STANCE, filler=90)]
    fitted = fit(parts, replace(config, refit=False))
    heads = {p.task.name: Head(p.task, fitted[p.task.name].classifier, Decision(), Cleaner()) for p in parts}
    Model(heads).save(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model" / "bodies").iterdir()] == ["1"]
    loaded = models.load(tmp_path / "model", "cpu")
    for p in parts:
        found = loaded.heads[p.task.name].classifier.predict_proba(p.validation.examples)
        np.testing.assert_allclose(found, fitted[p.task.name].validation_probabilities, atol=1e-5)


def test_tasks_share_one_body(config: EncoderConfig) -> None:
    fitted = fit([part(TOPIC), part(FRAMING), part(STANCE)], config)
    assert len({id(body_of(one)) for one in fitted.values()}) == 1


def test_a_task_learns_the_same_beside_others_as_alone(config: EncoderConfig) -> None:
    alone = fit([part(FRAMING)], config)["framing"]
    beside = fit([part(STANCE), part(FRAMING)], config)["framing"]
    np.testing.assert_allclose(beside.validation_probabilities, alone.validation_probabilities, atol=1e-5)


def test_validation_probabilities_are_from_before_the_refit(config: EncoderConfig) -> None:
    one = part(TOPIC)
    kept, refitted = (fit([one], replace(config, refit=refit))["topic"] for refit in (False, True))
    np.testing.assert_array_equal(kept.validation_probabilities, refitted.validation_probabilities)
    found = refitted.classifier.predict_proba(one.validation.examples)
    assert not np.allclose(found, kept.validation_probabilities, atol=1e-3)


def test_the_second_fit_computes_nothing_and_gives_the_same(config: EncoderConfig, computed: list[int]) -> None:
    first = fit([part(STANCE)], config)["stance"]
    assert sum(computed) > 0
    assert first.chosen["from_cache"] < 0.1  # targets of validation are those of train
    computed.clear()
    second = fit([part(STANCE)], config)["stance"]
    assert computed == []
    assert second.chosen["from_cache"] == 1
    np.testing.assert_array_equal(first.validation_probabilities, second.validation_probabilities)


def test_the_order_of_rows_is_nothing_to_the_cache(config: EncoderConfig, computed: list[int]) -> None:
    one = part(STANCE)
    fit([one], config)
    computed.clear()
    fit([Part(STANCE, one.train.select(range(47, -1, -1)), one.validation)], config)
    assert computed == []


def test_only_new_texts_are_computed(config: EncoderConfig, computed: list[int]) -> None:
    fit([part(TOPIC, 48, 24)], config)
    computed.clear()
    fit([part(TOPIC, 48, 29)], config)
    assert sum(computed) == 5


def test_a_text_that_occurs_often_is_computed_once(config: EncoderConfig, computed: list[int]) -> None:
    one = part(TOPIC, 24, 12)
    fit([replace(one, train=one.train + one.train)], config)
    assert sum(computed) == 36


def test_without_a_cache_the_fits_of_a_process_share_embeddings(config: EncoderConfig, computed: list[int]) -> None:
    kept_nowhere = replace(config, cache=None)
    fit([part(TOPIC, 30, 15)], kept_nowhere)
    computed.clear()
    fit([part(TOPIC, 30, 15)], kept_nowhere)
    assert computed == []


def test_other_weights_under_the_same_name_are_not_taken_for_the_old_ones(
    config: EncoderConfig, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    config = replace(config, encoder=str(folder))
    before = fit([part(TOPIC)], config)["topic"]
    encoder = BertModel.from_pretrained(str(folder), local_files_only=True)
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.mul_(-1)
    encoder.save_pretrained(folder)
    after = fit([part(TOPIC)], config)["topic"]
    fresh = fit([part(TOPIC)], replace(config, cache=str(tmp_path / "other")))["topic"]
    assert not np.allclose(before.validation_probabilities, after.validation_probabilities, atol=1e-3)
    np.testing.assert_array_equal(after.validation_probabilities, fresh.validation_probabilities)


@pytest.mark.parametrize(
    "change", [{"token_pooling": "cls"}, {"pooling": "max"}, {"max_tokens": 48}, {"long": "head"}], ids=str
)
def test_other_settings_give_what_they_give_without_the_cache(
    change: dict[str, Any], config: EncoderConfig, tmp_path: Path
) -> None:
    one, changed = part(TOPIC, filler=90), replace(config, **change)
    before = fit([one], config)["topic"]
    after = fit([one], changed)["topic"]
    fresh = fit([one], replace(changed, cache=str(tmp_path / "other")))["topic"]
    np.testing.assert_allclose(after.validation_probabilities, fresh.validation_probabilities, atol=1e-5)
    assert not np.allclose(before.validation_probabilities, after.validation_probabilities, atol=1e-3)


def test_a_damaged_cache_is_told_of_and_computed_anew(config: EncoderConfig, computed: list[int]) -> None:
    first = fit([part(TOPIC)], config)["topic"]
    for path in Path(str(config.cache)).rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    computed.clear()
    progress = Progress(quiet=True)
    again = fit([part(TOPIC)], config, progress)["topic"]
    assert sum(computed) == 72
    assert "damaged" in progress.console.export_text()
    np.testing.assert_array_equal(first.validation_probabilities, again.validation_probabilities)


def test_a_label_without_training_examples_gets_a_tiny_probability(config: EncoderConfig) -> None:
    one = part(TOPIC)
    train = one.train.select(np.flatnonzero(one.train.gold != 1))
    found = fit([Part(TOPIC, train, one.validation)], replace(config, refit=False))["topic"].validation_probabilities
    assert (found[:, 1] > 0).all()
    assert (found[:, 1] <= 1e-4).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_multilabel_label_that_never_or_always_holds_is_sure_in_the_measure_of_its_examples(
    config: EncoderConfig,
) -> None:
    one = part(FRAMING)
    gold = np.tile([False, True], (len(one.train), 1))
    constant = Part(FRAMING, replace(one.train, gold=gold), one.validation)
    found = fit([constant], replace(config, refit=False))["framing"].validation_probabilities
    np.testing.assert_allclose(found, np.tile([1 / 98, 97 / 98], (24, 1)), atol=1e-6)  # odds 1 : 2 * 48 + 1 = 97


@pytest.mark.parametrize("task", [TOPIC, FRAMING], ids=lambda task: task.name)
def test_shares_of_one_label_alone_teach_the_same_as_the_label(task: Task, config: EncoderConfig) -> None:
    one = part(task)
    sure = one.train.gold if task is FRAMING else np.eye(3)[one.train.gold]
    shared = replace(one, train=replace(one.train, shares=np.asarray(sure, np.float32)))
    plain, soft = (fit([p], config)[task.name].validation_probabilities for p in (one, shared))
    np.testing.assert_allclose(plain, soft, atol=1e-4)


def test_shares_count_as_far_as_they_go(config: EncoderConfig) -> None:
    """Where all annotators were divided alike about all texts, the text tells nothing."""
    one = part(TOPIC)
    shares = np.tile(np.array([0.5, 0.3, 0.2], np.float32), (len(one.train), 1))
    divided = replace(one, train=replace(one.train, shares=shares))
    config = replace(config, class_weight="none", refit=False)
    found = fit([divided], config)["topic"].validation_probabilities
    np.testing.assert_allclose(found, np.tile(shares[0], (24, 1)), atol=1e-3)


def test_balanced_weights_raise_the_rare_label(config: EncoderConfig) -> None:
    one = part(TOPIC, 96)
    rare = one.train.select([i for i, g in enumerate(one.train.gold) if g != 1 or i < 12])
    balanced, plain = (
        fit([Part(TOPIC, rare, one.validation)], replace(config, C=[0.001], class_weight=weight))["topic"]
        for weight in ("balanced", "none")
    )
    assert balanced.validation_probabilities[:, 1].mean() > plain.validation_probabilities[:, 1].mean() + 0.05


def test_validation_chooses_c_and_the_record_says_how(config: EncoderConfig, tiny_encoder: Path) -> None:
    fitted = fit([part(STANCE)], replace(config, C=[1e-7, 0.1]))["stance"]
    scores = fitted.chosen["validation_scores"]
    assert scores["0.1"] > scores["1e-07"]
    assert fitted.chosen["C"] == 0.1
    assert fitted.chosen["encoder"] == str(tiny_encoder)
    assert len(fitted.chosen["sha256"]) == 64
    assert "C 0.1" in fitted.note
    assert replace(config, C=[1e-7, 0.1]).settled(fitted.chosen) == replace(config, C=[0.1], refit=False)


def test_what_is_cut_is_told_of_the_training_articles(config: EncoderConfig) -> None:
    one = part(TOPIC, 10, 10, filler=200)
    short = part(TOPIC, 10, 10)
    chosen = fit([Part(TOPIC, one.train, short.validation)], replace(config, long="head"))["topic"].chosen
    assert chosen["cut_articles"] == 1
    assert chosen["cut_tokens"] > 0.5
    assert chosen["validation_cut_articles"] == 0


def test_progress_tells_windows_and_rate(config: EncoderConfig) -> None:
    told: list[str] = []
    progress = Progress(quiet=True)
    progress._tell = told.append
    fit([part(TOPIC)], config, progress)
    assert any(line.startswith("train: 48/48 new windows of 48, ") and "a second" in line for line in told)


def test_too_few_examples_are_named(config: EncoderConfig) -> None:
    one = part(TOPIC)
    with pytest.raises(CorpusError, match="0 validation examples of task topic"):
        fit([Part(TOPIC, one.train, one.validation.select([]))], config)


def test_an_encoder_whose_weights_are_no_numbers_is_named(
    config: EncoderConfig, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    encoder = BertModel.from_pretrained(str(folder), local_files_only=True)
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.fill_(float("nan"))
    encoder.save_pretrained(folder)
    with pytest.raises(ConfigurationError, match="not finite"):
        fit([part(TOPIC)], replace(config, encoder=str(folder)))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"pooling": "attention"}, "pooling='attention'; expected one of mean, max"),
        ({"token_pooling": "first"}, "token_pooling='first'"),
        ({"class_weight": "even"}, "class_weight='even'"),
        ({"C": []}, r"C=\[\]"),
        ({"C": [0.0, 1.0]}, r"C=\[0.0, 1.0\]"),
        ({"cache_gigabytes": 0.0}, "cache_gigabytes=0.0"),
        ({"threads": 0}, "threads=0"),
        ({"max_tokens": 48, "long": "none"}, "long=.none.; .*; overlap=32"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        EncoderConfig(**wrong)


def test_text_and_target_are_read_apart(config: EncoderConfig) -> None:
    body = body_of(fit([part(STANCE)], config)["stance"])
    texts, targets = [text(1), text(2)], [TARGETS[0], TARGETS[1]]
    u, v = (body.represent([Example(t) for t in alone]) for alone in (texts, targets))
    both = body.represent([Example(t, target) for t, target in zip(texts, targets, strict=True)])
    np.testing.assert_allclose(both, np.hstack([u, v, u * v, np.abs(u - v)]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, atol=1e-6)


def test_the_windows_of_a_long_article_lie_around_the_target(config: EncoderConfig) -> None:
    body = body_of(fit([part(STANCE)], replace(config, max_windows=1))["stance"])
    filler = " ".join(FILLER * 20)
    favor, against = (f"{filler} officials {verb} City Mayor. {filler}" for verb in VERBS[:2])
    for_mayor = body.represent([Example(favor, "City Mayor"), Example(against, "City Mayor")])
    for_plan = body.represent([Example(favor, "Harbour Plan"), Example(against, "Harbour Plan")])
    assert not np.allclose(for_mayor[0], for_mayor[1], atol=1e-3)
    np.testing.assert_allclose(for_plan[0], for_plan[1], atol=1e-6)  # it is not mentioned: the start is read


def test_some_examples_with_a_target_and_some_without_are_refused(config: EncoderConfig) -> None:
    body = body_of(fit([part(STANCE)], config)["stance"])
    with pytest.raises(ScoringError, match="some have none"):
        body.represent([Example("a", "City Mayor"), Example("b")])
