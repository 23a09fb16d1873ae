"""SpecAugment (Park et al., 2019, arXiv 1904.08779) and speed perturbation, drawn for a whole epoch at once.

Shapes: N utterances in the split, B batch, T frames, F mel bins, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainables.config_data import SpecAugment
from trainables.data.augmentation.draws import generator

TIMING = -1  # last part of the key of the generator for timing


class EpochTiming:
    """Speed perturbation and time warp of every utterance of a split in one epoch.

    Speed perturbation (Ko et al., 2015) is applied to the features, not to the samples. SpecAugment's time warp moves
    a point of the utterance, so that the frames on one side are stretched and on the other compressed.

    Args:
        speed: 0.1 means rates of 0.9, 1.0 and 1.1, equally likely.
        warp: largest shift of the point in frames; smaller in short utterances.
        utterances: number of utterances in the split.
        key: key of the random generator, (seed, epoch).
        device: device of the batches.
    """

    def __init__(self, speed: float, warp: int, utterances: int, key: Sequence[int], device: torch.device) -> None:
        draws_N3 = timing_draws(utterances, key)
        self.rates_N = drawn_rates(draws_N3, speed).to(device)
        self.draws_N2 = draws_N3[:, 1:].to(device)
        self.warp = warp

    def resample(self, lengths_B: Tensor, indices_B: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """New lengths (B,) of the utterances `indices_B`, and the source position of each new frame, (B, width).

        The first and the last frame keep their places; positions after the end repeat the last frame.
        """
        stretched_B = stretched(lengths_B, self.rates_N[indices_B])
        last_B1, new_last_B1 = (lengths_B - 1)[:, None].double(), (stretched_B - 1)[:, None].double()
        time_BT = torch.minimum(torch.arange(width, device=lengths_B.device).double(), new_last_B1)
        position_BT = self._unwarp(time_BT, new_last_B1, self.draws_N2[indices_B])
        # Multiplied before divided, so that the last frame is met exactly.
        return stretched_B, torch.minimum(position_BT * last_B1 / new_last_B1.clamp(min=1), last_B1)

    def _unwarp(self, time_BT: Tensor, last_B1: Tensor, draws_B2: Tensor) -> Tensor:
        """Position of each frame before the time warp, (B, T)."""
        reach_B1 = ((last_B1 - 2) / 2).floor().clamp(min=0, max=self.warp)
        shift_B1 = (draws_B2[:, :1] * (2 * reach_B1 + 1)).floor() - reach_B1
        point_B1 = 1 + reach_B1 + (draws_B2[:, 1:] * (last_B1 - 1 - 2 * reach_B1).clamp(min=1)).floor()
        moved_B1 = point_B1 + shift_B1
        left_BT = time_BT * point_B1 / moved_B1
        right_BT = point_B1 + (time_BT - moved_B1) * (last_B1 - point_B1) / (last_B1 - moved_B1).clamp(min=1)
        return torch.where(shift_B1 == 0, time_BT, torch.where(time_BT < moved_B1, left_BT, right_BT))


def timing_draws(utterances: int, key: Sequence[int]) -> Tensor:
    """Uniform random numbers (N, 3) of each utterance in one epoch: for its speed, and for its time warp."""
    return torch.rand(utterances, 3, generator=generator(*key, TIMING), dtype=torch.float64)


def speeds(speed: float) -> list[float]:
    """The equally likely speeds of a speed perturbation: 0.1 means 0.9, 1.0 and 1.1."""
    return [1 - speed, 1.0, 1 + speed] if speed else [1.0] * 3


def drawn_rates(draws_N3: Tensor, speed: float) -> Tensor:
    """Speed (N,) of each utterance, given its `timing_draws`."""
    return torch.tensor(speeds(speed), dtype=torch.float64)[(draws_N3[:, 0] * 3).long()]


def possible_lengths(frames: npt.NDArray[np.int64], speed: float) -> npt.NDArray[np.int64]:
    """Lengths of a split's utterances at each speed that `drawn_lengths` may draw, one speed after the other."""
    lengths_N = torch.from_numpy(frames)
    return np.concatenate([stretched(lengths_N, rate).numpy() for rate in speeds(speed)])


def drawn_lengths(frames: npt.NDArray[np.int64], speed: float, key: Sequence[int]) -> npt.NDArray[np.int64]:
    """Lengths (N,) of a split's utterances in one epoch, at the speeds that `EpochTiming` draws."""
    if not speed:
        return frames
    rates_N = drawn_rates(timing_draws(len(frames), key), speed)
    return stretched(torch.from_numpy(frames), rates_N).numpy()


def stretched(lengths_B: Tensor, rate: Tensor | float) -> Tensor:
    """Lengths in frames of utterances played at `rate` times their speed; at least 1."""
    return (lengths_B.double() / rate).round().long().clamp(min=1)


class EpochMasks:
    """SpecAugment's frequency and time masks of every utterance of a split in one epoch."""

    def __init__(self, config: SpecAugment, utterances: int, key: Sequence[int], device: torch.device) -> None:
        self.config = config
        masks = config.frequency_masks + config.time_masks
        self.draws_NM2 = torch.rand(utterances, masks, 2, generator=generator(*key)).to(device)

    def apply(self, features_BTF: Tensor, lengths_B: Tensor, indices_B: Tensor, fill: Tensor | float) -> Tensor:
        """Features (B, T, F) of the utterances `indices_B` (numbers in the split) with masked cells set to `fill`."""
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
    """Mask (B, size), True inside M random spans of each row.

    Widths are uniform in 0 ... `widest_B1`; spans lie within the first `extent_B1` positions. `draws_BM2` are uniform
    random numbers in [0, 1), one for the width and one for the start of each span.
    """
    width_BM = (draws_BM2[..., 0] * (widest_B1 + 1)).floor()
    start_BM = (draws_BM2[..., 1] * (extent_B1 - width_BM + 1)).floor()
    position = torch.arange(size, device=draws_BM2.device)
    return ((position >= start_BM[..., None]) & (position < (start_BM + width_BM)[..., None])).any(dim=1)
