"""Several processes of one run, as `accelerate launch` and `torchrun` start them: the first writes and tracks."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return world() == 1 or int(os.environ.get("RANK", "0")) == 0


def from_first(value: T) -> T:
    """What the first process has for `value`, in all of them."""
    if world() == 1:
        return value
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    held = [value]
    broadcast_object_list(held)
    return held[0]
