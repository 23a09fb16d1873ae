"""Pooling is a weighted mean whatever the weights are; self-conditioning is an addition and nothing else."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.config.model import MidHead as MidHeadConfig
from trainables.config.model import Pooling as PoolingConfig
from trainables.models.editing.draft import MID_BLANK, MidHead, Pooling
from trainables.models.layers import OwnDropout

WIDTH, CHARACTERS = 8, 5
GRANITE = 1e-8  # the original's epsilon


def pooling(window: int = 4, epsilon: float = 0.0) -> Pooling:
    return Pooling(
        PoolingConfig(window=window, epsilon=epsilon),
    )


def logits_of(weights_S: Tensor) -> Tensor:
    """Logits (1, S, C) of a mid head whose probability of anything but blank is `weights_S`."""
    weights_S = weights_S.double()
    others_SC = (weights_S / CHARACTERS).log()[:, None].expand(-1, CHARACTERS)
    logits_SC = torch.cat([(1 - weights_S).log()[:, None], others_SC], dim=1)
    return logits_SC.clamp(min=-1e30).float()[None]


def pooled(weights: list[float], x_SD: Tensor, epsilon: float = 0.0, window: int = 4) -> Tensor:
    lengths_B = torch.tensor([len(x_SD)])
    return pooling(window, epsilon)(x_SD[None], logits_of(torch.tensor(weights)), lengths_B)[0][0]


def test_equal_weights_give_the_mean() -> None:
    x_SD = torch.randn(4, WIDTH)
    for weight in (1.0, 0.5, 1e-3):
        torch.testing.assert_close(pooled([weight] * 4, x_SD)[0], x_SD.mean(0))


@pytest.mark.parametrize("place", range(4))
def test_one_weight_among_zeros_gives_that_state(place: int) -> None:
    x_SD = torch.randn(4, WIDTH)
    weights = [0.0] * 4
    weights[place] = 1.0
    torch.testing.assert_close(pooled(weights, x_SD)[0], x_SD[place])


def test_a_window_of_blanks_is_finite() -> None:
    x_SD = torch.randn(4, WIDTH, requires_grad=True)
    for weights in ([0.0] * 4, [1e-30] * 4):
        for epsilon in (0.0, GRANITE):
            found = pooled(weights, x_SD, epsilon)
            assert found.isfinite().all()
            (gradient,) = torch.autograd.grad(found.sum(), x_SD)
            assert gradient.isfinite().all()


@pytest.mark.parametrize("confidence", [30.0, 100.0, 1000.0])
def test_a_confident_blank_leaves_a_mean_and_finite_gradients(confidence: float) -> None:
    """In float32, 1 - p(blank) is 0 there."""
    logits_BSC = torch.zeros(1, 4, CHARACTERS + 1)
    logits_BSC[..., MID_BLANK] = confidence
    logits_BSC.requires_grad_()
    x_SD = torch.randn(4, WIDTH)
    found = pooling()(x_SD[None], logits_BSC, torch.tensor([4]))[0]
    torch.testing.assert_close(found[0, 0], x_SD.mean(0))
    found.square().sum().backward()
    assert logits_BSC.grad is not None and logits_BSC.grad.isfinite().all()


def test_tiny_weights_still_give_a_mean() -> None:
    """With the original's epsilon, four weights of 1e-9 shrink it to 4e-9 / (4e-9 + 1e-8) of itself."""
    x_SD = torch.randn(4, WIDTH)
    torch.testing.assert_close(pooled([1e-9] * 4, x_SD)[0], x_SD.mean(0))
    torch.testing.assert_close(pooled([1e-9] * 4, x_SD, GRANITE)[0], x_SD.mean(0) * 4 / 14, atol=1e-3, rtol=1e-2)


