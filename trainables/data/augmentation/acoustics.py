"""Other voices, rooms and noise, made from log-mel features.

In this order: another length of the vocal tract (a warp of the mel axis), reverberation, noise, gain and tilt. They
change the features as the corpus has them, before normalisation, since corpora may have no audio. Powers are natural
logarithms here.

Shapes: N utterances of the split, B batch, T frames, F mel bins, D draws, A warps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.config.data import Augmentation
from trainables.data.augmentation.draws import changed_rows, generator
from trainables.data.augmentation.noise import Noise
from trainables.data.device.frames import Integers
from trainables.data.features import HW4_RANGE, NEPERS_PER_DECIBEL, FeatureRecipe
from trainables.masking import largest, length_mask

ACOUSTICS = -3  # last part of the key of the generator
WARPS = 64  # different factors of the vocal tract's length
SIXTY_DECIBELS = 60 * NEPERS_PER_DECIBEL
SHORTEST_REVERBERATION = 0.1  # seconds
DIRECT_TO_REVERBERANT = (-3.0, 12.0)  # dB, of the energies
# Columns of the draws: each is used for one thing.
LENGTH, REVERBERANT, SECONDS, RATIO, GAIN, TILT = range(6)


class EpochAcoustics:
    """Voice, room, noise and level of every utterance of a split in one epoch.

    Args:
        recipe: recipe of the features, which says how bins lie in Hz and what unit they have.
        noise: noises to mix in; None: none.
        utterances: number of utterances in the split.
        key: key of the random generator, (seed, epoch).
        device: device of the batches.
    """

    def __init__(
        self, config: Augmentation, recipe: FeatureRecipe, noise: Noise | None, utterances: int, key: Sequence[int],
        device: torch.device,
    ) -> None:  # fmt: skip
        self.config, self.recipe = config, recipe
        random = generator(*key, ACOUSTICS)
        self.draws_ND = torch.rand(utterances, TILT + 1, generator=random).to(device)
        self.noise = noise.epoch(config, utterances, random) if noise is not None else None
        self.warps_AF = vocal_tract_warps(recipe, config.vocal_tract).to(device)

    @property
    def voices_NK(self) -> Integers | None:
        """Numbers of the utterances that are mixed with each utterance, its own for none; None: none are mixed."""
        return None if self.noise is None else self.noise.voices_NK

    def apply(self, features_BTF: Tensor, lengths_B: Tensor, indices_B: Tensor) -> Tensor:
        """Augmented features (B, T, F) of the utterances `indices_B` (numbers in the split).

        Frames after an utterance's end are undefined, in the input and in the result.
        """
        config, draws_BD = self.config, self.draws_ND[indices_B]
        x_BTF = features_BTF.float() * self.recipe.nepers
        if config.vocal_tract:
            x_BTF = warped(x_BTF, self.warps_AF[(draws_BD[:, LENGTH] * WARPS).long()])
        if config.reverberation_share:
            longest = max(config.reverberation_seconds / SHORTEST_REVERBERATION, 1.0)
            seconds_B = SHORTEST_REVERBERATION * longest ** draws_BD[:, SECONDS]
            low, high = DIRECT_TO_REVERBERANT
            ratio_B = (low + (high - low) * draws_BD[:, RATIO]) * NEPERS_PER_DECIBEL
            decay_B = SIXTY_DECIBELS / (seconds_B * self.recipe.frames_per_second)
            chosen_B = draws_BD[:, REVERBERANT] < config.reverberation_share
            x_BTF = changed_rows(reverberant, chosen_B, x_BTF, decay_B, ratio_B)
        if self.noise is not None:
            x_BTF = self.noise.mixed(x_BTF, lengths_B, indices_B)
        if config.gain or config.tilt:
            gain_B = config.gain * (2 * draws_BD[:, GAIN] - 1)
            slope_F = torch.linspace(-1, 1, x_BTF.shape[2], device=x_BTF.device)
            level_BF = gain_B[:, None] + config.tilt * (2 * draws_BD[:, TILT] - 1)[:, None] * slope_F
            x_BTF = x_BTF + level_BF[:, None] * NEPERS_PER_DECIBEL
        return self._in_range(x_BTF / self.recipe.nepers, lengths_B)

    def _in_range(self, features_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Features as the recipe gives them: the course's are decibels below the utterance's peak, -80 at least."""
        if self.recipe.name != "hw4":
            return features_BTF
        valid_BT1 = length_mask(lengths_B, features_BTF.shape[1])[..., None]
        return (features_BTF - largest(features_BTF, valid_BT1)).clamp(min=-HW4_RANGE)


def warped(x_BTF: Tensor, place_BF: Tensor) -> Tensor:
    """Values at fractional places of the mel axis, by linear interpolation, (B, T, F)."""
    before_BF = place_BF.long().clamp(max=x_BTF.shape[2] - 1)
    after_BF = (before_BF + 1).clamp(max=x_BTF.shape[2] - 1)
    share_B1F = (place_BF - before_BF)[:, None]
    parts = [x_BTF.gather(2, index_BF[:, None].expand_as(x_BTF)) for index_BF in (before_BF, after_BF)]
    return torch.lerp(parts[0], parts[1], share_B1F.expand_as(x_BTF))


def vocal_tract_warps(recipe: FeatureRecipe, largest: float) -> Tensor:
    """Places on the mel axis from which each bin takes its value, for lengths of the vocal tract, (A, F).

    The frequency f of a voice becomes a f below a bound near 4.8 kHz, and above it a line leads to the highest
    frequency, which stays (Jaitly and Hinton, 2013, "Vocal tract length perturbation", equation 1).

    Args:
        largest: the factors a are from 1 - `largest` to 1 + `largest`.
    """
    centers_F = recipe.bin_centers()
    top, bound = recipe.sample_rate / 2, 4_800.0
    rows = []
    for factor in np.linspace(1 - largest, 1 + largest, WARPS):
        knee = bound * min(factor, 1) / factor
        source = np.interp(centers_F, [0.0, knee * factor, top], [0.0, knee, top])
        rows.append(np.interp(source, centers_F, np.arange(len(centers_F))))
    return torch.tensor(np.array(rows), dtype=torch.float32)


def reverberant(x_BTF: Tensor, decay_B: Tensor, ratio_B: Tensor) -> Tensor:
    """Log-powers with an exponentially decaying tail of all frames before, (B, T, F).

    A late reverberation's power decays exponentially (Lebart et al., 2001, Acta Acustica 87(3), section 2), and powers
    of tail and direct sound add up.

    Args:
        decay_B: by how many nepers a tail decays in a frame.
        ratio_B: nepers by which the direct sound has more energy than its tail.
    """
    decay_B11 = decay_B[:, None, None]
    faded_T1 = torch.arange(x_BTF.shape[1], device=x_BTF.device)[:, None] * decay_B11
    sums_BTF = (x_BTF + faded_T1).logcumsumexp(1) - faded_T1  # of each frame and those before, as they have decayed
    before_BTF = torch.nn.functional.pad(sums_BTF[:, :-1], (0, 0, 1, 0), value=-torch.inf)
    share_B11 = (-torch.expm1(-decay_B11)).log() - ratio_B[:, None, None]  # a tail's energies sum up to the ratio
    return torch.logaddexp(x_BTF, before_BTF + share_B11)
