"""One run in several processes: the first writes and tracks, and the weights are those of a single one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from safetensors.torch import load_file

from slantwise.command import CHECKOUT, Progress
from tests.training.test_resume import Make
from tests.training.test_resume import make as make  # the fixture
from training import processes
from training.run import train

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def launch(folder: Path, launcher: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes on the CPU."""
    command = [sys.executable, "-m", *launcher, "-m", "slantwise", "train", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


def test_two_processes_make_one_run_with_the_weights_of_one_that_accumulates(
    folder: Path, make: Make, tiny_path: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    changes = {"dropout": 0.0, "checkpoint_steps": 1, "epochs": 2, "batch_size": 7}
    alone = replace(make(run_dir=tmp_path / "alone", **changes, accumulate=2))
    directory = train(alone, yaml.safe_dump({"run_dir": alone.run_dir}), Progress(quiet=True)).directory
    done = launch(
        folder, ACCELERATE, "task=topic", "corpus=file", f"corpus.path={tiny_path}", "classifier=transformer",
        f"classifier.encoder={tiny_encoder}", "classifier.max_tokens=64", "classifier.overlap=8",
        "classifier.device=cpu", "classifier.precision=float32", "classifier.patience=0",
        "classifier.learning_rate=0.005", *(f"classifier.{name}={value}" for name, value in changes.items()),
        "evaluation.resamples=10", "shortcuts=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (shared,) = (folder / "runs").iterdir()
    assert not (shared / "work").exists()
    for path in sorted(directory.rglob("model/**/*.safetensors")):
        expected, found = load_file(path), load_file(shared / path.relative_to(directory))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlruns/mlflow.db")
    (known,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert known.info.run_id == json.loads((shared / "mlflow.json").read_text())["run_id"]
    assert done.stderr.count("train topic on") == 1  # the second process says nothing


def test_a_mistake_that_only_the_first_process_sees_ends_all_of_them_with_2(
    tmp_path: Path, tiny_path: Path, tiny_encoder: Path
) -> None:
    (tmp_path / "taken").mkdir()
    done = launch(
        tmp_path, TORCHRUN, "task=topic", "corpus=file", f"corpus.path={tiny_path}", "classifier=transformer",
        f"classifier.encoder={tiny_encoder}", "classifier.max_tokens=64", "classifier.overlap=8",
        "run_dir=taken",
    )  # fmt: skip
    assert done.returncode != 0
    assert "run_dir=taken exists; expected a new folder" in done.stderr
    assert "exitcode  : 2" in done.stderr
    assert list((tmp_path / "taken").iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "first"),
    [({}, True), ({"RANK": "0", "WORLD_SIZE": "2"}, True), ({"RANK": "1", "WORLD_SIZE": "2"}, False),
     ({"RANK": "3"}, True)],
    ids=str,
)  # fmt: skip
def test_the_first_of_several_processes_is_rank_zero(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.is_first() == first


def test_a_single_process_needs_nobody_to_tell_it_a_value() -> None:
    assert processes.from_first({"a": 1}) == {"a": 1}
