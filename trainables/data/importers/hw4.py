"""The course's layout: `{split}/fbank/{utt}.npy` and `{split}/text/{utt}.npy`, features ready-made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.features import Frames, Recipe
from trainables.data.files import load_array, visible
from trainables.data.mistakes import BadRecordings, raise_together
from trainables.data.utterance import Featurised, Utterance, trains, validates
from trainables.errors import InputError

BINS = 80
REMEDY = "Add the missing files, or correct or remove those named."
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
    array = load_array(path)
    if array.ndim != 2 or array.shape[0] != BINS or not array.shape[1] or array.dtype != np.float32:
        raise InputError(
            f"{path}: features must be ({BINS}, T) float32, but got {array.shape} {array.dtype}",
            "Correct the file or remove it with its text.",
        )
    if not np.isfinite(array).all():
        raise InputError(f"{path}: features that are NaN or infinite", "Correct the file or remove it with its text.")
    return np.ascontiguousarray(array.T)


def hw4_utterances(root: Path, bad: BadRecordings | None = None) -> list[Utterance]:
    """All utterances of the course's data; `root` holds the splits' folders, or `hw4p2_data` with them.

    A split without a folder `text` has no transcripts: allowed for tests only.

    Args:
        bad: takes up utterances with a mistake; default: an error.

    Raises:
        InputError: no splits there, a feature file without its text or the other way round, or a
            text file that is not one character an element.
    """
    folder = root / DATA_FOLDER if (root / DATA_FOLDER).is_dir() else root
    splits = visible(fbank.parent for fbank in folder.glob("*/fbank") if fbank.is_dir())
    if not splits:
        raise InputError(
            f"{root}: no folders {{split}}/fbank here", f"Give the course's data folder, or {DATA_FOLDER} in it."
        )
    utterances: list[Utterance] = []
    bad, broken = bad or BadRecordings(), list[str]()
    for split in splits:
        try:
            listed, wrong = _read_split(split)
        except InputError as error:
            broken.append(error.problem)
            continue
        utterances += listed
        bad.add(wrong)
    raise_together(broken, REMEDY)
    bad.check(REMEDY.removesuffix("."))
    return utterances


def _read_split(split: Path) -> tuple[list[Utterance], list[str]]:
    """The utterances of a split's folder, and what is wrong with others.

    Raises:
        InputError: it has no features, or lacks the transcripts that its name calls for.
    """
    features = {path.stem: path for path in visible((split / "fbank").glob("*.npy"))}
    if not features:
        raise InputError(f"{split / 'fbank'}: no .npy files", REMEDY)
    if not (split / "text").is_dir():
        if trains(split.name) or validates(split.name):
            raise InputError(f"{split}: no folder text; only test splits may lack transcripts", REMEDY)
        return [Utterance(id, split.name, None, FeatureFile(path), str(path)) for id, path in features.items()], []
    texts = {path.stem: path for path in visible((split / "text").glob("*.npy"))}
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
    array = load_array(path)
    if not array.size:
        return ""  # numpy gives an empty list of characters another type
    if array.ndim != 1 or array.dtype != np.dtype("<U1"):
        raise InputError(
            f"{path}: a text must be one character an element (N,) <U1, but got {array.shape} {array.dtype}",
            "Correct the file or remove it with its features.",
        )
    # numpy drops trailing NULs, so that an element may be empty; joining leaves it out.
    return "".join(array.tolist())
