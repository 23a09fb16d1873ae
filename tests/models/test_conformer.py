"""The conformer layer equals its formula with torch's parts, and BatchNorm's statistics are those of the utterances."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.masking import length_mask
from trainables.models.attention import Context, attend_to_valid
from trainables.models.conformer import ConformerLayer, Convolution, MaskedBatchNorm
from trainables.models.encoder import Encoder
from trainables.models.positions import RelativeKeys

WIDTH, HEADS, CHANNELS = 32, 2, 64


def layer(**fields: Any) -> ConformerLayer:
    torch.manual_seed(0)
    shape = {"heads": HEADS, "activation": "silu", "encoder_positions": "none", "conv_kernel": 5, **fields}
    return tiny.randomized(ConformerLayer(tiny.shape(**shape)))


def context(lengths: list[int], width: int) -> Context:
    lengths_B = torch.tensor(lengths)
    return Context(lengths_B, attend_to_valid("sdpa", lengths_B, width))


@pytest.mark.parametrize("kernel", [1, 4, 5])
def test_a_layer_equals_its_formula_with_torch_s_parts(kernel: int) -> None:
    """Gulati et al., 2020, with attention as in torch.nn.MultiheadAttention; even kernels see one state more before."""
    ours = layer(conv_kernel=kernel)
    nn.init.normal_(ours.convolution.norm.running_mean)
    nn.init.uniform_(ours.convolution.norm.running_var, 0.5, 2)
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    attention.load_state_dict(
        {
            "in_proj_weight": ours.attention.qkv.weight,
            "in_proj_bias": ours.attention.qkv.bias,
            "out_proj.weight": ours.attention.output.weight,
            "out_proj.bias": ours.attention.output.bias,
        }
    )
    norm = nn.BatchNorm1d(CHANNELS).eval()
    norm.load_state_dict(ours.convolution.norm.state_dict())
    x = torch.randn(2, 9, WIDTH)
    y = x + 0.5 * ours.first_feed_forward(ours.first_feed_forward_norm(x))
    z = ours.attention_norm(y)
    y = y + attention(z, z, z)[0]
    value, gate = F.linear(ours.convolution_norm(y), ours.convolution.gated.weight, ours.convolution.gated.bias).chunk(
        2, -1
    )
    rows = F.pad((value * gate.sigmoid()).transpose(1, 2), (kernel // 2, (kernel - 1) // 2))
    rows = norm(F.conv1d(rows, ours.convolution.depthwise.weight, groups=CHANNELS))
    y = y + ours.convolution.output(F.silu(rows.transpose(1, 2)))
    y = y + 0.5 * ours.second_feed_forward(ours.second_feed_forward_norm(y))
    torch.testing.assert_close(ours(x, context([9, 9], 9)), ours.norm(y), atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_statistics_are_those_of_the_valid_states(lengths: list[int], extra: int) -> None:
    """torch's BatchNorm on the states of all utterances in a row gives the same outputs and running statistics."""
    if sum(lengths) < 2:
        lengths = [*lengths, 2]  # torch's refuses one state
    torch.manual_seed(0)
    ours, theirs = tiny.randomized(MaskedBatchNorm(3)), nn.BatchNorm1d(3)
    theirs.load_state_dict(ours.state_dict())
    ours.train(), theirs.train()
    x_BSC = 5 + 3 * torch.randn(len(lengths), max(lengths) + extra, 3)
    valid_BS = length_mask(torch.tensor(lengths), x_BSC.shape[1])
    for _ in range(3):
        found = ours(x_BSC, valid_BS[..., None])[valid_BS]
        torch.testing.assert_close(found, theirs(x_BSC[valid_BS]), atol=1e-4, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.eval()(x_BSC, valid_BS[..., None]), ours(x_BSC, valid_BS[..., None] & False))


def test_one_state_has_finite_statistics() -> None:
    norm = MaskedBatchNorm(3).train()
    found = norm(torch.randn(1, 2, 3), torch.tensor([[[True], [False]]]))
    assert found.isfinite().all() and norm.running_var.isfinite().all() and (norm.running_var > 0).all()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
