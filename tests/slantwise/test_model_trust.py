"""Trust in what is loaded: whatever a model directory was made into, it runs nothing and the file at fault is named.

Each case changes a file *and* writes its new checksum into the manifest: the checksum alone would not have told.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoModel

from slantwise.body import Body
from slantwise.cleaning import Cleaner
from slantwise.decision import Decision
from slantwise.errors import ModelError
from slantwise.model import MANIFEST, Head, Model, load
from slantwise.network import TorchRuntime, WindowEncoder, choose_device
from slantwise.task import Task
from slantwise.transformer import TransformerClassifier
from slantwise.windows import Windowing

Damage = Callable[[Path], Any]
RAN = "ran.txt"


class Harmful:
    """An object whose unpickling writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(RAN),)


@pytest.fixture
def linear(model_directory: Path, tmp_path: Path) -> Path:
    """A copy of a linear model, to be changed."""
    return Path(shutil.copytree(model_directory, tmp_path / "model"))


@pytest.fixture(scope="module")
def saved_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = AutoModel.from_pretrained(tiny_encoder)
    encoder.pooler = None
    runtime = TorchRuntime(WindowEncoder(encoder, "mean", True), choose_device("cpu"))
    body = Body(Tokenizer.from_file(str(tiny_encoder / "tokenizer.json")), runtime, Windowing(64, overlap=8))
    task = Task("topic", "multiclass", ("sport", "weather"))
    classifier = TransformerClassifier(task, body, np.ones((32, 2), np.float32), np.zeros(2, np.float32))
    directory = tmp_path_factory.mktemp("encoder") / "model"
    Model({"topic": Head(task, classifier, Decision(), Cleaner())}).save(directory)
    return directory


@pytest.fixture
def encoder(saved_encoder: Path, tmp_path: Path) -> Path:
    """A copy of a transformer model, to be changed."""
    return Path(shutil.copytree(saved_encoder, tmp_path / "model"))


def edit(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = directory / MANIFEST
    state = json.loads(manifest.read_text(encoding="utf-8"))
    change(state)
    manifest.write_text(json.dumps(state), encoding="utf-8")


def adopt(directory: Path, name: str) -> None:
    """The manifest says what the file is now."""
    digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    edit(directory, lambda state: state["files"].update({name: digest}))


def refused(directory: Path, name: str, *, folder: Path | None = None) -> str:
    """Why the model is not loaded; the message names the file, and nothing of it was run."""
    with pytest.raises(ModelError) as caught:
        load(directory, "cpu")
    assert str((folder or directory) / name) in str(caught.value)
    assert not Path(RAN).exists()
    return str(caught.value)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_unpickled_here_would_be_noticed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Harmful()))  # noqa: S301
    assert Path(RAN).exists()


# --- files ---


@pytest.mark.parametrize("name", ["notes.md", "heads/topic/model.pkl", "heads/extra.npz", ".hidden.json", "run.py"])
def test_a_file_that_is_not_listed_is_refused(linear: Path, name: str) -> None:
    (linear / name).write_text("x")
    assert "is not listed" in refused(linear, name)


