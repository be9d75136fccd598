"""Measure `slantwise score` with a linear model beside what users would write: a scikit-learn pipeline in a loop.

    python -m benchmarks.scoring speed   [--rows 200000] [--repeats 5]
    python -m benchmarks.scoring million [--rows 1000000]
    python -m benchmarks.scoring profile [--rows 20000]
    python -m benchmarks.scoring kills 50

The usual way: `pipeline.predict_proba` over chunks of 1,000 texts that are in memory already, on one core, nothing read
or written. The pipeline (TfidfVectorizer with words and word pairs, TfidfVectorizer with char_wb, LogisticRegression)
gets the vocabularies and weights of the slantwise model, so that both compute the same; probabilities are compared.
slantwise reads JSONL from the disk, cleans, scores and writes Parquet parts with checksums, by one or two processes,
whose start is in its time. The floor is reading the same JSONL row by row and writing as many numbers as Parquet.

Texts: sentences of the bundled corpus put together anew, each text with some words that the model has never seen.

Speed, in alternation, in another order each time: each way scores the same articles. `million` watches the memory of
all processes together. `profile` says where a worker's time goes. Each writes its section of benchmarks/scoring.md.

`kills` ends the command with kill -9 at random moments, over formats and numbers of workers, and compares the outputs
byte for byte with those of undisturbed runs; it prints what it found and exits 1 if any differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline

from benchmarks.throughput import _middle, _processor
from data.config import CleaningConfig, CorpusConfig, SplitConfig
from data.corpus import load_corpus
from data.prepare import clean_corpus, fit_cleaner, split_corpus
from slantwise import features, segments, workers
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.features import TOKEN, Design, Tfidf
from slantwise.linear import LinearClassifier
from slantwise.model import Head, Model
from slantwise.ngrams import NgramIndex
from slantwise.parts import OutputFormat
from slantwise.scoring import ScoreConfig
from slantwise.segments import chunks, read_segments
from slantwise.sources import find_files
from training.linear import LinearConfig, fit

HERE = Path(__file__).parent
CHUNK = 1_000  # texts of one call of the pipeline
SHORT, FULL = 30, 400  # words
NEW_WORDS = 2  # of each short text, and as many for every further 30 words
KINDS = {"short": SHORT, "full": FULL}
SHARE = 20  # scikit-learn scores the first of so many parts: it has no start to make up for
SECTIONS = ("Speed", "A million articles", "Where the time goes")


@dataclass(frozen=True)
class Way:
    """One way to score `rows` articles; `run` gives the probabilities, or None for the floor."""

    name: str
    rows: int
    run: Callable[[], npt.NDArray[np.float64] | None]


@dataclass(frozen=True)
class Rate:
    """Articles a second on the wall, and a second of the processor, that of child processes included."""

    wall: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "million", "profile", "kills"))
    parser.add_argument("kills", nargs="?", type=int, default=50)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="slantwise-scoring-") as name:
        folder = Path(name)
        if options.what == "speed":
            write_section("Speed", speed(folder, options.rows or 200_000, options.repeats))
        elif options.what == "million":
            write_section("A million articles", million(folder, options.rows or 1_000_000))
        elif options.what == "profile":
            write_section("Where the time goes", profile(folder, options.rows or 20_000))
        else:
            sys.exit(kills(folder, options.kills))


# --- a model, a pipeline of the same weights, and texts ---


def fitted(char_ngrams: tuple[int, int]) -> Model:
    """Topic of the bundled corpus, uncalibrated and without cleaning, as the pipeline has it."""
    corpus = load_corpus(CorpusConfig(name="sample", path=str(HERE.parent / "data/sample/articles.jsonl")))
    clean = clean_corpus(corpus, corpus.task("topic"), fit_cleaner(corpus, CleaningConfig()))
    (split,), _ = split_corpus(clean, SplitConfig())
    train, validation = (clean.examples(list(split.rows(name))) for name in ("train", "validation"))
    config = LinearConfig(C=[10.0], char_ngrams=list(char_ngrams), refit=False)
    classifier = fit(clean.task, train, validation, config).classifier
    return Model({"topic": Head(clean.task, classifier, Decision(), Cleaner(furniture=False))})


def pipeline(model: Model) -> Pipeline:
    """scikit-learn's own classes with the model's vocabularies and weights."""
    classifier = model.heads["topic"].classifier
    assert isinstance(classifier, LinearClassifier)
    space, head = classifier.space, classifier.head
    parts = []
    for name, block in space.blocks.items():
        if name == "word":
            lengths = {"token_pattern": TOKEN.pattern, "ngram_range": space.settings.word_ngrams}
        else:
            lengths = {"analyzer": "char_wb", "ngram_range": space.settings.char_ngrams}
        vectoriser = TfidfVectorizer(**lengths, vocabulary=block.terms, sublinear_tf=True)
        vectoriser.idf_ = block.idf.astype(np.float64)
        parts.append((name, vectoriser))
    logistic = LogisticRegression()
    logistic.classes_, logistic.n_features_in_ = np.array(head.labels), len(head.coefficients)
    logistic.coef_ = np.ascontiguousarray(head.coefficients.T, np.float64)
    logistic.intercept_ = head.intercept.astype(np.float64)
    return Pipeline([("features", FeatureUnion(parts)), ("classifier", logistic)])


def texts(length: int, seed: int = 0) -> Iterator[str]:
    """Texts of about `length` words without end."""
    path = HERE.parent / "data/sample/articles.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    sentences = sorted(
        {s for row in rows for s in re.split(r"(?<=[.!?])\s+", row["text"]) if 5 <= len(s.split()) <= 40}
    )
    draw = random.Random(seed)
    syllables = ["ka", "lo", "mi", "ter", "vo", "sen", "du", "ra", "pel", "shi", "on", "bu"]
    while True:
        words: list[str] = []
        while len(words) < length:
            words += draw.choice(sentences).split()
        for _ in range(NEW_WORDS * length // SHORT):
            words[draw.randrange(len(words))] = "".join(draw.choices(syllables, k=draw.randrange(2, 6))).title()
        yield " ".join(words[:length])


def write_rows(path: Path, length: int, rows: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(islice(texts(length), rows)):
            file.write(json.dumps({"id": f"a{number}", "text": text}) + "\n")
    return path


def command(model: Path, path: Path, output: Path, *more: str) -> list[str]:
    given = [f"model={model}", f"input={path}", f"output={output}", *more]
    return [sys.executable, "-m", "slantwise", "score", *given]


# --- speed ---


def speed(folder: Path, rows: int, repeats: int) -> list[str]:
    before = _processor_time()
    subprocess.run([sys.executable, "-m", "slantwise", "score", "--cfg", "job"], check=True, capture_output=True)
    start = _processor_time() - before
    lines = [
        f"{rows:,} short articles ({SHORT} words) or {rows // 10:,} full ones ({FULL} words), {repeats} repeats in "
        "alternation; medians,",
        "and in brackets the range. A ratio compares runs of one repeat. The command's start is in its time, of which",
        f"Python, imports and configuration are {start:.1f} s of the processor; scikit-learn scores the first "
        f"1/{SHARE} of the articles. Made by",
        f"`python -m benchmarks.scoring speed --rows {rows} --repeats {repeats}`{_made()}",
        "",
        "| features | articles | way | articles a second | times scikit-learn | articles a processor second "
        "| times scikit-learn | largest difference |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for blocks, char_ngrams in (("words and characters", (2, 5)), ("words alone", (0, 0))):
        model = fitted(char_ngrams)
        directory = folder / blocks.replace(" ", "-")
        model.save(directory)
        for kind, length in KINDS.items():
            n = rows if kind == "short" else rows // 10
            path = write_rows(folder / f"{kind}.jsonl", length, n)
            found, difference = measure(ways(model, directory, path, folder), repeats)
            lines += speed_lines(blocks, kind, found, difference)
            print("\n".join(lines[-4:]), flush=True)
    return lines


def ways(model: Model, directory: Path, path: Path, folder: Path) -> list[Way]:
    usual = pipeline(model)
    held = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    n = len(held)
    few = held[: n // SHARE]

    def plain() -> npt.NDArray[np.float64]:
        return np.concatenate([usual.predict_proba(few[i : i + CHUNK]) for i in range(0, len(few), CHUNK)])

    def engine(count: int) -> npt.NDArray[np.float64]:
        output = folder / "scores"
        shutil.rmtree(output, ignore_errors=True)
        subprocess.run(command(directory, path, output, f"workers={count}"), check=True, capture_output=True)
        return probabilities(output)

    return [
        Way("scikit-learn, `predict_proba` alone", len(few), plain),
        Way("slantwise, 1 worker, reading and writing included", n, lambda: engine(1)),
        Way("slantwise, 2 workers, reading and writing included", n, lambda: engine(2)),
        Way("reading and writing alone", n, lambda: read_and_write(path, folder / "floor", len(model.tasks[0].labels))),
    ]


def timed(way: Way) -> tuple[Rate, npt.NDArray[np.float64] | None]:
    wall, processor = time.perf_counter(), _processor_time()
    given = way.run()
    return Rate(way.rows / (time.perf_counter() - wall), way.rows / (_processor_time() - processor)), given


def _processor_time() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def read_and_write(path: Path, output: Path, n_labels: int) -> None:
    """The floor: every row parsed, and as many numbers written as a model gives."""
    with path.open(encoding="utf-8") as file:
        ids = [json.loads(line)["id"] for line in file]
    columns = {f"p{i}": np.full(len(ids), 0.5, np.float32) for i in range(n_labels)}
    pq.write_table(pa.table({"id": ids, **columns}), output, compression="zstd")


def probabilities(output: Path) -> npt.NDArray[np.float64]:
    """(n, n_labels) of the topics that were written."""
    topics = pq.read_table(output)["topic"].combine_chunks()
    parts = topics.field("probabilities")
    return np.column_stack([parts.field(i).to_numpy() for i in range(parts.type.num_fields)]).astype(np.float64)


def measure(chosen: Sequence[Way], repeats: int) -> tuple[dict[str, list[Rate]], dict[str, float]]:
    """Rates by way, and how far probabilities are at most from those of the first."""
    rates: dict[str, list[Rate]] = {way.name: [] for way in chosen}
    found: dict[str, npt.NDArray[np.float64]] = {}
    for repeat in range(repeats):
        for way in random.Random(repeat).sample(list(chosen), len(chosen)):
            rate, given = timed(way)
            rates[way.name].append(rate)
            if given is not None:
                found[way.name] = given
    usual = found[chosen[0].name]
    return rates, {name: float(np.abs(given[: len(usual)] - usual).max()) for name, given in found.items()}


def speed_lines(
    blocks: str, kind: str, rates: Mapping[str, list[Rate]], difference: Mapping[str, float]
) -> list[str]:  # fmt: skip
    usual = next(iter(rates.values()))
    lines = []
    for name, found in rates.items():
        wall = [one.wall / other.wall for one, other in zip(found, usual, strict=True)]
        processor = [one.processor / other.processor for one, other in zip(found, usual, strict=True)]
        cells = [
            blocks, kind, name, f"{np.median([rate.wall for rate in found]):,.0f}", _middle(wall, ".2f"),
            f"{np.median([rate.processor for rate in found]):,.0f}", _middle(processor, ".2f"),
            f"{difference[name]:.0e}" if name in difference and found is not usual else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# --- memory ---


def million(folder: Path, rows: int) -> list[str]:
    fitted((2, 5)).save(folder / "model")
    path = write_rows(folder / "rows.jsonl", SHORT, rows)
    start = time.perf_counter()
    with watched(command(folder / "model", path, folder / "scores", "workers=2")) as peaks:
        pass
    taken = time.perf_counter() - start
    written = sum(p.stat().st_size for p in (folder / "scores").iterdir())
    return [
        f"{rows:,} short articles ({path.stat().st_size / 1e6:,.0f} MB of JSONL) by two workers: {taken:,.0f} s, "
        f"{rows / taken:,.0f} a second,",
        f"{written / 1e6:,.0f} MB of Parquet. Largest memory of all processes together (PSS, 5 times a second): "
        f"{max(peaks) / 2**20:,.0f} MiB. Made by",
        f"`python -m benchmarks.scoring million --rows {rows}`{_made()}",
    ]


@contextmanager
def watched(arguments: Sequence[str]) -> Iterator[list[int]]:
    """Run a command to its end; the memory of its processes together from time to time, in bytes."""
    peaks: list[int] = []
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, done))
        watcher.start()
        _, errors = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(errors.decode())
    yield peaks


def _watch(group: int, peaks: list[int], done: threading.Event) -> None:
    while not done.wait(0.2):
        peaks.append(sum(_memory(int(entry.name), group) for entry in Path("/proc").iterdir() if entry.name.isdigit()))


def _memory(pid: int, group: int) -> int:
    """The proportional set size of a process of the group, in bytes; 0 for others."""
    try:
        if os.getpgid(pid) != group:
            return 0
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


# --- where the time goes ---

# Each stage is the time within this function, without the time within the functions of other stages.
STAGES: dict[str, tuple[Any, str]] = {
    "JSON to rows": (segments, "json_row"),
    "rows to requests": (workers, "parse"),
    "cleaning": (Model, "examples"),
    "texts to words": (features, "words"),
    "words and word pairs to counts": (NgramIndex, "count"),
    "characters to counts": (Tfidf, "_count_known"),
    "weights and lengths": (Tfidf, "_weigh"),
    "product with the coefficients": (Design, "times"),
    "probabilities to Arrow columns": (workers, "score_batch"),
    "summary": (workers, "summarise"),
    "everything else": (workers, "score_chunk"),
}


def profile(folder: Path, rows: int) -> list[str]:
    model = fitted((2, 5))
    columns = []
    for kind, length in KINDS.items():
        n = rows if kind == "short" else rows // 10
        columns.append(_stages(model, write_rows(folder / f"{kind}.jsonl", length, n), n))
    lines = [
        f"A worker's processor time by stage, over {rows:,} short and {rows // 10:,} full articles. Made by",
        f"`python -m benchmarks.scoring profile --rows {rows}`{_made()}",
        "",
        f"| stage | {' | '.join(f'{kind}, µs an article' for kind in KINDS)} |",
        f"| --- |{' ---: |' * len(KINDS)}",
    ]
    for stage in [*STAGES, "together"]:
        lines.append(f"| {stage} | {' | '.join(f'{column[stage]:,.1f}' for column in columns)} |")
    return lines


def _stages(model: Model, path: Path, rows: int) -> dict[str, float]:
    config = ScoreConfig(input=str(path), output="")
    workers.begin_thread(model, workers.Work(config.input_options, OutputFormat.parquet))
    found = chunks(read_segments(find_files(config.layout), config.layout, config.input_options), 1, rows)
    with ExitStack() as patched:
        clock = Clock()
        for stage, (holder, name) in STAGES.items():
            patched.enter_context(mock.patch.object(holder, name, clock.timed(stage, getattr(holder, name))))
        for chunk in found:
            workers.score_chunk(chunk)
    taken = {stage: 1e6 * seconds / rows for stage, seconds in clock.taken.items()}
    return taken | {"together": sum(taken.values())}


class Clock:
    """Processor time by stage; a stage's clock stands while another's runs inside it."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.running: list[str] = []
        self.since = 0.0

    def _turn(self) -> None:
        now = time.process_time()
        if self.running:
            self.taken[self.running[-1]] += now - self.since
        self.since = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self._turn()
            self.running.append(stage)
            try:
                return function(*arguments, **more)
            finally:
                self._turn()
                self.running.pop()

        return call