def test_utterances_that_only_fill_a_batch_do_not_count(weights: list[float]) -> None:
    """As when workers share a batch that does not divide: without them, outputs and statistics are the same."""
    shape = tiny.shape(encoder_block="conformer")
    features_BTF, lengths_B, weights_B = (
        torch.randn(3, 20, tiny.BINS),
        torch.tensor([20, 13, 17]),
        torch.tensor(weights),
    )
    real_B = weights_B > 0
    encoders = []
    for _ in range(2):
        torch.manual_seed(0)
        encoders.append(tiny.randomized(Encoder(shape, tiny.BINS)).train())
    found, _ = encoders[0](features_BTF, lengths_B, weights_B)
    expected, expected_B = encoders[1](features_BTF[real_B], lengths_B[real_B])
    valid_BS = length_mask(expected_B, expected.shape[1])
    torch.testing.assert_close(found[real_B][valid_BS], expected[valid_BS], atol=1e-5, rtol=1e-5)
    for (name, one), other in zip(encoders[0].named_buffers(), encoders[1].buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_a_convolution_sees_as_many_states_as_its_kernel_is_wide() -> None:
    for kernel in (1, 2, 5, 8):
        module = tiny.randomized(Convolution(tiny.shape(conv_kernel=kernel)))
        x_BSD = torch.randn(1, 21, WIDTH, requires_grad=True)
        (gradient,) = torch.autograd.grad(module(x_BSD, context([21], 21))[0, 10].sum(), x_BSD)
        seen = gradient[0].any(-1).nonzero().flatten().tolist()
        assert seen == list(range(10 - kernel // 2, 10 + (kernel - 1) // 2 + 1))


def test_a_narrow_context_closes_blocks_to_each_other() -> None:
    encoder = Encoder(
        tiny.shape(encoder_block="conformer", context_size=4, conv_kernel=1, reduction="pool", reduction_factor=1),
        tiny.BINS,
    ).eval()
    features_BTF = torch.randn(1, 10, tiny.BINS, requires_grad=True)
    states_BSD, _ = encoder(features_BTF, torch.tensor([10]))
    for place in range(10):
        (gradient,) = torch.autograd.grad(states_BSD[0, place].square().sum(), features_BTF, retain_graph=True)
        start = place // 4 * 4
        assert gradient[0].any(-1).nonzero().flatten().tolist() == list(range(start, min(start + 4, 10)))


def test_a_wide_context_is_the_whole_utterance() -> None:
    torch.manual_seed(0)
    whole = tiny.randomized(
        Encoder(tiny.shape(encoder_block="conformer", encoder_positions="relative_keys"), tiny.BINS)
    )
    blocks = Encoder(
        tiny.shape(encoder_block="conformer", encoder_positions="relative_keys", context_size=50), tiny.BINS
    ).eval()
    blocks.load_state_dict(whole.state_dict())
    features_BTF, lengths_B = torch.randn(2, 30, tiny.BINS), torch.tensor([30, 11])
    for one, other, length in zip(
        whole(features_BTF, lengths_B)[0], blocks(features_BTF, lengths_B)[0], [15, 6], strict=True
    ):
        torch.testing.assert_close(one[:length], other[:length], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("farthest", [1, 3, 20])
def test_relative_keys_equal_their_formula(farthest: int) -> None:
    """q . r / sqrt(E) for each pair of positions, with the distance query minus key, clamped (Shaw et al., 2018)."""
    torch.manual_seed(0)
    keys = RelativeKeys(8, farthest)
    nn.init.normal_(keys.table.weight)
    query_BHSE = torch.randn(2, 3, 7, 8)
    query, bias_BHSS = keys(query_BHSE)
    assert torch.equal(query, query_BHSE)
    for i in range(7):
        for j in range(7):
            distance = max(-farthest, min(farthest, i - j))
            expected: Tensor = query_BHSE[:, :, i] @ keys.table.weight[distance + farthest] / 8**0.5
            torch.testing.assert_close(bias_BHSS[:, :, i, j], expected, atol=1e-5, rtol=1e-5)


def test_a_context_wider_than_the_utterance_costs_nothing() -> None:
    """Blocks are no wider than the batch, so that a wide context pads nothing."""
    model = tiny.model(encoder_block="conformer", context_size=3000).encoder
    with torch.no_grad():
        _, context = model.embed(torch.randn(2, 30, tiny.BINS), torch.tensor([30, 9]))
    assert context.block == context.lengths_B.max()


def test_a_frozen_norm_keeps_its_statistics() -> None:
    norm = MaskedBatchNorm(4).train()
    norm.weight.requires_grad_(False)
    x_BSC, counted_BS1 = torch.randn(2, 5, 4) + 3, torch.ones(2, 5, 1, dtype=torch.bool)
    found_BSC = norm(x_BSC, counted_BS1)
    assert torch.equal(norm.running_mean, torch.zeros(4))
    torch.testing.assert_close(found_BSC, x_BSC / (1 + norm.eps) ** 0.5)


def test_a_causal_conformer_must_not_look_ahead() -> None:
    with pytest.raises(ValueError, match="which looks ahead: set it to 2 or less"):
        tiny.shape(encoder_block="conformer", encoder_causal=True, conv_kernel=3)
    model = tiny.model(encoder_block="conformer", encoder_causal=True, conv_kernel=2, reduction="stack").encoder
    x_BTF = torch.randn(1, 20, tiny.BINS)
    with torch.no_grad():
        whole_BSD, start_BSD = (model(x_BTF[:, :length], torch.tensor([length]))[0] for length in (20, 10))
    torch.testing.assert_close(whole_BSD[:, : start_BSD.shape[1]], start_BSD, atol=1e-5, rtol=1e-5)
