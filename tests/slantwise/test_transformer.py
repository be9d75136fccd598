"""The transformer classifier and models whose heads share an encoder: the same figures, one pass, one copy of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from tokenizers import Tokenizer
from transformers import AutoModel

from slantwise.article import Article, Example
from slantwise.body import Body
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.errors import ModelError
from slantwise.inputs import Rejection, Request
from slantwise.linear import softmax
from slantwise.model import MANIFEST, Head, Model, load, requirements
from slantwise.network import TorchRuntime, WindowEncoder, choose_device
from slantwise.scores import answerable, score_rows
from slantwise.task import Task
from slantwise.transformer import HEAD, TransformerClassifier
from slantwise.windows import Windowing

TOPIC = Task("topic", "multiclass", ("health", "sport", "weather"))
FRAMING = Task("framing", "multilabel", ("economic", "morality"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
ARTICLES = [
    Article("one", "Officials praised City Mayor. A doctor met the patient in the ward.", "Clinic"),
    Article("two", "Storm and frost. " * 40 + "Officials condemned Harbour Plan."),
    Article("three", "goal"),
]
TARGETS = [["City Mayor", "Harbour Plan"], [], ["City Mayor"]]
EXAMPLES = [Example(article.text) for article in ARTICLES]


class CountingRuntime(TorchRuntime):
    """Counts the windows that it computes."""

    windows = 0

    def vectors(self, ids: Any, mask: Any, segments: Any) -> Any:
        self.windows += len(ids)
        return super().vectors(ids, mask, segments)


def make_body(folder: Path) -> Body:
    encoder = AutoModel.from_pretrained(folder)
    encoder.pooler = None
    runtime = CountingRuntime(WindowEncoder(encoder, "mean", True), choose_device("cpu"))
    return Body(Tokenizer.from_file(str(folder / "tokenizer.json")), runtime, Windowing(64, overlap=8))


def classifier(task: Task, body: Body, seed: int = 0) -> TransformerClassifier:
    draw = np.random.default_rng(seed)
    n = len(task.labels)
    return TransformerClassifier(
        task, body, draw.normal(size=(32, n)).astype(np.float32), draw.normal(size=n).astype(np.float32)
    )


def make_model(body: Body, tasks: Sequence[Task] = (TOPIC, FRAMING, STANCE)) -> Model:
    heads = {}
    for seed, task in enumerate(tasks):
        decision = Decision(thresholds=(0.5, 0.5)) if task.kind == "multilabel" else Decision()
        heads[task.name] = Head(task, classifier(task, body, seed), decision, Cleaner())
    return Model(heads)


@pytest.fixture
def body(tiny_encoder: Path) -> Body:
    return make_body(tiny_encoder)


@pytest.fixture(scope="module")
def saved(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shared") / "model"
    make_model(make_body(tiny_encoder)).save(directory)
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


# --- one head ---


@pytest.mark.parametrize("task", [TOPIC, FRAMING], ids=lambda task: task.kind)
def test_probabilities_are_softmax_or_sigmoid_of_the_heads_scores(body: Body, task: Task) -> None:
    head = classifier(task, body)
    scores = body.represent(EXAMPLES) @ head.weights + head.bias
    expected = expit(scores) if task.kind == "multilabel" else softmax(scores)
    found = head.predict_proba(EXAMPLES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_examples_give_no_rows(body: Body) -> None:
    assert classifier(TOPIC, body).predict_proba([]).shape == (0, 3)


def test_a_loaded_head_gives_the_same_probabilities(body: Body, tmp_path: Path) -> None:
    head = classifier(TOPIC, body)
    head.save(tmp_path)
    again = TransformerClassifier.load(tmp_path, TOPIC, body)
    np.testing.assert_array_equal(again.predict_proba(EXAMPLES), head.predict_proba(EXAMPLES))


def test_a_head_of_another_task_is_refused_with_the_file_named(body: Body, tmp_path: Path) -> None:
    classifier(TOPIC, body).save(tmp_path)
    with pytest.raises(ModelError, match=HEAD):
        TransformerClassifier.load(tmp_path, FRAMING, body)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_head_is_refused_with_the_file_named(body: Body, tmp_path: Path, damage: str) -> None:
    classifier(TOPIC, body).save(tmp_path)
    path = tmp_path / HEAD
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelError, match=HEAD):
        TransformerClassifier.load(tmp_path, TOPIC, body)


# --- heads that share a body ---


def test_a_shared_body_gives_what_each_head_gives_alone(body: Body) -> None:
    model = make_model(body)
    together = model.predict(ARTICLES, TARGETS)
    for name, head in model.heads.items():
        alone = Model({name: head}).predict(ARTICLES, TARGETS)
        for row, own in zip(together, alone, strict=True):
            assert flat(row[name]) == pytest.approx(flat(own[name]), abs=1e-6)


def flat(struct: Any) -> list[float]:
    entries = struct if isinstance(struct, list) else [struct]
    return [p for entry in entries for p in entry["probabilities"].values()]


def test_probabilities_stand_in_the_order_of_each_tasks_own_examples(body: Body) -> None:
    model = make_model(body, [TOPIC, FRAMING])
    asked = {"topic": EXAMPLES, "framing": [EXAMPLES[2], EXAMPLES[0], EXAMPLES[2]]}
    found = model.probabilities(asked)
    for name, examples in asked.items():
        alone = model.heads[name].classifier.predict_proba(examples)
        np.testing.assert_allclose(found[name], alone, atol=1e-6)


def test_an_article_that_two_tasks_ask_for_is_encoded_once(body: Body) -> None:
    make_model(body, [TOPIC]).predict(ARTICLES)
    alone = body.runtime.windows  # type: ignore[attr-defined]
    make_model(body, [TOPIC, FRAMING]).predict(ARTICLES)
    assert body.runtime.windows == 2 * alone  # type: ignore[attr-defined]


def test_the_same_article_twice_is_encoded_once(body: Body) -> None:
    make_model(body, [TOPIC]).predict([ARTICLES[2], Article("again", ARTICLES[2].text)])
    assert body.runtime.windows == 1  # type: ignore[attr-defined]


def test_heads_behind_different_cleaners_read_their_own_text(body: Body) -> None:
    cleaner = Cleaner(recurring={"north.example": frozenset({"goal league medal"})})
    page = Article("one", "goal league medal\nA doctor met the patient.", source="north.example")
    raw, cleaned = classifier(TOPIC, body), classifier(FRAMING, body)
    heads = {
        "topic": Head(TOPIC, raw, Decision(), Cleaner(furniture=False)),
        "framing": Head(FRAMING, cleaned, Decision(thresholds=(0.5, 0.5)), cleaner),
    }
    (row,) = Model(heads).predict([page])
    assert flat(row["topic"]) == pytest.approx(raw.predict_proba([Example(page.text)])[0].tolist(), abs=1e-6)
    expected = cleaned.predict_proba([Example("A doctor met the patient.")])[0]
    assert flat(row["framing"]) == pytest.approx(expected.tolist(), abs=1e-6)


def test_articles_without_targets_have_an_empty_stance(body: Body) -> None:
    rows = make_model(body).predict(ARTICLES)
    assert [row["stance"] for row in rows] == [[], [], []]


def test_the_answer_about_a_target_depends_on_the_target(body: Body) -> None:
    (row,) = make_model(body, [STANCE]).predict(ARTICLES[:1], TARGETS[:1])
    first, second = (list(entry["probabilities"].values()) for entry in row["stance"])
    assert not np.allclose(first, second, atol=1e-4)


# --- saved and loaded ---


def test_a_loaded_model_predicts_the_same(body: Body, saved: Path) -> None:
    for row, own in zip(load(saved, "cpu").predict(ARTICLES, TARGETS), make_model(body).predict(ARTICLES, TARGETS),
                        strict=True):  # fmt: skip
        for name in ("topic", "framing", "stance"):
            assert flat(row[name]) == pytest.approx(flat(own[name]), abs=1e-6)


def test_heads_that_share_a_body_are_saved_with_one_copy_of_it(saved: Path) -> None:
    assert [path.name for path in (saved / "bodies").iterdir()] == ["1"]
    assert len(list(saved.rglob("model.safetensors"))) == 1


def test_heads_that_shared_a_body_share_it_once_loaded(saved: Path) -> None:
    assert len({id(head.body) for head in load(saved, "cpu").heads.values()}) == 1


def test_heads_with_bodies_of_their_own_keep_them(tiny_encoder: Path, tmp_path: Path) -> None:
    first, second = make_body(tiny_encoder), make_body(tiny_encoder)
    Model(make_model(first, [TOPIC]).heads | make_model(second, [FRAMING]).heads).save(tmp_path / "model")
    heads = load(tmp_path / "model", "cpu").heads
    assert heads["topic"].body is not heads["framing"].body


def test_every_file_of_a_body_is_guarded_by_its_checksum(copy: Path) -> None:
    for path in (copy / "bodies" / "1").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelError, match=path.name):
            load(copy)
        path.write_bytes(content)
    load(copy, "cpu")


def test_a_body_that_the_manifest_lacks_is_an_error(copy: Path) -> None:
    state = json.loads((copy / MANIFEST).read_text())
    state["heads"]["topic"]["body"] = "bodies/9"
    (copy / MANIFEST).write_text(json.dumps(state))
    with pytest.raises(ModelError, match="bodies/9"):
        load(copy)


def test_a_transformer_without_a_body_is_a_damaged_manifest(copy: Path) -> None:
    state = json.loads((copy / MANIFEST).read_text())
    state["heads"]["topic"]["body"] = None
    (copy / MANIFEST).write_text(json.dumps(state))
    with pytest.raises(ModelError, match=MANIFEST):
        load(copy)


def test_its_requirements_are_those_of_its_runtime_with_public_versions(body: Body) -> None:
    lines = requirements(make_model(body))
    assert {"torch", "transformers", "tokenizers", "safetensors"} <= {line.partition("==")[0] for line in lines}
    assert not [line for line in lines if "+" in line]


def test_a_target_that_leaves_no_room_for_its_article_costs_its_own_row_alone(tiny_encoder: Path) -> None:
    body = make_body(tiny_encoder)
    model = Model({"stance": Head(STANCE, classifier(STANCE, body), Decision(), Cleaner())})
    requests = [Request(ARTICLES[0], ("City Mayor",)), Request(ARTICLES[1], ("City Mayor", "z" * 60))]
    good, bad = (answerable(model, request) for request in requests)
    assert good is requests[0]
    assert isinstance(bad, Rejection)
    assert (bad.id, bad.code, bad.field) == ("two", "bad_targets", "targets")
    assert [row["error"] for row in score_rows(model, [good, bad])] == [None, "bad_targets"]


def test_a_target_that_is_read_for_itself_may_be_of_any_length(tiny_encoder: Path) -> None:
    assert replace(make_body(tiny_encoder), pair="separate").takes_target("z" * 60)
