"""ONNX Runtime: which inputs, threads and devices it takes, and files that it cannot run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from slantwise.errors import ConfigurationError, ModelError
from slantwise.onnx import MODEL, OnnxRuntime, gpu_number, thread_count

IDS, MASK = np.array([[3, 4, 5], [7, 9, 0]]), np.array([[1, 1, 1], [1, 1, 0]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A graph that adds up the ids that are no padding, and knows of no segments."""
    whole = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"]) for name in ("ids", "mask")]
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Mul", ["ids", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axes"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["vectors"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "sums", whole, [vectors], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / MODEL)
    return tmp_path / MODEL


def test_a_graph_gets_the_inputs_that_it_asks_for(path: Path) -> None:
    found = OnnxRuntime(path).vectors(IDS, MASK, np.zeros_like(IDS))
    assert found.dtype == np.float32
    assert found.tolist() == [[12.0], [16.0]]


def test_what_is_saved_is_what_is_loaded(path: Path, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    settings = OnnxRuntime(path, "int8").save(tmp_path / "saved")
    path.unlink()
    again = OnnxRuntime.load(tmp_path / "saved", settings, "cpu")
    assert again.precision == "int8"
    assert again.vectors(IDS, MASK, IDS).tolist() == [[12.0], [16.0]]


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_a_file_that_cannot_be_run_is_named(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=str(path)):
        OnnxRuntime(path)


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), (" 2 ", 2), ("4,2", 4)])
def test_omp_num_threads_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert thread_count() == threads
    runtime = OnnxRuntime(path)
    assert (runtime.parallel, runtime.session.get_session_options().intra_op_num_threads) == (threads, 1)


def test_without_it_all_cpus_of_the_process_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("asked", ["0", "many", "-1", "2.5"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    with pytest.raises(ConfigurationError, match=f"OMP_NUM_THREADS={asked}; expected"):
        thread_count()


def test_auto_is_the_cpu_even_where_a_gpu_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert gpu_number("auto") is None
    assert gpu_number("cuda:1") == 1
    assert OnnxRuntime(path, device="auto").session.get_providers() == ["CPUExecutionProvider"]


def test_cuda_without_a_gpu_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigurationError, match="device=cuda: this onnxruntime cannot use a GPU"):
        OnnxRuntime(path, device="cuda")


def test_int8_on_a_gpu_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ConfigurationError, match="int8 models are for the CPU"):
        OnnxRuntime(path, "int8", device="cuda:0")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "tpu"])
def test_an_unknown_device_is_refused(path: Path, device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device={device}; expected auto, cpu, cuda"):
        OnnxRuntime(path, device=device)