# --- kills ---


def kills(folder: Path, number: int) -> int:
    """Kill jobs `number` times in all, and finish each; the exit status: 1 where an output differs."""
    fitted((2, 5)).save(folder / "model")
    draw = random.Random(0)
    inputs = kill_inputs(folder)
    done = differing = 0
    while done < number:
        path, name = draw.choice(inputs), draw.choice(["out", "out.jsonl", "out.parquet", "out.csv"])
        more = [f"part_rows={draw.choice([300, 1000])}", f"output_format={draw.choice(list(OutputFormat))}"]
        more = more if name == "out" else more[:1]
        whole, torn = folder / "whole", folder / "torn"
        for target in (whole, torn):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
        start = time.perf_counter()
        subprocess.run(
            command(folder / "model", path, whole / name, *more, "workers=2"), check=True, capture_output=True
        )
        taken = time.perf_counter() - start
        here = 0
        for _ in range(draw.randrange(2, 6)):
            arguments = command(folder / "model", path, torn / name, *more, f"workers={draw.choice([1, 2])}")
            here += killed(arguments, draw, taken)
            if (torn / name).is_file() and not (torn / f"{name}.parts").exists():
                break
        else:
            arguments = command(folder / "model", path, torn / name, *more, f"workers={draw.choice([1, 2])}")
            subprocess.run(arguments, check=True, capture_output=True)
        same = files_of(torn) == files_of(whole)
        done, differing = done + here, differing + (not same)
        shown = "same bytes" if same else "DIFFERENT"
        print(f"{done:3} kills: {path.name} -> {name} {' '.join(more)}: {here} times, {shown}", flush=True)
    print(f"{done} kills, {differing} outputs that differ")
    return int(differing > 0)