def test_a_link_that_is_not_listed_is_refused(linear: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (linear / "heads" / "more").symlink_to(tmp_path / "elsewhere")
    assert "is not listed" in refused(linear, "heads/more")


@pytest.mark.parametrize(
    "name", ["../outside.json", "heads/../../outside.json", "/etc/passwd", "heads//topic.json", "./a.json", "a\\b.json"]
)
def test_a_listed_name_that_can_lead_out_of_the_directory_is_refused(linear: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.json").write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    edit(linear, lambda state: state["files"].update({name: digest}))
    assert repr(name) in refused(linear, MANIFEST)


def test_a_link_to_a_file_outside_is_refused_though_its_content_is_right(linear: Path, tmp_path: Path) -> None:
    path = linear / "heads" / "topic" / "arrays.npz"
    shutil.move(path, tmp_path / "arrays.npz")
    path.symlink_to(tmp_path / "arrays.npz")
    assert f"is a link to {tmp_path / 'arrays.npz'}" in refused(linear, "heads/topic/arrays.npz")


def test_a_folder_that_is_a_link_to_outside_is_refused(linear: Path, tmp_path: Path) -> None:
    shutil.move(linear / "heads" / "topic", tmp_path / "topic")
    (linear / "heads" / "topic").symlink_to(tmp_path / "topic")
    refused(linear, "heads/topic")


def test_a_model_that_is_itself_a_link_is_loaded(linear: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(linear)
    assert list(load(tmp_path / "current").heads) == ["topic", "framing", "stance"]


@pytest.mark.parametrize(
    "name", ["heads/topic/weights.bin", "heads/topic/weights.pkl", "heads/topic/code.py", "heads/x"]
)
def test_a_listed_file_of_an_unsafe_kind_is_refused(linear: Path, name: str) -> None:
    (linear / name).write_bytes(pickle.dumps(Harmful()))
    adopt(linear, name)
    assert "no files of this kind" in refused(linear, name)


@pytest.mark.parametrize(
    "change",
    [
        lambda heads: heads["topic"].update(cleaner="../cleaner.json"),
        lambda heads: heads["topic"].update(cleaner="/etc/hostname"),
        lambda heads: heads["topic"].update(body="../elsewhere"),
        lambda heads: heads["topic"].update(body="/tmp"),
        lambda heads: heads.update({"../topic": heads.pop("topic")}),
        lambda heads: heads.update({"framing": heads["topic"]}),
        lambda heads: heads["topic"].update(classifier="os"),
        lambda heads: heads["topic"].update(classifier=["linear"]),
    ],
)
def test_a_head_that_points_elsewhere_is_refused(linear: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(linear, lambda state: change(state["heads"]))
    refused(linear, "")


@pytest.mark.parametrize("name", [MANIFEST, "heads/topic/linear.json", "heads/topic/vocabularies.json"])
def test_json_nested_without_end_is_refused(linear: Path, name: str) -> None:
    (linear / name).write_text("[" * 200_000)
    if name != MANIFEST:
        adopt(linear, name)
    refused(linear, "")


# --- arrays ---

ARRAYS = "heads/topic/arrays.npz"


def pickled_arrays(path: Path) -> None:
    np.savez(path, coefficients=np.array([Harmful()], dtype=object), allow_pickle=True)


def bomb(path: Path) -> None:
    np.savez_compressed(path, coefficients=np.zeros(1_000_000, np.float32))


def header_that_lies(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("coefficients.npy", header.getvalue())


def archive_behind_a_pickle(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(pickle.dumps(Harmful()) + whole)


@pytest.mark.parametrize(
    "damage",
    [
        pickled_arrays,
        lambda path: path.write_bytes(pickle.dumps(Harmful())),
        archive_behind_a_pickle,
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        bomb,
        header_that_lies,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
    ],
    ids=["pickled object", "pickle", "pickle before", "npy", "compressed", "huge header", "empty", "truncated"],
)
def test_arrays_that_are_no_plain_archive_are_refused(linear: Path, damage: Damage) -> None:
    damage(linear / ARRAYS)
    adopt(linear, ARRAYS)
    refused(linear, ARRAYS)


def test_arrays_of_another_head_are_refused(linear: Path) -> None:
    shutil.copy(linear / "heads" / "framing" / "arrays.npz", linear / ARRAYS)
    adopt(linear, ARRAYS)
    refused(linear, "heads/topic")


# --- encoders ---


@pytest.mark.parametrize("name", ["heads/topic/head.safetensors", "bodies/1/model.safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(pickle.dumps(Harmful())),
        lambda path: path.write_bytes(struct.pack("<Q", 2**60) + b"{}"),
        lambda path: path.write_bytes(struct.pack("<Q", 50) + b"[" * 50),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["pickle", "huge header", "header of brackets", "truncated", "empty"],
)
def test_weights_that_are_no_safetensors_are_refused(encoder: Path, name: str, damage: Damage) -> None:
    damage(encoder / name)
    adopt(encoder, name)
    refused(encoder, name)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, pickle.dumps(Harmful())])
def test_a_tokenizer_that_is_none_is_refused(encoder: Path, content: bytes) -> None:
    (encoder / "bodies/1/tokenizer.json").write_bytes(content)
    adopt(encoder, "bodies/1/tokenizer.json")
    refused(encoder, "bodies/1/tokenizer.json")


def test_another_tokenizer_is_refused_by_its_checksum(encoder: Path) -> None:
    path = encoder / "bodies/1/tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("doctor", "docfor"), encoding="utf-8")
    assert "was changed" in refused(encoder, "bodies/1/tokenizer.json")


@pytest.mark.parametrize(
    "more",
    [
        {"auto_map": {"AutoConfig": "someone/code--m.C", "AutoModel": "someone/code--m.M"}},
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"text_config": {"attn_implementation": "someone/kernel"}},
    ],
)
def test_an_encoder_that_asks_for_code_of_the_hub_is_refused(encoder: Path, more: dict[str, Any]) -> None:
    path = encoder / "bodies/1/config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | more), encoding="utf-8")
    adopt(encoder, "bodies/1/config.json")
    assert "run code of the hub" in refused(encoder, "bodies/1/config.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(linear: Path) -> None:
    (linear / ARRAYS).unlink()
    os.mkfifo(linear / ARRAYS)
    refused(linear, ARRAYS)


def test_the_weights_can_be_read_by_whoever_may_read_the_model_card(encoder: Path) -> None:
    mode = (encoder / "README.md").stat().st_mode
    assert {path.stat().st_mode for path in encoder.rglob("*.safetensors")} == {mode}
