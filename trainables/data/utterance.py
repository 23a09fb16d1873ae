"""Utterances as importers list them, and their features as worker processes compute them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainables.data.features import FeatureRecipe, Samples
from trainables.errors import InputError

Featurised = tuple[npt.NDArray[np.floating], float]  # features (T, F) and the duration in seconds


def trains(split: str) -> bool:
    """Whether a split is a training split by its name, such as train-clean-100 or Train."""
    return split.lower().startswith("train")


def validates(split: str) -> bool:
    """Whether a split is a validation split by its name, such as dev or Val-other."""
    return split.lower().startswith(("dev", "val"))


class Source(Protocol):
    """Computes an utterance's features; small and picklable, for worker processes. Audio is an `AudioSource`."""

    def features(self, recipe: FeatureRecipe) -> Featurised:
        """Features (T, F) and the duration in seconds.

        Raises:
            InputError: the source's file cannot be used.
        """
        ...


@dataclass(frozen=True)
class Utterance:
    """One utterance of a split.

    Args:
        text: transcript; None where the split has none.
        source: computes the features.
        origin: place to correct a mistake in, such as "train.jsonl:17"; error messages name it.
        speaker: who speaks; None: unknown.
    """

    id: str
    split: str
    text: str | None
    source: Source
    origin: str = ""
    speaker: str | None = None


@dataclass(frozen=True)
class Recording:
    """A part of an utterance's audio: an audio file, its segment, or a silence.

    Args:
        path: audio file; None for a silence.
        offset: second of the file at which the part begins.
        duration: length in seconds; None: to the end of the file.
    """

    path: Path | None
    offset: float = 0.0
    duration: float | None = None


class AudioSource(ABC):
    """A source with samples."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the recording in errors."""

    @property
    def recordings(self) -> tuple[Recording, ...]:
        """Parts of audio files, and silences, that give the samples when joined; empty where no file has them."""
        return ()

    @abstractmethod
    def samples(self) -> Samples:
        """Samples (N,) at 16 kHz.

        Raises:
            InputError: the recording cannot be read.
        """

    def features(self, recipe: FeatureRecipe) -> Featurised:
        """Features (T, F) and the duration in seconds.

        Raises:
            InputError: the recording cannot be read, or is too short for one frame.
        """
        return from_samples(self.samples(), recipe, self.name)


@dataclass(frozen=True)
class AudioSegment(AudioSource):
    """An audio file, or its segment of `duration` seconds from second `offset` on."""

    path: Path
    offset: float = 0.0
    duration: float | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def recordings(self) -> tuple[Recording, ...]:
        return (Recording(self.path, self.offset, self.duration),)

    def samples(self) -> Samples:
        from trainables.data.audio import read_audio  # FFmpeg: only where audio is read

        return read_audio(self.path, self.offset, self.duration)


def from_samples(samples: Samples, recipe: FeatureRecipe, name: str) -> Featurised:
    """Features (T, F) and duration in seconds of samples (N,) at 16 kHz.

    Args:
        name: names the recording in the error.

    Raises:
        InputError: the samples are too short for one frame.
    """
    seconds = len(samples) / recipe.sample_rate
    if not len(samples) or recipe.frame_count(len(samples)) < 1:
        raise InputError(f"{name}: {1000 * seconds:.1f} ms of audio are too short for a frame", "Remove it.")
    return recipe.compute(samples), seconds


def featurise(utterance: Utterance, recipe: FeatureRecipe) -> Featurised | InputError:
    """Features (T, F) float16 and duration in seconds; an InputError is returned instead of raised."""
    try:
        features, seconds = utterance.source.features(recipe)
        return storable(features, recipe.bins, f"{utterance.split}/{utterance.id}"), seconds
    except InputError as error:
        return error


def storable(features: npt.NDArray[np.floating], bins: int, name: str) -> npt.NDArray[np.float16]:
    """Features (T, F) in float16, as a corpus stores them.

    Args:
        name: names the utterance in the error.

    Raises:
        InputError: `features` has another shape, no frame, or values that are not finite in float16.
    """
    if features.ndim != 2 or features.shape[1] != bins or not len(features):
        raise InputError(f"{name}: features of shape {features.shape}, not (T, {bins})", "Correct or remove it.")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(features, dtype=np.float16)
    if not np.isfinite(half).all():
        kind = "beyond float16's 65504" if np.isfinite(features).all() else "NaN or infinite"
        raise InputError(f"{name}: features that are {kind}", "Correct or remove it.")
    return half
