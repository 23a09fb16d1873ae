"""Subsampling gives ceil(frames / factor) states, whatever the padding."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.config.model import ANY_FACTOR, STRIDES
from trainables.masking import length_mask
from trainables.models.subsampling import (
    CoarserBins,
    StackedLSTM,
    StackSubsampling,
    make_subsampling,
    reversed_in_time,
    stacked,
)


class Unchanged(nn.Module):
    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return features_BTF, lengths_B


FACTORS = range(1, 13)
NUM_FEATS, WIDTH = 5, 8
KINDS: list[dict[str, Any]] = [
    *({"reduction": kind} for kind in tiny.choices("reduction")),
    {"reduction": "stack", "stack_norm": "layer"},
    {"reduction": "stack", "stack_norm": "rms"},
    {"reduction": "stack", "stack_bias": True, "frame_norm": "layer"},
    {"reduction": "stack", "stack_norm": "layer", "frame_norm": "rms"},
    {"reduction": "conv", "bin_reduction": 2},
    {"reduction": "pool", "bin_reduction": 9},
]


@cache
def subsampling(kind: int, factor: int) -> nn.Module:
    """A subsampling module with random biases and norms: at their initial values a mistake would not show."""
    torch.manual_seed(0)
    shape = tiny.shape(d_model=WIDTH, conv_channels=8, reduction_factor=factor, **KINDS[kind])
    module = make_subsampling(shape, NUM_FEATS).eval()
    for parameter in module.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3)
    return module


def test_length_mask() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]


def takes(kind: int, factor: int) -> bool:
    """Whether a kind of subsampling can have a factor."""
    return factor in STRIDES or KINDS[kind]["reduction"] in ANY_FACTOR


CASES = [(kind, factor) for kind in range(len(KINDS)) for factor in FACTORS if takes(kind, factor)]


def name_of(case: tuple[int, int]) -> str:
    return " ".join(map(str, [*KINDS[case[0]].values(), case[1]]))


@settings(max_examples=150)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=4),
    st.sampled_from(CASES),
    st.integers(0, 20),
    st.sampled_from([1.0, 100.0]),
)
def test_an_utterance_gives_the_same_states_alone_and_padded(
    lengths: list[int], case: tuple[int, int], extra: int, loudness: float
) -> None:
    module, factor = subsampling(*case), case[1]
    features_BTF = loudness * torch.randn(len(lengths), max(lengths) + extra, NUM_FEATS)
    for row, length in zip(features_BTF, lengths, strict=True):
        row[:length] /= loudness
    with torch.no_grad():
        states_BSD, state_lengths_B = module(features_BTF, torch.tensor(lengths))
        assert state_lengths_B.tolist() == [math.ceil(length / factor) for length in lengths]
        for row, states, length in zip(features_BTF, states_BSD, lengths, strict=True):
            alone, _ = module(row[None, :length], torch.tensor([length]))
            assert alone.shape == (1, math.ceil(length / factor), WIDTH)
            torch.testing.assert_close(states[: alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_frame_is_heard_and_every_parameter_learns(case: tuple[int, int]) -> None:
    module, length = subsampling(*case), 5 * case[1] + 1
    features_BTF = torch.randn(2, length, NUM_FEATS, requires_grad=True)
    states_BSD, _ = module(features_BTF, torch.tensor([length, length - 1]))
    states_BSD.square().sum().backward()
    assert features_BTF.grad is not None
    assert (features_BTF.grad[0].abs().sum(-1) > 0).all()
    assert not features_BTF.grad[1, -1].any()  # padding
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@given(st.integers(1, 12), st.integers(2, 12))
def test_coarser_bins_are_means_of_neighbours(bins: int, factor: int) -> None:
    features_BTF = torch.randn(2, 3, bins)
    means_BTF, _ = CoarserBins(factor, Unchanged())(features_BTF, torch.tensor([3, 2]))
    groups = features_BTF.split(factor, dim=2)
    torch.testing.assert_close(means_BTF, torch.stack([group.mean(2) for group in groups], 2))


def test_stacking_lays_frames_side_by_side_in_order() -> None:
    features_BTF = torch.arange(1, 11.0).view(1, 5, 2)
    assert stacked(features_BTF, torch.tensor([5]), 2).tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 0]]]
    assert stacked(features_BTF, torch.tensor([3]), 2).tolist() == [[[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]]]


def test_reversal_in_time_stays_within_each_length() -> None:
    x_BSF = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4]])[..., None]
    assert reversed_in_time(x_BSF, torch.tensor([4, 2]))[..., 0].tolist() == [[4, 3, 2, 1], [2, 1, 3, 4]]


def test_a_bidirectional_lstm_equals_torch() -> None:
    """Compared on a whole utterance and on a packed batch."""
    torch.manual_seed(0)
    ours = StackedLSTM(NUM_FEATS, WIDTH, stride=1)
    theirs = nn.LSTM(NUM_FEATS, WIDTH // 2, bidirectional=True, batch_first=True)
    weights = {name: value for name, value in ours.forwards.state_dict().items()}
    weights |= {f"{name}_reverse": value for name, value in ours.backwards.state_dict().items()}
    theirs.load_state_dict(weights)
    x_BTF, lengths_B = torch.randn(3, 9, NUM_FEATS), torch.tensor([9, 4, 1])
    packed = nn.utils.rnn.pack_padded_sequence(x_BTF, lengths_B, batch_first=True)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    found, _ = ours(x_BTF, lengths_B)
    valid = length_mask(lengths_B, 9)
    torch.testing.assert_close(found[valid], expected[valid])


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_norm_of_a_stack_equals_torch_on_the_valid_frames(norm: str) -> None:
    """A last stack of one frame is normalised with the statistics of that frame."""
    module = subsampling(KINDS.index({"reduction": "stack", "stack_norm": norm}), 4)
    assert isinstance(module, StackSubsampling)
    features_BTF = torch.randn(1, 5, NUM_FEATS)
    assert module.norm is not None
    found = module.norm(stacked(features_BTF, torch.tensor([5]), 4), torch.tensor([5]))[0]
    for place, frames in enumerate([features_BTF[0, :4], features_BTF[0, 4:]]):
        entries = frames.flatten()
        weight = module.norm.weight[: len(entries)]
        if norm == "layer":
            expected = F.layer_norm(entries, entries.shape, weight, module.norm.bias[: len(entries)])
        else:
            expected = F.rms_norm(entries, entries.shape, weight, eps=1e-5)
        torch.testing.assert_close(found[place, : len(entries)], expected)
        assert not found[place, len(entries) :].any()


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_norm_of_frames_equals_torch_and_leaves_padding_0(norm: str) -> None:
    shape = tiny.shape(reduction="stack", reduction_factor=3, frame_norm=norm)
    module = make_subsampling(shape, NUM_FEATS)
    nn.init.normal_(module.frame_norm.weight)
    kind = nn.LayerNorm if norm == "layer" else nn.RMSNorm
    theirs = kind(NUM_FEATS, eps=1e-5)
    theirs.load_state_dict(module.frame_norm.state_dict())
    features_BTF, lengths_B = torch.randn(2, 7, NUM_FEATS), torch.tensor([7, 4])
    expected = module.output(stacked(theirs(features_BTF), lengths_B, 3))
    torch.testing.assert_close(module(features_BTF, lengths_B)[0], expected)
    alone = module.output(torch.cat([theirs(features_BTF[1, 3:4]), torch.zeros(2, NUM_FEATS)]).flatten())
    torch.testing.assert_close(expected[1, 1], alone)


@pytest.mark.parametrize("kind", [kind for kind in tiny.choices("reduction") if kind not in ANY_FACTOR])
def test_a_factor_without_strides_is_refused_with_those_there_are(kind: str) -> None:
    with pytest.raises(ValueError, match=f"reduction={kind} takes a reduction_factor of 1, 2, 3, 4, 6, 8, but got 5"):
        tiny.shape(reduction=kind, reduction_factor=5)
