"""Valid positions in padded rows."""

from __future__ import annotations

import torch
from torch import Tensor


def length_mask(lengths_B: Tensor, width: int) -> Tensor:
    """Mask (B, width), True at the first `length` positions of each row."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]


def largest(x_BTF: Tensor, valid_BT1: Tensor) -> Tensor:
    """Largest value in the valid frames of each row, (B, 1, 1)."""
    return x_BTF.masked_fill(~valid_BT1, -torch.inf).amax((1, 2), keepdim=True)
