"""Fitting a logistic head on the embeddings of a frozen encoder.

The encoder reads each distinct window once, and on the same machine never again: its vectors are kept (training.cache).
An example with a target is read as two texts (slantwise.body), since an encoder that was made for single texts has not
learned to read pairs. Features are standardised for the fit; the classifier has the scaling in its weights.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

from data.examples import LabelledExamples
from slantwise.article import Example
from slantwise.batching import sorted_batches
from slantwise.body import Body
from slantwise.command import Progress
from slantwise.errors import ConfigurationError, CorpusError
from slantwise.linear import UNSEEN
from slantwise.network import TorchRuntime, WindowEncoder, choose_device, quiet
from slantwise.transformer import TransformerClassifier
from slantwise.windows import Encoded, cut_facts
from training.cache import StepCache, VectorCache, key_of
from training.encoder_config import EncoderConfig, EncoderOptions
from training.encoding import encode
from training.fitting import Fitted, Floats, Part, Workspace, score
from training.pretrained import load_encoder, takes_segments

Doubles = npt.NDArray[np.float64]
KEPT_TOGETHER = 2048  # windows of one file of the cache; an interrupted fit loses no more than these


def fit_all(parts: Sequence[Part], config: EncoderConfig, workspace: Workspace) -> dict[str, Fitted]:
    """Embed all parts with one encoder, fit a head for each on train; validation chooses its C.

    With `refit`, the head is fitted again on train and validation with the chosen C. Nothing is left to chance. Raises
    ConfigurationError where the encoder cannot be had.
    """
    for part in parts:
        if not len(part.train) or not len(part.validation):
            raise CorpusError(
                f"the encoder needs both: {len(part.train)} train and {len(part.validation)} validation examples of "
                f"task {part.task.name}"
            )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    loaded = _loaded(config.encoder, config.revision, config.max_tokens, config.token_pooling, config.device,
                     _stamp(config.encoder))  # fmt: skip
    body = Body(loaded.tokenizer, loaded.runtime, config.windowing, loaded.pad, config.pooling, pair="separate",
                normalise=True, provenance=loaded.provenance)  # fmt: skip
    own = {f.name: getattr(body, f.name) for f in fields(Body)}
    reader = CachedBody(**own, cache=_cache(config, workspace.progress), space=loaded.checksum)
    train = _shared(reader, parts, "train", workspace)
    validation = _shared(reader, parts, "validation", workspace)
    facts = {
        **loaded.provenance,
        **cut_facts(train.encoded),
        **{f"validation_{name}": value for name, value in cut_facts(validation.encoded).items()},
        "from_cache": round(reader.tally.known / max(reader.tally.known + reader.tally.computed, 1), 4),
    }
    with threadpool_limits(config.threads):
        return {
            part.task.name: _fit(part, body, train.vectors[part.task.name], validation.vectors[part.task.name], config,
                                 facts, workspace.progress)
            for part in parts
        }  # fmt: skip


@dataclass(frozen=True)
class _Loaded:
    """An encoder, ready to run; checksum: of all that its vectors depend on besides the windows."""

    tokenizer: Tokenizer
    runtime: TorchRuntime
    pad: int
    provenance: Mapping[str, Any]
    checksum: str


@lru_cache(maxsize=1)
def _loaded(
    encoder: str, revision: str | None, max_tokens: int, token_pooling: str, device: str, stamp: tuple[Any, ...]
) -> _Loaded:
    """The folds of a cross-validation share one encoder; `stamp` tells whether its files are still the same."""
    quiet()
    config = EncoderOptions(encoder=encoder, revision=revision, max_tokens=max_tokens)
    model, tokenizer, pad, provenance = load_encoder(config)
    module = WindowEncoder(model, token_pooling, takes_segments(model))
    runtime = TorchRuntime(module, choose_device(device))
    return _Loaded(tokenizer, runtime, pad, provenance, _checksum(runtime))


def _stamp(encoder: str) -> tuple[Any, ...]:
    files = sorted(Path(encoder).expanduser().glob("*"))
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _checksum(runtime: TorchRuntime) -> str:
    """Of the weights as they were loaded, whatever name or revision they go by, and of the code that runs them."""
    encoder: Any = runtime.module.encoder
    settings = {k: v for k, v in encoder.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    digest = hashlib.sha256()
    digest.update(json.dumps([
        transformers.__version__, type(encoder).__name__, settings, runtime.module.token_pooling,
        runtime.module.token_types, runtime.half,
    ], sort_keys=True, default=str).encode())  # fmt: skip
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _cache(config: EncoderConfig, progress: Progress) -> VectorCache:
    folder = _scratch() if config.cache is None else Path(config.cache).expanduser()
    return VectorCache(folder, int(config.cache_gigabytes * 1e9), progress.warn)


@lru_cache(maxsize=1)
def _scratch() -> Path:
    """A folder that lasts as long as the process: its fits share what they embed."""
    folder = tempfile.TemporaryDirectory(prefix="slantwise-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@dataclass
class Tally:
    """Distinct windows that the cache knew, and those that were computed."""

    known: int = 0
    computed: int = 0


@dataclass(frozen=True)
class CachedBody(Body):
    """A body that takes the vectors of windows from a cache and keeps there those that it has to compute.

    What stands for a window is its token ids: text, target, tokenizer and windows need no part in the key.
    """

    cache: VectorCache = field(kw_only=True)
    space: str = field(kw_only=True)
    tally: Tally = field(default_factory=Tally, kw_only=True)

    def vectors_of(self, encoded: Encoded, report: Callable[[int], None] = lambda done: None) -> Floats:
        if not encoded.n:
            return super().vectors_of(encoded, report)
        keys = window_keys(encoded)
        first = {key: window for window, key in reversed(list(enumerate(keys)))}
        vectors = self.cache.read(self.space, first)
        missing = np.array(sorted(window for key, window in first.items() if key not in vectors), np.int64)
        self.tally.known += len(vectors)
        self.tally.computed += len(missing)
        vectors |= self._computed_anew(encoded, keys, missing, report)
        return self.pool(np.stack([vectors[key] for key in keys]), encoded.starts)

    def _computed_anew(
        self, encoded: Encoded, keys: Sequence[bytes], missing: npt.NDArray[np.int64], report: Callable[[int], None]
    ) -> dict[bytes, Floats]:
        done: dict[bytes, Floats] = {}
        kept = 0
        batches = sorted_batches(encoded.lengths[missing], self.runtime.budget)
        for number, batch in enumerate(batches, start=1):
            windows = missing[batch]
            found = self.runtime.vectors(*encoded.padded(windows, self.pad))
            done |= {keys[window]: vector for window, vector in zip(windows, found, strict=True)}
            report(len(done))
            if len(done) - kept >= KEPT_TOGETHER or number == len(batches):
                new = list(done)[kept:]
                self.cache.write(self.space, new, np.stack([done[key] for key in new]))
                kept = len(done)
        return done


def window_keys(encoded: Encoded) -> list[bytes]:
    """For each window a key of what the encoder reads: its ids, and where its second segment starts."""
    second = encoded.second.tolist()
    return [
        key_of(encoded.ids[start:end].tobytes(), at.to_bytes(4, "little"))
        for start, end, at in zip(encoded.ends[:-1], encoded.ends[1:], second, strict=True)
    ]


@dataclass(frozen=True)
class _Embedded:
    """One split of all tasks. vectors, by task: float32 (n_task, width), a row for each of the task's examples"""

    encoded: Encoded
    vectors: Mapping[str, Floats]


