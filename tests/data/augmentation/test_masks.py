"""SpecAugment's masks are a function of seed, epoch and utterance, and of nothing else."""

from __future__ import annotations

import itertools
from operator import itemgetter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables.config.data import SpecAugment
from trainables.data.augmentation import EpochMasks, generator

CPU = torch.device("cpu")
UTTERANCES, BINS = 40, 16
CONFIG = SpecAugment(frequency_masks=2, frequency_width=5, time_masks=3, time_width=0.2)


def masked(config: SpecAugment, lengths: list[int], indices: list[int], key: tuple[int, int] = (0, 1)) -> Tensor:
    """(B, T, F): True where the utterances numbered `indices` are masked."""
    lengths_N = torch.ones(UTTERANCES, dtype=torch.long)
    lengths_N[indices] = torch.tensor(lengths)
    ones = torch.ones(len(indices), max(lengths), BINS)
    return EpochMasks(config, lengths_N, BINS, key).apply(ones, torch.tensor(indices), 0.0) == 0


def width(line: Tensor) -> int:
    """The extent of a single span: an error where there are several."""
    places = line.nonzero()[:, 0].tolist()
    assert not places or places == list(range(places[0], places[-1] + 1))
    return len(places)


def test_the_same_key_gives_the_same_masks() -> None:
    assert torch.equal(masked(CONFIG, [50, 50], [1, 2]), masked(CONFIG, [50, 50], [1, 2]))


@pytest.mark.parametrize("key", [(0, 2), (1, 1), (1, 0)])
def test_another_epoch_or_seed_gives_other_masks(key: tuple[int, int]) -> None:
    one, other = masked(CONFIG, [50] * 8, list(range(8))), masked(CONFIG, [50] * 8, list(range(8)), key)
    assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_utterances_have_masks_of_their_own() -> None:
    rows = masked(CONFIG, [50] * 10, list(range(10)))
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(rows, 2))


@given(
    st.lists(
        st.tuples(st.integers(0, UTTERANCES - 1), st.integers(1, 80)), min_size=1, max_size=6, unique_by=itemgetter(0)
    )
)
def test_masks_do_not_depend_on_who_shares_the_batch(members: list[tuple[int, int]]) -> None:
    together = masked(CONFIG, [length for _, length in members], [index for index, _ in members])
    for row, (index, length) in zip(together, members, strict=True):
        assert torch.equal(row[:length], masked(CONFIG, [length], [index])[0])


@given(st.integers(1, 120), st.floats(0, 1))
def test_a_time_mask_is_one_span_within_its_limit_and_its_utterance(length: int, share: float) -> None:
    config = SpecAugment(time_masks=1, time_width=share)
    for row in masked(config, [length, 150], [0, 1])[:1]:
        assert torch.equal(row.any(1), row.all(1))
        assert width(row.any(1)) <= share * length
        assert not row[length:].any()


def test_a_frequency_mask_is_one_span_of_every_width_up_to_the_limit() -> None:
    config = SpecAugment(frequency_masks=1, frequency_width=5)
    rows = torch.cat([masked(config, [3] * 40, list(range(40)), (0, epoch)) for epoch in range(30)])
    assert torch.equal(rows.any(1), rows.all(1))
    assert {width(row.any(0)) for row in rows} == set(range(6))
    assert rows.any(1)[:, 0].any() and rows.any(1)[:, -1].any()


def test_a_time_mask_has_every_width_up_to_the_limit_and_every_place() -> None:
    config = SpecAugment(time_masks=1, time_width=0.25)
    rows = torch.cat([masked(config, [20] * 40, list(range(40)), (0, epoch)) for epoch in range(30)])
    assert {width(row.any(1)) for row in rows} == set(range(6))
    assert rows.any(0).all()


def test_a_width_beyond_the_features_is_cut() -> None:
    config = SpecAugment(frequency_masks=1, frequency_width=100, time_masks=1, time_width=1.0)
    assert masked(config, [10] * 40, list(range(40))).any()


def test_random_streams_of_different_keys_differ() -> None:
    """In the 32 bits that torch's CPU generator takes from a seed."""
    keys: list[tuple[int, ...]] = [(seed, epoch) for seed in range(20) for epoch in range(100)]
    keys += [(seed, epoch, rank) for seed in range(20) for epoch in range(100) for rank in range(8)]
    assert len({generator(*key).initial_seed() % 2**32 for key in keys}) == len(keys)
    assert torch.rand(1, generator=generator(3, 4)) == torch.rand(1, generator=generator(3, 4))
