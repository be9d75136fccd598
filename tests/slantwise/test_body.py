"""Bodies: examples in, one vector for each out, whatever the batches; saved and loaded file by file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel

from slantwise.article import Example
from slantwise.body import SETTINGS, TOKENIZER, Body
from slantwise.errors import ConfigurationError, ModelError
from slantwise.network import CONFIG, WEIGHTS, TorchRuntime, WindowEncoder, choose_device
from slantwise.task import Task
from slantwise.windows import Windowing
from training.network import Network

Floats = npt.NDArray[np.float32]
VOCABULARY = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "a", "b", *(f"w{i}" for i in range(300))])}
HIDDEN = 6


class FakeRuntime:
    """A window's vector is the sum of its tokens' own vectors, those of the second segment ten times."""

    kind = "fake"

    def __init__(self, budget: int = 200, parallel: int = 1) -> None:
        self.budget, self.parallel = budget, parallel
        self.table = np.random.default_rng(0).normal(size=(len(VOCABULARY), HIDDEN)).astype(np.float32)
        self.batches: list[tuple[int, int]] = []

    def vectors(self, ids: Any, mask: Any, segments: Any) -> Floats:
        self.batches.append(ids.shape)
        weights = mask * np.where(segments, 10, 1)
        return (self.table[ids] * weights[:, :, None]).sum(axis=1).astype(np.float32)

    def save(self, folder: Path) -> dict[str, Any]:
        return {}


def make_body(**changes: Any) -> Body:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return Body(tokenizer, **{"runtime": FakeRuntime(), "windowing": Windowing(32, overlap=4), **changes})


def text(n: int, start: int = 0) -> str:
    return " ".join(f"w{(start + i) % 300}" for i in range(n))


LENGTHS = [3, 100, 0, 31, 250, 7, 64, 30]
EXAMPLES = [Example(text(n, 11 * i)) for i, n in enumerate(LENGTHS)]


# --- pooling ---


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 99))
def test_pooling_in_numpy_equals_that_of_the_trained_network(pooling: str, counts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors, attention = torch.randn(sum(counts), HIDDEN, generator=generator), torch.randn(HIDDEN, generator=generator)
    encoder = torch.nn.Module()
    encoder.config = type("Config", (), {"hidden_size": HIDDEN})()  # type: ignore[assignment]
    network = Network(WindowEncoder(encoder, "mean", False), pooling, [Task("topic", "multiclass", ("a", "b"))], 0.0)
    if network.attention is not None:
        network.attention.weight.data[0] = attention
    owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    with torch.no_grad():
        expected = network.pool(vectors, owners, len(counts)).numpy()
    body = make_body(pooling=pooling, attention=attention.numpy() if pooling == "attention" else None)
    starts = np.concatenate([[0], np.cumsum(counts)])
    np.testing.assert_allclose(body.pool(vectors.numpy(), starts), expected, atol=1e-5)


def test_mean_and_max_are_those_of_each_examples_own_windows() -> None:
    vectors, starts = np.array([[1, 5], [3, 1], [7, 7]], np.float32), np.array([0, 2, 3])
    assert make_body(pooling="mean").pool(vectors, starts).tolist() == [[2, 3], [7, 7]]
    assert make_body(pooling="max").pool(vectors, starts).tolist() == [[3, 5], [7, 7]]


def test_attention_weighs_windows_by_the_softmax_of_their_scores() -> None:
    vectors, starts = np.array([[0, 1], [np.log(3), 2], [9, 9]], np.float32), np.array([0, 2, 3])
    pooled = make_body(pooling="attention", attention=np.array([1, 0], np.float32)).pool(vectors, starts)
    np.testing.assert_allclose(pooled, [[0.75 * np.log(3), 1.75], [9, 9]], atol=1e-6)


def test_attention_survives_large_scores() -> None:
    body = make_body(pooling="attention", attention=np.array([1.0], np.float32))
    pooled = body.pool(np.array([[1000], [-1000]], np.float32), np.array([0, 1, 2]))
    assert pooled.tolist() == [[1000], [-1000]]


def test_normalised_vectors_have_length_one() -> None:
    vectors = make_body(normalise=True).represent(EXAMPLES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


# --- order and batches ---


@pytest.mark.parametrize("budget", [32, 100, 10_000])
def test_rows_stand_in_input_order_whatever_the_batches(budget: int) -> None:
    body = make_body(runtime=FakeRuntime(budget))
    alone = np.vstack([make_body().represent([example]) for example in EXAMPLES])
    np.testing.assert_allclose(body.represent(EXAMPLES), alone, rtol=1e-4, atol=1e-4)
    assert (len(body.runtime.batches) == 1) == (budget == 10_000)  # type: ignore[attr-defined]


def test_batches_that_are_taken_at_once_give_the_same_rows() -> None:
    examples = [Example(" ".join(f"w{i}" for i in range(n % 40 + 1))) for n in range(60)]
    alone, together = (make_body(runtime=FakeRuntime(100, parallel)).represent(examples) for parallel in (1, 3))
    np.testing.assert_array_equal(together, alone)


def test_batches_keep_to_the_budget_of_the_runtime() -> None:
    body = make_body(runtime=FakeRuntime(100))
    body.represent(EXAMPLES)
    assert max(rows * columns for rows, columns in body.runtime.batches) <= 100  # type: ignore[attr-defined]


def test_the_windows_done_are_reported_up_to_their_number() -> None:
    body, seen = make_body(), list[int]()
    body.represent(EXAMPLES, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(body.windower.encode(EXAMPLES).owners)


@pytest.mark.parametrize("world", [2, 3, 50])
def test_the_rows_of_all_processes_add_up_to_those_of_one(world: int) -> None:
    body = make_body(runtime=FakeRuntime(64))
    encoded = body.windower.encode(EXAMPLES)
    shares = [body.window_vectors(encoded, rank, world) for rank in range(world)]
    np.testing.assert_array_equal(sum(shares), body.window_vectors(encoded))


def test_no_examples_give_no_rows() -> None:
    assert len(make_body().represent([])) == 0


def test_padding_is_that_of_the_batches_that_are_computed() -> None:
    runtime = FakeRuntime(100)
    body = make_body(runtime=runtime)
    encoded = body.windower.encode(EXAMPLES)
    body.vectors_of(encoded)
    held, padded = int(encoded.lengths.sum()), sum(rows * columns for rows, columns in runtime.batches)
    assert body.padding(encoded) == pytest.approx(1 - held / padded)


# --- pairs ---

PAIRED = [Example(text(9), "w5"), Example(text(90, 50), "w60 w61"), Example(text(9), "w8")]


def test_a_cross_pair_sees_text_and_target_in_one_window() -> None:
    body = make_body()
    table = body.runtime.table  # type: ignore[attr-defined]
    tokens = body.tokenizer.encode(text(9), "w5")
    expected = (table[tokens.ids] * np.where(tokens.type_ids, 10, 1)[:, None]).sum(axis=0)
    np.testing.assert_allclose(body.represent(PAIRED)[0], expected, atol=1e-4)


def test_separate_pairs_are_text_target_product_and_difference() -> None:
    body = make_body(pair="separate")
    u = body.vectors_of(body.windower.encode(PAIRED, pair=False))
    v = make_body().represent([Example(str(example.target)) for example in PAIRED])
    np.testing.assert_allclose(body.represent(PAIRED), np.hstack([u, v, u * v, np.abs(u - v)]), rtol=1e-5, atol=1e-5)


def test_separate_pairs_encode_each_target_once() -> None:
    runtime = FakeRuntime()
    make_body(pair="separate", runtime=runtime).represent([Example(text(5, i), "w5") for i in range(10)])
    assert sum(rows for rows, _ in runtime.batches) == 11


def test_a_separate_body_reads_examples_without_target_as_they_are() -> None:
    np.testing.assert_array_equal(make_body(pair="separate").represent(EXAMPLES), make_body().represent(EXAMPLES))


# --- saved and loaded ---


@pytest.fixture(scope="module")
def torch_body(tiny_encoder: Path) -> Body:
    encoder = AutoModel.from_pretrained(tiny_encoder)
    encoder.pooler = None
    runtime = TorchRuntime(WindowEncoder(encoder, "mean", True), choose_device("cpu"))
    attention = np.linspace(-1, 1, 32, dtype=np.float32)
    return Body(
        Tokenizer.from_file(str(tiny_encoder / TOKENIZER)), runtime, Windowing(64, "windows", 8, 3), 0, "attention",
        attention, normalise=True, provenance={"encoder": "tiny"},
    )  # fmt: skip


@pytest.fixture
def saved(torch_body: Body, tmp_path: Path) -> Path:
    torch_body.save(tmp_path / "body")
    return tmp_path / "body"


NEWS = [
    Example("Officials praised City Mayor on day 7. " + "clinic nurse goal storm " * 40, "City Mayor"),
    Example("The doctor met a coach.", "Harbour Plan"),
    Example("clinic nurse fever. " * 20 + "goal league medal. " * 20),
]


def test_a_loaded_body_gives_the_same_vectors(torch_body: Body, saved: Path) -> None:
    np.testing.assert_allclose(Body.load(saved, "cpu").represent(NEWS), torch_body.represent(NEWS), atol=1e-6)


def test_a_loaded_body_has_the_same_settings(torch_body: Body, saved: Path) -> None:
    loaded = Body.load(saved, "cpu")
    for name in ("windowing", "pad", "pooling", "pair", "normalise", "provenance"):
        assert getattr(loaded, name) == getattr(torch_body, name)
    assert loaded.runtime.save(saved) == torch_body.runtime.save(saved)


def test_an_encoder_whose_weights_were_kept_in_half_precision_is_loaded_as_it_was_trained(
    torch_body: Body, saved: Path
) -> None:
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps({**config, "dtype": "bfloat16", "torch_dtype": "bfloat16"}))
    np.testing.assert_allclose(Body.load(saved, "cpu").represent(NEWS), torch_body.represent(NEWS), atol=1e-6)


def test_saving_again_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    Body.load(saved, "cpu").save(tmp_path / "again")
    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_key(path: Path) -> None:
    state = json.loads(path.read_text())
    del state["windowing"]
    path.write_text(json.dumps(state))


@pytest.mark.parametrize("name", [SETTINGS, TOKENIZER, CONFIG, WEIGHTS])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_or_missing_file_is_named(saved: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(saved / name)
    with pytest.raises(ModelError) as raised:
        Body.load(saved, "cpu")
    assert str(saved) in str(raised.value)
    assert name in str(raised.value)


def change(saved: Path, **values: Any) -> None:
    state = json.loads((saved / SETTINGS).read_text())
    (saved / SETTINGS).write_text(json.dumps(state | values))


@pytest.mark.parametrize(
    "values",
    [{"windowing": {"max_tokens": "many"}}, {"windowing": None}, {"pad": "x"}, {"runtime_settings": {}},
     {"format": 9}, {"pooling": "median"}, {"runtime": "os"}, {"pair": "triple"}, {"attention": None}],
    ids=str,
)  # fmt: skip
def test_damaged_settings_are_refused_with_the_file_named(saved: Path, values: dict[str, Any]) -> None:
    change(saved, **values)
    with pytest.raises(ModelError, match=SETTINGS):
        Body.load(saved, "cpu")


def test_settings_that_lack_a_key_are_refused(saved: Path) -> None:
    drop_key(saved / SETTINGS)
    with pytest.raises(ModelError, match=f"{SETTINGS}.*windowing"):
        Body.load(saved, "cpu")


def test_weights_of_another_encoder_are_refused(saved: Path) -> None:
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ModelError, match=WEIGHTS):
        Body.load(saved, "cpu")


# --- the torch runtime ---


def test_padding_does_not_change_a_vector(torch_body: Body) -> None:
    encoded = torch_body.windower.encode(NEWS)
    alone = [torch_body.runtime.vectors(*encoded.padded(np.array([w]), 0))[0] for w in range(len(encoded.owners))]
    together = torch_body.runtime.vectors(*encoded.padded(np.arange(len(encoded.owners)), 0))
    assert len(set(encoded.lengths.tolist())) > 1
    np.testing.assert_allclose(together, np.vstack(alone), atol=1e-5)


def test_the_vector_of_a_window_is_the_mean_of_its_tokens_or_the_first(tiny_encoder: Path) -> None:
    encoder = AutoModel.from_pretrained(tiny_encoder).eval()
    ids = torch.tensor([[2, 10, 20, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    with torch.no_grad():
        states = encoder(ids[:, :4]).last_hidden_state[0]
    for pooling, expected in (("mean", states.mean(dim=0)), ("cls", states[0])):
        runtime = TorchRuntime(WindowEncoder(encoder, pooling, True), choose_device("cpu"))
        found = runtime.vectors(ids.numpy(), mask.numpy(), np.zeros((1, 5), np.int64))
        np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-5)


def test_the_segments_of_a_pair_reach_an_encoder_that_knows_them(tiny_encoder: Path) -> None:
    encoder = AutoModel.from_pretrained(tiny_encoder)
    ids, mask = np.array([[2, 10, 3, 20, 3]]), np.ones((1, 5), np.int64)
    first, second = np.zeros((1, 5), np.int64), np.array([[0, 0, 0, 1, 1]])
    for knows in (True, False):
        runtime = TorchRuntime(WindowEncoder(encoder, "mean", knows), choose_device("cpu"))
        differ = not np.allclose(runtime.vectors(ids, mask, first), runtime.vectors(ids, mask, second), atol=1e-4)
        assert differ == knows


@pytest.mark.parametrize("name", ["gpu", "cpux", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device={name}"):
        choose_device(name)


def test_another_attention_gives_other_vectors(torch_body: Body) -> None:
    other = replace(torch_body, attention=np.zeros(32, np.float32))
    assert other.windower.windowing == torch_body.windower.windowing
    assert not np.allclose(other.represent(NEWS), torch_body.represent(NEWS), atol=1e-4)


def test_a_saved_body_needs_nothing_outside_its_folder(torch_body: Body, saved: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(saved, tmp_path / "elsewhere"))
    assert Body.load(moved, "cpu").represent(NEWS).shape == (3, 32)
