"""ONNX Runtime: computes the window vectors of an exported body, with neither torch nor transformers."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    NotImplemented,
    RuntimeException,
)

from slantwise.errors import ConfigurationError, ModelError

MODEL = "model.onnx"
PRECISIONS = ("float32", "int8")
# Padded tokens of one batch. On a CPU small batches stay in the cache: of 512, 1,024, 2,048 and 4,096 tokens the fewest
# were fastest for headlines and for articles alike (one thread, six layers of 384). A GPU wants to be filled.
BUDGET = {"cpu": 512, "cuda": 65536}
UNREADABLE = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, NotImplemented, RuntimeException)


class OnnxRuntime:
    """Runs model.onnx: ids, mask and segments, int64 (n, length) each -> window vectors, float32 (n, hidden).

    The file stays where it is: a copy of it is what `save` writes.
    """

    kind = "onnx"

    def __init__(self, path: Path, precision: str = "float32", device: str = "auto") -> None:
        """Raises ModelError where the file cannot be run, ConfigurationError where the device is not there."""
        assert precision in PRECISIONS, precision
        self.path, self.precision = path, precision
        number = gpu_number(device)
        if number is not None and precision == "int8":
            raise ConfigurationError(f"device={device}: int8 models are for the CPU; expected auto or cpu")
        # one thread a batch and several batches at once: within a batch, threads wait for each other at every layer
        self.parallel = thread_count() if number is None else 1
        self.session = _session(path, number)
        self.budget = BUDGET["cpu" if number is None else "cuda"]
        # an encoder without token types has no use for the segments
        self.inputs = [found.name for found in self.session.get_inputs()]

    def vectors(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], segments: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """(n, length) each -> float32 (n, hidden)."""
        arrays = {"ids": ids, "mask": mask, "segments": segments}
        found: npt.NDArray[np.float32] = self.session.run(None, {name: arrays[name] for name in self.inputs})[0]
        return found

    def save(self, folder: Path) -> dict[str, Any]:
        shutil.copyfile(self.path, folder / MODEL)
        return {"precision": self.precision}

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any], device: str) -> OnnxRuntime:
        if state["precision"] not in PRECISIONS:
            raise ValueError(f"precision {state['precision']!r}; expected one of {', '.join(PRECISIONS)}")
        return cls(folder / MODEL, state["precision"], device)


def gpu_number(device: str) -> int | None:
    """The GPU that `device` means, None for the CPU. `auto` is the CPU: that is what `onnxruntime` is built for; a GPU
    takes the package onnxruntime-gpu in its place, and asking for it."""
    if device in ("auto", "cpu"):
        return None
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if found is None:
        raise ConfigurationError(f"device={device}; expected auto, cpu, cuda or cuda:<number>")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ConfigurationError(
            f"device={device}: this onnxruntime cannot use a GPU; expected auto or cpu, or the package onnxruntime-gpu "
            "in its place"
        )
    return int(found[1] or 0)


def thread_count() -> int:
    """OMP_NUM_THREADS, as other libraries of numbers have it; without it, as many as this process has CPUs."""
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    first = asked.partition(",")[0]  # OpenMP takes a number for each level of nesting
    if not first.isdecimal() or not int(first):
        raise ConfigurationError(f"OMP_NUM_THREADS={asked}; expected a number of threads, 1 or more")
    return int(first)


def _session(path: Path, gpu: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors: its warnings are about how it rewrites the graph
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu is not None:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers)
    except UNREADABLE as error:
        raise ModelError(f"{path}: cannot be run ({' '.join(str(error).split())[:300]})") from error
    if gpu is not None and session.get_providers()[0] != "CUDAExecutionProvider":
        raise ConfigurationError(
            f"device=cuda:{gpu}: onnxruntime cannot start CUDA here; expected cpu, or a GPU of this number and the "
            "CUDA libraries that onnxruntime-gpu asks for"
        )
    return session
