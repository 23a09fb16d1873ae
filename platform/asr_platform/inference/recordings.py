"""What is to be transcribed: files, folders, patterns and standard input as a list of recordings."""

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
from trainables.data.features import Recipe, Samples
from trainables.data.importers.hw4 import read_course_features
from trainables.data.mistakes import raise_together
from trainables.errors import InputError

STANDARD_INPUT = "-"
READY = ".npy"  # the course's features
AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")


@dataclass(frozen=True)
class Recording:
    """One recording.

    Args:
        name: as it was given, or found.
        place: where its transcript lies in a folder of transcripts, without a suffix.
        samples: of standard input, 16 kHz; all others are read from the file `name`.
    """

    name: str
    place: Path
    samples: Samples | None = None

    @property
    def ready(self) -> bool:
        """Whether it is a file of the course's features."""
        return self.samples is None and self.name.lower().endswith(READY)

    def check(self, recipe: Recipe) -> None:
        """Looks at its file, as far as that can be told at once.

        Raises:
            InputError: it cannot be read, or is of another recipe.
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
    """The recordings that the words of a command stand for, in their order.

    A folder is all audio in it and below, and a pattern all files that it matches, both sorted; `-` is one recording on
    standard input.

    Raises:
        InputError: a path leads nowhere, a folder has no audio, a pattern matches nothing, or standard input has no
            audio.
    """
    found: list[Recording] = []
    mistakes = []
    for path in paths:
        if path == STANDARD_INPUT:
            if any(recording.samples is not None for recording in found):
                mistakes.append("-: standard input is read once")
            else:
                found.append(Recording(STANDARD_INPUT, Path("stdin"), _standard_input()))
        elif os.path.isdir(path):
            inside = _audio_below(path)
            found += [Recording(name, Path(os.path.relpath(name, path)).with_suffix("")) for name in inside]
            mistakes += [] if inside else [f"{path}: no audio here ({', '.join((*AUDIO, READY))})"]
        elif os.path.exists(path) or not glob.has_magic(path):
            found.append(Recording(str(Path(path)), Path(Path(path).stem)))
            mistakes += [] if os.path.isfile(path) else [f"no such file: {path}"]
        else:
            matches = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
            found += [Recording(name, Path(Path(name).stem)) for name in matches]
            mistakes += [] if matches else [f"no file matches {path}"]
    raise_together(mistakes, "Give audio or .npy files, folders of them, patterns, or - for standard input.")
    return found


def _audio_below(folder: str) -> list[str]:
    """Audio files in a folder and those below it, hidden ones left out, sorted."""
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
    """Samples (N,) at 16 kHz of the one audio file that comes from there."""
    if sys.stdin.isatty():
        raise InputError("-: standard input is a terminal", "Send audio into it: platform transcribe MODEL - < a.wav")
    with tempfile.TemporaryFile() as file:  # the length of a pipe is known at its end
        shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            return read_audio(file, name="standard input")
        except InputError as error:
            raise InputError(error.problem, "Send one WAV or FLAC file.") from None
