"""Noise for training features: coloured noise, babble of other utterances, and recordings.

Powers of speech and noise are added. The signal-to-noise ratio is that of the samples, as far as the features tell it.

Shapes: N utterances of the split, B batch, T frames, F mel bins, L frames of the bank, K voices of a babble.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.config.data import Augmentation
from trainables.data.augmentation.draws import changed_rows
from trainables.data.device.frames import DeviceFrames, Integers
from trainables.data.features import NEPERS_PER_DECIBEL, FeatureRecipe
from trainables.data.importers.tools.paths import AUDIO_SUFFIXES
from trainables.errors import InputError
from trainables.masking import length_mask

BANK_SECONDS = 30.0
VOICES = 3  # of a babble
RECORDED_SHARE = 0.5  # of the noise that is no babble, where there are recordings
SLOPES = (-6.0, 0.0)  # dB an octave: from brown over pink to white noise


@dataclass(frozen=True)
class Noise:
    """What can be mixed with the utterances of a split.

    Args:
        bank_LF: log-powers of white noise.
        octaves_F: octaves of each mel bin above 1 kHz, by which it is coloured.
        weights_F: logarithms of the weights with which bins sum up to the power of the samples.
        speech: log-mel features of the split; times `unit` they are in nepers.
        recorded_LF: log-powers of recordings of noise, concatenated; None: there are none.
    """

    bank_LF: Tensor
    octaves_F: Tensor
    weights_F: Tensor
    speech: DeviceFrames
    unit: float
    recorded_LF: Tensor | None = None

    @classmethod
    def of(cls, recipe: FeatureRecipe, speech: DeviceFrames, folder: Path | None = None) -> Noise:
        """Noise for features of a recipe; other arguments as above. White noise is made with the recipe.

        Args:
            folder: a folder with recordings of noise.

        Raises:
            InputError: the folder has no recordings, or one that cannot be read.
        """
        samples = np.random.default_rng(0).normal(0, 0.1, int(BANK_SECONDS * recipe.sample_rate)).astype(np.float32)
        device = speech.flat.device
        bank_LF = torch.from_numpy(recipe.compute(samples) * recipe.nepers).to(device)
        octaves_F = torch.tensor(np.log2(recipe.bin_centers() / 1000), dtype=torch.float32, device=device)
        weights_F = torch.tensor(np.log(recipe.power_weights()), dtype=torch.float32, device=device)
        recorded_LF = None if folder is None else recorded_noise(folder, recipe).to(device)
        return cls(bank_LF, octaves_F, weights_F, speech, recipe.nepers, recorded_LF)

    def epoch(self, config: Augmentation, utterances: int, random: torch.Generator) -> EpochNoise:
        """The noise of every utterance in one epoch."""
        device = self.bank_LF.device
        draws_N5 = torch.rand(utterances, 5, generator=random)
        further_NK = torch.randint(1, max(utterances, 2), (utterances, VOICES), generator=random)
        babble_N1 = ((draws_N5[:, 0] < config.noise_share) & (draws_N5[:, 1] < config.babble_share))[:, None]
        others_NK = (torch.arange(utterances)[:, None] + further_NK * babble_N1) % utterances
        recorded_N = None
        if self.recorded_LF is not None:
            recorded_N = torch.rand(utterances, generator=random).to(device) < RECORDED_SHARE
        voices_NK = others_NK.numpy() if config.babble_share else None
        return EpochNoise(self, config, draws_N5.to(device), others_NK.to(device), recorded_N, voices_NK)


@dataclass(frozen=True)
class EpochNoise:
    """The noise of every utterance of a split in one epoch; see `Noise`.

    Args:
        others_NK: numbers of the utterances that are each utterance's babble; its own number where it gets none.
        recorded_N: whether noise is taken from the recordings where it is no babble; None: there are none.
        voices_NK: `others_NK` on the CPU; None: no utterance gets babble.
    """

    noise: Noise
    config: Augmentation
    draws_N5: Tensor
    others_NK: Tensor
    recorded_N: Tensor | None
    voices_NK: Integers | None

    def mixed(self, x_BTF: Tensor, lengths_B: Tensor, indices_B: Tensor) -> Tensor:
        """Log-powers of the utterances `indices_B` with noise, (B, T, F); of some as they are."""
        chosen_B = self.draws_N5[indices_B, 0] < self.config.noise_share
        return changed_rows(self._all_mixed, chosen_B, x_BTF, lengths_B, indices_B)

    def _all_mixed(self, x_BTF: Tensor, lengths_B: Tensor, indices_B: Tensor) -> Tensor:
        config, frames = self.config, x_BTF.shape[1]
        _, babble_B, place_B, slope_B, ratio_B = self.draws_N5[indices_B].unbind(1)
        noise_BTF = self._coloured(frames, place_B, slope_B)
        if self.recorded_N is not None and self.noise.recorded_LF is not None:
            recorded_BTF = _part(self.noise.recorded_LF, frames, place_B)
            noise_BTF = recorded_BTF.where(self.recorded_N[indices_B][:, None, None], noise_BTF)
        if config.babble_share:
            noise_BTF = changed_rows(self._babble, babble_B < config.babble_share, noise_BTF, self.others_NK[indices_B])
        valid_BT1 = length_mask(lengths_B, frames)[..., None]
        ratio_B = config.noise_snr_low + (config.noise_snr_high - config.noise_snr_low) * ratio_B
        speech_B11, level_B11 = (_level(one + self.noise.weights_F, valid_BT1) for one in (x_BTF, noise_BTF))
        shift_B11 = speech_B11 - level_B11 - ratio_B[:, None, None] * NEPERS_PER_DECIBEL
        return torch.logaddexp(x_BTF, noise_BTF + shift_B11)

    def _coloured(self, frames: int, place_B: Tensor, slope_B: Tensor) -> Tensor:
        low, high = SLOPES
        slope_B = (low + (high - low) * slope_B) * NEPERS_PER_DECIBEL
        return _part(self.noise.bank_LF, frames, place_B) + (slope_B[:, None] * self.noise.octaves_F)[:, None]

    def _babble(self, x_BTF: Tensor, others_BK: Tensor) -> Tensor:
        """Sum of the powers of other utterances, each repeated to the length of the batch; of `x_BTF`, the shape."""
        noise = self.noise
        time_T = torch.arange(x_BTF.shape[1], device=others_BK.device)
        found = []
        for other_B in others_BK.unbind(1):
            length_B1, offset_B1 = noise.speech.extents_N2[other_B].split(1, dim=1)
            found.append(noise.speech.flat[offset_B1 + time_T % length_B1].float() * noise.unit)
        return torch.stack(found).logsumexp(0)


def recorded_noise(folder: Path, recipe: FeatureRecipe) -> Tensor:
    """Log-powers (L, F) of all recordings in a folder and those below it, one after the other, in the order of names.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    from trainables.data.audio import read_audio  # the package av, which training alone does not need

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not files:
        raise InputError(
            f"augmentation.noise_folder: {folder}: no recordings there", f"They end with {', '.join(AUDIO_SUFFIXES)}."
        )
    return torch.cat([torch.from_numpy(recipe.compute(read_audio(path)) * recipe.nepers) for path in files])


def _part(bank_LF: Tensor, frames: int, place_B: Tensor) -> Tensor:
    """Parts (B, T, F) of a bank, each of T = `frames`, from a place in it (0 to 1) on; its start follows its end."""
    start_B = (place_B * len(bank_LF)).long()
    return bank_LF[(start_B[:, None] + torch.arange(frames, device=bank_LF.device)) % len(bank_LF)]


def _level(x_BTF: Tensor, valid_BT1: Tensor) -> Tensor:
    """Logarithm of the mean power of the valid frames, (B, 1, 1)."""
    count_B11 = valid_BT1.sum(1, keepdim=True) * x_BTF.shape[2]
    return x_BTF.masked_fill(~valid_BT1, -torch.inf).logsumexp((1, 2), keepdim=True) - count_B11.log()
