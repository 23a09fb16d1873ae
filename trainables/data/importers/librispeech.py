"""LibriSpeech's layout: `{split}/{speaker}/{chapter}/{utt}.flac` beside `{speaker}-{chapter}.trans.txt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.data.mistakes import raise_together
from trainables.data.utterance import AudioSegment, Utterance
from trainables.errors import InputError

CORPUS_FOLDER = "LibriSpeech"  # what the corpus's archives unpack to


def librispeech_utterances(root: Path, splits: Sequence[str] | None = None) -> list[Utterance]:
    """All utterances of the given splits; default: every split found in `root` or `root/LibriSpeech`.

    Raises:
        InputError: no splits there, an unknown one, audio without a transcript or the reverse.
    """
    folder = root / CORPUS_FOLDER if (root / CORPUS_FOLDER).is_dir() else root
    found = sorted({path.parents[2].name for path in folder.glob("*/*/*/*.trans.txt")})
    if not found:
        raise InputError(
            f"{folder}: no {{split}}/{{speaker}}/{{chapter}}/*.trans.txt here",
            "Give the folder that holds splits such as train-clean-100, or fetch one with --download.",
        )
    unknown = sorted(set(splits or ()) - set(found))
    if unknown:
        raise InputError(f"{folder}: no split {', '.join(unknown)}", f"The splits here are {', '.join(found)}.")
    utterances: list[Utterance] = []
    mistakes: list[str] = []
    for split in splits or found:
        for chapter in sorted(path for path in (folder / split).glob("*/*") if path.is_dir()):
            listed, wrong = _read_chapter(chapter, split)
            utterances += listed
            mistakes += wrong
    raise_together(mistakes, "Unpack the split again, or remove the utterances named.")
    return utterances


def _read_chapter(chapter: Path, split: str) -> tuple[list[Utterance], list[str]]:
    """The utterances of a chapter, and what is wrong with it."""
    audio = {path.stem: path for path in sorted(chapter.glob("*.flac"))}
    transcripts = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
    if not transcripts.is_file():
        return [], [f"{transcripts}: no such file, but {len(audio)} FLAC files beside it"] if audio else []
    try:
        lines = transcripts.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        return [], [f"{transcripts}: not readable as UTF-8: {error}"]
    utterances, mistakes = [], []
    for number, line in enumerate(lines, start=1):
        id, _, text = line.strip().partition(" ")
        origin = f"{transcripts}:{number}"
        if not id:
            continue
        path = audio.pop(id, None)
        if path is None:
            mistakes.append(f"{origin}: no audio for {id} (or two transcripts)")
        else:
            utterances.append(Utterance(id, split, text.strip(), AudioSegment(path), origin))
    mistakes += [f"{path}: no transcript in {transcripts.name}" for path in audio.values()]
    return utterances, mistakes