@given(st.lists(st.floats(1e-2, 0.99), min_size=1, max_size=13), st.integers(1, 6))
def test_both_kinds_of_pooling_equal_their_formula(weights: list[float], window: int) -> None:
    """The two differ by less than 1e-6 unless the weights are tiny."""
    x_SD = torch.randn(len(weights), WIDTH)
    exact, original = (pooled(weights, x_SD, epsilon, window) for epsilon in (0.0, GRANITE))
    windows = zip(torch.tensor(weights)[:, None].split(window), x_SD.split(window), strict=True)
    expected = torch.stack([(w * x).sum(0) / w.sum() for w, x in windows])
    torch.testing.assert_close(exact, expected, atol=1e-5, rtol=1e-4)
    assert exact.shape == (-(-len(weights) // window), WIDTH)
    torch.testing.assert_close(original, exact, atol=5e-6, rtol=5e-6)


@given(st.lists(st.integers(1, 13), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 9))
def test_padding_has_weight_0(lengths: list[int], window: int, extra: int) -> None:
    x_BSD = torch.randn(len(lengths), max(lengths) + extra, WIDTH)
    logits_BSC = torch.randn(len(lengths), x_BSD.shape[1], CHARACTERS + 1)
    for epsilon in (0.0, GRANITE):
        module = pooling(window, epsilon)
        found, lengths_B = module(x_BSD, logits_BSC, torch.tensor(lengths))
        for number, length in enumerate(lengths):
            row = slice(number, number + 1)
            alone, alone_B = module(x_BSD[row, :length], logits_BSC[row, :length], torch.tensor([length]))
            assert alone_B.item() == lengths_B[number] == alone.shape[1] == -(-length // window)
            torch.testing.assert_close(found[number, : alone.shape[1]], alone[0])
        assert found.isfinite().all()


def test_pooling_is_in_float32_and_keeps_the_states_type() -> None:
    x_BSD = torch.randn(1, 8, WIDTH)
    logits_BSC = torch.randn(1, 8, CHARACTERS + 1)
    found, _ = pooling()(x_BSD.bfloat16(), logits_BSC, torch.tensor([8]))
    expected, _ = pooling()(x_BSD.bfloat16().float(), logits_BSC, torch.tensor([8]))
    assert torch.equal(found, expected.bfloat16())


def mid_head(dropout: float = 0.0) -> MidHead:
    torch.manual_seed(0)
    return tiny.randomized(MidHead(MidHeadConfig(dropout=dropout), WIDTH, CHARACTERS))


def test_the_states_get_the_projected_probabilities() -> None:
    head, x_BSD = mid_head(), torch.randn(2, 5, WIDTH)
    found, logits_BSC = head(x_BSD)
    assert torch.equal(logits_BSC, head.output(x_BSD)) and logits_BSC.shape == (2, 5, CHARACTERS + 1)
    assert torch.equal(found, x_BSD + head.back(logits_BSC.softmax(-1)))


def test_a_zero_back_projection_switches_self_conditioning_off_exactly() -> None:
    head, x_BSD = mid_head(), torch.randn(2, 5, WIDTH)
    nn.init.zeros_(head.back.weight)
    nn.init.zeros_(head.back.bias)
    assert torch.equal(head(x_BSD)[0], x_BSD)


@pytest.mark.parametrize("block", tiny.choices("encoder_block"))
def test_without_it_the_encoder_is_that_of_an_encoder_decoder(block: str) -> None:
    model = tiny.editor(encoder_block=block, encoder_layers=3, projector={"states": (3,)})
    features_BTF, lengths_B = torch.randn(2, 30, tiny.BINS), torch.tensor([30, 17])
    conditioned = model.encode(features_BTF, lengths_B).states[-1]
    nn.init.zeros_(model.mid_head.back.weight)
    nn.init.zeros_(model.mid_head.back.bias)
    expected, _ = model.encoder(features_BTF, lengths_B)
    assert torch.equal(model.encode(features_BTF, lengths_B).states[-1], expected)
    assert not torch.allclose(conditioned, expected)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_projector_reads_the_middle_layer_with_the_addition(layer: int) -> None:
    model = tiny.editor(encoder_layers=3, mid_head={"layer": layer}, projector={"states": (layer,)})
    seen: list[Tensor] = []
    model.mid_head.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    draft = model.encode(torch.randn(1, 20, tiny.BINS), torch.tensor([20]))
    expected = model.encoder.norm(seen[0]) if layer == 3 else seen[0]
    assert torch.equal(draft.states[0], expected)


def test_gradients_flow_through_the_addition() -> None:
    """An addition in place would break the backward pass of the layer before."""
    head, x_BSD = mid_head(), torch.randn(2, 5, WIDTH, requires_grad=True)
    before = (x_BSD * 2).tanh()  # whose gradient needs its output
    head(before)[0].square().sum().backward()
    assert x_BSD.grad is not None and x_BSD.grad.isfinite().all() and x_BSD.grad.all()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_dropout_of_the_heads_is_their_own_and_of_training_alone() -> None:
    dropout, x_BSD = OwnDropout(0.5), torch.ones(1, 100, WIDTH)
    assert torch.equal(dropout.eval()(x_BSD), x_BSD)
    assert set(dropout.train()(x_BSD).unique().tolist()) == {0.0, 2.0}
    head = mid_head(dropout=0.5).train()
    torch.manual_seed(0)
    found, logits_BSC = head(x_BSD)
    assert not torch.equal(logits_BSC, head.output(x_BSD))
    assert torch.equal(found, x_BSD + head.back(logits_BSC.softmax(-1)))  # the states themselves keep all entries
