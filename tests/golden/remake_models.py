"""Make the next golden model, tests/golden/model-<n>: models of this release and their scores, for all later releases.

OMP_NUM_THREADS=1 python -m tests.golden.remake_models

Run it once for a release that changes what an exported model holds; the ones before stay as they are, and must load and
give the same scores for ever. linear/ has the three tasks, trained on the bundled corpus with few features; onnx/ has
an encoder of one layer, never trained, on ONNX Runtime; articles.jsonl is what they scored, scores.json the scores.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from slantwise.article import Example
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.inputs import InputOptions, parse
from slantwise.model import Head, Model, load
from slantwise.scores import score_rows
from slantwise.task import Task

HERE = Path(__file__).parent
ARTICLES = HERE / "articles.jsonl"
SMALL = (
    "classifier.word_ngrams=[1,1]", "classifier.char_ngrams=[0,0]", "classifier.max_features=150",
    "classifier.per_target=2", "classifier.C=[1.0]", "shortcuts=false", "evaluation.resamples=20", "tracking=none",
)  # fmt: skip
TOPIC = Task("topic", "multiclass", ("health", "sport", "weather"))
STANCE = Task("stance", "multiclass", ("favor", "against", "neutral"), has_target=True)


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ARTICLES.read_text(encoding="utf-8").splitlines()]


def scores(model: Model, articles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return score_rows(model, [parse(row, number, InputOptions()) for number, row in enumerate(articles, start=1)])


def linear(scratch: Path) -> Model:
    heads = {}
    for task in ("topic", "framing", "stance"):
        command = [sys.executable, "-m", "slantwise", "train", f"task={task}", "corpus=sample", *SMALL]
        subprocess.run([*command, f"name=golden-{task}", f"run_dir={scratch / task}"], check=True)
        heads |= load(scratch / task).heads
    return Model(heads)


def onnx(scratch: Path) -> Model:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    from slantwise.body import Body
    from slantwise.network import TorchRuntime, WindowEncoder, drop_pooler
    from slantwise.transformer import TransformerClassifier
    from slantwise.windows import Windowing
    from tests.conftest import tiny_vocabulary
    from training.onnx import convert

    vocabulary = tiny_vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    module = WindowEncoder(drop_pooler(BertModel(config).eval()), "mean", True)
    windowing = Windowing(64, overlap=8)
    body = convert(Body(tokenizer, TorchRuntime(module, torch.device("cpu")), windowing), scratch / "onnx", "float32")
    draw, heads = np.random.default_rng(0), {}
    for task in (TOPIC, STANCE):
        seen = [Example(row["text"], "mayor" if task.has_target else None) for row in rows() if row["text"]]
        vectors = body.represent(seen)
        weights = draw.standard_normal((vectors.shape[1], len(task.labels))).astype(np.float32)
        weights *= 2 / (vectors @ weights).std(axis=0)
        classifier = TransformerClassifier(task, body, weights, -(vectors @ weights).mean(axis=0))
        decision = Decision(abstain_below=0.5) if task is TOPIC else Decision((1.5,) * 3, (0.0,) * 3)
        heads[task.name] = Head(task, classifier, decision, Cleaner(), {"run": "golden, never trained"})
    return Model(heads)


def main() -> None:
    number = 1 + max((int(path.name.removeprefix("model-")) for path in HERE.glob("model-*")), default=0)
    draft, found = HERE / f".model-{number}", {}
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in (("linear", linear), ("onnx", onnx)):
            model = make(Path(scratch))
            model.save(draft / name)
            found[name] = scores(model, rows())
    shutil.copy(ARTICLES, draft)
    (draft / "scores.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.rename(HERE / f"model-{number}")
    print(HERE / f"model-{number}")


if __name__ == "__main__":
    main()
