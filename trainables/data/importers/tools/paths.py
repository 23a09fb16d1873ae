"""Audio files by their names in tables and folders."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from trainables.data.utterance import trains, validates

# Suffixes of formats that `read_audio` reads; others are no recordings in a folder.
AUDIO_SUFFIXES = (
    ".wav", ".w64", ".aif", ".aiff", ".aifc", ".au", ".caf", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp4", ".m4a",
    ".mka", ".mkv", ".webm",
)  # fmt: skip
TRAINING = "train"  # split of utterances whose source names none


def located(name: str, *folders: Path) -> Path:
    """Path of a file named in a table: absolute, from `~`, or relative to the first of `folders` that has it.

    Accents in the name may be composed or (on macOS) decomposed. A file that is nowhere gets its path in the first
    folder.
    """
    named = [folder / os.path.expanduser(name) for folder in folders]
    forms = (Path(unicodedata.normalize(form, str(path))) for path in named for form in ("NFC", "NFD"))
    return next((path for path in (*named, *forms) if not not_a_file(path)), named[0])


def not_a_file(path: Path) -> str | None:
    """Why `path` is not a file, such as "no such file: a.wav"; None if it is one."""
    try:
        return None if path.is_file() else f"no such file: {path}"
    except OSError as error:
        return f"{path}: {error.strerror}"


def names_split(name: str) -> bool:
    """Whether a folder's name is that of a split: train*, dev*, val*, test* or eval*, in upper or lower case."""
    return trains(name) or validates(name) or name.lower().startswith(("test", "eval"))
