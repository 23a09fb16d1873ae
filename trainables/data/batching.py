"""Batches as index lists, gathered into tensors on the device of the features.

A split is two flat buffers (feature frames and tokens) with offsets. A batch is a list of utterance numbers with a
padded length (batch_plan.py). Gathering, normalising and masking are tensor operations on the buffers' device:
GPU memory, or the memory map on a CPU. Features that are too large for a GPU are there for one pass at a time
(device/frames.py). Nothing is done per utterance in Python.

Shapes: N utterances, B batch, T frames, U tokens, F mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables.config.data import Augmentation, Features, SpecAugment
from trainables.data.augmentation import EpochAcoustics, EpochMasks, EpochTiming, Timing
from trainables.data.augmentation.noise import Noise
from trainables.data.batch_plan import Integers, Rows
from trainables.data.corpus import Split
from trainables.data.device import DeviceFrames, frames_on
from trainables.data.features import FeatureRecipe
from trainables.data.text.token_batches import DeviceTexts, TextBatch, gather_rows
from trainables.data.text.tokenizer import Tokenizer
from trainables.masking import largest, length_mask, positions

SMALLEST_STD = 1e-2  # dB or nepers: a bin with a smaller deviation is constant, up to rounding
WINDOW, FIRST_WINDOW = 600, 100  # frames whose mean is subtracted, after Kaldi's `apply-cmvn-sliding`; at the start


@dataclass(frozen=True)
class Batch(TextBatch):
    """A padded batch: features (B, T, F), their lengths (B,) in frames, and the tokens of the transcripts."""

    features_BTF: Tensor
    lengths_B: Tensor


class Normalizer:
    """Feature normalisation in training, validation and transcription.

    Args:
        mean: mean of each mel bin (F,) over the training split, for `global_mvn`.
        std: standard deviation of each mel bin (F,) over the training split, for `global_mvn`.
        decibel: a decibel in the unit of the features.
    """

    def __init__(self, config: Features, mean: Tensor, std: Tensor, device: torch.device, decibel: float = 1.0) -> None:
        self.kind = config.normalization
        self.range = None if config.dynamic_range is None else config.dynamic_range * decibel
        self.num_feats = config.num_feats or len(mean)
        self.mean = mean[: self.num_feats].to(device)
        self.std = std[: self.num_feats].clamp(min=SMALLEST_STD).to(device)
        # Value of masked cells: the mean, in the units that the model sees.
        self.fill: Tensor | float = self.mean if self.kind == "none" else 0.0

    def __call__(self, features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Selects the first F mel bins and normalises, (B, T, bins) -> (B, T, F) float32; padded frames become 0."""
        x_BTF = features_BTF[..., : self.num_feats].float()
        valid_BT1 = length_mask(lengths_B, x_BTF.shape[1])[..., None]
        if self.range is not None:
            x_BTF = torch.maximum(x_BTF, largest(x_BTF, valid_BT1) - self.range)
        if self.kind == "global_mvn":
            x_BTF = (x_BTF - self.mean) / self.std
        elif self.kind == "cepstral":
            count_B11 = lengths_B[:, None, None]
            mean_B1F = (x_BTF * valid_BT1).sum(1, keepdim=True) / count_B11
            variance_B1F = ((x_BTF - mean_B1F).square() * valid_BT1).sum(1, keepdim=True) / count_B11
            x_BTF = (x_BTF - mean_B1F) / variance_B1F.sqrt().clamp(min=SMALLEST_STD)
        elif self.kind == "sliding":
            x_BTF = (x_BTF - self.mean) / self.std
            x_BTF = x_BTF - sliding_means(x_BTF * valid_BT1, lengths_B)
        return x_BTF * valid_BT1


