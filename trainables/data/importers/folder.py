"""A plain folder of recordings, each with its text in a file of the same name beside it: `a.wav` and `a.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trainables.data.files import read_lines
from trainables.data.importers.tools.paths import AUDIO_SUFFIXES, TRAINING, names_split
from trainables.data.mistakes import Mistakes
from trainables.data.text.transcripts import single_spaced
from trainables.data.utterance import AudioSegment, Utterance, trains, validates
from trainables.errors import InputError

REMEDY = "Add the missing files, or remove those named."
NOTES = ("readme", "license", "licence", "copying", "notice")  # beginnings of the names of texts about the data


def folder_utterances(root: Path, bad: Mistakes | None = None, speaker: str | None = None) -> list[Utterance]:
    """Utterances of the recordings below `root`, which may lie in folders of folders.

    A folder of `root` whose name begins with train, dev, val, test or eval is a split; all else is the split `train`. A
    split of another name than train, dev or val may have no texts at all. An utterance's id is its path in the split
    without the suffix.

    Args:
        speaker: a regular expression whose first group is the speaker in the path below `root`; default: the first
            folder in the split is the speaker, and recordings in none have no known speaker.
        bad: collects recordings without a text and texts without a recording; default: an error.

    Raises:
        InputError: the folder has no recordings, `speaker` is no expression with a group or is not found in a path, or
            `bad` has more mistakes than may be left out.
    """
    pattern = _pattern(speaker)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder", "Give the folder of the recordings.")
    bad = bad or Mistakes(skippable=0)
    files: dict[str, list[Path]] = {}
    for path in _files(root):
        files.setdefault(TRAINING if (base := _base(path, root)) == root else base.name, []).append(path)
    utterances = [
        item for split, paths in sorted(files.items()) for item in _read_split(split, paths, root, pattern, bad)
    ]
    bad.check(f"Use platform prepare librispeech for {root}." if _is_librispeech(files) else REMEDY)
    if not utterances:
        raise InputError(
            f"{root}: no recordings with texts beside them", f"Recordings end with {', '.join(AUDIO_SUFFIXES)}."
        )
    return utterances


def _pattern(expression: str | None) -> re.Pattern[str] | None:
    if expression is None:
        return None
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(f"--speaker {expression!r}: no regular expression: {error}", "Correct it.") from None
    if not pattern.groups:
        raise InputError(f"--speaker {expression!r}: without a group", r"Put the speaker in (), as in '_([a-z]+)_\d+'.")
    return pattern


def _files(root: Path) -> list[Path]:
    """Audio files and texts below `root`, sorted; nothing in hidden files and folders."""
    suffixes = (*AUDIO_SUFFIXES, ".txt")
    found = (path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    notes = (path for path in found if not path.stem.lower().startswith(NOTES) or path.suffix.lower() != ".txt")
    return sorted(path for path in notes if not any(part.startswith(".") for part in path.relative_to(root).parts))


def _is_librispeech(files: dict[str, list[Path]]) -> bool:
    return any(path.name.endswith(".trans.txt") for paths in files.values() for path in paths)


def _base(path: Path, root: Path) -> Path:
    """Folder of the split that a file belongs to; `root` for files in no folder that is named as a split."""
    first = path.relative_to(root).parts[0]
    return root / first if path.parent != root and names_split(first) else root


def _read_split(
    split: str, paths: list[Path], root: Path, pattern: re.Pattern[str] | None, bad: Mistakes
) -> Iterator[Utterance]:
    """Yields the utterances of a split whose files are `paths`; those with mistakes are added to `bad`."""
    texts = {path.with_suffix(""): path for path in paths if path.suffix.lower() == ".txt"}
    audio = [path for path in paths if path.suffix.lower() != ".txt"]
    silent = not (texts or trains(split) or validates(split))
    for path in audio:
        name = path.with_suffix("")
        text = texts.get(name)
        if text is None and not silent:
            bad.add(f"{path}: no text {name.name}.txt beside it")
            continue
        with bad.collecting():
            words = None if text is None else single_spaced(" ".join(line for _, line in read_lines(text)))
            speaker = _speaker(path, root, pattern)
            id = name.relative_to(_base(path, root)).as_posix()
            yield Utterance(id, split, words, AudioSegment(path), str(text or path), speaker)
    heard = {path.with_suffix("") for path in audio}
    bad.add(*(f"{path}: no recording of that name beside it" for name, path in texts.items() if name not in heard))


def _speaker(path: Path, root: Path, pattern: re.Pattern[str] | None) -> str | None:
    if pattern is None:
        folders = path.parent.relative_to(_base(path, root)).parts
        return folders[0] if folders else None
    match = pattern.search(path.relative_to(root).as_posix())
    if match is None or not match[1]:
        raise InputError(f"{path}: no speaker by --speaker {pattern.pattern!r}", "Correct the expression.")
    return match[1]
