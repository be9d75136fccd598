"""Token windows of examples, made once for a distinct (examples, tokenizer, windowing) where fits share a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, fields
from typing import Any

import numpy as np
import tokenizers

from slantwise.article import Example
from slantwise.body import Body
from slantwise.windows import Encoded
from training.cache import Arrays, StepCache, code_of, key_of

CODE = ("slantwise.windows", "slantwise.mentions", "training.encoding")


def encode(body: Body, examples: Sequence[Example], cache: StepCache | None) -> Encoded:
    """The windows that `body` reads of the examples."""
    if cache is None:
        return body.encode(examples)
    key = key_of(
        code_of(*CODE), tokenizers.__version__.encode(), body.tokenizer.to_str().encode(), body.pair.encode(),
        json.dumps(asdict(body.windowing)).encode(), *(repr(astuple(example)).encode() for example in examples),
    )  # fmt: skip
    make = _packing(body, examples)
    arrays = cache.memory.get(("windows", key), lambda: cache.disk.get("windows", key, make), _size)
    restored: dict[str, Any] = {name: array if array.ndim else int(array) for name, array in arrays.items()}
    return Encoded(**restored)


def _packing(body: Body, examples: Sequence[Example]) -> Callable[[], Arrays]:
    def make() -> Arrays:
        encoded = body.encode(examples)
        return {field.name: np.asarray(getattr(encoded, field.name)) for field in fields(Encoded)}

    return make


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
