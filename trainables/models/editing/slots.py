"""Text between its two forms: tokens alone, and the editor's text positions, with a slot around every token.

Shapes: B batch, U tokens, P positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.masking import length_mask


class TokenRows(NamedTuple):
    """Rows of token ids of different lengths: ids (B, U), and the number of valid ones in each row (B,)."""

    ids_BU: Tensor
    lengths_B: Tensor

    def lists(self) -> list[list[int]]:
        """The valid ids of each row."""
        return [row[:length] for row, length in zip(self.ids_BU.tolist(), self.lengths_B.tolist(), strict=True)]


def collapse(ids_BP: Tensor, lengths_B: Tensor, blank: int) -> TokenRows:
    """Ids at positions -> tokens: equal neighbours are merged, then blanks dropped (Graves et al., 2006, section 3.2).

    Args:
        ids_BP: an id for each position, (B, P).
        lengths_B: number of valid positions.
    """
    previous_BP = torch.cat([torch.full_like(ids_BP[:, :1], -1), ids_BP[:, :-1]], dim=1)
    kept_BP = (ids_BP != previous_BP) & (ids_BP != blank) & length_mask(lengths_B, ids_BP.shape[1])
    order_BP = kept_BP.logical_not().to(torch.uint8).argsort(dim=1, stable=True)  # the kept ones first, in their order
    kept_lengths_B = kept_BP.sum(1)
    longest = max(1, int(kept_lengths_B.max()))
    return TokenRows(ids_BP.gather(1, order_BP)[:, :longest], kept_lengths_B)


def interleave(tokens: TokenRows, slot: int, minimum: int) -> TokenRows:
    """Tokens x1 ... xN -> positions e x1 e x2 e ... xN e with slots e, (B, P).

    There are 2 N + 1 positions, and never fewer than `minimum`: more slots fill the end.
    """
    ids_BU, lengths_B = tokens
    valid_BU = length_mask(lengths_B, ids_BU.shape[1])
    pairs_BU2 = torch.stack([torch.full_like(ids_BU, slot), ids_BU.where(valid_BU, slot)], dim=-1)
    positions_BP = torch.nn.functional.pad(pairs_BU2.flatten(1), (0, 1), value=slot)
    short = minimum - positions_BP.shape[1]
    positions_BP = torch.nn.functional.pad(positions_BP, (0, max(0, short)), value=slot)
    return TokenRows(positions_BP, (2 * lengths_B + 1).clamp(min=minimum))
