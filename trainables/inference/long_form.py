"""Long-form transcription: a recording of any length is heard in pieces, each as an utterance of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainables.data.features import Frames, Recipe, Samples
from trainables.data.utterance import from_samples
from trainables.decoding import Search, Word
from trainables.inference.recognizer import Recognizer
from trainables.inference.segmentation import Piece, joined, pieces

SHORTEST_LIMIT, LONGEST_LIMIT = 1.0, 30.0  # of a piece, in seconds, where nobody says how long it may be


@dataclass(frozen=True)
class Cut:
    """The pieces of a recording in which something was said, and the features (T, F) of each."""

    pieces: list[Piece]
    features: list[Frames]


def longest_piece(recognizer: Recognizer) -> float:
    """Seconds that a model can take at once: as long as nine of ten utterances in its training, 30 at most."""
    return min(max(recognizer.usual_seconds, SHORTEST_LIMIT), LONGEST_LIMIT)


def cut(samples: Samples, recipe: Recipe, longest: float, name: str) -> Cut:
    """Cuts 16 kHz samples (N,) at silences, into pieces of at most `longest` seconds; `name` is for messages.

    Raises:
        InputError: too short for one frame.
    """
    spoken = [piece for piece in pieces(samples, longest) if piece.spoken]
    return Cut(spoken, [from_samples(samples[piece.start : piece.end], recipe, name)[0] for piece in spoken])


def transcribe_cuts(
    recognizer: Recognizer, recordings: Sequence[Cut], timed: bool = False, search: Search | None = None
) -> Iterator[tuple[str, list[Word]]]:
    """The text of each recording in order, and with `timed` its words in seconds from its start.

    Args:
        search: of `recognizer.search`; None: as the configuration says.
    """
    features = [frames for recording in recordings for frames in recording.features]
    texts = recognizer.transcribe(features, search)
    several = any(len(recording.pieces) > 1 for recording in recordings)
    words = _words(recognizer, features, texts) if timed or several else [[] for _ in texts]
    each = zip(texts, words, strict=True)
    for recording in recordings:
        said = [(piece, *next(each)) for piece in recording.pieces]
        found = joined([(piece, words) for piece, _, words in said])
        yield said[0][1] if len(said) == 1 else " ".join(word.text for word in found), found


def _words(recognizer: Recognizer, features: list[Frames], texts: list[str]) -> list[list[Word]]:
    """The words of utterances, in seconds from the start of each.

    A model without CTC cannot tell when: its words are spread evenly, which is good enough to join pieces by.
    """
    if recognizer.config.loss.ctc_weight:
        return recognizer.align(features, texts)
    seconds = [len(frames) * recognizer.recipe.hop_seconds for frames in features]
    return [_spread(text.split(), length) for text, length in zip(texts, seconds, strict=True)]


def _spread(words: list[str], seconds: float) -> list[Word]:
    each = seconds / max(1, len(words))
    return [Word(word, number * each, (number + 1) * each) for number, word in enumerate(words)]