def kill_inputs(folder: Path) -> list[Path]:
    """The same 6,000 rows in every format, some of them bad."""
    rows: list[dict[str, Any]] = [
        {"id": str(n), "text": text if n % 11 else None} for n, text in enumerate(islice(texts(60), 6_000))
    ]
    plain = folder / "rows.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "rows.parquet", row_group_size=2_500)
    table.to_pandas().to_csv(folder / "rows.csv", index=False)
    subprocess.run(["gzip", "-k", str(plain)], check=True)
    (folder / "parts").mkdir()
    for i in range(7):
        pq.write_table(table.slice(i * 900, 900), folder / "parts" / f"{i}.parquet")
    return [plain, folder / "rows.parquet", folder / "rows.csv", folder / "rows.jsonl.gz", folder / "parts"]


def killed(arguments: Sequence[str], draw: random.Random, taken: float) -> bool:
    """Whether the command was killed; it may have finished before."""
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(draw.uniform(0.2, 1.0) * taken)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
    return False


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- the page ---


def write_section(title: str, lines: Sequence[str]) -> None:
    """Replace one section of the page; the others stay as they were measured."""
    head = [
        "# Batch scoring with a linear model",
        "",
        "`slantwise score` beside a scikit-learn pipeline of the same weights in a loop. Both give the probabilities",
        "of one task of the bundled corpus; slantwise also reads, checks every row, and writes parts with checksums.",
    ]
    path = HERE / "scoring.md"
    _, *old = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else [""]
    sections = {text.partition("\n")[0]: text.partition("\n")[2].strip() for text in old}
    sections[title] = "\n".join(lines)
    parts = [f"## {name}\n\n{sections[name]}" for name in SECTIONS if name in sections]
    path.write_text("\n\n".join(["\n".join(head), *parts]) + "\n", encoding="utf-8")
    print(sections[title])


def _made() -> str:
    return f", {date.today():%Y-%m-%d}, {os.cpu_count()} cores, {_processor()}, scikit-learn {sklearn.__version__}."


if __name__ == "__main__":
    main()
