"""Does a stance classifier read its target? The test examples once more, with their targets dealt out anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.examples import LabelledExamples


def shuffle_targets(labelled: LabelledExamples, seed: int) -> LabelledExamples:
    """The same texts and labels, each with the target of another example (the shift of a random order by one).

    A classifier that reads its target must lose by this. The share of equal targets among the examples bounds how much:
    with one target in the whole corpus nothing changes.
    """
    order = np.random.default_rng(seed).permutation(len(labelled))
    targets: list[str | None] = [None] * len(labelled)
    examples = list(labelled.examples)
    for place, source in zip(order, np.roll(order, 1), strict=True):
        targets[place] = examples[source].target
    moved = [replace(example, target=t, span=None) for example, t in zip(examples, targets, strict=True)]
    return replace(labelled, examples=moved)
