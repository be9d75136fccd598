"""ONNX: the converted model gives the answers of the trained one, or is not written; it needs no torch to score."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)

import training.onnx
from evaluation.predictions import Predictions
from slantwise.article import Article, Example
from slantwise.body import Body
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.errors import ConfigurationError, ModelError
from slantwise.model import MANIFEST, Head, Model, load
from slantwise.network import TorchRuntime, WindowEncoder, drop_pooler
from slantwise.onnx import MODEL, OnnxRuntime
from slantwise.task import Task
from slantwise.transformer import TransformerClassifier
from slantwise.windows import Windowing
from tests.conftest import TARGETS, tiny_article, tiny_vocabulary
from training.export import Tolerance, Tolerances, export
from training.onnx import Parity, breaches, convert, quantise, validation_sample
from training.pretrained import takes_segments

CHECKOUT = Path(__file__).parents[2]
TOPIC = Task("topic", "multiclass", ("health", "sport", "weather"))
FRAMING = Task("framing", "multilabel", ("economic", "morality"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
FREE = Tolerance(0.0, None, 1.0)


def text(number: int) -> str:
    """From one sentence to several windows."""
    return " ".join(str(tiny_article(n)["text"]) for n in range(number, number + 1 + number % 4))


def examples(task: Task, n: int = 24) -> list[Example]:
    found = [Example(text(i), TARGETS[i % 2] if task.has_target else None) for i in range(n)]
    return [Example("goal", found[0].target), *found]


def body_of(encoder: Any, folder: Path, pad: int = 0, token_pooling: str = "mean") -> Body:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    module = WindowEncoder(drop_pooler(encoder), token_pooling, takes_segments(encoder))
    return Body(tokenizer, TorchRuntime(module, torch.device("cpu")), Windowing(64, overlap=8), pad)


def head_of(task: Task, body: Body, seed: int = 0) -> Head:
    """A head that was never trained, whose answers differ from text to text all the same."""
    draw = np.random.default_rng(seed)
    vectors = body.represent(examples(task))
    weights = draw.standard_normal((vectors.shape[1], len(task.labels))).astype(np.float32)
    weights *= 2 / (vectors @ weights).std(axis=0)
    classifier = TransformerClassifier(task, body, weights, -(vectors @ weights).mean(axis=0))
    return Head(task, classifier, Decision(), Cleaner(), {"run": f"tiny {task.name}"})


def write_run(folder: Path, heads: Sequence[Head]) -> Path:
    """A run directory as far as an export reads it: the model and the validation predictions."""
    Model({head.task.name: head for head in heads}).save(folder / "model")
    for head in heads:
        shown = examples(head.task)
        ids = [str(i) for i in range(len(shown))]
        probabilities = head.predict(shown)
        labels = head.decision.decide(probabilities, head.task)
        nothing = [None] * len(ids)
        predictions = Predictions(
            head.task, "validation", ids, [e.text for e in shown], labels, probabilities, labels, ids,
            [e.target for e in shown], nothing,
        )  # fmt: skip
        place = folder if len(heads) == 1 else folder / head.task.name
        place.mkdir(exist_ok=True)
        predictions.write(place / "validation.parquet")
    return folder


@pytest.fixture(scope="module")
def bert(tiny_encoder: Path) -> Body:
    return body_of(AutoModel.from_pretrained(tiny_encoder), tiny_encoder)


@pytest.fixture(scope="module")
def runs(bert: Body, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of topic and framing with one body, and a run of stance with an encoder of its own."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(1)
    other = body_of(BertModel(BertConfig(**SMALL, vocab_size=len(tiny_vocabulary()))), tiny_encoder)
    return [
        write_run(root / "two", [head_of(TOPIC, bert), head_of(FRAMING, bert, 1)]),
        write_run(root / "stance", [head_of(STANCE, other)]),
    ]


@pytest.fixture(scope="module")
def exported(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "model"
    export(runs, output, "onnx")
    return output


@pytest.fixture(scope="module")
def graph(exported: Path) -> Path:
    """The float32 graph of `bert`."""
    return exported / "artifacts" / "model" / "bodies" / "1" / MODEL


@pytest.fixture(scope="module")
def int8(bert: Body, graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Body:
    path = tmp_path_factory.mktemp("int8") / MODEL
    onnx.save(quantise(onnx.load(graph)), path)
    return replace(bert, runtime=OnnxRuntime(path, "int8", "cpu"))


@pytest.fixture
def converted_before(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion from torch, which takes seconds, gives the graph that it has given for the run of stance."""
    path = exported / "artifacts" / "model" / "bodies" / "2" / MODEL
    monkeypatch.setattr(training.onnx, "to_onnx", lambda module: onnx.load(path))


