"""Batches: every example once, within the budget, the same steps wherever they are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slantwise.batching import RankBatches, TrainingBatches, padding_share, sorted_batches

Ints = npt.NDArray[np.int64]
SHAPES = st.lists(st.tuples(st.integers(1, 64), st.integers(1, 4)), min_size=1, max_size=80).map(np.array)


@st.composite
def plans(draw: Any) -> TrainingBatches:
    """Examples with a longest window and a number of windows, budgets from tight to ample."""
    shapes = draw(SHAPES)
    return TrainingBatches(
        shapes[:, 0], shapes[:, 1], budget=draw(st.sampled_from([32, 128, 1024])), most=draw(st.integers(1, 16)),
        epochs=draw(st.integers(1, 4)), seed=draw(st.integers(0, 9)), together=draw(st.integers(1, 5)),
        pool=draw(st.integers(1, 5)),
    )  # fmt: skip


def mixed(n: int = 400, seed: int = 0) -> Ints:
    """Lengths of headlines and articles."""
    draw = np.random.default_rng(seed)
    return np.where(draw.random(n) < 0.5, draw.integers(8, 24, n), draw.integers(100, 257, n))


@given(plans())
def test_every_example_is_in_exactly_one_batch_of_every_epoch(plan: TrainingBatches) -> None:
    for epoch in range(4):
        found = np.concatenate(plan.epoch(epoch))
        assert sorted(found.tolist()) == list(range(len(plan.lengths)))


@given(plans())
def test_a_batch_of_several_examples_keeps_to_the_budget(plan: TrainingBatches) -> None:
    for batch in plan.epoch(0):
        if len(batch) > 1:
            assert plan.lengths[batch].max() * plan.windows[batch].sum() <= plan.budget


@given(plans())
def test_no_batch_has_more_than_the_most_examples(plan: TrainingBatches) -> None:
    assert all(len(batch) <= plan.most for batch in plan.epoch(0))


@given(st.data())
def test_all_epochs_have_the_same_number_of_batches_a_multiple_of_together(data: Any) -> None:
    shapes, together = data.draw(SHAPES), data.draw(st.integers(1, 5))
    plan = TrainingBatches(shapes[:, 0], shapes[:, 1], 128, 8, epochs=3, seed=1, together=together)
    assert {len(plan.epoch(epoch)) for epoch in range(3)} == {len(plan)}
    assert len(plan) % together == 0


def test_an_odd_number_of_single_examples_is_filled_up_with_an_empty_batch() -> None:
    plan = TrainingBatches(np.full(5, 10), np.ones(5, np.int64), 100, most=1, epochs=1, seed=0, together=2)
    assert sorted(len(batch) for batch in plan.epoch(0)) == [0, 1, 1, 1, 1, 1]


@given(plans())
def test_the_same_seed_and_epoch_give_the_same_batches(plan: TrainingBatches) -> None:
    again = TrainingBatches(plan.lengths, plan.windows, plan.budget, plan.most, 1, plan.seed, 1, plan.pool)
    for one, other in zip(plan._free(2), again._free(2), strict=True):
        np.testing.assert_array_equal(one, other)


def signature(batches: list[Ints]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_epochs_differ_in_order_and_in_what_shares_a_batch() -> None:
    plan = TrainingBatches(mixed(), np.ones(400, np.int64), 2048, 16, epochs=2, seed=0)
    one, other = plan.epoch(0), plan.epoch(1)
    assert signature(one) != signature(other)
    assert {frozenset(batch.tolist()) for batch in one} != {frozenset(batch.tolist()) for batch in other}


def test_seeds_differ() -> None:
    first, second = (TrainingBatches(mixed(), np.ones(400, np.int64), 2048, 16, 1, seed).epoch(0) for seed in (0, 1))
    assert signature(first) != signature(second)


def test_long_and_short_batches_take_turns() -> None:
    """Sorted by length an epoch would begin with headlines alone."""
    plan = TrainingBatches(mixed(), np.ones(400, np.int64), 2048, 16, epochs=1, seed=0)
    means = [float(plan.lengths[batch].mean()) for batch in plan.epoch(0)]
    half = len(means) // 2
    assert abs(np.mean(means[:half]) - np.mean(means[half:])) < 60


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_a_step_takes_the_same_examples_however_they_are_shared(world: int, accumulate: int) -> None:
    plan = TrainingBatches(mixed(), np.ones(400, np.int64), 2048, 16, epochs=2, seed=0, together=4)
    ranks = [RankBatches(plan, rank, world) for rank in range(world)]
    for rank in ranks:
        rank.set_epoch(1)
    shares = [list(rank) for rank in ranks]
    assert {len(share) for share in shares} == {len(plan) // world} == {len(rank) for rank in ranks}
    whole = plan.epoch(1)
    for step in range(len(plan) // 4):
        mine = [i for share in shares for batch in share[step * accumulate : (step + 1) * accumulate] for i in batch]
        assert sorted(mine) == sorted(np.concatenate(whole[step * 4 : step * 4 + 4]).tolist())


@given(st.lists(st.integers(1, 300), max_size=60).map(lambda found: np.array(found, np.int64)))
def test_sorted_batches_cover_all_windows_within_the_budget(lengths: Ints) -> None:
    batches = sorted_batches(lengths, 512)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(lengths[batch].max() * len(batch) <= 512 for batch in batches)


def test_sorted_batches_begin_with_the_longest_window() -> None:
    batches = sorted_batches(mixed(), 2048)
    assert batches[0][0] == np.argmax(mixed())
    longest = [int(mixed()[batch].max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_window_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    assert signature(sorted_batches(np.array([5, 900, 5]), 512)) == [[1], [0, 2]]


def test_the_padding_share_equals_a_direct_count() -> None:
    owners = [3, 5, 1], [7], [2, 2]  # the window lengths of three examples
    lengths, windows, tokens = (np.array([f(own) for own in owners]) for f in (max, len, sum))
    batches = [np.array([0, 2]), np.array([1])]
    # five windows padded to 5, one to 7: 32 tokens, of which 13 and 7 are no padding
    assert padding_share(batches, lengths, windows, tokens) == pytest.approx(1 - 20 / 32)


def test_the_padding_share_of_single_windows_needs_their_lengths_alone() -> None:
    assert padding_share([np.array([0, 1])], np.array([4, 8])) == pytest.approx(0.25)


def test_an_empty_batch_is_no_padding() -> None:
    assert padding_share([np.array([0, 1]), np.array([], np.int64)], np.array([4, 8])) == pytest.approx(0.25)
    assert padding_share([], np.array([], np.int64)) == 0.0


def test_mixed_lengths_cost_much_less_padding_than_in_random_order() -> None:
    lengths, ones = mixed(), np.ones(400, np.int64)
    planned = padding_share(TrainingBatches(lengths, ones, 2048, 16, 1, 0).epoch(0), lengths)
    order = np.random.default_rng(0).permutation(400)
    assert planned < 0.15 < 0.35 < padding_share(np.array_split(order, 25), lengths)
