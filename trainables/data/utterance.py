"""What an importer hands over: an utterance, and how to get its features in another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainables.data.features import FeatureRecipe, Samples
from trainables.errors import InputError

Featurised = tuple[npt.NDArray[np.floating], float]  # features (T, F) and the duration in seconds


def trains(split: str) -> bool:
    """Whether a split is one to train on, by its name: train-clean-100, Train."""
    return split.lower().startswith("train")


def validates(split: str) -> bool:
    """Whether a split is one to validate on, by its name: dev, Val-other."""
    return split.lower().startswith(("dev", "val"))


class Source(Protocol):
    """Something small and picklable that gives an utterance's features."""

    def features(self, recipe: FeatureRecipe) -> Featurised:
        """Features (T, F) and the duration in seconds.

        Raises:
            InputError: what it reads is not as it should be.
        """
        ...


@dataclass(frozen=True)
class Utterance:
    """One entry of a split; `text` is None where the split has no transcripts.

    `origin` is the place that its owner would correct, such as "train.jsonl:17"; it goes before a
    message that does not name it already.
    """

    id: str
    split: str
    text: str | None
    source: Source
    origin: str = ""


@dataclass(frozen=True)
class AudioSegment:
    """An audio file, or a part of it; offset and duration are seconds."""

    path: Path
    offset: float = 0.0
    duration: float | None = None

    def features(self, recipe: FeatureRecipe) -> Featurised:
        from trainables.data.audio import read_audio  # FFmpeg: only where audio is read

        samples = read_audio(self.path, self.offset, self.duration)
        return from_samples(samples, recipe, str(self.path))


def from_samples(samples: Samples, recipe: FeatureRecipe, name: str) -> Featurised:
    """Features (T, F) and seconds of 16 kHz samples; `name` is for messages.

    Raises:
        InputError: too short for one frame.
    """
    seconds = len(samples) / recipe.sample_rate
    if not len(samples) or recipe.frame_count(len(samples)) < 1:
        raise InputError(f"{name}: {1000 * seconds:.1f} ms of audio are too short for a frame", "Remove it.")
    return recipe.compute(samples), seconds


def featurise(utterance: Utterance, recipe: FeatureRecipe) -> Featurised | InputError:
    """An utterance's features as they are stored, and its seconds; a mistake in it is a value, to be collected."""
    try:
        features, seconds = utterance.source.features(recipe)
        return storable(features, recipe.bins, f"{utterance.split}/{utterance.id}"), seconds
    except InputError as error:
        return error


def storable(features: npt.NDArray[np.floating], bins: int, name: str) -> npt.NDArray[np.float16]:
    """Features (T, F) as they are stored, in float16; `name` is for messages.

    Raises:
        InputError: another shape, no frame, or values that are not finite in float16.
    """
    if features.ndim != 2 or features.shape[1] != bins or not len(features):
        raise InputError(f"{name}: features of shape {features.shape}, not (T, {bins})", "Correct or remove it.")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(features, dtype=np.float16)
    if not np.isfinite(half).all():
        kind = "beyond float16's 65504" if np.isfinite(features).all() else "NaN or infinite"
        raise InputError(f"{name}: features that are {kind}", "Correct or remove it.")
    return half
