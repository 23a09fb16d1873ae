"""Batch plans cover every utterance once, in few shapes and with little padding."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from effort import measured
from hypothesis import given
from hypothesis import strategies as st
from librispeech_lengths import FRAMES_PER_SECOND, TRAIN_CLEAN_100

from trainables.data.augmentation import drawn_lengths, possible_lengths
from trainables.data.batch_plan import (
    MAX_BUCKETS,
    BatchPlan,
    bucket_edges,
    in_batches,
    placed,
    worker_share,
)

lengths = st.lists(st.integers(1, 3000), min_size=1, max_size=150).map(np.array)
budgets = st.floats(1, 50_000)
seeds = st.integers(0, 2**31)
epochs = st.integers(1, 1000)


@given(lengths, budgets, seeds, epochs | st.none())
def test_an_epoch_covers_every_utterance_once(frames: npt.NDArray, budget: float, seed: int, epoch: int | None) -> None:
    batches = BatchPlan(frames, budget, seed).epoch(epoch)
    assert sorted(np.concatenate([indices for indices, _ in batches])) == list(range(len(frames)))


@given(lengths, budgets, seeds, epochs | st.none())
def test_a_batch_keeps_its_budget_unless_it_is_one_long_utterance(
    frames: npt.NDArray, budget: float, seed: int, epoch: int | None
) -> None:
    for indices, edge in BatchPlan(frames, budget, seed).epoch(epoch):
        assert len(indices)
        assert frames[indices].max() <= edge
        assert len(indices) * edge <= budget or len(indices) == 1


@given(lengths, budgets, seeds, epochs, epochs)
def test_number_and_shapes_of_batches_are_the_same_in_every_epoch(
    frames: npt.NDArray, budget: float, seed: int, one: int, other: int
) -> None:
    plan = BatchPlan(frames, budget, seed)
    shapes = [Counter((len(indices), edge) for indices, edge in plan.epoch(epoch)) for epoch in (one, other)]
    assert shapes[0] == shapes[1] == Counter(plan.shapes)
    assert len(plan.edges) <= MAX_BUCKETS and len(shapes[0]) <= len(plan.edges) + 1
    assert plan.batches == shapes[0].total()


def test_order_and_members_depend_on_seed_and_epoch_alone() -> None:
    frames = np.random.default_rng(0).integers(100, 2000, 500)

    def members(seed: int, epoch: int) -> list[list[int]]:
        return [indices.tolist() for indices, _ in BatchPlan(frames, 20_000, seed).epoch(epoch)]

    assert members(1, 2) == members(1, 2)
    assert members(1, 2) != members(1, 3) != members(2, 2)
    together = {frozenset(batch) for batch in members(1, 2)}
    assert not together & {frozenset(batch) for batch in members(1, 3)}


@given(lengths, budgets)
def test_padding_share_counts_padded_frames(frames: npt.NDArray, budget: float) -> None:
    plan = BatchPlan(frames, budget)
    padding = sum(edge - frames[index] for indices, edge in plan.epoch(1) for index in indices)
    assert plan.padding_share() == pytest.approx(padding / (padding + frames.sum()))


def test_similar_lengths_share_a_batch() -> None:
    frames = np.random.default_rng(0).integers(200, 3000, 2000)
    assert BatchPlan(frames, 40_000).padding_share() < 0.06


@given(lengths, budgets)
def test_an_unshuffled_batch_is_padded_to_its_own_longest(frames: npt.NDArray, budget: float) -> None:
    for indices, edge in BatchPlan(frames, budget).epoch():
        assert frames[indices].max() == edge


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 4))
def test_no_other_edges_pad_less(lengths: list[int], count: int) -> None:
    def padded(edges: Iterable[int]) -> int:
        return sum(min(edge for edge in edges if edge >= length) for length in lengths)

    found, different = bucket_edges(np.array(lengths), count), sorted(set(lengths))
    others = itertools.combinations(different[:-1], min(count, len(different)) - 1)
    assert len(found) <= count
    assert padded(found) == min(padded([*some, different[-1]]) for some in others)


@given(lengths, budgets, seeds, epochs, st.sampled_from([0.1, 0.5]))
def test_drawn_speeds_change_neither_the_padded_lengths_nor_the_budget(
    frames: npt.NDArray, budget: float, seed: int, epoch: int, speed: float
) -> None:
    plan = BatchPlan(frames, budget, seed, expected=possible_lengths(frames, speed))
    drawn = drawn_lengths(frames, speed, (seed, epoch))
    batches = plan.at(drawn).epoch(epoch)
    assert sorted(np.concatenate([indices for indices, _ in batches])) == list(range(len(frames)))
    for indices, edge in batches:
        assert edge in plan.edges and drawn[indices].max() <= edge
        assert len(indices) * edge <= budget or len(indices) == 1


@pytest.mark.parametrize("seconds", [180, 720, 2160])
def test_lengths_of_librispeech_take_few_shapes_and_little_padding(seconds: int) -> None:
    """At most 32 of (B, T, U) in one epoch, and at most 5% padding, with speeds drawn."""
    frames, tokens = TRAIN_CLEAN_100.lengths()
    plan = BatchPlan(frames, seconds * FRAMES_PER_SECOND, expected=possible_lengths(frames, 0.1))
    plan = plan.at(drawn_lengths(frames, 0.1, (0, 1)))
    batches = placed(plan.epoch(1), tokens + 1, rank=0, world=1, device=torch.device("cpu"))
    assert len({(len(batch.indices), batch.edge, batch.tokens) for batch in batches}) <= 32
    assert plan.padding_share() < 0.05


def test_the_lengths_of_960_hours_are_planned_without_a_loop_over_them() -> None:
    """Memory stays within a few copies of the lengths, and Python sees batches, not utterances."""
    frames, tokens = TRAIN_CLEAN_100.lengths(281_241 / TRAIN_CLEAN_100.utterances)
    with measured() as effort:
        plan = BatchPlan(frames, 720 * FRAMES_PER_SECOND, expected=possible_lengths(frames, 0.1))
        plan = plan.at(drawn_lengths(frames, 0.1, (0, 1)))
        batches = placed(plan.epoch(1), tokens + 1, rank=0, world=1, device=torch.device("cpu"))
    assert len(frames) == 281_241 and len(batches) < len(frames) / 50
    assert effort.events < 100 * len(batches)  # events of calls and returns, those into numpy among them
    assert effort.peak < 20 * frames.nbytes


def test_a_worker_s_rows_are_its_share_of_each_batch() -> None:
    batches = [(np.array([4, 2, 7]), 30), (np.array([1]), 20), (np.array([5, 3]), 30)]
    tokens = np.array([1, 2, 9, 4, 5, 6, 7, 8])
    for rank in range(2):
        found = placed(batches, tokens, rank, world=2, device=torch.device("cpu"))
        assert [batch.tokens for batch in found] == [9, 2, 9]
        for batch, (indices, edge) in zip(found, batches, strict=True):
            share, weights = worker_share(indices, rank, 2)
            assert batch.edge == edge and batch.indices is indices
            assert batch.rows.indices.tolist() == batch.rows.index_B.tolist() == share.tolist()
            assert batch.rows.weights_B.tolist() == weights.tolist()


@given(st.integers(1, 50), st.integers(1, 9))
def test_workers_share_a_batch_without_counting_anything_twice(size: int, world: int) -> None:
    indices = np.arange(100, 100 + size)
    shares = [worker_share(indices, rank, world) for rank in range(world)]
    assert len({len(share) for share, _ in shares}) == 1
    counted = np.concatenate([share[weights == 1] for share, weights in shares])
    assert sorted(counted) == indices.tolist()
    for share, weights in shares:
        assert set(share) <= set(indices)
        assert set(weights) <= {0.0, 1.0}


@given(st.lists(st.integers(1, 500), max_size=60), st.floats(1, 5000))
def test_in_batches_yields_every_item_once(lengths: list[int], budget: float) -> None:
    batches = list(in_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)
