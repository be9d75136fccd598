"""Spark beside the local engine: the same scores row for row, and what an article costs.

python -m benchmarks.spark models/<exported model> [--articles 200000] [--full 10000] [--cores 2]

Articles are drawn from the sentences of the bundled corpus, with a seed: short ones (three sentences) and full ones
(thirty), one target each. Both engines score the same Parquet files with `cores` processes: the local one as
`slantwise score`, Spark as `slantwise.spark.score_table` on local[cores], after a small job that starts its workers.
The processor's time of all their processes is what other work on the machine disturbs least, and what a cluster is paid
for. Writes benchmarks/spark.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slantwise.inputs import InputOptions
from slantwise.model import find_directory
from slantwise.spark import SparkSettings, score_table, start

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "data" / "sample" / "articles.jsonl"
TICKS = os.sysconf("SC_CLK_TCK")
BILLION = 1_000_000_000
BUSY = 0.8  # the share of the cores' time that a job gets out of them: stragglers, retries, reading


@dataclass(frozen=True)
class Cost:
    """What `rows` articles took: seconds on the wall and of the processor, MiB of its largest Python process."""

    rows: int
    wall: float
    processor: float
    memory: float

    @property
    def rate(self) -> float:
        """Articles for a second of one core."""
        return self.rows / self.processor


def write_articles(path: Path, n: int, sentences: int) -> None:
    texts = [str(json.loads(line)["text"]) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    pool = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text) if 20 < len(s) < 400]
    names = sorted({word for s in pool for word in re.findall(r"(?<=[a-z] )[A-Z][a-z]{3,}", s)})
    draw = random.Random(0)
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("targets", pa.list_(pa.string()))])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, n, 5000):
            ids = [f"a{number}" for number in range(first, min(first + 5000, n))]
            drawn = [" ".join(draw.choices(pool, k=sentences)) for _ in ids]
            targets = [[draw.choice(names)] for _ in ids]
            writer.write_table(pa.table([ids, drawn, targets], schema=schema))


def local(model: Path, path: Path, output: Path, cores: int) -> Cost:
    command = [sys.executable, "-m", "slantwise", "score", f"model={model}", f"input={path}", f"output={output}"]
    with Watch() as watch:
        subprocess.run([*command, f"workers={cores}"], check=True, stdout=subprocess.DEVNULL)
    return watch.cost(path)


def on_spark(spark: Any, model: Path, path: Path, output: Path) -> Cost:
    frame = spark.read.parquet(str(path))
    score_table(frame.limit(100).repartition(2), model).collect()  # workers are started, the model is loaded
    with Watch() as watch:
        score_table(frame, model, InputOptions()).write.option("compression", "zstd").parquet(str(output))
    return watch.cost(path)


class Watch(threading.Thread):
    """Looks twice a second at what the processes that this one started have used; idle ones may end meanwhile."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: dict[int, float] = {}
        self.memory: dict[int, float] = {}
        self.ended = threading.Event()

    def __enter__(self) -> Watch:
        self._look()
        self.before, self.began = dict(self.seconds), time.perf_counter()
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall = time.perf_counter() - self.began
        self.ended.set()
        self.join()
        self._look()

    def run(self) -> None:
        while not self.ended.wait(0.5):
            self._look()

    def _look(self) -> None:
        for pid in tree(os.getpid()):
            with suppress(OSError):  # it has ended
                self.seconds[pid] = sum(map(int, stat(pid)[11:13])) / TICKS
                if b"java" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                    self.memory[pid] = peak_mib(pid)

    def cost(self, path: Path) -> Cost:
        processor = sum(seconds - self.before.get(pid, 0) for pid, seconds in self.seconds.items())
        others = [memory for pid, memory in self.memory.items() if pid != os.getpid()]
        return Cost(pq.read_metadata(path).num_rows, self.wall, processor, max(others))


