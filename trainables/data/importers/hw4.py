"""The course's layout: `{split}/fbank/{utt}.npy` and `{split}/text/{utt}.npy`, features ready-made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.data.features import Frames, Recipe
from trainables.data.mistakes import raise_together
from trainables.data.utterance import TRAINING_PREFIX, VALIDATION_PREFIXES, Featurised, Utterance
from trainables.errors import InputError

BINS = 80
DATA_FOLDER = "hw4p2_data"


@dataclass(frozen=True)
class FeatureFile:
    """A ready feature file of the course."""

    path: Path

    def features(self, recipe: Recipe) -> Featurised:
        frames = read_course_features(self.path)
        return frames, len(frames) * recipe.hop_seconds


def read_course_features(path: Path) -> Frames:
    """Features (T, 80) of a file that holds (80, T) float32.

    Raises:
        InputError: not such an array, or one with NaN or infinite values.
    """
    array = _load(path)
    if array.ndim != 2 or array.shape[0] != BINS or not array.shape[1] or array.dtype != np.float32:
        raise InputError(
            f"{path}: features must be ({BINS}, T) float32, but got {array.shape} {array.dtype}",
            "Correct the file or remove it with its text.",
        )
    if not np.isfinite(array).all():
        raise InputError(f"{path}: features that are NaN or infinite", "Correct the file or remove it with its text.")
    return np.ascontiguousarray(array.T)


def hw4_utterances(root: Path) -> list[Utterance]:
    """All utterances of the course's data; `root` holds the splits' folders, or `hw4p2_data` with them.

    A split without a folder `text` has no transcripts: allowed for tests only.

    Raises:
        InputError: no splits there, a feature file without its text or the other way round, or a
            text file that is not one character an element.
    """
    folder = root / DATA_FOLDER if (root / DATA_FOLDER).is_dir() else root
    splits = sorted(fbank.parent for fbank in folder.glob("*/fbank") if fbank.is_dir())
    if not splits:
        raise InputError(
            f"{root}: no folders {{split}}/fbank here", f"Give the course's data folder, or {DATA_FOLDER} in it."
        )
    utterances: list[Utterance] = []
    mistakes: list[str] = []
    for split in splits:
        listed, wrong = _read_split(split)
        utterances += listed
        mistakes += wrong
    raise_together(mistakes, "Add the missing files, or correct or remove those named.")
    return utterances


def _read_split(split: Path) -> tuple[list[Utterance], list[str]]:
    """The utterances of a split's folder, and what is wrong with it."""
    features = {path.stem: path for path in sorted((split / "fbank").glob("*.npy"))}
    if not features:
        return [], [f"{split / 'fbank'}: no .npy files"]
    if not (split / "text").is_dir():
        if split.name.startswith((TRAINING_PREFIX, *VALIDATION_PREFIXES)):
            return [], [f"{split}: no folder text; only test splits may lack transcripts"]
        return [Utterance(id, split.name, None, FeatureFile(path), str(path)) for id, path in features.items()], []
    texts = {path.stem: path for path in sorted((split / "text").glob("*.npy"))}
    mistakes = [f"{features[id]}: no text {split / 'text' / id}.npy" for id in features if id not in texts]
    mistakes += [f"{texts[id]}: no features {split / 'fbank' / id}.npy" for id in texts if id not in features]
    utterances = []
    for id in features:
        if id not in texts:
            continue
        try:
            utterances.append(
                Utterance(id, split.name, _read_text(texts[id]), FeatureFile(features[id]), str(texts[id]))
            )
        except InputError as error:
            mistakes.append(error.problem)
    return utterances, mistakes


def _read_text(path: Path) -> str:
    array = _load(path)
    if not array.size:
        return ""  # numpy gives an empty list of characters another type
    if array.ndim != 1 or array.dtype != np.dtype("<U1"):
        raise InputError(
            f"{path}: a text must be one character an element (N,) <U1, but got {array.shape} {array.dtype}",
            "Correct the file or remove it with its features.",
        )
    # numpy drops trailing NULs, so that an element may be empty; joining leaves it out.
    return "".join(array.tolist())


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path}: not readable as a .npy array: {error}", "Copy the file again.") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an archive, not a .npy array", "Give .npy files.")
    return array
