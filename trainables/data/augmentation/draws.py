"""Random numbers of an epoch, as tables indexed by utterance, from (seed, epoch) alone.

What is drawn for an utterance therefore does not depend on its batch or worker, and a repeated epoch draws the same.
"""

from __future__ import annotations

import torch


def generator(*key: int) -> torch.Generator:
    """A CPU random generator seeded by a key such as (seed, epoch)."""
    state = 0
    for part in key:
        state = (state * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(state)