# --- the same answers ---


def encoder(name: str) -> Any:
    torch.manual_seed(0)
    words = len(tiny_vocabulary())
    if name == "roberta":  # no token types; positions are counted from the padding id on
        return RobertaModel(RobertaConfig(**SMALL, vocab_size=words, pad_token_id=0, max_position_embeddings=128))
    if name == "distilbert":  # no token types, and other names for everything
        return DistilBertModel(DistilBertConfig(vocab_size=words, dim=32, n_layers=2, n_heads=2, hidden_dim=64))
    if name == "modernbert":  # layers that see their neighbourhood only
        return ModernBertModel(
            ModernBertConfig(
                **SMALL, vocab_size=words, local_attention=16, global_attn_every_n_layers=2, pad_token_id=0,
                bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
            )
        )  # fmt: skip
    return BertModel(BertConfig(**SMALL, vocab_size=words))  # with token types


def assert_equal(body: Body, converted: Body) -> None:
    """For short and long texts, alone and as pairs with a target."""
    assert body.windower.encode(examples(STANCE)).lengths.min() < 10
    assert len(body.windower.encode(examples(TOPIC)).second) > 2 * len(examples(TOPIC))
    for task in (TOPIC, STANCE):
        classifier: Any = head_of(task, body).classifier
        again = TransformerClassifier(task, converted, classifier.weights, classifier.bias)
        shown = examples(task)
        np.testing.assert_allclose(again.predict_proba(shown), classifier.predict_proba(shown), atol=1e-5)


def test_torch_and_onnx_give_equal_probabilities(bert: Body, exported: Path) -> None:
    converted = load(exported).heads["topic"].body
    assert converted is not None
    assert_equal(bert, converted)


@pytest.mark.parametrize("name", ["roberta", "distilbert", "modernbert"])
def test_so_do_encoders_without_token_types(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    body = body_of(encoder(name).eval(), tiny_encoder)
    assert_equal(body, convert(body, tmp_path / "body", "float32"))


def test_the_first_token_is_taken_in_the_graph(tiny_encoder: Path, tmp_path: Path) -> None:
    body = body_of(encoder("bert").eval(), tiny_encoder, token_pooling="cls")
    converted = convert(body, tmp_path / "body", "float32")
    shown = examples(TOPIC)
    np.testing.assert_allclose(converted.represent(shown), body.represent(shown), atol=1e-5)


def test_token_types_reach_the_graph(bert: Body, graph: Path) -> None:
    ids, mask, segments = bert.windower.encode(examples(STANCE)[:1]).padded(np.array([0]), 0)
    assert segments.any()
    for runtime in (bert.runtime, OnnxRuntime(graph)):
        assert np.abs(runtime.vectors(ids, mask, segments) - runtime.vectors(ids, mask, 0 * ids)).max() > 1e-3


def test_the_graph_holds_no_guard_behind_a_softmax(graph: Path) -> None:
    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    assert "Softmax" in kinds
    assert "IsNaN" not in kinds


def test_int8_is_near_and_its_rows_do_not_depend_on_their_neighbours(bert: Body, int8: Body) -> None:
    head = head_of(TOPIC, bert)
    classifier: Any = head.classifier
    again = TransformerClassifier(TOPIC, int8, classifier.weights, classifier.bias)
    shown = examples(TOPIC)
    together = again.predict_proba(shown)
    difference = np.abs(together - classifier.predict_proba(shown))
    assert 1e-6 < difference.max() < 0.1
    assert difference.mean() < 0.02
    alone = np.vstack([again.predict_proba([example]) for example in shown])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_int8_takes_every_matrix_and_table(graph: Path, int8: Body) -> None:
    assert isinstance(int8.runtime, OnnxRuntime)
    before, after = (list(onnx.load(path).graph.initializer) for path in (graph, int8.runtime.path))
    matrices = [t for t in after if len(t.dims) == 2 and t.data_type == TensorProto.INT8]
    assert len(matrices) == 2 * 6  # query, key, value, output, up and down of both layers
    assert not [t.name for t in after if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT]
    assert sum(len(t.raw_data) for t in after) < 0.5 * sum(len(t.raw_data) for t in before)


def test_layers_that_share_a_matrix_share_its_int8_form() -> None:
    draw = np.random.default_rng(0)
    matrix = numpy_helper.from_array(draw.standard_normal((8, 8)).astype(np.float32), "matrix")
    nodes = [helper.make_node("MatMul", ["x", "matrix"], ["y"]), helper.make_node("MatMul", ["y", "matrix"], ["z"])]
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "length", 8]) for name in ("x", "z")]
    whole = helper.make_model(
        helper.make_graph(nodes, "twice", shape[:1], shape[1:], [matrix]),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    small = quantise(whole)
    assert [t.name for t in small.graph.initializer if t.data_type == TensorProto.INT8] == ["matrix.int8"]
    x = draw.standard_normal((2, 3, 8)).astype(np.float32)
    exact, near = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (whole, small)
    )
    assert 0 < np.abs(near - exact).max() < 0.03 * np.abs(exact).max()