def tree(root: int) -> Iterator[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents.setdefault(int(stat(int(path.name))[1]), []).append(int(path.name))
        except OSError:  # it has ended
            continue
    queue = [root]
    while queue:
        yield (pid := queue.pop())
        queue += parents.get(pid, [])


def stat(pid: int) -> list[str]:
    """The fields after the process's name, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def compare(first: Path, second: Path) -> tuple[int, float]:
    """Rows in another place, with another error or label (expected: 0), and the largest difference of two numbers."""
    a, b = (pq.read_table(sorted(path.glob("*.parquet"))).combine_chunks() for path in (first, second))
    assert a.num_rows == b.num_rows, (a.num_rows, b.num_rows)
    other = np.zeros(a.num_rows, bool)
    largest = 0.0
    for name in a.column_names:
        x, y = a.column(name).combine_chunks(), b.column(name).combine_chunks()
        if pa.types.is_list(x.type):
            assert x.value_lengths().equals(y.value_lengths())
            x, y = x.flatten(), y.flatten()
        for left, right in zip(leaves(x), leaves(y), strict=True):
            if pa.types.is_floating(left.type):
                gap = pc.max(pc.abs(pc.subtract(left, right))).as_py()
                largest = max(largest, gap or 0.0)
            elif len(left) == len(other):
                same = pc.fill_null(pc.equal(left, right), False).to_numpy(zero_copy_only=False)
                both = pc.and_(pc.is_null(left), pc.is_null(right)).to_numpy(zero_copy_only=False)
                other |= ~(same | both)
            else:
                assert left.equals(right), name
    return int(other.sum()), largest


def leaves(array: Any) -> Iterator[Any]:
    if pa.types.is_struct(array.type):
        for part in array.flatten():
            yield from leaves(part)
    else:
        yield array.flatten() if pa.types.is_list(array.type) else array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--articles", type=int, default=200_000)
    parser.add_argument("--full", type=int, default=10_000)
    parser.add_argument("--cores", type=int, default=2)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    model = find_directory(chosen.model)
    spark = start(SparkSettings(f"local[{chosen.cores}]", conf={"spark.driver.memory": "2g"}))
    found: dict[str, tuple[Cost, Cost, int, float]] = {}
    with tempfile.TemporaryDirectory(prefix="slantwise-") as scratch:
        for kind, n, sentences in (("short", chosen.articles, 3), ("full", chosen.full, 30)):
            folder = Path(scratch) / kind
            folder.mkdir()
            write_articles(folder / "in.parquet", n, sentences)
            ours = local(model, folder / "in.parquet", folder / "local", chosen.cores)
            theirs = on_spark(spark, model, folder / "in.parquet", folder / "spark")
            found[kind] = (ours, theirs, *compare(folder / "local", folder / "spark"))
            print(kind, *found[kind], sep="\n  ", flush=True)
    spark.stop()
    (HERE / "spark.md").write_text(page(found, chosen.cores), encoding="utf-8")


def page(found: dict[str, tuple[Cost, Cost, int, float]], cores: int) -> str:
    def row(*cells: object) -> str:
        return "| " + " | ".join(map(str, cells)) + " |"

    lines = [
        "# Spark beside the local engine",
        "",
        f"Made by `python -m benchmarks.spark models/<that of slantwise demo>` on {date.today().isoformat()}. Three "
        f"linear tasks in one model, one target an article; {cores} cores that other work shared, so that seconds on "
        "the wall say little.",
        "",
        row("articles", "engine", "wall, s", "processor, s", "articles a core-second", "largest Python process, MiB"),
        row("---", "---", *["---:"] * 4),
    ]
    for kind, (ours, theirs, _, _) in found.items():
        for name, cost in (("local", ours), ("Spark", theirs)):
            label = f"{cost.rows:,} {kind}"
            lines.append(row(label, name, *(f"{x:,.0f}" for x in (cost.wall, cost.processor, cost.rate, cost.memory))))
    lines.append("")
    for kind, (ours, _, other, largest) in found.items():
        lines.append(
            f"{kind}: {other:,} of {ours.rows:,} rows differ in id, error or label; the largest difference of two "
            f"probabilities is {largest:.1e}."
        )
    lines += [
        "",
        "## 1e9 articles",
        "",
        f"core-hours = articles / (3,600 x articles a core-second); hours = core-hours / (cores x {BUSY}).",
        "",
        row("articles", "core-hours", "hours on 64 cores", "hours on 256 cores"),
        row("---", "---:", "---:", "---:"),
    ]
    for kind, (_, theirs, _, _) in found.items():
        hours = BILLION / theirs.rate / 3600
        lines.append(row(f"1e9 {kind}", *(f"{x:,.0f}" for x in (hours, hours / 64 / BUSY, hours / 256 / BUSY))))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
