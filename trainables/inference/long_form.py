"""Transcription of recordings of any length: each piece of a recording is transcribed as an utterance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainables.data.features import SAMPLE_RATE, FeatureRecipe, Frames, Samples
from trainables.data.utterance import from_samples
from trainables.decoding import Search, Word
from trainables.inference.recognizer import Alternative, Recognizer, TimedText
from trainables.inference.segmentation import Piece, join_words, speech_pieces

MIN_PIECE_SECONDS, MAX_PIECE_SECONDS = 1.0, 30.0  # bounds of the default length of a piece


@dataclass(frozen=True)
class CutRecording:
    """A recording cut into pieces.

    Args:
        seconds: duration of the whole recording.
        pieces: the pieces with speech, in order.
        features: log-mel features (T, F) of each piece.
    """

    seconds: float
    pieces: list[Piece]
    features: list[Frames]

    @property
    def needs_times(self) -> bool:
        """Whether the words of its pieces need times, by which they are joined."""
        return len(self.pieces) > 1


class PieceTexts(NamedTuple):
    """The best hypotheses of a piece of a recording, best first; `start` and `end` in seconds."""

    start: float
    end: float
    alternatives: Sequence[Alternative]


class RecordingText(NamedTuple):
    """Text of a recording, its words with times in seconds from its start, and the best hypotheses of its pieces."""

    text: str
    words: list[Word]
    pieces: list[PieceTexts]


def longest_piece(recognizer: Recognizer) -> float:
    """Default of the longest piece in seconds: the duration that 90% of the training utterances do not exceed.

    It is at least 1 and at most 30.
    """
    return min(max(recognizer.usual_seconds, MIN_PIECE_SECONDS), MAX_PIECE_SECONDS)


def cut(samples: Samples, recipe: FeatureRecipe, longest: float, name: str) -> CutRecording:
    """Cuts a recording at silences and computes the features of the pieces with speech.

    Args:
        samples: (N,) at 16 kHz.
        longest: longest piece in seconds.
        name: name of the recording in messages.

    Raises:
        InputError: the recording is too short for one frame.
    """
    spoken = speech_pieces(samples, longest)
    features = [from_samples(samples[piece.start : piece.end], recipe, name)[0] for piece in spoken]
    return CutRecording(len(samples) / SAMPLE_RATE, spoken, features)


def transcribe_cuts(
    recognizer: Recognizer, recordings: Sequence[CutRecording], timed: bool = False, search: Search | None = None,
    nbest: int = 0,
) -> Iterator[RecordingText]:  # fmt: skip
    """Text of each recording, in order, and if `timed` its words.

    Args:
        search: a search made by `recognizer.search`; None: the search of the configuration.
        nbest: number of best hypotheses of each piece, for a beam search; 0: none.
    """
    timed = timed or any(recording.needs_times for recording in recordings)
    features = [frames for recording in recordings for frames in recording.features]
    found = iter(recognizer.transcribe_timed(features, search, timed, nbest=nbest))
    for recording in recordings:
        yield joined(recording, found, nbest)


def joined(recording: CutRecording, found: Iterator[TimedText], nbest: int = 0) -> RecordingText:
    """Text of a recording from the texts of its pieces, which are taken from `found`.

    Args:
        nbest: number of best hypotheses that each piece was searched for; 0: none.
    """
    parts = [(piece, next(found)) for piece in recording.pieces]
    words = join_words([(piece, part.words) for piece, part in parts])
    text = parts[0][1].text if len(parts) == 1 else " ".join(word.text for word in words)
    best = [
        PieceTexts(piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE, part.alternatives)
        for piece, part in parts
        if nbest
    ]
    return RecordingText(text, words, best)
