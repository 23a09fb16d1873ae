"""Dropout of a stack of layers in training: drawn at once, and joined with the operations beside it.

Dropout by itself is a kernel in the forward and another one in the backward pass, for each of two or three places in a
layer. A compiled graph joins operations itself.

Shapes: B batch, S positions (encoder states or tokens), D model width, C width of the feed-forward sublayer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.masking import on_cpu

LOW = -1e4  # an activation of it is 0, and so is its slope
GRADIENTS: dict[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]] = {
    F.gelu: torch.ops.aten.gelu_backward,
    F.silu: torch.ops.aten.silu_backward,
    F.relu: lambda gradient, x: torch.ops.aten.threshold_backward(gradient, x, 0),
}
"""Gradient of an activation's input, given that of its output and the input."""


class Draws(NamedTuple):
    """Masks of dropout for the sublayers of one layer, in one training pass.

    Attributes:
        kept: for each sublayer, True at the numbers of its output that are kept, (B, S, D); None: not drawn.
        dropped: for each feed-forward sublayer, True at the activations that are dropped, (B, S, C); None: not drawn.
    """

    kept: Sequence[Tensor | None] = (None,) * 4
    dropped: Sequence[Tensor | None] = (None,) * 2


NOTHING = Draws()


def draw_dropout(layers: Sequence[nn.Module], x_BSD: Tensor) -> Sequence[Draws]:
    """Draws dropout for all layers in two kernels; what is not drawn here, each place draws itself.

    Args:
        layers: with a `residual`, and feed-forward sublayers that it counts.
        x_BSD: the input of the first layer.
    """
    residuals: list[Any] = [layer.residual for layer in layers]
    shares = {residual.dropout.p if residual.training else 0.0 for residual in residuals}
    if len(shares) != 1 or not 0 < max(shares) < 1:
        return [NOTHING] * len(layers)
    share, shape, device = max(shares), x_BSD.shape, x_BSD.device
    counts = [residual.sublayers for residual in residuals]
    kept = random_mask((sum(counts), *shape), 1 - share, device)
    drawn = [Draws(part.unbind()) for part in kept.split(counts)]
    width = residuals[0].hidden_width
    if width is None:
        return drawn
    counts = [residual.feed_forwards for residual in residuals]
    dropped = random_mask((sum(counts), *shape[:-1], width), share, device)
    return [draws._replace(dropped=part.unbind()) for draws, part in zip(drawn, dropped.split(counts), strict=True)]


def random_mask(shape: Sequence[int], share: float, device: torch.device) -> Tensor:
    """Truth values of a shape, each True with probability `share`; on a CPU, to a 65,536th.

    There, torch draws a floating-point number for each truth value, which takes several times as long.
    """
    if not on_cpu(device):
        return torch.empty(*shape, dtype=torch.bool, device=device).bernoulli_(share)
    count, threshold = math.prod(shape), round(share * 2**16)
    if threshold == 2**16:  # no number of 16 bits is as large
        return torch.ones(*shape, dtype=torch.bool)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:count].view(*shape) < threshold - 2**15


@cache
def zero(device: torch.device) -> Tensor:
    """The number 0 on a device, made once."""
    return torch.zeros((), device=device)


class DroppedSum(torch.autograd.Function):
    """x + scale * y * kept in one kernel, and the gradient of y in y's own type in another.

    Dropout and a sum of half and full precision take two, and so does their gradient, whose type is converted apart.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, y: Tensor, kept: Tensor, scale: float) -> Tensor:
        context.save_for_backward(kept)
        context.scale, context.dtype = scale, y.dtype
        return torch.addcmul(x, y, kept, value=scale, out=torch.empty_like(x))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (kept,) = context.saved_tensors
        own = torch.empty_like(gradient, dtype=context.dtype)
        torch.addcmul(zero(gradient.device), gradient, kept, value=context.scale, out=own)
        return gradient, own, None, None


def dropped_sum(x_BSD: Tensor, y_BSD: Tensor, kept_BSD: Tensor, scale: float) -> Tensor:
    """x + scale * y at the numbers where `kept_BSD` is True, x elsewhere, (B, S, D); in the type of x."""
    if torch.compiler.is_compiling():
        return x_BSD + y_BSD.to(x_BSD.dtype) * kept_BSD * scale
    total: Tensor = DroppedSum.apply(x_BSD, y_BSD, kept_BSD, scale)
    return total


class DroppedProduct(torch.autograd.Function):
    """scale * activation(x) W^T + b, with the activation 0 where `dropped` is True.

    There x is so low that the activation's own gradient is 0, and the matrix products scale, so that the backward pass
    needs no kernel for dropout.
    """

    @staticmethod
    def forward(
        context: Any, activation: Callable[..., Tensor], x: Tensor, dropped: Tensor, weight: Tensor,
        bias: Tensor | None, scale: float,
    ) -> Tensor:  # fmt: skip
        x = x.masked_fill(dropped, LOW)
        hidden = activation(x)
        context.save_for_backward(x, hidden, weight)
        context.activation, context.scale = activation, scale
        rows, given = hidden.flatten(0, -2), weight[:, 0] if bias is None else bias
        product = torch.addmm(given, rows, weight.T, beta=int(bias is not None), alpha=scale)
        return product.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, weight = context.saved_tensors
        rows, found = gradient.flatten(0, -2), list[Tensor | None]([None] * 6)
        _, inner, _, needs_weight, needs_bias, _ = context.needs_input_grad
        if inner:
            product = torch.addmm(weight[0], rows, weight, beta=0, alpha=context.scale)
            found[1] = GRADIENTS[context.activation](product.view_as(x), x)
        if needs_weight:
            found[3] = torch.addmm(weight, rows.T, hidden.flatten(0, -2), beta=0, alpha=context.scale)
        if needs_bias:
            found[4] = rows.sum(0)
        return tuple(found)


def dropped_product(
    activation: Callable[..., Tensor], x_BSC: Tensor, dropped_BSC: Tensor, outer: nn.Linear, scale: float
) -> Tensor:
    """outer(scale * activation(x)) with the activations 0 where `dropped_BSC` is True, (B, S, D); in the type of x."""
    weight, bias = outer.weight.to(x_BSC.dtype), None if outer.bias is None else outer.bias.to(x_BSC.dtype)
    if torch.compiler.is_compiling():
        return F.linear(activation(x_BSC).masked_fill(dropped_BSC, 0) * scale, weight, bias)
    product: Tensor = DroppedProduct.apply(activation, x_BSC, dropped_BSC, weight, bias, scale)
    return product
