"""Mask of the valid positions in padded rows."""

from __future__ import annotations

import torch
from torch import Tensor


def length_mask(lengths_B: Tensor, width: int) -> Tensor:
    """Mask (B, width), True at the first `length` positions of each row."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]
