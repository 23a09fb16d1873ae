"""Dropout that is drawn for a whole stack gives what dropout, activation and sum give one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.encoder import EncoderLayer
from trainables.models.kernels.dropout import GRADIENTS, draw_dropout, dropped_product, dropped_sum, random_mask
from trainables.models.speech_transformer import SpeechTransformer

SHARE, SHAPE = 0.25, (3, 7, 8)


def with_gradients(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """A result, and the gradients of its inputs for one random gradient of its own."""
    random = torch.Generator().manual_seed(1)
    gradient = torch.randn(result.shape, generator=random).to(result.dtype)
    return [result, *torch.autograd.grad(result, inputs, gradient)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_drops_what_it_is_told_to(dtype: torch.dtype) -> None:
    x, y = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE).to(dtype).requires_grad_()
    kept, scale = torch.rand(SHAPE) > SHARE, 0.5 / (1 - SHARE)
    found = with_gradients(dropped_sum(x, y, kept, scale), [x, y])
    expected = with_gradients(x + y.float() * kept * scale, [x, y])
    assert [one.dtype for one in found] == [torch.float32, torch.float32, dtype]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", GRADIENTS)
def test_a_product_drops_what_it_is_told_to(activation: object, bias: bool) -> None:
    """Extreme inputs as well: an activation's slope is 0 where it is dropped, wherever it was before."""
    assert activation in (F.gelu, F.silu, F.relu)
    x = (10 ** torch.randn(SHAPE) * torch.randn(SHAPE).sign()).double().requires_grad_()
    outer, dropped = nn.Linear(SHAPE[-1], 5, bias).double(), torch.rand(SHAPE) < SHARE
    inputs, scale = [x, *outer.parameters()], 1 / (1 - SHARE)
    found = with_gradients(dropped_product(activation, x, dropped, outer, scale), inputs)  # type: ignore[arg-type]
    hidden = activation(x) * ~dropped * scale  # type: ignore[operator]
    for one, other in zip(found, with_gradients(outer(hidden), inputs), strict=True):
        torch.testing.assert_close(one, other)
    assert not found[1][dropped].any() and found[1][~dropped].any()


def test_frozen_weights_get_no_gradient() -> None:
    x, outer = torch.randn(SHAPE, requires_grad=True), nn.Linear(SHAPE[-1], 5).requires_grad_(False)
    dropped_product(F.gelu, x, torch.rand(SHAPE) < SHARE, outer, 1.0).sum().backward()
    assert outer.weight.grad is None and outer.bias.grad is None and x.grad is not None


def layers(count: int = 3, **shape: Any) -> nn.ModuleList:
    return nn.ModuleList(EncoderLayer(tiny.shape(**{"dropout": SHARE, **shape})) for _ in range(count)).train()


def test_every_layer_and_place_has_draws_of_its_own() -> None:
    stack, x_BSD = layers(), torch.zeros(50, 10, tiny.shape().d_model)
    torch.manual_seed(0)
    draws = draw_dropout(list(stack), x_BSD)
    kept = [mask for one in draws for mask in one.kept if mask is not None]
    dropped = [mask for one in draws for mask in one.dropped if mask is not None]
    assert len(kept) == 6 and len(dropped) == 3
    for masks, share in ((kept, 1 - SHARE), (dropped, SHARE)):
        assert all(abs(mask.float().mean().item() - share) < 0.02 for mask in masks)
        assert len({mask.numpy().tobytes() for mask in masks}) == len(masks)


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-9, 1.0])
def test_masks_are_true_with_their_probability_independently_of_their_neighbours(share: float) -> None:
    torch.manual_seed(0)
    mask = random_mask((3, 101, 333), share, torch.device("cpu"))
    assert mask.shape == (3, 101, 333) and mask.dtype == torch.bool
    assert abs(mask.float().mean().item() - share) < 0.005
    for distance in (1, 2, 3, 4, 333):  # four numbers are of one random integer
        both = mask.flatten()[distance:] & mask.flatten()[:-distance]
        assert abs(both.float().mean().item() - share**2) < 0.005


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    x_BSD = torch.zeros(2, 3, tiny.shape().d_model)
    for stack in (layers().eval(), layers(dropout=0.0), layers(0)):
        draws = draw_dropout(list(stack), x_BSD)
        assert len(draws) == len(stack)
        assert all(mask is None for one in draws for mask in (*one.kept, *one.dropped))
    gated = draw_dropout(list(layers(gated=True)), x_BSD)
    assert all(one.dropped == (None, None) and one.kept[0] is not None for one in gated)


def test_a_model_with_all_but_no_dropout_computes_what_one_without_does() -> None:
    """A share of 1e-9 draws masks of which every number is kept."""
    found = []
    for share in (0.0, 1e-9):
        model = tiny.model(0).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def gradients(model: SpeechTransformer) -> dict[str, Tensor]:
    torch.manual_seed(0)
    features_BTF, lengths_B = torch.randn(3, 30, tiny.BINS), torch.tensor([30, 12, 5])
    logits_BUV, ctc_logits_BSV, *_ = model(features_BTF, lengths_B, torch.randint(5, tiny.VOCABULARY, (3, 4)))
    (logits_BUV.square().mean() + ctc_logits_BSV.square().mean()).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
