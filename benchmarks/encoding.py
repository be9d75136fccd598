"""Measure how fast an encoder scores articles against transformers.pipeline; writes benchmarks/encoding.md.

    SLANTWISE_CORPORA=<folder of the corpora> python -m benchmarks.encoding speed <run> [--texts 60] [--threads N]
    SLANTWISE_CORPORA=<folder of the corpora> python -m benchmarks.encoding int8  <run> [<run> ...]

`run` is the directory of a run of classifier=transformer.

Speed: whole articles of allsides and their headlines, shuffled, each cut to 512 tokens. All ways have the same threads
(one for each CPU, unless told otherwise), the same weights and the same tokenizer: the pipeline runs them as a model of
the transformers library (mean of the tokens, then the head), so its probabilities must be those of the run's model. In
each repeat all ways read the same texts, drawn anew, one after the other, in another order each time. What is compared
is the time by the clock. The matrix product that the rates are set beside is the encoder's own largest one (tokens x
hidden by hidden x 4 hidden) with as many threads, measured right before each way.

int8: the test predictions of the runs, made again with the 8-bit model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TextClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.throughput import HERE, _processor
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from slantwise.article import Example
from slantwise.body import Body
from slantwise.linear import softmax
from slantwise.model import Head, find_directory, load
from slantwise.network import WindowEncoder, quiet
from slantwise.onnx import thread_count
from slantwise.transformer import TransformerClassifier
from slantwise.windows import Windowing
from training.onnx import convert

Floats = npt.NDArray[np.float32]
Way = Callable[[Sequence[str]], Floats]
TOKENS = 512
SIZES = (1, 8, 32)  # batches of the pipeline
REPEATED = 8  # matrix products of one measurement


class _Pooled(PreTrainedModel):  # type: ignore[misc]
    """A fitted encoder with its head, as transformers.pipeline takes it."""

    _supports_sdpa = True  # its encoder does

    def __init__(self, module: WindowEncoder, classifier: TransformerClassifier) -> None:
        config: Any = module.encoder.config
        config.num_labels = classifier.weights.shape[1]
        super().__init__(config)
        self.module = module
        self.head = torch.nn.Linear(*classifier.weights.shape)
        self.head.weight.data = torch.from_numpy(classifier.weights.T.copy())
        self.head.bias.data = torch.from_numpy(classifier.bias.copy())

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return SequenceClassifierOutput(logits=self.head(self.module(input_ids, attention_mask, segments)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "int8"))
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--texts", type=int, default=60, help="speed: articles of one repeat, and as many headlines")
    parser.add_argument("--repeats", type=int, default=7, help="speed")
    parser.add_argument("--threads", type=int, default=thread_count(), help="default: %(default)s")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "speed":
            _section("Speed", _speed(options.runs[0], Path(folder), options.texts, options.repeats))
        else:
            _section("Eight bits", _eight_bits(options.runs, Path(folder)))


def _classifier(run: Path) -> tuple[Head, TransformerClassifier]:
    head = next(head for head in load(run, "cpu").heads.values() if not head.task.has_target)
    assert isinstance(head.classifier, TransformerClassifier), f"{run} is no run of classifier=transformer"
    return head, head.classifier


def _speed(run: Path, folder: Path, n: int, repeats: int) -> list[str]:
    head, classifier = _classifier(run)
    body = replace(classifier.body, windowing=Windowing(TOKENS, "head", 0, 1))
    ways = _ways(head, classifier, body, find_directory(run), folder)
    articles = _articles()
    lines = [
        f"{repeats} repeats, {torch.get_num_threads()} threads, time by the clock; medians, and in brackets the range.",
        "The last column is the largest difference of a probability from the pipeline's. Made by",
        f"`python -m benchmarks.encoding speed`, {date.today():%Y-%m-%d}, {_processor()}, torch {torch.__version__},",
        f"transformers {transformers.__version__}, onnxruntime {onnxruntime.__version__}.",
        "",
        "How near a way is to the rate of the matrix product says what is left to gain in float32: a pipeline that",
        "takes one whole article at a time pads nothing and is near it, one that takes headlines is far from it.",
    ]
    for title, n_articles, n_headlines in (
        (f"{2 * n} texts, half of them whole articles (cut to {TOKENS} tokens), half headlines", n, n),
        (f"{10 * n} headlines", 0, 10 * n),
    ):
        print(title, flush=True)
        lines += ["", f"{title}:", "", *_mixture(ways, articles, body, n_articles, n_headlines, repeats)]
    return lines


def _mixture(
    ways: Mapping[str, Way], articles: Sequence[Mapping[str, str]], body: Body, n_articles: int, n_headlines: int,
    repeats: int,
) -> list[str]:  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    apart: dict[str, float] = defaultdict(float)
    for repeat in range(repeats):
        draw = random.Random(repeat)
        texts = [article["content"] for article in draw.sample(articles, n_articles)]
        texts += [article["title"] for article in draw.sample(articles, n_headlines)]
        draw.shuffle(texts)
        lengths = body.encode([Example(text) for text in texts]).lengths
        found: dict[str, Floats] = {}
        for name in draw.sample(list(ways), len(ways)):
            rate = _product_rate(body)
            started = time.perf_counter()
            found[name] = ways[name](texts)
            seconds[name].append(time.perf_counter() - started)
            shares[name].append(_operations(body, lengths) / seconds[name][-1] / rate)
        base = found[f"transformers.pipeline, batches of {SIZES[0]}"]
        for name in ways:
            apart[name] = max(apart[name], float(np.abs(found[name] - base).max()))
        print(f"repeat {repeat + 1}: " + ", ".join(f"{name} {seconds[name][-1]:.1f} s" for name in ways), flush=True)
    return _speed_lines(seconds, shares, apart, len(texts))


def _ways(
    head: Head, classifier: TransformerClassifier, body: Body, directory: Path, folder: Path
) -> dict[str, Way]:  # fmt: skip
    pooled = _Pooled(body.runtime.module, classifier).eval()  # type: ignore[attr-defined]
    backend = Tokenizer.from_file(str(next((directory / "bodies").glob("*")) / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=backend.id_to_token(body.pad))
    pipe = TextClassificationPipeline(model=pooled, tokenizer=tokenizer, top_k=None, device="cpu")

    def piped(size: int) -> Way:
        def score(texts: Sequence[str]) -> Floats:
            found = pipe(
                list(texts), batch_size=size, truncation=True, max_length=TOKENS, function_to_apply="softmax"
            )  # fmt: skip
            names = [pooled.config.id2label[i] for i in range(len(head.task.labels))]
            by_name = [{entry["label"]: entry["score"] for entry in row} for row in found]
            return np.array([[row[name] for name in names] for row in by_name], np.float32)

        return score

    def ours(own: Body) -> Way:
        def score(texts: Sequence[str]) -> Floats:
            vectors = own.represent([Example(text) for text in texts])
            return softmax(vectors @ classifier.weights + classifier.bias)

        return score

    ways = {f"transformers.pipeline, batches of {size}": piped(size) for size in SIZES}
    ways["slantwise, torch"] = ours(body)
    ways["slantwise, ONNX Runtime, float32"] = ours(convert(body, folder / "float32", "float32"))
    ways["slantwise, ONNX Runtime, int8"] = ours(convert(body, folder / "int8", "int8"))
    return ways


def _articles() -> list[dict[str, str]]:
    folder = Path(os.environ["SLANTWISE_CORPORA"]) / "allsides" / "data" / "jsons"
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [article for article in found if article["content"].strip() and article["title"].strip()]


def _shape(body: Body) -> tuple[int, int, int]:
    config: Any = body.runtime.module.encoder.config  # type: ignore[attr-defined]
    return config.num_hidden_layers, config.hidden_size, config.intermediate_size


def _operations(body: Body, lengths: npt.NDArray[np.int64]) -> float:
    """Multiplications and additions that the encoder needs for windows of these lengths, padding not counted."""
    layers, hidden, inner = _shape(body)
    of_tokens = float(lengths.sum()) * (4 * hidden * hidden + 2 * hidden * inner)
    of_attention = float((lengths.astype(float) ** 2).sum()) * 2 * hidden
    return 2 * layers * (of_tokens + of_attention)


def _product_rate(body: Body) -> float:
    """Multiplications and additions a second of the encoder's largest matrix product."""
    _, hidden, inner = _shape(body)
    a, b = torch.rand(2 * TOKENS, hidden), torch.rand(hidden, inner)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(REPEATED):
            a @ b
        best = min(best, time.perf_counter() - started)
    return 2.0 * REPEATED * a.shape[0] * hidden * inner / best


