"""`make demo`: the whole path on the bundled corpus, with the commands that do the same by hand."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from evaluation.judge import constant
from evaluation.metrics import compute
from evaluation.predictions import Predictions
from evaluation.tables import format_estimate
from slantwise.__main__ import set_quiet_defaults
from slantwise.article import Article, read_article
from slantwise.command import CHECKOUT, Progress, register_resolvers, to_object, unique_name
from slantwise.model import Model
from training import config as schemas
from training.config import TrainConfig
from training.export import export
from training.run import RunResult, train

TASKS = ("topic", "framing", "stance")
STORE = "sqlite:///mlruns/mlflow.db"
SEED = CHECKOUT / "seeds" / "000_c69c3c6dcd667f41.txt"


def main() -> None:
    argparse.ArgumentParser(
        prog="slantwise demo",
        description="Trains three classifiers on the bundled corpus, judges, tracks and exports them, and scores an "
        "article, in about a minute. It takes no arguments, needs no network, and writes runs/, models/ and mlruns/ "
        "in the current folder.",
    ).parse_args()
    set_quiet_defaults()
    schemas.register()
    register_resolvers()
    console = Console(highlight=False, soft_wrap=True)
    console = console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=132)
    start = time.perf_counter()
    runs = {task: _train(task) for task in TASKS}
    output = Path("models") / f"demo-{unique_name()}"
    progress = Progress()
    with progress.step("export one model with the three tasks"):
        model = export([result.directory for result in runs.values()], output)
    _print_metrics(console, runs)
    _print_seed(console, model)
    _print_commands(console, runs, output)
    console.print(f"\nDone in {time.perf_counter() - start:.0f} s.")


def _train(task: str) -> RunResult:
    """What `slantwise train task=<task> corpus=sample` does."""
    name = f"demo-{task}"
    with initialize_config_dir(version_base="1.3", config_dir=str(CHECKOUT / "configs")):
        run_dir = f"runs/{name}-{unique_name()}"
        # the local store even where the environment names a server: a demo has no business there
        choices = [f"task={task}", "corpus=sample", f"name={name}", f"run_dir={run_dir}", f"tracking.uri={STORE}"]
        config = compose("train", overrides=choices)
    return train(to_object(config, TrainConfig), OmegaConf.to_yaml(config, resolve=True), Progress())


def _print_metrics(console: Console, runs: dict[str, RunResult]) -> None:
    table = Table(title="\nTest split of the bundled corpus", title_justify="left")
    for column in ("task", "n", "metric", "value", "95 % interval", "majority label"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task, result in runs.items():
        predictions = Predictions.read(result.directory / "predictions.parquet")
        baseline = compute(constant(predictions, result.only.shares), result.only.headline)
        for i, name in enumerate(result.only.headline):
            first = (task, f"{len(predictions):,}") if i == 0 else ("", "")
            value = baseline[name]
            table.add_row(
                *first, name, *format_estimate(result.only.metrics[name]), f"{value:.3f}" if value == value else "–"
            )
        table.add_section()
    console.print(table)


def _print_seed(console: Console, model: Model) -> None:
    labels = json.loads(SEED.with_suffix(".json").read_text(encoding="utf-8"))
    article = Article(id=labels["id"], text=SEED.read_text(encoding="utf-8"))
    found, page = read_article(article, model.heads["topic"].cleaner)
    gold = {entry["target"]: entry["stance"] for entry in labels["stances"]}
    scores = model.predict([article], [list(gold)])[0]
    console.print(f"\n[bold]The seed article[/bold] ({SEED.relative_to(CHECKOUT)}), unseen in training")
    console.print(f"  title   {found.title}\n  author  {found.author}\n  outlet  {found.source}", markup=False)
    console.print(f"  body    {len(found.text.split())} words; taken out: {len(page.removed)} lines of page furniture")
    table = Table(title="Scores", title_justify="left")
    for column in ("task", "prediction", "probability", "label by hand"):
        table.add_column(
            column, justify="right" if column == "probability" else "left", overflow="fold", no_wrap=column == "task"
        )
    topic = scores["topic"]
    table.add_row("topic", topic["label"], f"{topic['confidence']:.2f}", labels["topic"])
    framing = scores["framing"]
    shown = [frame for frame in framing["probabilities"] if frame in framing["labels"] or frame in labels["frames"]]
    for frame in shown:
        said = frame if frame in framing["labels"] else f"not {frame}"
        by_hand = frame if frame in labels["frames"] else f"not {frame}"
        table.add_row("framing", said, f"{framing['probabilities'][frame]:.2f}", by_hand)
    for entry in scores["stance"]:
        table.add_row(
            f"stance towards {entry['target']}", entry["label"], f"{entry['confidence']:.2f}", gold[entry["target"]]
        )
    console.print(table)


def program(name: str) -> str:
    """How a program of this environment is called from here: by its name where PATH finds it, else by its path."""
    path = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found and path.exists() and path.samefile(found):
        return name
    here = Path.cwd()
    shown = path if path.exists() else Path(sys.executable)
    shown = shown.relative_to(here) if shown.is_relative_to(here) else shown
    return shlex.quote(str(shown)) + ("" if path.exists() else f" -m {name}")


def _print_commands(console: Console, runs: dict[str, RunResult], output: Path) -> None:
    slantwise, mlflow = program("slantwise"), program("mlflow")
    commands: dict[str, Any] = {
        "Compare the runs in MLflow (http://127.0.0.1:5000)": [f"{mlflow} ui --backend-store-uri {STORE}"],
        "Read the reports": [str(result.directory / "report.html") for result in runs.values()],
        "Score articles of your own": [
            f"{slantwise} score model={output} input=mine.jsonl output=scores.jsonl",
        ],
        "Train on a corpus of your own": [
            f"{slantwise} train task=topic corpus=file corpus.path=mine.jsonl",
            f"{slantwise} train --help",
        ],
    }
    for title, lines in commands.items():
        console.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            console.print(f"  {line}", markup=False)


if __name__ == "__main__":
    main()
