"""Formats of transcripts, by the names of `platform transcribe --format`; importing this module imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asr_platform.inference.subtitles import phrases, srt, text_of, vtt

if TYPE_CHECKING:
    from trainables.decoding import Word
    from trainables.inference.long_form import PieceTexts


@dataclass(frozen=True)
class Transcript:
    """Transcript of a recording.

    Args:
        name: the recording's path as it was given, or found in a folder.
        seconds: duration of the recording.
        words: words with times in seconds from the start of the recording; empty if times were not requested.
        pieces: the best hypotheses of each piece of the recording; empty if they were not requested.
    """

    name: str
    seconds: float
    text: str
    words: list[Word]
    pieces: list[PieceTexts] = field(default_factory=list)


@dataclass(frozen=True)
class TranscriptFormat:
    """A format of transcripts.

    Args:
        write: returns the content of a file with one transcript.
        write_all: returns the lines of a file with several transcripts; None if a file can only have one.
        timed: whether the format needs word timestamps.
    """

    write: Callable[[Transcript], str]
    write_all: Callable[[Iterable[Transcript]], Iterator[str]] | None = None
    timed: bool = True


def as_tree(transcript: Transcript) -> dict[str, Any]:
    """A transcript as a JSON object: phrases (`segments`) and their words, with times in seconds.

    If hypotheses were requested, `pieces` has those of each piece that the recording was cut into.
    """
    segments = [
        {
            "start": round(phrase[0].start, 3),
            "end": round(phrase[-1].end, 3),
            "text": text_of(phrase),
            "words": [_word_tree(word) for word in phrase],
        }
        for phrase in phrases(transcript.words)
    ]
    pieces = [
        {
            "start": round(piece.start, 3),
            "end": round(piece.end, 3),
            "alternatives": [{"text": text, "score": round(score, 4)} for text, score in piece.alternatives],
        }
        for piece in transcript.pieces
    ]
    return {
        "file": transcript.name,
        "duration": round(transcript.seconds, 3),
        "text": transcript.text,
        "segments": segments,
        **({"pieces": pieces} if pieces else {}),
    }


def _word_tree(word: Word) -> dict[str, Any]:
    tree = {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
    return tree if word.confidence is None else {**tree, "confidence": round(word.confidence, 3)}


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False)


def _text_lines(transcripts: Iterable[Transcript]) -> Iterator[str]:
    return (f"{transcript.name}\t{transcript.text}" for transcript in transcripts)


def _json_list(transcripts: Iterable[Transcript]) -> Iterator[str]:
    yield _json([as_tree(transcript) for transcript in transcripts])


FORMATS = {
    "txt": TranscriptFormat(lambda transcript: transcript.text, _text_lines, timed=False),
    "json": TranscriptFormat(lambda transcript: _json(as_tree(transcript)), _json_list),
    "srt": TranscriptFormat(lambda transcript: srt(transcript.words, transcript.seconds)),
    "vtt": TranscriptFormat(lambda transcript: vtt(transcript.words, transcript.seconds)),
}
