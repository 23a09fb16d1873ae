"""Random numbers of an epoch, as tables indexed by utterance, from (seed, epoch) alone.

What is drawn for an utterance therefore does not depend on its batch or worker, and a repeated epoch draws the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.masking import on_cpu


def generator(*key: int) -> torch.Generator:
    """A CPU random generator seeded by a key such as (seed, epoch)."""
    state = 0
    for part in key:
        state = (state * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(state)


def changed_rows(change: Callable[..., Tensor], chosen_B: Tensor, x_BTF: Tensor, *others: Tensor) -> Tensor:
    """Features (B, T, F) of which a change applies to some utterances, and leaves the others as they are.

    On a CPU it is computed for these alone. On a GPU, whose number of rows the CPU would have to wait for, it is
    computed for all.

    Args:
        change: computes each row from the rows of `x_BTF` and of `others` with the same number, and no other row.
        chosen_B: True for the utterances that are changed.
        others: further arguments of `change`, (B, ...) each.
    """
    if not on_cpu(chosen_B.device):
        return change(x_BTF, *others).where(chosen_B[:, None, None], x_BTF)
    rows = chosen_B.nonzero().flatten()
    if len(rows) == 0:
        return x_BTF
    return x_BTF.index_copy(0, rows, change(x_BTF[rows], *(other[rows] for other in others)))