def sliding_means(x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean of each frame and the `WINDOW` - 1 before it, (B, T, F); the first frames take those to `FIRST_WINDOW`.

    It needs nothing that comes later than that, and so suits live audio.

    Args:
        x_BTF: 0 after the end of each utterance.
    """
    sums_BPF = nn.functional.pad(x_BTF.cumsum(1), (0, 0, 1, 0))  # P = T + 1: sums of the frames before each place
    place_T = positions(x_BTF.shape[1], x_BTF.device) + 1
    start_BT = (place_T - WINDOW).clamp(min=0).expand(x_BTF.shape[:2])
    end_BT = torch.minimum(place_T.clamp(min=FIRST_WINDOW), lengths_B[:, None])
    at = [place_BT[..., None].expand_as(x_BTF) for place_BT in (start_BT, end_BT)]
    counts_BT1 = (end_BT - start_BT).clamp(min=1)[..., None]  # after an utterance's end there may be none
    return (sums_BPF.gather(1, at[1]) - sums_BPF.gather(1, at[0])) / counts_BT1


class DeviceSplit:
    """Features and tokens of a split as flat buffers on a device.

    Args:
        shared: features of another part of the same split on the device; see `frames_on`.
        folder: folder of the corpus in which the tokens are kept; None: they are not.
    """

    def __init__(
        self, split: Split, tokenizer: Tokenizer, normalizer: Normalizer, device: torch.device,
        shared: DeviceFrames | None = None, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.split = split
        self.normalizer = normalizer
        self.device = device
        self.texts = DeviceTexts(split.texts or [""] * len(split.ids), tokenizer, device, folder)
        self.token_counts = self.texts.token_counts
        self.features = frames_on(device, split, shared)
        self.frames = torch.from_numpy(split.frames).to(device)

    def masks(self, config: SpecAugment, seed: int, epoch: int, timing: Timing | None = None) -> EpochMasks | None:
        """SpecAugment masks of an epoch with a timing; None where the configuration has none."""
        if not (config.frequency_masks or config.time_masks):
            return None
        lengths_N = self.frames if timing is None else timing.lengths_N
        return EpochMasks(config, lengths_N, self.normalizer.num_feats, (seed, epoch))

    def timing(self, speed: float, warp: int, seed: int, epoch: int) -> Timing | None:
        """Speed perturbation and time warp of an epoch; None where both are 0."""
        if not (speed or warp):
            return None
        return EpochTiming(speed, warp, len(self.split.ids), (seed, epoch), self.device).of(self.frames)

    def noise(self, config: Augmentation, recipe: FeatureRecipe) -> Noise | None:
        """Noise for the utterances; None where the configuration has none."""
        if not config.noise_share:
            return None
        folder = None if config.noise_folder is None else Path(config.noise_folder)
        return Noise.of(recipe, self.features, folder)

    def acoustics(
        self, config: Augmentation, recipe: FeatureRecipe, noise: Noise | None, seed: int, epoch: int
    ) -> EpochAcoustics | None:
        """Voices, rooms and noise of an epoch; None where the configuration changes nothing."""
        if not config.changes:
            return None
        return EpochAcoustics(config, recipe, noise, len(self.split.ids), (seed, epoch), self.device)

    def gather(
        self,
        rows: Rows,
        edge: int,
        tokens: int | None = None,
        masks: EpochMasks | None = None,
        timing: Timing | None = None,
        acoustics: EpochAcoustics | None = None,
        following: Integers | None = None,
    ) -> Batch:
        """The batch of the utterances `rows`, padded to `edge` frames and `tokens` tokens.

        Args:
            tokens: padded length of the texts, EOS included; None: that of the longest.
            masks: SpecAugment masks of the epoch; None: no masking.
            timing: speed perturbation and time warp of the epoch; None: the features keep their timing.
            acoustics: voices, rooms and noise of the epoch; None: the features keep theirs.
            following: utterances of the next batch with the same `acoustics`, which is read ahead if it is streamed.
        """
        index_B = rows.index_B
        self.features.stage(rows.indices, following, None if acoustics is None else acoustics.voices_NK)
        lengths_B, offsets_B = self.features.extents_N2[index_B].unbind(1)
        if timing is None:
            features_BTF = gather_rows(self.features.flat, offsets_B, lengths_B, edge)
        else:
            lengths_B, position_BT = timing.resample(index_B, edge)
            features_BTF = gather_between(self.features.flat, offsets_B, position_BT)
        if acoustics is not None:
            features_BTF = acoustics.apply(features_BTF, lengths_B, index_B)
        features_BTF = self.normalizer(features_BTF, lengths_B)
        if masks is not None:
            features_BTF = masks.apply(features_BTF, index_B, self.normalizer.fill)
        text = self.texts.gather(rows, tokens or int(self.token_counts[rows.indices].max()) + 1)
        return Batch(**vars(text), features_BTF=features_BTF, lengths_B=lengths_B)


def gather_between(flat: Tensor, offsets_B: Tensor, position_BW: Tensor) -> Tensor:
    """Linear interpolation between consecutive rows of a flat buffer, (B, W, ...) float32.

    Args:
        offsets_B: index of the first row of each sequence.
        position_BW: fractional positions within each sequence, from 0 to its length - 1.
    """
    both_2BW = torch.stack([position_BW, position_BW.ceil()]).long()
    share_BW1 = (position_BW - both_2BW[0])[..., None].float()
    before_BWF, after_BWF = flat[offsets_B[:, None] + both_2BW].float()
    return torch.lerp(before_BWF, after_BWF, share_BW1)
