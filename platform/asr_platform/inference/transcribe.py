"""From recordings of any length to text with the times of its words, and to the files that hold it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_platform.inference.evaluate import load
from asr_platform.inference.recordings import Recording, find_recordings
from asr_platform.inference.subtitles import phrases, srt, text_of, vtt
from trainables.data.audio import read_audio
from trainables.data.features import SAMPLE_RATE, Recipe
from trainables.data.importers.hw4 import read_course_features
from trainables.data.mistakes import raise_together
from trainables.decoding import Word
from trainables.errors import InputError
from trainables.folders import written_whole
from trainables.inference.long_form import Cut, cut, longest_piece, transcribe_cuts
from trainables.inference.recognizer import Recognizer
from trainables.inference.segmentation import Piece

# What is read before the recogniser begins, so that it can take utterances of like length together.
FILES_AT_ONCE = 64
SECONDS_AT_ONCE = 1800.0


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording.

    Args:
        seconds: its length.
        words: with seconds from its start; None where nobody asked for them.
    """

    recording: Recording
    seconds: float
    text: str
    words: list[Word] | None


def transcribe(
    recognizer: Recognizer, recordings: Sequence[Recording], timed: bool = False, piece_seconds: float | None = None
) -> Iterator[Transcript]:
    """Yields the recordings' transcripts in order. All files are looked at before the first.

    Long recordings are cut at silences, and each piece is transcribed as an utterance of its own.

    Args:
        timed: with the times of the words.
        piece_seconds: the longest piece, 1 or more; None: as long as nine of ten utterances in the model's training, 30
            at most.

    Raises:
        InputError: a file is not readable as audio, or as features of the model's recipe; or the model cannot say when
            words were said.
    """
    if timed and not recognizer.config.loss.ctc_weight:
        raise InputError(
            "the model was trained without CTC (loss.ctc_weight: 0), so its words have no times",
            "Use the format txt, or train with a loss.ctc_weight above 0.",
        )
    _check(recordings, recognizer.recipe)
    for some in _groups(recordings, recognizer.recipe, piece_seconds or longest_piece(recognizer)):
        said = transcribe_cuts(recognizer, [heard.cut for heard in some], timed)
        for heard, (text, words) in zip(some, said, strict=True):
            yield Transcript(heard.recording, heard.seconds, text, words if timed else None)


def _check(recordings: Sequence[Recording], recipe: Recipe) -> None:
    """Raises one InputError for all files that cannot be read."""
    mistakes: list[InputError] = []
    for recording in recordings:
        try:
            recording.check(recipe)
        except InputError as error:
            mistakes.append(error)
    if len(mistakes) == 1:
        raise mistakes[0]
    raise_together([error.problem for error in mistakes], "Replace these files, or leave them out.")


@dataclass(frozen=True)
class _Heard:
    """A recording, its length and what is to be transcribed of it."""

    recording: Recording
    seconds: float
    cut: Cut


def _groups(recordings: Sequence[Recording], recipe: Recipe, longest: float) -> Iterator[list[_Heard]]:
    """The recordings, as many together as are worth the memory."""
    some: list[_Heard] = []
    for recording in recordings:
        some.append(_hear(recording, recipe, longest))
        if len(some) == FILES_AT_ONCE or sum(heard.seconds for heard in some) >= SECONDS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _hear(recording: Recording, recipe: Recipe, longest: float) -> _Heard:
    if recording.ready:  # an utterance of the course: its features depend on its own peak, so it stays whole
        frames = read_course_features(Path(recording.name))
        whole = Piece(0, len(frames) * recipe.hop_length, spoken=True)
        return _Heard(recording, len(frames) * recipe.hop_seconds, Cut([whole], [frames]))
    samples = read_audio(Path(recording.name)) if recording.samples is None else recording.samples
    return _Heard(recording, len(samples) / SAMPLE_RATE, cut(samples, recipe, longest, recording.name))


