"""Body: what the heads of a model share: tokenizer, windows and an encoder. Examples in, one vector for each out.

A body is a folder: body.json (settings), tokenizer.json, and the files of its runtime: config.json and
model.safetensors (torch), or model.onnx (ONNX Runtime).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from slantwise.article import Example
from slantwise.batching import padding_share, sorted_batches
from slantwise.errors import ConfigurationError, ModelError, ScoringError
from slantwise.windows import LEAST_ARTICLE, Encoded, Windower, Windowing

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
FORMAT = 1
SETTINGS, TOKENIZER = "body.json", "tokenizer.json"
RUNTIMES = {"torch": ("slantwise.network", "TorchRuntime"), "onnx": ("slantwise.onnx", "OnnxRuntime")}
POOLINGS = ("mean", "max", "attention")
PAIRS = ("cross", "separate")


class Runtime(Protocol):
    """Computes window vectors; `budget` is the number of padded tokens of a batch that suits its machine, `parallel`
    the number of batches that it takes at once."""

    kind: str
    budget: int
    parallel: int

    def vectors(self, ids: Ints, mask: Ints, segments: Ints) -> Floats: ...

    def save(self, folder: Path) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Body:
    """
    pooling    how the windows of an example become one vector: mean, max, or attention (weights by the softmax of
               window vector times `attention`, float32 (hidden,); Yang et al. 2016)
    pair       how an example with a target is read: `cross`, as one text pair; `separate`, text u and target v each
               for itself, and then [u, v, u * v, |u - v|] (Conneau et al. 2017), for encoders that are not fine-tuned
    normalise  vectors have length 1
    """

    tokenizer: Tokenizer
    runtime: Runtime
    windowing: Windowing
    pad: int = 0
    pooling: str = "mean"
    attention: Floats | None = None
    pair: str = "cross"
    normalise: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)  # the encoder's name, revision, checksum

    @cached_property
    def windower(self) -> Windower:
        return Windower(self.tokenizer, self.windowing)

    def represent(self, examples: Sequence[Example], report: Callable[[int], None] = lambda done: None) -> Floats:
        """float32 (n, width), rows in input order. `report` is called with the number of windows done so far."""
        return self.beside_targets(self.vectors_of(self.encode(examples), report), examples)

    def takes_target(self, target: str) -> bool:
        """Whether the target leaves room for its article; one that is read for itself takes none of it."""
        return self.pair != "cross" or self.windower.room(target) >= LEAST_ARTICLE

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """The windows that are read; a target that is read for itself is in none, but decides where they lie."""
        return self.windower.encode(examples, pair=self.pair == "cross")

    def beside_targets(self, u: Floats, examples: Sequence[Example]) -> Floats:
        """The examples' vectors from those of their windows: `u` itself, unless targets are read for themselves.

        Raises ScoringError where only some of the examples have a target: their vectors differ in width.
        """
        targets = list(dict.fromkeys(example.target for example in examples))
        if self.pair == "cross" or not targets or targets == [None]:
            return u
        if None in targets:
            raise ScoringError("some of the examples have a target and some have none; expected either for all")
        place = {target: i for i, target in enumerate(targets)}
        of_target = self.vectors_of(self.windower.encode([Example(str(target)) for target in targets]))
        v = of_target[[place[example.target] for example in examples]]
        return np.hstack([u, v, u * v, np.abs(u - v)])

    def vectors_of(self, encoded: Encoded, report: Callable[[int], None] = lambda done: None) -> Floats:
        """float32 (n, hidden): the pooled windows of each example."""
        if not encoded.n:
            return np.zeros((0, 0), np.float32)
        return self.pool(self.window_vectors(encoded, report=report), encoded.starts)

    def window_vectors(
        self, encoded: Encoded, rank: int = 0, world: int = 1, report: Callable[[int], None] = lambda done: None
    ) -> Floats:
        """float32 (n_windows, hidden); of several processes, each fills the rows of its batches and leaves the others
        zero."""
        batches = sorted_batches(encoded.lengths, self.runtime.budget)
        # the first batch is everybody's: it tells the width
        own = [batch for number, batch in enumerate(batches) if number == 0 or number % world == rank]
        vectors: Floats | None = None
        done = 0
        for batch, found in zip(own, self._computed(encoded, own), strict=True):
            if vectors is None:
                vectors = np.zeros((len(encoded.second), found.shape[1]), np.float32)
            if batch is not batches[0] or rank == 0:
                vectors[batch] = found
            done += len(batch)
            report(done)
        assert vectors is not None
        return vectors

    def _computed(self, encoded: Encoded, batches: Sequence[Ints]) -> Iterator[Floats]:
        """The window vectors of each batch, in order."""

        def compute(batch: Ints) -> Floats:
            return self.runtime.vectors(*encoded.padded(batch, self.pad))

        if self.runtime.parallel == 1:
            yield from map(compute, batches)
            return
        with ThreadPoolExecutor(self.runtime.parallel) as pool:
            yield from pool.map(compute, batches)

    def pool(self, vectors: Floats, starts: Ints) -> Floats:
        """Window vectors (n_windows, hidden) -> (n, hidden); the windows of example i are starts[i]:starts[i + 1]."""
        first = starts[:-1]
        if self.pooling == "max":
            pooled = np.maximum.reduceat(vectors, first, axis=0)
        elif self.pooling == "attention":
            assert self.attention is not None
            scores = vectors @ self.attention
            scores -= np.repeat(np.maximum.reduceat(scores, first), np.diff(starts))
            weights = np.exp(scores)
            pooled = np.add.reduceat(vectors * weights[:, None], first, axis=0)
            pooled /= np.add.reduceat(weights, first)[:, None]
        else:
            pooled = np.add.reduceat(vectors, first, axis=0) / np.diff(starts)[:, None].astype(np.float32)
        if self.normalise:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return pooled.astype(np.float32, copy=False)

    def padding(self, encoded: Encoded) -> float:
        """The share of padding in what `vectors_of` computes."""
        return padding_share(sorted_batches(encoded.lengths, self.runtime.budget), encoded.lengths)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / TOKENIZER))
        settings = {
            "format": FORMAT,
            "runtime": self.runtime.kind,
            "runtime_settings": self.runtime.save(folder),
            "windowing": asdict(self.windowing),
            "pad": self.pad,
            "pooling": self.pooling,
            "attention": None if self.attention is None else [float(x) for x in self.attention],
            "pair": self.pair,
            "normalise": self.normalise,
            "provenance": dict(self.provenance),
        }
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Body:
        """Raises ModelError naming the file at fault."""
        state = _settings(folder)
        try:
            known = state["runtime"] in RUNTIMES and state["pooling"] in POOLINGS and state["pair"] in PAIRS
            if state["format"] != FORMAT or not known:
                raise ModelError(f"{folder / SETTINGS}: made by another release; this one reads format {FORMAT}")
            if (state["pooling"] == "attention") != (state["attention"] is not None):
                raise ValueError(f"pooling {state['pooling']}, attention {state['attention']}")
            module, name = RUNTIMES[state["runtime"]]
            runtime = getattr(_import(module, folder), name).load(folder, state["runtime_settings"], device)
            attention = None if state["attention"] is None else np.array(state["attention"], np.float32)
            return cls(
                _tokenizer(folder), runtime, Windowing(**state["windowing"]), int(state["pad"]), state["pooling"],
                attention, state["pair"], bool(state["normalise"]), state["provenance"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / SETTINGS}: damaged ({type(error).__name__}: {error})") from error


def _settings(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / SETTINGS}: cannot be read ({error})") from error
    if not isinstance(state, dict):
        raise ModelError(f"{folder / SETTINGS}: expected a JSON object")
    return state


def _import(module: str, folder: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{folder}: this model needs {error.name}; install what its requirements.txt names"
        ) from error


def _tokenizer(folder: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:
        raise ModelError(f"{folder / TOKENIZER}: cannot be read ({error})") from error
