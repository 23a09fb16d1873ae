"""SpecAugment (Park et al., 2019, arXiv 1904.08779): time and frequency masks, drawn for a whole epoch at once.

The draws are a table indexed by utterance, made from (seed, epoch) alone. So an utterance gets the same masks in
whichever batch and on whichever worker it lands, and a resumed epoch repeats itself.

Shapes: N utterances in the split, B batch, T frames, F mel bins, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.config import SpecAugment


def generator(*key: int) -> torch.Generator:
    """A CPU random stream for a key such as (seed, epoch): equal keys, equal streams."""
    state = 0
    for part in key:
        state = (state * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(state)


class EpochMasks:
    """The masks of every utterance of a split in one epoch."""

    def __init__(self, config: SpecAugment, utterances: int, key: Sequence[int], device: torch.device) -> None:
        self.config = config
        masks = config.frequency_masks + config.time_masks
        self.draws_NM2 = torch.rand(utterances, masks, 2, generator=generator(*key)).to(device)

    def apply(self, features_BTF: Tensor, lengths_B: Tensor, indices_B: Tensor, fill: Tensor | float) -> Tensor:
        """Features with the masked cells set to `fill`; widths are drawn from 0 to the configured maximum."""
        config, draws_BM2 = self.config, self.draws_NM2[indices_B]
        frames, bins = features_BTF.shape[1:]
        lengths_B1 = lengths_B[:, None].to(draws_BM2.dtype)
        masked = torch.zeros_like(features_BTF, dtype=torch.bool)
        if config.frequency_masks:
            widest = torch.full_like(lengths_B1, min(config.frequency_width, bins))
            masked |= _spans(draws_BM2[:, : config.frequency_masks], widest, torch.full_like(widest, bins), bins)[
                :, None
            ]
        if config.time_masks:
            widest = (lengths_B1 * config.time_width).floor()
            masked |= _spans(draws_BM2[:, config.frequency_masks :], widest, lengths_B1, frames)[..., None]
        return torch.where(masked, fill, features_BTF)


def _spans(draws_BM2: Tensor, widest_B1: Tensor, extent_B1: Tensor, size: int) -> Tensor:
    """(B, size): True where any of M spans lies. A span's width is uniform in 0..widest, its place in the extent."""
    width_BM = (draws_BM2[..., 0] * (widest_B1 + 1)).floor()
    start_BM = (draws_BM2[..., 1] * (extent_B1 - width_BM + 1)).floor()
    position = torch.arange(size, device=draws_BM2.device)
    return ((position >= start_BM[..., None]) & (position < (start_BM + width_BM)[..., None])).any(dim=1)
