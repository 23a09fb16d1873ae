"""Data of homework 4 of CMU 11-785: features `{split}/fbank/{utterance}.npy`, texts `{split}/text/{utterance}.npy`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.features import FeatureRecipe, Frames
from trainables.data.files import load_array, visible
from trainables.data.mistakes import Mistakes
from trainables.data.utterance import Featurised, Utterance, trains, validates
from trainables.errors import InputError

BINS = 80
REMEDY = "Add the missing files, or correct or remove those named."
DATA_FOLDER = "hw4p2_data"

_LIBRISPEECH_ID = re.compile(r"(\d+)-\d+-\d+")  # speaker, chapter and number of the utterance


@dataclass(frozen=True)
class FeatureFile:
    """A file of features, `fbank/{utterance}.npy`, as homework 4 of CMU 11-785 has it."""

    path: Path

    def features(self, recipe: FeatureRecipe) -> Featurised:
        frames = read_course_features(self.path)
        return frames, len(frames) * recipe.hop_seconds


def read_course_features(path: Path) -> Frames:
    """Features (T, 80) from a file of CMU 11-785 (homework 4), which holds (80, T) float32.

    Raises:
        InputError: the array has another shape or type, or values that are not finite.
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


def hw4_utterances(root: Path, bad: Mistakes | None = None) -> list[Utterance]:
    """All utterances of the homework's data in `root` or `root/hw4p2_data` (CMU 11-785, homework 4).

    A test split may have no folder `text`, and then no transcripts. Files that are named as in LibriSpeech, such as
    `103-1240-0000.npy`, begin with the speaker.

    Args:
        bad: collects features without a text, texts without features and unreadable texts; default: an error.

    Raises:
        InputError: the folder has no splits, a split has no features or lacks its transcripts, or `bad` has more
            mistakes than may be left out.
    """
    folder = root / DATA_FOLDER if (root / DATA_FOLDER).is_dir() else root
    splits = visible(fbank.parent for fbank in folder.glob("*/fbank") if fbank.is_dir())
    if not splits:
        raise InputError(
            f"{root}: no folders {{split}}/fbank here", f"Give the data folder of CMU 11-785, or {DATA_FOLDER} in it."
        )
    utterances: list[Utterance] = []
    bad, of_splits = bad or Mistakes(skippable=0), Mistakes()
    for split in splits:
        with of_splits.collecting():
            utterances += _read_split(split, bad)
    of_splits.check(REMEDY)
    bad.check(REMEDY)
    return utterances


def _read_split(split: Path, bad: Mistakes) -> list[Utterance]:
    """Utterances in a split's folder; utterances with mistakes are left out and added to `bad`.

    Raises:
        InputError: the folder has no features, or a training or validation split has no transcripts.
    """
    features = {path.stem: path for path in visible((split / "fbank").glob("*.npy"))}
    if not features:
        raise InputError(f"{split / 'fbank'}: no .npy files", REMEDY)
    if not (split / "text").is_dir():
        if trains(split.name) or validates(split.name):
            raise InputError(f"{split}: no folder text; only test splits may lack transcripts", REMEDY)
        return [
            Utterance(id, split.name, None, FeatureFile(path), str(path), _speaker(id)) for id, path in features.items()
        ]
    texts = {path.stem: path for path in visible((split / "text").glob("*.npy"))}
    bad.add(*(f"{features[id]}: no text {split / 'text' / id}.npy" for id in features if id not in texts))
    bad.add(*(f"{texts[id]}: no features {split / 'fbank' / id}.npy" for id in texts if id not in features))
    utterances = []
    for id in features:
        if id in texts:
            with bad.collecting():
                text = _read_text(texts[id])
                source, origin = FeatureFile(features[id]), str(texts[id])
                utterances.append(Utterance(id, split.name, text, source, origin, _speaker(id)))
    return utterances


def _speaker(id: str) -> str | None:
    match = _LIBRISPEECH_ID.fullmatch(id)
    return match[1] if match else None


def _read_text(path: Path) -> str:
    array = load_array(path)
    if not array.size:
        return ""  # numpy gives an empty array another type
    if array.ndim != 1 or array.dtype != np.dtype("<U1"):
        raise InputError(
            f"{path}: a text must be one character an element (N,) <U1, but got {array.shape} {array.dtype}",
            "Correct the file or remove it with its features.",
        )
    # numpy drops trailing NULs, so that an element may be empty.
    return "".join(array.tolist())
