"""Valid positions in padded rows, and what depends on the device of tensors."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

MOST_POSITIONS = 1 << 16  # kept on a device; wider rows get their own
ALIGNED = 16  # numbers; torch's kernels of attention need 8 at least


def positions(width: int, device: torch.device) -> Tensor:
    """The numbers 0 ... width - 1 on a device: a part of what is there already, in a compiled graph its own."""
    if torch.compiler.is_compiling() or device.type == "meta" or width > MOST_POSITIONS:
        return torch.arange(width, device=device)
    return _positions(device)[:width]


@cache
def _positions(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.arange(MOST_POSITIONS, device=device)


def length_mask(lengths_B: Tensor, width: int) -> Tensor:
    """Mask (B, width), True at the first `length` positions of each row."""
    return positions(width, lengths_B.device) < lengths_B[:, None]


def score_mask(lengths_B: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Mask (B, 1, 1, width) to add to attention scores: 0 at the keys within a row's length, -inf at those after it.

    Of the queries' type and with rows in memory that begin at multiples of `ALIGNED`, it is what the kernels take: a
    mask of truth values would be converted anew in every layer. Rows are longer than `width` for every width, so that
    compiled layers do not take the two for the same number.
    """
    hidden_BS = positions(width + ALIGNED - width % ALIGNED, lengths_B.device) >= lengths_B[:, None]
    mask_BS = torch.zeros(hidden_BS.shape, dtype=dtype, device=lengths_B.device).masked_fill_(hidden_BS, -torch.inf)
    return mask_BS[:, None, None, :width]


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Type of the products of `x` with weights: autocast's where it is on."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x.device) else x.dtype


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; for the meta device, on which parameters are counted, it never is."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def largest(x_BTF: Tensor, valid_BT1: Tensor) -> Tensor:
    """Largest value in the valid frames of each row, (B, 1, 1)."""
    return x_BTF.amax(2, keepdim=True).masked_fill(~valid_BT1, -torch.inf).amax(1, keepdim=True)


def on_cpu(device: torch.device) -> bool:
    """Whether a device is the CPU, where work may depend on values at once: on a GPU, the CPU would wait for them.

    What goes another way there asks this function, so that what a GPU is asked for can be counted on a CPU
    (tests/benchmarks/step_counts.py).
    """
    return device.type == "cpu"