# Files


def as_tree(transcript: Transcript) -> dict[str, Any]:
    """What JSON says of it: its phrases, and their words with times."""
    words = transcript.words or []
    segments = [
        {
            "start": round(phrase[0].start, 3),
            "end": round(phrase[-1].end, 3),
            "text": text_of(phrase),
            "words": [{"word": text, "start": round(start, 3), "end": round(end, 3)} for text, start, end in phrase],
        }
        for phrase in phrases(words)
    ]
    return {
        "file": transcript.recording.name,
        "duration": round(transcript.seconds, 3),
        "text": transcript.text,
        "segments": segments,
    }


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": lambda transcript: transcript.text,
    "json": lambda transcript: _json(as_tree(transcript)),
    "srt": lambda transcript: srt(transcript.words or [], transcript.seconds),
    "vtt": lambda transcript: vtt(transcript.words or [], transcript.seconds),
}
"""A transcript as the content of a file of its own."""


def transcribe_to(
    model: Path, paths: Sequence[str], format: str, out: str | None, piece_seconds: float | None = None
) -> Iterator[str]:
    """Transcribes what `paths` stand for (see `find_recordings`), and yields what is to be printed.

    Without `out`, that is the transcripts: `file<TAB>text` lines, a JSON list, or the subtitles of one recording. They
    go into the file `out`, or, where that is a folder or ends with a slash, into a file for each recording. Every file
    appears whole or not at all.

    Raises:
        InputError: as `find_recordings` and `transcribe`; or `out` cannot hold these transcripts.
    """
    if out == "":
        raise InputError("--out is empty", "Name a file or a folder, or leave it out.")
    recordings = find_recordings(paths)
    folder = Path(out) if out is not None and (out.endswith(os.sep) or os.path.isdir(out)) else None
    if folder is None and format in ("srt", "vtt") and len(recordings) > 1:
        raise InputError(
            f"--format {format} holds one recording, but {len(recordings)} are given", "Give a folder: --out subtitles/"
        )
    targets = [Path(out)] if folder is None and out is not None else []
    if folder is not None:
        targets = [folder / recording.place.with_name(f"{recording.place.name}.{format}") for recording in recordings]
    _check_targets(targets, recordings)
    transcripts = transcribe(load(model), recordings, format != "txt", piece_seconds)
    if folder is not None:
        yield from _write_each(transcripts, targets, format)
    elif out is not None:
        with written_whole(Path(out)) as file:
            file.writelines(f"{line}\n" for line in _together(transcripts, format))
        yield f"{out}: {len(recordings)} transcribed"
    else:
        yield from _together(transcripts, format)


def _together(transcripts: Iterator[Transcript], format: str) -> Iterator[str]:
    """The lines of one file for all of them."""
    if format == "json":
        yield _json([as_tree(transcript) for transcript in transcripts])
    for transcript in transcripts:
        text = FORMATS[format](transcript)
        yield f"{transcript.recording.name}\t{text}" if format == "txt" else text


def _write_each(transcripts: Iterator[Transcript], targets: list[Path], format: str) -> Iterator[str]:
    for transcript, target in zip(transcripts, targets, strict=True):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: cannot be made: {error.strerror}", "Choose another --out.") from None
        with written_whole(target) as file:
            file.write(FORMATS[format](transcript) + "\n")
        yield str(target)


def _check_targets(targets: list[Path], recordings: Sequence[Recording]) -> None:
    """No two recordings into one file, and none into itself."""
    sources = {os.path.realpath(recording.name) for recording in recordings}
    places: dict[Path, str] = {}
    for number, target in enumerate(targets):
        if os.path.realpath(target) in sources:
            raise InputError(f"--out {target}: one of the recordings", "Choose another --out.")
        name = recordings[number].name
        if target in places:
            raise InputError(
                f"{places[target]} and {name} would both be {target}", "Transcribe them into different folders."
            )
        places[target] = name
