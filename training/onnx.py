"""Encoders as ONNX graphs: conversion from torch, int8 weights, and the proof that the labels stay the same.

int8 (`quantise`): each output column of a weight matrix has its own scale, and at run time each token's vector has its
own (per-channel weights, per-token activations: Yao et al. 2022, "ZeroQuant", section 3.2; Dettmers et al. 2022,
"LLM.int8()", section 3.1). The usual dynamic quantisation has one scale for a whole batch: what an article scores then
depends on the articles that share its batch, and one outlying token coarsens all others.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from evaluation.judge import headline_metrics
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.report import wilson
from slantwise.article import Example
from slantwise.body import Body
from slantwise.errors import ConfigurationError, ModelError
from slantwise.model import Head, find_directory
from slantwise.network import TorchRuntime, WindowEncoder
from slantwise.onnx import MODEL, OnnxRuntime
from slantwise.task import Task
from slantwise.transformer import TransformerClassifier

if TYPE_CHECKING:
    from training.export import Tolerance

OPSET = 18
INPUTS, OUTPUT = ("ids", "mask", "segments"), "vectors"
LARGEST = 2**31  # bytes of an ONNX file: the limit of a protocol buffer
HALF_MOST = 65504  # the largest number in half precision
MOST = 500  # examples that are compared
VALIDATION, PREDICTIONS = "validation.parquet", "predictions.parquet"
CHATTY = ("torch.__trace", "torch.onnx._internal.exporter._registration", "onnx_ir", "onnxscript")


# --- Conversion -------------------------------------------------------------------------------------------------------


def convert(body: Body, folder: Path, precision: str) -> Body:
    """The same body on ONNX Runtime, its graph written to `folder`; `precision` is float32 or int8.

    Raises ModelError where the encoder cannot be converted.
    """
    assert isinstance(body.runtime, TorchRuntime)
    graph = to_onnx(body.runtime.module)
    folder.mkdir(parents=True)
    onnx.save(quantise(graph) if precision == "int8" else graph, folder / MODEL)
    return replace(body, runtime=OnnxRuntime(folder / MODEL, precision, "cpu"))


def to_onnx(module: WindowEncoder) -> Any:
    """An onnx.ModelProto: ids, mask and segments, int64 (n, length) each -> vectors, float32 (n, hidden)."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size >= LARGEST:
        raise ModelError(
            f"the encoder has {size / 2**30:.1f} GiB of weights; an ONNX file holds 2 at most: format=torch"
        )
    ids = torch.arange(16).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    free = torch.export.Dim.DYNAMIC
    with _quiet():
        try:
            program = torch.onnx.export(
                module, (ids, mask, torch.zeros_like(ids)), dynamo=True, external_data=False, opset_version=OPSET,
                input_names=INPUTS, output_names=[OUTPUT], dynamic_shapes=[{0: free, 1: free}] * 3, verbose=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            kind = type(module.encoder).__name__
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise ModelError(f"a {kind} cannot be converted to ONNX ({reason}); export it with format=torch") from error
    assert program is not None
    return without_guards(without_traces(program.model_proto))


def without_traces(model: Any) -> Any:
    """The onnx.ModelProto without what the exporter notes at each node: where in the code, by its path on this machine,
    it comes from. The reader of a model has no use for it, and of a small one it is the most part."""
    for noted in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del noted.metadata_props[:]
    return model


def without_guards(model: Any) -> Any:
    """The onnx.ModelProto without what the exporter puts behind each softmax: `where(isnan(p), 0, p)`, for tokens that
    may look at no other. A window always has its special tokens, and of 512 tokens this takes a sixth of the time."""
    graph = model.graph
    tested = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "IsNaN"}
    guards = {
        node.output[0]: node.input[2]
        for node in graph.node
        if node.op_type == "Where" and node.input[0] in tested and node.input[2] == tested[node.input[0]]
    }
    kept = [node for node in graph.node if node.output[0] not in guards]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = guards.get(name, name)
    read = {name for node in kept for name in node.input}
    kept = [node for node in kept if node.op_type != "IsNaN" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells about its steps, libraries that are not used here, and its own use of torch."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- int8 -------------------------------------------------------------------------------------------------------------


def quantise(model: Any) -> Any:
    """The onnx.ModelProto with int8 weight matrices and embeddings in half precision.

    x W becomes s (q W'): row by row s = max |x| / 127 and q = round(x / s), by columns W' = round(127 W / max |W|).
    On an x86 CPU without VNNI (built before about 2020), sums of two products may saturate: compare there, too.
    """
    graph = model.graph
    quantiser = _Quantiser({tensor.name: tensor for tensor in graph.initializer})
    nodes = [new for node in graph.node for new in quantiser.rewritten(node)]
    if not quantiser.matrices:
        raise ModelError("the encoder's graph has no weight matrices that could be int8; export it with format=onnx")
    used = {name for node in nodes for name in node.input}
    tensors = [t for t in (*graph.initializer, *quantiser.tensors.values()) if t.name in used]
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for field, values in (("node", nodes), ("initializer", tensors), ("value_info", [])):
        found.graph.ClearField(field)
        getattr(found.graph, field).extend(values)
    if all(entry.domain != "com.microsoft" for entry in found.opset_import):
        found.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return found


class _Quantiser:
    """Rewrites nodes one after the other; `tensors` are the constants that the new ones need, by name."""

    def __init__(self, weights: Mapping[str, TensorProto]) -> None:
        self.weights = weights
        self.tensors: dict[str, TensorProto] = {}
        self.matrices: set[str] = set()
        self.rows: set[str] = set()  # activations that are quantised already: several matrices may share one

    def rewritten(self, node: NodeProto) -> list[NodeProto]:
        if node.op_type == "MatMul" and len(self._shape(node.input[1])) == 2:
            return self._matmul(node)
        if node.op_type == "Gather" and len(self._shape(node.input[0])) == 2:
            return self._embedding(node)
        return [node]

    def _shape(self, name: str) -> tuple[int, ...]:
        tensor = self.weights.get(name)
        return tuple(tensor.dims) if tensor is not None and tensor.data_type == TensorProto.FLOAT else ()

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self.tensors[name] = numpy_helper.from_array(array, name)
        return name

    def _matmul(self, node: NodeProto) -> list[NodeProto]:
        x, weight = node.input
        if weight not in self.matrices:
            self.matrices.add(weight)
            matrix = numpy_helper.to_array(self.weights[weight])
            scale = np.maximum(np.abs(matrix).max(axis=0), 1e-12) / 127
            self._constant(f"{weight}.int8", np.round(matrix / scale).astype(np.int8))
            self._constant(f"{weight}.scale", scale.astype(np.float32))
        width = self._constant(f"{weight}.width", np.array([self._shape(weight)[1]], np.int64))
        one, middle = (
            self._constant("int8.one", np.array(1, np.float32)),
            self._constant("int8.middle", np.array(128, np.uint8)),
        )
        y = node.output[0]
        return [
            *self._rows(x),
            helper.make_node(
                "MatMulIntegerToFloat", [f"{x}.int8", f"{weight}.int8", one, f"{weight}.scale", middle],
                [f"{y}.unscaled"], domain="com.microsoft",
            ),
            helper.make_node("Mul", [f"{y}.unscaled", f"{x}.column"], [f"{y}.product"]),
            helper.make_node("Concat", [f"{x}.outer", width], [f"{y}.shape"], axis=0),
            helper.make_node("Reshape", [f"{y}.product", f"{y}.shape"], [y]),
        ]  # fmt: skip

    def _rows(self, x: str) -> list[NodeProto]:
        """x (..., k) as rows: x.int8 (rows, k), around 128 as the kernels want it; its scales x.column (rows, 1)."""
        if x in self.rows:
            return []
        self.rows.add(x)
        ones = self._constant("int8.ones", np.array([1], np.int64))
        flat = self._constant("int8.minus_one", np.array([-1], np.int64))
        tiny, step = (
            self._constant("int8.tiny", np.array(1e-12, np.float32)),
            self._constant("int8.step", np.array(1 / 127, np.float32)),
        )
        middle = numpy_helper.from_array(np.array([128], np.uint8))
        return [
            helper.make_node("Shape", [x], [f"{x}.outer"], start=0, end=-1),
            helper.make_node("Shape", [x], [f"{x}.inner"], start=-1),
            helper.make_node("Concat", [flat, f"{x}.inner"], [f"{x}.flat"], axis=0),
            helper.make_node("Reshape", [x, f"{x}.flat"], [f"{x}.rows"]),
            helper.make_node("Abs", [f"{x}.rows"], [f"{x}.absolute"]),
            helper.make_node("ReduceMax", [f"{x}.absolute", ones], [f"{x}.largest"], keepdims=0),
            helper.make_node("Max", [f"{x}.largest", tiny], [f"{x}.positive"]),
            helper.make_node("Mul", [f"{x}.positive", step], [f"{x}.scale"]),
            helper.make_node("Shape", [f"{x}.scale"], [f"{x}.count"]),
            helper.make_node("ConstantOfShape", [f"{x}.count"], [f"{x}.middle"], value=middle),
            helper.make_node("QuantizeLinear", [f"{x}.rows", f"{x}.scale", f"{x}.middle"], [f"{x}.int8"], axis=0),
            helper.make_node("Unsqueeze", [f"{x}.scale", ones], [f"{x}.column"]),
        ]

    def _embedding(self, node: NodeProto) -> list[NodeProto]:
        table = numpy_helper.to_array(self.weights[node.input[0]])
        if np.abs(table).max() > HALF_MOST:
            return [node]
        half = self._constant(f"{node.input[0]}.half", table.astype(np.float16))
        y = node.output[0]
        return [
            helper.make_node("Gather", [half, node.input[1]], [f"{y}.half"], axis=_axis(node)),
            helper.make_node("Cast", [f"{y}.half"], [y], to=TensorProto.FLOAT),
        ]


def _axis(gather: NodeProto) -> int:
    return next((int(attribute.i) for attribute in gather.attribute if attribute.name == "axis"), 0)


# --- Parity -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """How far the converted model's answers are from those of the torch model, on validation examples and, where
    these are few, on texts of the test split.

    equal_labels     the share of decisions that are the same: one an example, in multilabel one for each label
    max_difference   of two calibrated probabilities; mean_difference likewise
    metric           the task's primary metric; torch and onnx: what either model reaches on validation
    """

    examples: int
    equal_labels: float
    max_difference: float
    mean_difference: float
    metric: str
    torch: float
    onnx: float
    split: str = "validation"

    def to_dict(self, format: str) -> dict[str, Any]:
        """For the model's provenance; rounded as far as the figures mean something."""
        rounded = {k: round(v, 7) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {"format": format, **rounded}

    def __str__(self) -> str:
        return (
            f"{self.equal_labels:.2%} of the labels equal on {self.examples} {self.split} examples "
            f"({wilson(self.equal_labels, self.examples)[0]:.1%} or more by the 95 % interval), probabilities within "
            f"{self.max_difference:.2g} (mean {self.mean_difference:.2g}), {self.metric} on validation by "
            f"{self.onnx - self.torch:+.4f}"
        )


def compare(head: Head, converted: Head, sample: Predictions, more: Sequence[Example] = ()) -> Parity:
    """Both heads' answers to the sample's examples and to `more`, whose labels nobody looks at, after calibration and
    decision; the metric is that of the sample."""
    task, n = head.task, len(sample)
    examples = [*_examples(sample), *more]
    first, second = head.predict(examples), converted.predict(examples)
    before, after = head.decision.decide(first, task), head.decision.decide(second, task)
    metric = headline_metrics(task, head.provenance.get("official_metrics", ()))[0]
    scores = [
        compute(replace(sample, probabilities=p, predicted=labels), [metric])[metric]
        for p, labels in ((first[:n], before[:n]), (second[:n], after[:n]))
    ]
    differences = np.abs(first - second)
    both = "validation and test" if more else "validation"
    return Parity(
        len(examples), float((before == after).mean()), float(differences.max()), float(differences.mean()), metric,
        scores[0], scores[1], both,
    )  # fmt: skip


def _examples(sample: Predictions) -> list[Example]:
    return [Example(text, target) for text, target in zip(sample.texts, sample.targets, strict=True)]


def breaches(parity: Parity, tolerance: Tolerance) -> list[str]:
    """What of the tolerance does not hold, with the figures."""
    found = []
    if parity.equal_labels < tolerance.equal_labels:
        found.append(f"{parity.equal_labels:.2%} of the labels are equal; expected {tolerance.equal_labels:.2%}")
    if tolerance.difference is not None and not parity.max_difference <= tolerance.difference:
        found.append(f"probabilities differ by {parity.max_difference:.3g}; expected {tolerance.difference} at most")
    if not abs(parity.onnx - parity.torch) <= tolerance.metric:
        found.append(
            f"{parity.metric} is {parity.onnx:.4f} in place of {parity.torch:.4f}; expected within {tolerance.metric}"
        )
    return found


def validation_sample(path: Path, task: Task) -> Predictions:
    """Validation examples of the run that `path` means, at most MOST, evenly spread over the file.

    Raises ConfigurationError where the run has none of this task.
    """
    file = _file(path, task, VALIDATION)
    if file is None:
        raise ConfigurationError(
            f"{path}: {VALIDATION} is missing, on which the ONNX model of task {task.name} is compared with the torch "
            "model; expected a run directory as `slantwise train` leaves it"
        )
    predictions = Predictions.read(file)
    if predictions.task != task or not len(predictions):
        raise ConfigurationError(
            f"{file}: {len(predictions)} examples of task {predictions.task.name} with "
            f"{len(predictions.task.labels)} labels; expected those of the model's task {task.name}"
        )
    return predictions.select(predictions.spread(MOST))


def further_examples(path: Path, task: Task, most: int) -> list[Example]:
    """Test examples of the same run without their labels, where validation is small: more texts to compare on."""
    file = _file(path, task, PREDICTIONS)
    if file is None or most <= 0:
        return []
    test = Predictions.read(file)
    return _examples(test.select(test.spread(most)))


def _file(path: Path, task: Task, name: str) -> Path | None:
    """Of a run's folder, or, in a run of several tasks, of the task's."""
    run = find_directory(path).parent
    return next((folder / name for folder in (run / task.name, run) if (folder / name).is_file()), None)


# --- Heads ------------------------------------------------------------------------------------------------------------


def converted_heads(
    heads: Mapping[str, Head], runs: Mapping[str, Path], format: str, tolerance: Tolerance, folder: Path
) -> Iterator[tuple[str, Head, Parity]]:
    """By and by each task with its head on ONNX Runtime, and how far it is from the torch model.

    A body that several heads share is converted once. The graphs lie in `folder` until the model is saved. Raises
    ModelError naming all that is beyond the tolerance, after the last head.
    """
    refused = []
    bodies: dict[int, Body] = {}
    samples = {name: validation_sample(runs[name], head.task) for name, head in heads.items()}
    for name, head in heads.items():
        body, classifier = head.body, head.classifier
        assert body is not None
        assert isinstance(classifier, TransformerClassifier)
        if id(body) not in bodies:
            precision = "int8" if format == "onnx_int8" else "float32"
            bodies[id(body)] = convert(body, folder / str(len(bodies) + 1), precision)
        answers = TransformerClassifier(head.task, bodies[id(body)], classifier.weights, classifier.bias)
        converted = replace(head, classifier=answers)
        sample = samples[name]
        parity = compare(head, converted, sample, further_examples(runs[name], head.task, MOST - len(sample)))
        refused += [f"{name}: {breach}" for breach in breaches(parity, tolerance)]
        provenance = {**head.provenance, "parity": parity.to_dict(format)}
        yield name, replace(converted, provenance=provenance), parity
    if refused:
        raise ModelError(
            f"format={format} does not give the answers of the trained model: {'; '.join(refused)}. Nothing was "
            f"written; export it as trained (format=torch), or set tolerance.{format}"
        )