def _shared(body: CachedBody, parts: Sequence[Part], name: str, workspace: Workspace) -> _Embedded:
    """One split of all parts, embedded; for fits that share it, once."""
    splits = {part.task.name: getattr(part, name) for part in parts}
    keys = [part.key for part in parts]
    cache = None if None in keys else workspace.cache
    if cache is None:
        return _embed(body, splits, name, workspace.progress, None)
    return cache.memory.get(
        ("embedded", name, body.space, body.windowing, body.pooling, *keys),
        lambda: _embed(body, splits, name, workspace.progress, cache),
        lambda made: made.encoded.ids.nbytes + sum(vectors.nbytes for vectors in made.vectors.values()),
    )


def _embed(
    body: CachedBody, splits: Mapping[str, LabelledExamples], name: str, progress: Progress, cache: StepCache | None
) -> _Embedded:
    """Raises ConfigurationError where the encoder gives something other than numbers."""
    place: dict[Example, int] = {}
    rows = {task: [place.setdefault(e, len(place)) for e in part.examples] for task, part in splits.items()}
    examples = list(place)
    encoded = encode(body, examples, cache)
    started, n, before = time.perf_counter(), len(encoded.second), body.tally.computed

    def report(done: int) -> None:
        new = body.tally.computed - before
        rate = done / max(time.perf_counter() - started, 1e-9)
        left = (new - done) / rate / 60
        progress.update(f"{name}: {done:,}/{new:,} new windows of {n:,}, {rate:,.0f} a second, {left:.0f} min left")

    u = body.vectors_of(encoded, report)
    if not np.isfinite(u).all():
        raise ConfigurationError(
            f"classifier.encoder={body.provenance['encoder']}: its embeddings are not finite numbers; its weights are "
            "damaged, or were made for another precision"
        )
    return _Embedded(encoded, {t: body.beside_targets(u[own], [examples[i] for i in own]) for t, own in rows.items()})


