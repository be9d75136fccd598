"""Measure by how much a slow, broken or absent tracking server slows training, into benchmarks/tracking.md.

    python -m benchmarks.tracking [rounds] [seconds of answer]

At most 5 % is asked for.

The same work (vectorising made-up texts, a step metric every few milliseconds: more than any backend records) is done
without tracking and beside a real MLflow server whose answers take two seconds, whose answers are errors, and that is
away, in alternation. Two figures for each: the wall time against that without tracking (median of the rounds, and the
least and largest), and the share of processor time that the publishing thread takes beside the training one, which
bounds the slow-down on one core and, unlike wall time, does not depend on what else the machine does.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.throughput import _middle, _processor
from slantwise.command import Progress
from tests.tracking_servers import FaultyProxy, TrackingServer
from training.config import TrackingConfig
from training.publisher import Tracker
from training.store import Store

TEXTS, WORDS, REPEATS, PARTS = 400, 300, 40, 20
KINDS = ("no tracking", "fast", "slow", "errors", "away")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.zipf(1.3, WORDS) % 50_000) for _ in range(TEXTS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = TrackingServer(f"sqlite:///{folder}/mlflow.db", folder / "server" / "artifacts")
        proxy = FaultyProxy(server.uri)
        faults: dict[str, float | str | None] = {"fast": None, "slow": seconds, "errors": "500", "away": "away"}
        try:
            Store(TrackingConfig(uri=server.uri, artifacts=None)).experiment()
            found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
            for number in range(rounds):
                for kind in KINDS:
                    fault = faults.get(kind)
                    proxy.fault = lambda n, method, path, fault=fault: fault  # type: ignore[misc]
                    settings = TrackingConfig(kind != "no tracking", proxy.uri, None, timeout=30)
                    found[kind].append(measure(folder / f"{kind}-{number}", settings, texts))
        finally:
            proxy.close()
            server.kill()
    page = "\n".join(_lines(found, rounds, seconds)) + "\n"
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


def _lines(found: Mapping[str, Sequence[tuple[float, float]]], rounds: int, seconds: float) -> list[str]:
    """found: by kind, of each round the wall time and the share of the other threads."""
    step = 1000 * statistics.median(wall for wall, _ in found["no tracking"]) / (REPEATS * PARTS)
    lines = [
        "# Training beside a tracking server",
        "",
        f"{REPEATS * PARTS} steps of {step:.0f} ms, a metric after each: more than any training here records. {rounds} "
        "rounds in alternation;",
        "medians, and in brackets the range. Time is by the clock; without tracking it is 1 in each round. The thread",
        "that tells the server has a processor time of so much of training's, MLflow's import (a second) in it. Made",
        f"by `python -m benchmarks.tracking {rounds}`, {date.today():%Y-%m-%d}, {_processor()}.",
        "",
        "| server | time | processor time of the thread |",
        "| --- | ---: | ---: |",
    ]
    named = {"slow": f"each answer takes {seconds:g} s", "errors": "answers 500", "away": "not there"}
    for kind, measured in found.items():
        ratios = [wall / found["no tracking"][i][0] for i, (wall, _) in enumerate(measured)]
        share = statistics.median(share for _, share in measured)
        lines.append(f"| {named.get(kind, kind)} | {_middle(ratios, '.3f')} | {share:.1%} |")
    return lines


def measure(directory: Path, settings: TrackingConfig, texts: list[str]) -> tuple[float, float]:
    """Seconds of training, and the processor time of all other threads as a share of the training one's."""
    directory.mkdir()
    record = {"status": "RUNNING", "name": directory.name, "parameters": {"a": "1"}, "tags": {}, "datasets": []}
    (directory / "run.json").write_text(json.dumps(record))
    tracker = Tracker(directory, settings, Progress(quiet=True))
    wall, own, all_of_it = time.perf_counter(), time.thread_time(), time.process_time()
    for step in range(REPEATS * PARTS):
        part = texts[step % PARTS :: PARTS]
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)).fit_transform(part)
        tracker.record({"loss": 1 / (step + 1), "score": step / 10}, step)
    wall, own, all_of_it = time.perf_counter() - wall, time.thread_time() - own, time.process_time() - all_of_it
    tracker.end("KILLED")
    return wall, (all_of_it - own) / own


if __name__ == "__main__":
    main()