def _speed_lines(
    seconds: Mapping[str, Sequence[float]], shares: Mapping[str, Sequence[float]], apart: Mapping[str, float],
    texts: int,
) -> list[str]:  # fmt: skip
    pipes = {size: np.array(seconds[f"transformers.pipeline, batches of {size}"]) for size in SIZES}
    best = min(pipes.values(), key=lambda values: float(np.median(values)))
    lines = [
        f"| | texts a second | times the pipeline's best | times its batches of {SIZES[-1]} | share of the matrix "
        "product's rate | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in seconds.items():
        own = np.array(found)
        lines.append(
            f"| {name} | {_middle(texts / own, '.1f')} | {_middle(best / own, '.2f')} "
            f"| {_middle(pipes[SIZES[-1]] / own, '.2f')} | {_middle(np.array(shares[name]), '.0%')} "
            f"| {apart[name]:.1e} |"
        )
    return lines


def _eight_bits(runs: Sequence[Path], folder: Path) -> list[str]:
    lines = [
        "The test predictions of fine-tuned models, and those of the same models in eight bits. Made by",
        f"`python -m benchmarks.encoding int8`, {date.today():%Y-%m-%d}, {_processor()}.",
        "",
        "| run | test examples | equal labels | metric | float32 | int8 | difference |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for run in runs:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        (name, facts), *_ = record["tasks"].items()
        head = load(run, "cpu").heads[name]
        assert isinstance(head.classifier, TransformerClassifier), f"{run} is no run of classifier=transformer"
        test = Predictions.read(run / "predictions.parquet")
        body = convert(head.classifier.body, folder / run.name, "int8")
        classifier = TransformerClassifier(head.task, body, head.classifier.weights, head.classifier.bias)
        again = replace(head, classifier=classifier)
        pairs = zip(test.texts, test.targets, strict=True)
        probabilities = again.predict([Example(text, target) for text, target in pairs])
        eight = replace(test, probabilities=probabilities, predicted=head.decision.decide(probabilities, head.task))
        metric = facts["headline"][0]
        of = [compute(each, [metric])[metric] for each in (test, eight)]
        same = float(np.mean(test.predicted == eight.predicted))
        lines.append(
            f"| {run.name} | {len(test):,} | {same:.1%} | {metric} | {of[0]:.4f} | {of[1]:.4f} | {of[1] - of[0]:+.4f} |"
        )
    return lines


def _middle(values: npt.NDArray[Any], form: str) -> str:
    return f"{np.median(values):{form}} ({values.min():{form}} to {values.max():{form}})"


def _section(title: str, lines: Sequence[str]) -> None:
    """Replace one section of the page; the other stays as it was measured."""
    head = ["# Scoring with an encoder", "", "MiniLM-L6, fine-tuned, on a CPU."]
    path = HERE / "encoding.md"
    _, *old = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else [""]
    sections = {text.partition("\n")[0]: text.partition("\n")[2].strip() for text in old}
    sections[title] = "\n".join(lines)
    parts = [f"## {name}\n\n{sections[name]}" for name in ("Speed", "Eight bits") if name in sections]
    path.write_text("\n\n".join(["\n".join(head), *parts]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