# --- the exported model ---


def articles() -> list[Article]:
    return [Article(str(i), text(i)) for i in range(5)]


def test_an_exported_model_answers_as_its_runs_do(runs: list[Path], exported: Path) -> None:
    rows = load(exported).predict(articles(), [TARGETS] * 5)
    for run in runs:
        for row, other in zip(rows, load(run, "cpu").predict(articles(), [TARGETS] * 5), strict=True):
            for task in set(other) - {"id"}:
                ours, theirs = (r[task] if isinstance(r[task], list) else [r[task]] for r in (row, other))
                for one, two in zip(ours, theirs, strict=True):
                    assert one["probabilities"] == pytest.approx(two["probabilities"], abs=1e-5)


def test_a_body_of_several_heads_is_converted_once(exported: Path) -> None:
    directory = exported / "artifacts" / "model"
    assert sorted(path.relative_to(directory).as_posix() for path in directory.rglob(MODEL)) == [
        "bodies/1/model.onnx",
        "bodies/2/model.onnx",
    ]
    heads = load(exported).heads
    assert heads["topic"].body is heads["framing"].body is not heads["stance"].body


def test_the_parity_is_in_the_manifest_and_the_model_card(exported: Path) -> None:
    directory = exported / "artifacts" / "model"
    heads = json.loads((directory / MANIFEST).read_text())["heads"]
    for name, metric in (("topic", "macro_f1"), ("framing", "micro_f1"), ("stance", "macro_f1")):
        parity = heads[name]["provenance"]["parity"]
        assert (parity["format"], parity["split"], parity["examples"]) == ("onnx", "validation", 25)
        assert parity["equal_labels"] == 1
        assert 0 <= parity["mean_difference"] <= parity["max_difference"] <= 1e-4
        assert (parity["metric"], parity["torch"], parity["onnx"]) == (metric, 1, 1)
        assert heads[name]["provenance"]["run"] == f"tiny {name}"
        assert json.dumps(parity) in (directory / "README.md").read_text()


