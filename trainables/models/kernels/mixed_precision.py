"""Weights in half precision for a forward pass: all converted at once, and so are their gradients.

Autocast converts each weight in a kernel of its own, and each gradient in another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainables.masking import autocasts

CONVERTED = (nn.Linear, nn.Conv1d, nn.Conv2d)  # modules whose products autocast computes in half precision


class Converted(torch.autograd.Function):
    """Copies of tensors in another type, whose gradients come back in the tensors' own."""

    @staticmethod
    def forward(context: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        context.dtype = tensors[0].dtype
        return tuple(_copies(tensors, dtype))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_copies(gradients, context.dtype))


def _copies(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, tensors)
    return copies


@contextmanager
def converted_weights(model: nn.Module) -> Iterator[None]:
    """Inside the block, weights of matrix products are copies in autocast's type, if autocast is on."""
    places = [
        (module._parameters, name, parameter)
        for module in model.modules()
        if isinstance(module, CONVERTED)
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    device = places[0][2].device
    if not autocasts(device):
        yield
        return
    copies = Converted.apply(torch.get_autocast_dtype(device.type), *(parameter for *_, parameter in places))
    try:
        for (parameters, name, _), copy in zip(places, copies, strict=True):
            parameters[name] = copy
        yield
    finally:
        for parameters, name, parameter in places:
            parameters[name] = parameter
