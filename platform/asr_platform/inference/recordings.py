"""Recordings to transcribe, from files, folders, patterns and standard input."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.audio import check_audio, read_audio
from trainables.data.features import FeatureRecipe, Samples
from trainables.data.importers.hw4 import read_course_features
from trainables.data.mistakes import Mistakes
from trainables.errors import InputError

STANDARD_INPUT = "-"
READY = ".npy"  # features as homework 4 of CMU 11-785 has them
AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")


@dataclass(frozen=True)
class Recording:
    """A recording to transcribe.

    Args:
        name: path of the file, as given or found in a folder.
        place: path of the transcript within an output folder, without a suffix.
        samples: samples (N,) at 16 kHz; None: to be read from the file `name`.
    """

    name: str
    place: Path
    samples: Samples | None = None

    @property
    def ready(self) -> bool:
        """Whether the recording is a file of features (CMU 11-785, homework 4) instead of audio."""
        return self.samples is None and self.name.lower().endswith(READY)

    def check(self, recipe: FeatureRecipe) -> None:
        """Checks the file without decoding all of it.

        Raises:
            InputError: the file cannot be read, or has features of another feature recipe.
        """
        if self.ready and recipe.name != "hw4":
            raise InputError(
                f"{self.name}: .npy features are of the recipe hw4, the model's are {recipe.name}", "Give audio."
            )
        if self.ready:
            read_course_features(Path(self.name))
        elif self.samples is None:
            check_audio(Path(self.name))


def find_recordings(paths: Sequence[str]) -> list[Recording]:
    """Recordings that the arguments of a command name, in their order.

    A folder stands for all audio files below it, and a pattern for all files that match, both sorted; `-` stands for
    one recording on standard input.

    Raises:
        InputError: a path leads nowhere, a folder has no audio, a pattern matches nothing, or standard input has no
            audio.
    """
    found: list[Recording] = []
    mistakes = Mistakes()
    for path in paths:
        if path == STANDARD_INPUT:
            if any(recording.samples is not None for recording in found):
                mistakes.add("-: standard input is read once")
            else:
                found.append(Recording(STANDARD_INPUT, Path("stdin"), _standard_input()))
        elif os.path.isdir(path):
            inside = _audio_below(path)
            found += [Recording(name, Path(os.path.relpath(name, path)).with_suffix("")) for name in inside]
            if not inside:
                mistakes.add(f"{path}: no audio here ({', '.join((*AUDIO, READY))})")
        elif os.path.exists(path) or not glob.has_magic(path):
            found.append(Recording(str(Path(path)), Path(Path(path).stem)))
            if not os.path.isfile(path):
                mistakes.add(f"no such file: {path}")
        else:
            matches = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
            found += [Recording(name, Path(Path(name).stem)) for name in matches]
            if not matches:
                mistakes.add(f"no file matches {path}")
    mistakes.check("Give audio or .npy files, folders of them, patterns, or - for standard input.")
    return found


def _audio_below(folder: str) -> list[str]:
    """Sorted paths of the audio files below a folder, without hidden files and folders."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(place, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith((*AUDIO, READY))
        ]
    return sorted(found)


def _standard_input() -> Samples:
    """Reads an audio file from standard input as samples (N,) at 16 kHz."""
    if sys.stdin.isatty():
        raise InputError("-: standard input is a terminal", "Send audio into it: platform transcribe MODEL - < a.wav")
    with tempfile.TemporaryFile() as file:  # decoding needs to seek, which a pipe cannot
        shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            return read_audio(file, name="standard input")
        except InputError as error:
            raise InputError(error.problem, "Send one WAV or FLAC file.") from None
