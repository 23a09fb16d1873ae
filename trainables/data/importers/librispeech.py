"""LibriSpeech: `{split}/{speaker}/{chapter}/{utterance}.flac` beside `{speaker}-{chapter}.trans.txt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.data.files import read_lines, visible
from trainables.data.mistakes import Mistakes
from trainables.data.text.transcripts import normalized, single_spaced
from trainables.data.utterance import AudioSegment, Utterance
from trainables.errors import InputError

REMEDY = "Unpack the split again, or remove the utterances named."
CORPUS_FOLDER = "LibriSpeech"  # folder in the corpus's archives


def librispeech_utterances(
    root: Path, splits: Sequence[str] | None = None, bad: Mistakes | None = None
) -> list[Utterance]:
    """All utterances of the given splits; default: all splits in `root` or `root/LibriSpeech`.

    Args:
        bad: collects audio without a transcript and transcripts without audio; default: an error.

    Raises:
        InputError: a split is missing, a chapter has no readable transcripts, or `bad` has more mistakes than may be
            left out.
    """
    folder = root / CORPUS_FOLDER if (root / CORPUS_FOLDER).is_dir() else root
    found = sorted({path.parents[2].name for path in visible(folder.glob("*/*/*/*.trans.txt"))})
    if not found:
        raise InputError(
            f"{folder}: no {{split}}/{{speaker}}/{{chapter}}/*.trans.txt here",
            "Give the folder that holds splits such as train-clean-100, or fetch one with --download.",
        )
    unknown = sorted(set(splits or ()) - set(found))
    if unknown:
        raise InputError(f"{folder}: no split {', '.join(unknown)}", f"The splits here are {', '.join(found)}.")
    utterances: list[Utterance] = []
    bad, of_chapters = bad or Mistakes(skippable=0), Mistakes()
    for split in splits or found:
        for chapter in (path for path in visible((folder / split).glob("*/*")) if path.is_dir()):
            with of_chapters.collecting():
                utterances += _read_chapter(chapter, split, bad)
    of_chapters.check(REMEDY)
    bad.check(REMEDY)
    return utterances


def _read_chapter(chapter: Path, split: str, bad: Mistakes) -> list[Utterance]:
    """Utterances of a chapter; utterances with mistakes are left out and added to `bad`.

    Raises:
        InputError: the chapter has audio, but no readable file of transcripts.
    """
    audio = {normalized(path.stem): path for path in visible(chapter.glob("*.flac"))}
    transcripts = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
    if not transcripts.is_file():
        if audio:
            raise InputError(f"{transcripts}: no such file, but {len(audio)} FLAC files beside it", REMEDY)
        return []
    utterances = []
    for number, line in read_lines(transcripts):
        id, _, text = single_spaced(line).partition(" ")  # some copies have a tab here
        origin = f"{transcripts}:{number}"
        if not id:
            continue
        path = audio.pop(id, None)
        if path is None:
            bad.add(f"{origin}: no audio for {id} (or two transcripts)")
        else:
            utterances.append(Utterance(id, split, text, AudioSegment(path), origin, chapter.parent.name))
    bad.add(*(f"{path}: no transcript in {transcripts.name}" for path in audio.values()))
    return utterances
