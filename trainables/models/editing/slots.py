"""Text between its two forms: tokens alone, and the editor's text positions, with a slot around every token.

Shapes: B batch, U tokens, P positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainables.masking import length_mask


class TokenRows(NamedTuple):
    """Rows of token ids of different lengths: ids (B, U), and the number of valid ones in each row (B,)."""

    ids_BU: Tensor
    lengths_B: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> TokenRows:
        """Rows of lists of token ids, padded with 0."""
        lengths_B = torch.tensor([len(row) for row in rows], device=device)
        padded = pad_sequence([torch.tensor(row or [0], dtype=torch.long) for row in rows], batch_first=True)
        return cls(padded.to(device), lengths_B)

    def cut(self, longest_B: Tensor) -> TokenRows:
        """The first tokens of each row, at most `longest_B`."""
        return TokenRows(self.ids_BU, torch.minimum(self.lengths_B, longest_B))

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
    return packed(ids_BP, kept_BP)


def packed(ids_BP: Tensor, kept_BP: Tensor) -> TokenRows:
    """Rows of the ids at positions where `kept_BP` is True, in their order."""
    order_BP = kept_BP.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    lengths_B = kept_BP.sum(1)
    return TokenRows(ids_BP.gather(1, order_BP)[:, : max(1, int(lengths_B.max()))], lengths_B)


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