def test_the_requirements_are_what_scoring_needs(exported: Path) -> None:
    lines = (exported / "artifacts" / "model" / "requirements.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == ["numpy", "scipy", "pyarrow", "tokenizers", "safetensors", "onnxruntime"]


def test_it_scores_where_torch_and_transformers_cannot_be_imported(exported: Path, tmp_path: Path) -> None:
    program = f"""
import json, sys
for name in ("torch", "transformers", "sklearn", "mlflow", "onnx", "pandas"):
    sys.modules[name] = None
from slantwise.article import Article
from slantwise.model import load
model = load({str(exported)!r})
print(json.dumps(model.predict([Article("1", {text(1)!r})], [{list(TARGETS)!r}])))
"""
    environment = {**os.environ, "PYTHONPATH": str(exported / "code")}  # the copy that travels with the model
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (row,), (expected,) = json.loads(done.stdout), load(exported).predict([Article("1", text(1))], [TARGETS])
    assert row["topic"]["probabilities"] == pytest.approx(expected["topic"]["probabilities"], abs=1e-6)
    assert [entry["target"] for entry in row["stance"]] == list(TARGETS)


def test_a_changed_graph_is_refused(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    path = copy / "artifacts" / "model" / "bodies" / "1" / MODEL
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"bodies/1/model\.onnx was changed"):
        load(copy)


# --- refusals ---


@pytest.mark.usefixtures("converted_before")
def test_a_model_beyond_the_tolerance_is_not_written(runs: list[Path], tmp_path: Path) -> None:
    strict = Tolerances(onnx_int8=Tolerance(1.0, 1e-9, 0.0))
    with pytest.raises(ModelError, match=r"stance: probabilities differ by 0\.\d+; expected 1e-09 at most") as caught:
        export([runs[1]], tmp_path / "models" / "fast", "onnx_int8", strict)
    assert "tolerance.onnx_int8" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("converted_before")
def test_int8_is_written_where_the_tolerance_allows_it(runs: list[Path], tmp_path: Path) -> None:
    model = export([runs[1]], tmp_path / "fast", "onnx_int8", Tolerances(onnx_int8=FREE))
    body = model.heads["stance"].body
    assert body is not None
    assert isinstance(body.runtime, OnnxRuntime)
    assert body.runtime.precision == "int8"
    assert model.heads["stance"].provenance["parity"]["format"] == "onnx_int8"


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        ({"equal_labels": 0.98}, r"98\.00% of the labels are equal; expected 99\.00%"),
        ({"max_difference": 0.3}, "probabilities differ by 0.3; expected 0.2 at most"),
        ({"onnx": 0.49}, r"macro_f1 is 0\.4900 in place of 0\.5000; expected within 0\.005"),
        ({"onnx": 0.51}, r"macro_f1 is 0\.5100 in place of 0\.5000"),
        ({"onnx": float("nan"), "torch": float("nan")}, "macro_f1 is nan in place of nan"),
    ],
)
def test_each_tolerance_is_held(change: dict[str, float], breach: str) -> None:
    parity = Parity(100, 0.995, 0.15, 0.01, "macro_f1", 0.5, 0.503)
    tolerance = Tolerance(0.99, 0.2, 0.005)
    assert breaches(parity, tolerance) == []
    (found,) = breaches(replace(parity, **change), tolerance)
    assert re.search(breach, found)


def test_a_run_without_validation_examples_is_refused(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1] / "model", tmp_path / "run" / "model")
    with pytest.raises(ConfigurationError, match=r"validation\.parquet is missing.* task stance"):
        export([tmp_path / "run"], tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_validation_examples_of_another_task_are_refused(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1], tmp_path / "run")
    shutil.copy(runs[0] / "topic" / "validation.parquet", tmp_path / "run" / "validation.parquet")
    with pytest.raises(ConfigurationError, match=r"25 examples of task topic with 3 labels; expected .* task stance"):
        export([tmp_path / "run"], tmp_path / "out", "onnx")


def test_a_long_validation_split_is_sampled_evenly(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1], tmp_path / "run")
    path = tmp_path / "run" / "validation.parquet"
    predictions = Predictions.read(path)
    predictions.select(np.arange(1250) % len(predictions)).write(path)
    sample = validation_sample(tmp_path / "run" / "model", STANCE)
    assert len(sample) == 500
    assert (sample.ids[0], sample.ids[-1]) == (predictions.ids[0], predictions.ids[1249 % len(predictions)])


def test_where_validation_is_small_the_texts_of_test_are_compared_too(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1], tmp_path / "run")
    predictions = Predictions.read(tmp_path / "run" / "validation.parquet")
    predictions.select(np.arange(900) % len(predictions)).write(tmp_path / "run" / "predictions.parquet")
    model = export([tmp_path / "run"], tmp_path / "out", "onnx")
    parity = model.heads["stance"].provenance["parity"]
    assert (parity["examples"], parity["split"]) == (500, "validation and test")


def test_an_onnx_model_is_not_converted_again(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is an ONNX model already"):
        export([exported], tmp_path / "out", "onnx_int8")


def test_an_onnx_model_can_be_put_together_with_others(exported: Path, tmp_path: Path) -> None:
    model = export([exported], tmp_path / "out")
    assert model.predict(articles()) == load(exported).predict(articles())


def test_a_graph_says_nothing_of_the_machine_that_made_it(graph: Path) -> None:
    """The exporter notes at each node where in the code it comes from, by its path."""
    content = graph.read_bytes()
    for place in (CHECKOUT, Path(torch.__file__).parents[1]):
        assert str(place).encode() not in content
