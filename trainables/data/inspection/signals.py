"""Silence and level from log-mel features, and clipping from audio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.data.audio.joined import read_recordings
from trainables.data.corpus import Split
from trainables.data.features import HW4_RANGE, FeatureRecipe, Samples
from trainables.errors import InputError

SILENCE_DB = 40.0  # below the utterance's loudest frame: quieter frames are silent
LOUD, QUIET = 95, 5  # percentiles of the frames of an utterance
FULL_SCALE = 0.99  # samples from here on are at full scale
CLIPPED_RUN = 3  # samples in a row at full scale, of one sign: a peak that was cut off, rather than one that just fits

FLOOR = {"hw4": -HW4_RANGE, "kaldi": math.log(np.finfo(np.float32).eps)}  # lowest value that features have
FLOOR_TOLERANCE = 0.05  # of float16

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Loudness:
    """What the features of an utterance, or of several, say about loudness.

    Args:
        silent: share of frames more than 40 dB below the loudest frame of their utterance.
        floor: share of frames in which every bin has the lowest value that features can have, as in digital silence.
        range_db: level of the loud frames (95th percentile) above the quiet ones (5th): an estimate of the
            signal-to-noise ratio where there are pauses.
    """

    silent: float
    floor: float
    range_db: float

    @classmethod
    def mean(cls, parts: Sequence[Loudness], frames: Sequence[int]) -> Loudness:
        """Shares over all frames of several utterances, and the median of their ranges.

        Args:
            frames: number of frames of each utterance.
        """
        total = max(1, sum(frames))
        silent, floor = (
            sum(getattr(one, name) * count for one, count in zip(parts, frames, strict=True)) / total
            for name in ("silent", "floor")
        )
        return cls(silent, floor, float(np.median([one.range_db for one in parts])))


def frame_levels(features_TF: npt.ArrayLike, recipe: FeatureRecipe) -> Floats:
    """Level (T,) of each frame in dB: the mean power of its mel bins.

    Decibels of the recipe hw4 are relative to the loudest bin of the utterance; those of kaldi are absolute.
    """
    decibels_TF = np.asarray(features_TF, dtype=np.float64) / recipe.decibel
    level: Floats = 10 * np.log10(np.mean(10 ** (decibels_TF / 10), axis=1))
    return level


def loudness(features_TF: npt.ArrayLike, recipe: FeatureRecipe) -> Loudness:
    """Silence and range of an utterance's features (T, F)."""
    level_T = frame_levels(features_TF, recipe)
    at_floor_T = (np.asarray(features_TF) <= FLOOR[recipe.name] + FLOOR_TOLERANCE).all(axis=1)
    loud, quiet = np.percentile(level_T, [LOUD, QUIET])
    return Loudness(float(np.mean(level_T < level_T.max() - SILENCE_DB)), float(at_floor_T.mean()), float(loud - quiet))


def signal_to_noise(split: Split, recipe: FeatureRecipe) -> Floats:
    """Estimated signal-to-noise ratio (N,) of each utterance in dB: `Loudness.range_db`."""
    return np.array([loudness(split.utterance(place), recipe).range_db for place in range(len(split))])


def is_clipped(samples: Samples) -> bool:
    """Whether samples (N,) in [-1, 1] stay at full scale for at least 3 samples in a row, on one side of zero."""
    for side in (samples >= FULL_SCALE, samples <= -FULL_SCALE):
        runs = np.convolve(side, np.ones(CLIPPED_RUN), mode="valid") if len(side) >= CLIPPED_RUN else np.zeros(1)
        if runs.max() >= CLIPPED_RUN:
            return True
    return False


def audio_of(split: Split, place: int) -> Samples | None:
    """Samples (N,) at 16 kHz of an utterance; None where the corpus has no paths, or a file cannot be read any more."""
    recordings = split.recordings(place)
    if not recordings:
        return None
    try:
        return read_recordings(recordings)
    except InputError:
        return None
