"""Whole articles as windows against their first 256 tokens, on allsides; writes benchmarks/long_articles.md.

    SLANTWISE_CORPORA=<folder of the corpora> python -m benchmarks.long_articles <folder for the runs> [transformer]

Trains the frozen MiniLM encoder (with `transformer` the fine-tuned one, too) three ways on the media split, whose test
outlets never occur in train, and compares them with `slantwise compare`. Figures are written by this program, never by
hand. A run whose folder is complete is not trained again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.transformers import HERE, MINILM, thread_options

WAYS = {"head": [], "head_tail": [], "windows": ["classifier.max_windows=8"]}
SETTINGS = {
    "encoder": [],
    "transformer": ["classifier.learning_rate=2e-4", "classifier.head_learning_rate=1e-3", "classifier.epochs=3"],
}


def main() -> None:
    folder = Path(sys.argv[1])
    backends = ["encoder", *sys.argv[2:]]
    for backend in backends:
        for way, more in WAYS.items():
            directory = folder / f"allsides-{backend}-{way}"
            if not (directory / "run.json").exists():
                _command(
                    "train", "task=framing", "corpus=allsides", "split=given", f"classifier={backend}", MINILM,
                    "classifier.max_tokens=256", f"classifier.long={way}", *more, *SETTINGS[backend],
                    *thread_options(), f"run_dir={directory}", "tracking=none",
                )  # fmt: skip
    (HERE / "long_articles.md").write_text(_page(folder, backends), encoding="utf-8")


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "slantwise", *arguments], check=True)


def _page(folder: Path, backends: list[str]) -> str:
    lines = [
        "# Long articles: windows against truncation",
        "",
        "MiniLM-L6 on allsides (left, center or right by the outlet's leaning; 1,050 training and 1,300 test articles",
        "of other outlets), 256 tokens a window. The difference from `head`, the first 256 tokens, is paired, with a",
        "95 % interval. Made by `python -m benchmarks.long_articles`.",
        "",
        "| classifier | long | articles cut | tokens cut | macro-F1 | minus head | p |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for backend in backends:
        found = _compare(folder, backend)
        for model in found["models"]:
            way = model["name"]
            estimate = model["estimates"]["macro_f1"]
            value = f"**{estimate['value']:.3f}** [{estimate['low']:.3f}, {estimate['high']:.3f}]"
            chosen = _parameters(folder / f"allsides-{backend}-{way}")
            cut = f"{float(chosen['chosen.cut_articles']):.0%} | {float(chosen['chosen.cut_tokens']):.0%}"
            lines.append(f"| {backend} | {way} | {cut} | {value} | {_difference(found, way)} |")
    return "\n".join(lines) + "\n"


def _difference(found: dict[str, Any], way: str) -> str:
    for each in found["comparisons"]:
        if each["model"] == way:
            d = each["differences"]["macro_f1"]
            p = "< .001" if d["p"] < 0.001 else f"{d['p']:.3f}"
            return f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] | {p}"
    return "| "


def _parameters(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "run.json").read_text(encoding="utf-8"))["parameters"]
    return found


def _compare(folder: Path, backend: str) -> dict[str, Any]:
    output = folder / f"compare-allsides-{backend}"
    if not output.exists():
        runs = ",".join(f"{way}={folder / f'allsides-{backend}-{way}' / 'predictions.parquet'}" for way in WAYS)
        _command("compare", f"models=[{runs}]", "corpus=allsides", f"output={output}")
    found: dict[str, Any] = json.loads((output / "compare.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
