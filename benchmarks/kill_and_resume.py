"""Kill training runs at random moments with kill -9, give the same command again, and count what MLflow holds.

    python -m benchmarks.kill_and_resume [kills] [seed]

The command is repeated until it comes to its end; then a new run begins, until so many kills were made. In the end each
run directory must have one MLflow run, finished, with each metric once and one model, and none may be left running.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow

from slantwise.command import CHECKOUT

COMMAND = [
    sys.executable, "-m", "slantwise", "train", "task=topic", "corpus=sample", "split=kfold", "split.folds=2",
    "evaluation.resamples=20", "shortcuts=false", "classifier.max_features=5000",
]  # fmt: skip


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        longest = attempt(folder, None)
        print(f"a run takes {longest:.1f} s")
        made = 0
        while made < kills:
            moment = draw.uniform(0, longest)
            ended = attempt(folder, moment)
            made += ended >= moment
            print(f"killed after {moment:.1f} s" if ended >= moment else f"ended after {ended:.1f} s", flush=True)
        attempt(folder, None)
        report(folder, kills)


def attempt(folder: Path, moment: float | None) -> float:
    """Seconds that the command ran before it ended or, at `moment`, was killed."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    started = time.perf_counter()
    with (folder / "output.txt").open("a") as output:
        process = subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            assert process.returncode == 0, (folder / "output.txt").read_text()[-3000:]
    return time.perf_counter() - started


def report(folder: Path, kills: int) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    twice = [
        (run.info.run_id, name)
        for run in runs
        for name in run.data.metrics
        if len(steps := [metric.step for metric in client.get_metric_history(run.info.run_id, name)]) > len(set(steps))
    ]
    models = {run.info.run_id: len(run.outputs.model_outputs) for run in runs}
    directories = [path for path in (folder / "runs").iterdir() if (path / "mlflow.json").exists()]
    statuses = sorted({run.info.status for run in runs})
    print(f"{kills} kills: {len(directories)} run directories, {len(runs)} MLflow runs, status {', '.join(statuses)}")
    print(f"metrics twice: {len(twice)}; runs without exactly one model: {sum(n != 1 for n in models.values())}")
    whole = len(runs) == len(directories) and statuses == ["FINISHED"] and not twice and set(models.values()) == {1}
    raise SystemExit(0 if whole else 1)


if __name__ == "__main__":
    main()
