"""A long recording as pieces that a model can take, and the words of the pieces as one text again.

A piece ends in a silence where there is one. Where there is none, the next piece begins a little before its end, so
that no word is cut in both, and what both heard is joined by the times of the words.

Shapes: N samples, T levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.data.features import SAMPLE_RATE, Samples
from trainables.decoding import Word

LEVEL_SAMPLES = SAMPLE_RATE // 50  # of each level: 20 ms, longer than the period of the lowest voice
LOWEST_LEVEL = -65.0  # dB of full scale: nobody speaks below it
QUIETEST = 0.1  # the quantile of the levels that stands for a recording's pauses
SILENT_SHARE = 0.3  # of the way from there to the loudest: below it is silence
CONTRAST = 10.0  # dB at least from silence to the loudest: a steady noise has no silences
SILENCE = 5  # levels on each side of a cut that must be silent: 0.1 s
LONG_SILENCE = 15  # more than so many do not make a better place
# Where there is no silence: how long two pieces overlap, and at most as a share of the longest piece.
OVERLAP_SECONDS, OVERLAP_SHARE = 2.0, 0.25
SAME_WORD_SECONDS = 0.5  # by which the times of a word may differ between two pieces that both heard it


@dataclass(frozen=True)
class Piece:
    """A part of a recording, in samples.

    Args:
        spoken: whether anything in it is louder than silence.
    """

    start: int
    end: int
    spoken: bool


def pieces(samples: Samples, longest_seconds: float) -> list[Piece]:
    """Pieces that cover 16 kHz samples (N,) in order, none longer than `longest_seconds`, which is 1 or more.

    Each ends as deep in a silence as possible: in the second half of what it may hold, else in the first. Behind a
    piece without any, the next begins before its end.
    """
    if longest_seconds < 1:
        raise ValueError(f"longest_seconds must be 1 or more, but got {longest_seconds}")
    levels_T = _levels(samples)
    silent_T = levels_T < _threshold(levels_T)
    depth_T = np.minimum(_depth(silent_T), LONG_SILENCE)
    longest = int(longest_seconds * SAMPLE_RATE / LEVEL_SAMPLES)
    overlap = int(min(OVERLAP_SECONDS * SAMPLE_RATE / LEVEL_SAMPLES, OVERLAP_SHARE * longest))
    found: list[Piece] = []
    start = 0
    while len(samples) - start * LEVEL_SAMPLES > longest_seconds * SAMPLE_RATE:
        half, last = start + longest // 2, start + longest
        cut = _deepest(depth_T, half, last) or _deepest(depth_T, start + overlap + 1, half)
        found.append(_piece(start, cut or last, silent_T, len(samples)))
        start = cut or last - overlap
    found.append(_piece(start, len(levels_T), silent_T, len(samples)))
    return found


def _levels(samples: Samples) -> npt.NDArray[np.float32]:
    """The power of every 20 ms in dB of full scale (T,)."""
    padded = np.pad(samples, (0, -len(samples) % LEVEL_SAMPLES)).reshape(-1, LEVEL_SAMPLES)
    power = np.einsum("ts,ts->t", padded, padded) / LEVEL_SAMPLES
    return 10 * np.log10(np.maximum(power, 1e-10))


def _threshold(levels_T: npt.NDArray[np.float32]) -> float:
    """The level in dB below which a recording is silent."""
    quietest, loudest = np.quantile(levels_T, QUIETEST), levels_T.max()
    return float(max(LOWEST_LEVEL, min(quietest + SILENT_SHARE * (loudest - quietest), loudest - CONTRAST)))


def _depth(silent_T: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How deep in a silence a cut before each level is: the silent levels on that side of it where there are fewer.

    At most 0 beside a sound, and at an end of the recording.
    """
    places = np.arange(len(silent_T))
    before = np.maximum.accumulate(np.where(silent_T, -1, places))
    behind = np.minimum.accumulate(np.where(silent_T, len(silent_T), places)[::-1])[::-1]
    return np.minimum(places - before - 1, behind - places)


def _deepest(depth_T: npt.NDArray[np.int64], first: int, last: int) -> int | None:
    """The latest of the deepest places from `first` to `last`, None where no silence is long enough."""
    window = depth_T[first : last + 1]
    if not len(window) or window.max() < SILENCE:
        return None
    return last - int(window[::-1].argmax())


def _piece(first: int, behind: int, silent_T: npt.NDArray[np.bool_], samples: int) -> Piece:
    return Piece(first * LEVEL_SAMPLES, min(behind * LEVEL_SAMPLES, samples), spoken=not silent_T[first:behind].all())


def join_words(parts: Sequence[tuple[Piece, Sequence[Word]]]) -> list[Word]:
    """The words of a recording from those of its pieces, in order.

    Where two pieces overlap, one follows the other behind a word that both heard at about the same time. Without such
    a word, they part in the middle of the overlap.

    Args:
        parts: with times in seconds from the start of each piece; the result has them from that of the recording.
    """
    found: list[Word] = []
    heard = 0.0  # seconds up to which the pieces so far reach
    for piece, words in parts:
        start, end = piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE
        later = [Word(word.text, min(start + word.start, end), min(start + word.end, end)) for word in words]
        if start < heard:
            found, later = _parted(found, later, start, heard)
        last = found[-1].end if found else 0.0
        found += [Word(word.text, max(word.start, last), max(word.end, last)) for word in later]
        heard = end
    return found


def _parted(left: list[Word], right: list[Word], start: float, end: float) -> tuple[list[Word], list[Word]]:
    """What is kept of the words of two pieces that both heard the seconds from `start` to `end`."""
    late = [(i, word) for i, word in enumerate(left) if word.end > start]
    early = [(j, word) for j, word in enumerate(right) if word.start < end]
    twice = [
        (abs(_middle(one) - _middle(other)), i, j) for i, one in late for j, other in early if one.text == other.text
    ]
    apart, i, j = min(twice, default=(SAME_WORD_SECONDS, 0, 0))
    if apart < SAME_WORD_SECONDS:
        return left[: i + 1], right[j + 1 :]
    middle = (start + end) / 2
    return [word for word in left if _middle(word) < middle], [word for word in right if _middle(word) >= middle]


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
