"""Time reduction gives ceil(frames / factor) states, whatever lies behind an utterance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.masking import length_mask
from trainables.models.subsampling import STRIDES, ConvSubsampling

FACTORS = sorted(STRIDES)
NUM_FEATS, WIDTH = 3, 6
MODULES = {factor: ConvSubsampling(NUM_FEATS, 4, WIDTH, factor).eval() for factor in FACTORS}


def test_length_mask() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]


@given(st.lists(st.integers(1, 70), min_size=1, max_size=4), st.sampled_from(FACTORS), st.integers(0, 20))
def test_an_utterance_gives_the_same_states_alone_and_padded(lengths: list[int], factor: int, extra: int) -> None:
    subsampling = MODULES[factor]
    features_BTF = torch.randn(len(lengths), max(lengths) + extra, NUM_FEATS)
    states_BSD, state_lengths_B = subsampling(features_BTF, torch.tensor(lengths))
    assert state_lengths_B.tolist() == [math.ceil(length / factor) for length in lengths]
    for row, states, length in zip(features_BTF, states_BSD, lengths, strict=True):
        alone, _ = subsampling(row[None, :length], torch.tensor([length]))
        assert alone.shape == (1, math.ceil(length / factor), WIDTH)
        torch.testing.assert_close(states[: alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", FACTORS)
def test_every_frame_is_heard(factor: int) -> None:
    length = 5 * factor + 1
    features_BTF = torch.randn(1, length, NUM_FEATS, requires_grad=True)
    states_BSD, _ = MODULES[factor](features_BTF, torch.tensor([length]))
    states_BSD.square().sum().backward()
    assert features_BTF.grad is not None
    assert (features_BTF.grad.abs().sum(-1) > 0).all()
