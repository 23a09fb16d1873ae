"""SpecAugment (Park et al., 2019, arXiv 1904.08779) and speed perturbation, drawn for a whole epoch at once.

Shapes: N utterances in the split, B batch, T frames, F mel bins, M masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainables.config.data import SpecAugment
from trainables.data.augmentation.draws import generator
from trainables.masking import positions

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

    def of(self, lengths_B: Tensor, indices_B: Tensor | slice = slice(None)) -> Timing:
        """The timing of the utterances `indices_B`, which have `lengths_B` frames; default: of the whole split."""
        stretched_B = stretched(lengths_B, self.rates_N[indices_B])
        last_B, new_last_B = (lengths_B - 1).double(), (stretched_B - 1).double()
        columns = [last_B, new_last_B, new_last_B.clamp(min=1)]
        if self.warp:
            columns += self._points(new_last_B, self.draws_N2[indices_B])
        return Timing(stretched_B, torch.stack(columns, 1))

    def _points(self, last_B: Tensor, draws_B2: Tensor) -> tuple[Tensor, Tensor]:
        """The frame that the time warp moves, and the place that it moves to, (B,) each."""
        reach_B = ((last_B - 2) / 2).floor().clamp(min=0, max=self.warp)
        shift_B = (draws_B2[:, 0] * (2 * reach_B + 1)).floor() - reach_B
        point_B = 1 + reach_B + (draws_B2[:, 1] * (last_B - 1 - 2 * reach_B).clamp(min=1)).floor()
        return point_B, point_B + shift_B


@dataclass(frozen=True)
class Timing:
    """Timing of utterances; what depends on an utterance alone is computed once an epoch, not for every batch.

    Args:
        lengths_N: new lengths in frames.
        places_NK: last frame, last new frame, and the latter or 1, to divide by; with a time warp, also the point and
            the place that it moves to.
    """

    lengths_N: Tensor
    places_NK: Tensor

    def resample(self, indices_B: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """New lengths (B,) of the utterances `indices_B`, and the source position of each new frame, (B, width).

        The first and the last frame keep their places; positions after the end repeat the last frame.
        """
        last_B1, new_last_B1, divisor_B1, *points = self.places_NK[indices_B].split(1, dim=1)
        position_BT = torch.minimum(positions(width, last_B1.device), new_last_B1)
        if points:
            position_BT = _unwarped(position_BT, new_last_B1, *points)
        # Multiplied before divided, so that the last frame is met exactly.
        position_BT = torch.minimum(position_BT * last_B1 / divisor_B1, last_B1)
        return self.lengths_N[indices_B], position_BT


def _unwarped(time_BT: Tensor, last_B1: Tensor, point_B1: Tensor, moved_B1: Tensor) -> Tensor:
    """Position of each frame before the time warp that moved a point of each utterance, (B, T)."""
    left_BT = time_BT * point_B1 / moved_B1
    right_BT = point_B1 + (time_BT - moved_B1) * (last_B1 - point_B1) / (last_B1 - moved_B1).clamp(min=1)
    return torch.where(moved_B1 == point_B1, time_BT, torch.where(time_BT < moved_B1, left_BT, right_BT))


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
    """SpecAugment's frequency and time masks of every utterance of a split in one epoch.

    Args:
        lengths_N: frames of the utterances in this epoch, on the device of the batches.
        bins: F, number of mel bins.
        key: key of the random generator, (seed, epoch).
    """

    def __init__(self, config: SpecAugment, lengths_N: Tensor, bins: int, key: Sequence[int]) -> None:
        masks = config.frequency_masks + config.time_masks
        draws_NM2 = torch.rand(len(lengths_N), masks, 2, generator=generator(*key)).to(lengths_N.device)
        lengths_N1 = lengths_N[:, None].to(draws_NM2.dtype)
        self.bins_NF = self.frames_NM2 = None
        if config.frequency_masks:
            extent_N1 = torch.full_like(lengths_N1, bins)
            spans_NM2 = _spans(
                draws_NM2[:, : config.frequency_masks], extent_N1.clamp(max=config.frequency_width), extent_N1
            )
            self.bins_NF = _inside(spans_NM2, bins)
        if config.time_masks:
            widest_N1 = (lengths_N1 * config.time_width).floor()
            self.frames_NM2 = _spans(draws_NM2[:, config.frequency_masks :], widest_N1, lengths_N1)

    def apply(self, features_BTF: Tensor, indices_B: Tensor, fill: Tensor | float) -> Tensor:
        """Features (B, T, F) of the utterances `indices_B` (numbers in the split) with masked cells set to `fill`."""
        found = []
        if self.bins_NF is not None:
            found.append(self.bins_NF[indices_B][:, None])
        if self.frames_NM2 is not None:
            found.append(_inside(self.frames_NM2[indices_B], features_BTF.shape[1])[..., None])
        masked = found[0] if len(found) == 1 else found[0] | found[1]
        if isinstance(fill, Tensor):
            return torch.where(masked, fill, features_BTF)
        return features_BTF.masked_fill(masked, fill)


def _spans(draws_NM2: Tensor, widest_N1: Tensor, extent_N1: Tensor) -> Tensor:
    """First position of M random spans of each row, and the position after the last one, (N, M, 2).

    Widths are uniform in 0 ... `widest_N1`; spans lie within the first `extent_N1` positions. `draws_NM2` are uniform
    random numbers in [0, 1), one for the width and one for the start of each span.
    """
    width_NM = (draws_NM2[..., 0] * (widest_N1 + 1)).floor()
    start_NM = (draws_NM2[..., 1] * (extent_N1 - width_NM + 1)).floor()
    return torch.stack([start_NM, start_NM + width_NM], -1)


def _inside(spans_BM2: Tensor, size: int) -> Tensor:
    """Mask (B, size), True at positions inside any of a row's spans."""
    start_BM1, end_BM1 = spans_BM2.split(1, dim=-1)
    position = positions(size, spans_BM2.device)
    return ((position >= start_BM1) & (position < end_BM1)).any(dim=1)