def _fit(
    part: Part, body: Body, train: Floats, validation: Floats, config: EncoderConfig, facts: Mapping[str, Any],
    progress: Progress,
) -> Fitted:  # fmt: skip
    fitted = _choose(part, body, train, validation, config, progress)
    c = fitted.chosen["C"]
    classifier = fitted.classifier
    if config.refit:
        again = _Path(part.train + part.validation, np.concatenate([train, validation]), config)
        classifier = TransformerClassifier(part.task, body, *again.head(c))
    note = f"C {c:g}, {facts['from_cache']:.0%} of the embeddings from the cache"
    return replace(fitted, classifier=classifier, note=note, chosen={**fitted.chosen, **facts})


def _choose(
    part: Part, body: Body, train: Floats, validation: Floats, config: EncoderConfig, progress: Progress
) -> Fitted:
    """The best of the path of C; of equal ones the smallest C."""
    path = _Path(part.train, train, config)
    scores: dict[str, float] = {}
    best: Fitted | None = None
    for c in sorted(config.C):
        progress.update(f"{part.task.name}: C {c:g}")
        classifier = TransformerClassifier(part.task, body, *path.head(c))
        probabilities = classifier.from_representation(validation)
        scores[str(c)] = score(part.task, part.validation.gold, probabilities)
        if best is None or scores[str(c)] > scores[str(best.chosen["C"])]:
            best = Fitted(classifier, probabilities, "", {"C": c, "validation_scores": scores})
    assert best is not None
    return best


class _Path:
    """The logistic regressions of one task: one, or one a label of a multilabel task. Along a path of C each starts
    where it stopped."""

    def __init__(self, labelled: LabelledExamples, vectors: Floats, config: EncoderConfig) -> None:
        self.task = labelled.task
        self.scaler = StandardScaler()
        design = self.scaler.fit_transform(vectors.astype(np.float64))
        gold, shares = labelled.gold, labelled.shares
        weight = "balanced" if config.class_weight == "balanced" else None
        if self.task.kind == "multiclass":
            self.solvers = [_Solver(design, gold.astype(np.int64), shares, weight)]
        else:
            self.solvers = [
                _Solver(design, gold[:, i].astype(np.int64),
                        None if shares is None else np.column_stack([1 - shares[:, i], shares[:, i]]), weight)
                for i in range(gold.shape[1])
            ]  # fmt: skip

    def head(self, c: float) -> tuple[Floats, Floats]:
        """float32 weights (width, n_labels) and bias (n_labels,) for vectors that are not standardised."""
        if self.task.kind == "multiclass":
            weights, bias = self.solvers[0].multiclass(c, len(self.task.labels))
        else:
            columns = [solver.binary(c) for solver in self.solvers]
            weights = np.column_stack([own for own, _ in columns])
            bias = np.array([own for _, own in columns])
        weights = weights / self.scaler.scale_[:, None]
        return weights.astype(np.float32), (bias - self.scaler.mean_ @ weights).astype(np.float32)


class _Solver:
    """One logistic regression.

    With `shares` (n, n_classes) an example enters once for each class in which it has a share, in place of its `gold`,
    with the share as its weight.
    """

    def __init__(
        self, design: Doubles, gold: npt.NDArray[np.int64], shares: Floats | None, class_weight: str | None
    ) -> None:
        self.design, self.gold, self.weights = design, gold, None
        if shares is not None:
            rows, self.gold = np.nonzero(shares)
            self.design, self.weights = design[rows], shares[rows, self.gold]
        self.classes = np.unique(self.gold)
        self.model = LogisticRegression(class_weight=class_weight, warm_start=True, tol=1e-4, max_iter=1000)

    def _solved(self, c: float) -> tuple[Doubles, Doubles]:
        """Scores of the classes in the order of `classes`, of two classes those of the second: (width, k), (k,)."""
        self.model.set_params(C=c)
        with warnings.catch_warnings():
            # A path of C holds values too large to be solved exactly; validation judges what comes of them.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self.design, self.gold, self.weights)
        return self.model.coef_.T, self.model.intercept_

    def multiclass(self, c: float, n_labels: int) -> tuple[Doubles, Doubles]:
        """A label that does not occur has a probability of UNSEEN at the most."""
        weights, bias = np.zeros((self.design.shape[1], n_labels)), np.full(n_labels, np.log(UNSEEN))
        if len(self.classes) == 1:
            bias[self.classes] = 0
            return weights, bias
        found, intercept = self._solved(c)
        if len(self.classes) == 2:
            found, intercept = np.hstack([-found / 2, found / 2]), np.concatenate([-intercept / 2, intercept / 2])
        # The largest score is at least their mean, which is 0 here: against it UNSEEN is small.
        weights[:, self.classes] = found - found.mean(axis=1, keepdims=True)
        bias[self.classes] = intercept - intercept.mean()
        return weights, bias

    def binary(self, c: float) -> tuple[Doubles, float]:
        """One class to learn from: sure in the measure of its examples."""
        if len(self.classes) == 1:
            odds = float(np.log(2 * len(self.gold) + 1))
            return np.zeros(self.design.shape[1]), odds if self.classes[0] else -odds
        weights, intercept = self._solved(c)
        return weights[:, 0], float(intercept[0])
