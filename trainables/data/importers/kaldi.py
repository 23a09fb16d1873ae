"""Kaldi data folders: `wav.scp`, `text`, and optionally `segments` and `utt2spk`, with an entry a line.

Format: https://kaldi-asr.org/doc/data_prep.html
"""

from __future__ import annotations

import shlex
from pathlib import Path

from trainables.data.files import read_lines, visible
from trainables.data.importers.tools.paths import TRAINING, located, names_split, not_a_file
from trainables.data.mistakes import Mistakes
from trainables.data.text.transcripts import single_spaced
from trainables.data.utterance import AudioSegment, Utterance, trains, validates
from trainables.errors import InputError

RECORDINGS, TEXTS, SEGMENTS, SPEAKERS = "wav.scp", "text", "segments", "utt2spk"
# Commands in wav.scp that only decode the file that they name; no command is run.
DECODING = (["flac", "-c", "-d", "-s"], ["flac", "-cds"], ["flac", "-c", "-d"], ["flac", "-d", "-c", "-s"], ["cat"])
TO_THE_END = -1.0  # end of a segment that lasts to the end of its recording
REMEDY = "Correct these lines, or remove them."


def kaldi_utterances(root: Path, bad: Mistakes | None = None) -> list[Utterance]:
    """Utterances of a Kaldi data folder, or of each data folder in `root`, such as `data/train` and `data/dev`.

    A folder's name is the split's, if it begins with train, dev, val, test or eval, or if `root` holds several; else
    the split is `train`. Recordings are found from the data folder, the two folders above it, or the working directory.

    Args:
        bad: collects lines with mistakes; default: an error.

    Raises:
        InputError: there is no `wav.scp`, a training or validation split has no `text`, or `bad` has more mistakes
            than may be left out (each named as file:line).
    """
    folders = [root] if (root / RECORDINGS).is_file() else visible(path.parent for path in root.glob(f"*/{RECORDINGS}"))
    if not folders:
        raise InputError(f"{root}: no {RECORDINGS} here or one folder below", "Give a Kaldi data folder.")
    bad = bad or Mistakes(skippable=0)
    utterances: list[Utterance] = []
    for folder in folders:
        name = folder.resolve().name
        utterances += _read_folder(folder, name if len(folders) > 1 or names_split(name) else TRAINING, bad)
    bad.check(REMEDY)
    return utterances


def _read_folder(folder: Path, split: str, bad: Mistakes) -> list[Utterance]:
    """Utterances of a data folder; those with mistakes are left out and added to `bad`."""
    recordings = _recordings(folder, bad)
    texts = _table(folder / TEXTS, bad)
    if not (folder / TEXTS).is_file() and (trains(split) or validates(split)):
        raise InputError(f"{folder / TEXTS}: no such file; only test splits may lack transcripts", "Add it.")
    segments = _segments(folder, recordings, bad)
    speakers = _table(folder / SPEAKERS, bad)
    alone = [(number, id) for id, (number, _) in texts.items() if id not in segments]
    bad.add(*(f"{folder / TEXTS}:{number}: no recording or segment named {id}" for number, id in alone))
    utterances = []
    for id, segment in segments.items():
        origin = f"{folder / (SEGMENTS if (folder / SEGMENTS).is_file() else RECORDINGS)}: {id}"
        if (folder / TEXTS).is_file() and id not in texts:
            bad.add(f"{origin}: no line in {TEXTS}")
        elif segment is not None:
            text = single_spaced(texts[id][1]) if id in texts else None
            speaker = speakers[id][1] if id in speakers else None
            utterances.append(Utterance(id, split, text, segment, origin, speaker))
    return utterances


def _table(path: Path, bad: Mistakes) -> dict[str, tuple[int, str]]:
    """(Line number, rest of the line) by the first word of each line of a file; empty where there is no such file."""
    found: dict[str, tuple[int, str]] = {}
    if not path.is_file():
        return found
    for number, line in read_lines(path):
        id, _, rest = single_spaced(line).partition(" ")
        if id in found:
            bad.add(f"{path}:{number}: {id} has a line already")
        elif id:
            found[id] = number, rest
    return found


def _recordings(folder: Path, bad: Mistakes) -> dict[str, Path | None]:
    """Audio file of each recording; None for one with a mistake."""
    places = (folder, folder.resolve().parent, folder.resolve().parent.parent, Path.cwd())
    found: dict[str, Path | None] = {}
    for id, (number, value) in _table(folder / RECORDINGS, bad).items():
        origin, name = f"{folder / RECORDINGS}:{number}", _named_file(value)
        path = located(name, *places) if name else None
        problem = not_a_file(path) if path else f"a command, which is not run: {value}; write an audio file"
        problem = problem if value else "names no file"
        if problem:
            bad.add(f"{origin}: {problem}")
        found[id] = None if problem else path
    return found


def _named_file(value: str) -> str | None:
    """File that an entry of wav.scp names; None for a command that does more than decode it."""
    if not value.endswith("|"):
        return value or None
    try:
        words = shlex.split(value.removesuffix("|"))
    except ValueError:
        return None
    return words[-1] if words[:-1] in DECODING else None


def _segments(folder: Path, recordings: dict[str, Path | None], bad: Mistakes) -> dict[str, AudioSegment | None]:
    """Audio of each utterance; without the file `segments`, each recording is one. None for one with a mistake."""
    if not (folder / SEGMENTS).is_file():
        return {id: AudioSegment(path) if path else None for id, path in recordings.items()}
    found: dict[str, AudioSegment | None] = {}
    for id, (number, rest) in _table(folder / SEGMENTS, bad).items():
        found[id] = None
        origin, words = f"{folder / SEGMENTS}:{number}", rest.split(" ")
        try:
            recording, (start, end) = words[0], map(float, words[1:3])
        except ValueError:
            bad.add(f"{origin}: must be utterance, recording, start and end in seconds, but got {id} {rest}")
            continue
        if recording not in recordings:
            bad.add(f"{origin}: no recording named {recording} in {RECORDINGS}")
        elif not (0 <= start < float("inf") and (end == TO_THE_END or start < end < float("inf"))):
            bad.add(f"{origin}: start {start:g} and end {end:g} are no segment in seconds")
        elif path := recordings[recording]:
            found[id] = AudioSegment(path, start, None if end == TO_THE_END else end - start)
    return found
