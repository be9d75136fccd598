"""Batches by a budget of tokens: what is put together has nearly the same length, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def sorted_batches(lengths: Ints, budget: int) -> list[Ints]:
    """Indices of windows in batches of at most `budget` padded tokens, the longest windows first: memory that does not
    suffice is noticed at once. A window that is longer than the budget is a batch of its own."""
    order = np.argsort(-lengths, kind="stable")
    return _cut(order, lengths, np.ones_like(lengths), budget, len(lengths))


def padding_share(
    batches: Sequence[Ints], lengths: Ints, windows: Ints | None = None, tokens: Ints | None = None
) -> float:
    """The share of the padded tokens that is padding.

    lengths  the longest window of each item; windows: their number; tokens: all tokens of the item. Without the latter
             two, an item is one window.
    """
    counts = np.ones_like(lengths) if windows is None else windows
    held = lengths if tokens is None else tokens
    padded = sum(int(lengths[b].max(initial=0)) * int(counts[b].sum()) for b in batches)
    return 1 - sum(int(held[b].sum()) for b in batches) / padded if padded else 0.0


def _cut(order: Ints, lengths: Ints, windows: Ints, budget: int, most: int) -> list[Ints]:
    """Consecutive items of `order` as batches: padded tokens (longest window x windows) within the budget."""
    batches: list[Ints] = []
    start = longest = count = 0
    for place, item in enumerate(order.tolist()):
        longer, more = max(longest, int(lengths[item])), count + int(windows[item])
        if place > start and (longer * more > budget or place - start >= most):
            batches.append(order[start:place])
            start, longer, more = place, int(lengths[item]), int(windows[item])
        longest, count = longer, more
    if start < len(order):
        batches.append(order[start:])
    return batches


class TrainingBatches:
    """The batches of every epoch of a training run: shuffled, then sorted by length within pools, then shuffled again.

    The number of batches is the same in all epochs and a multiple of `together` (processes x accumulated batches): a
    step takes `together` consecutive batches, so that the steps are the same however they are shared among processes.
    Deterministic in the seed and the epoch.
    """

    def __init__(
        self, lengths: Ints, windows: Ints, budget: int, most: int, epochs: int, seed: int, together: int = 1,
        pool: int = 50,
    ) -> None:  # fmt: skip
        """lengths (n,): the longest window of each example; windows (n,): their number; most: examples in a batch;
        pool: batches whose examples are sorted together."""
        self.lengths, self.windows, self.budget, self.most = lengths, windows, budget, most
        self.seed, self.pool = seed, pool
        counts = [len(self._free(epoch)) for epoch in range(max(epochs, 1))]
        self.count = -(-max(counts) // together) * together

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int) -> list[Ints]:
        batches = self._free(number)
        while len(batches) < self.count:
            # Halve the batch with the most examples; its halves are still of one length. One of a single example
            # leaves an empty batch behind.
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            whole = batches[largest]
            batches[largest] = whole[: len(whole) // 2]
            batches.append(whole[len(whole) // 2 :])
        return batches

    def _free(self, epoch: int) -> list[Ints]:
        draw = np.random.default_rng([self.seed, epoch])
        order = draw.permutation(len(self.lengths))
        mean = float((self.lengths * self.windows).mean())
        size = max(int(self.pool * min(self.budget / mean, self.most)), 1)
        batches: list[Ints] = []
        for start in range(0, len(order), size):
            part = order[start : start + size]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += _cut(part, self.lengths, self.windows, self.budget, self.most)
        return [batches[i] for i in draw.permutation(len(batches))]


class RankBatches:
    """The batches of one of several processes, for a DataLoader: batch `rank`, `rank + world`, ... of the epoch."""

    def __init__(self, plan: TrainingBatches, rank: int = 0, world: int = 1) -> None:
        self.plan, self.rank, self.world, self.number = plan, rank, world, 0

    def set_epoch(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return len(self.plan) // self.world

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan.epoch(self.number)[self.rank :: self.world]:
            yield batch.tolist()
