"""Cutting of long recordings into pieces, and joining of the words of the pieces.

A piece ends in a silence where possible. Elsewhere the next piece overlaps it, so that each word is whole in one of
them, and the words of both are joined by their times.

Silence is what is quiet compared with the rest of the recording, so loud noises count as speech.

Shapes: N samples, T levels of 20 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.data.features import SAMPLE_RATE, Samples
from trainables.decoding import Word

LEVEL_SAMPLES = SAMPLE_RATE // 50  # 20 ms, longer than the period of the lowest voice
LEVELS_PER_SECOND = SAMPLE_RATE // LEVEL_SAMPLES
LOWEST_LEVEL = -65.0  # dB of full scale, below which there is no speech
PAUSE_QUANTILE = 0.1  # of the levels: the level of pauses
SILENCE_SHARE = 0.3  # position of the threshold between the level of pauses and the highest level
CONTRAST = 10.0  # dB from the threshold to the highest level, at least: a steady noise has no silences
SILENCE = 5  # levels that must be silent on each side of a cut: 0.1 s
LONG_SILENCE = 15  # levels on each side beyond which a longer silence is no better place for a cut
MARGIN = LEVELS_PER_SECOND // 2  # levels of silence kept before and after the speech of a piece
OVERLAP_SECONDS, OVERLAP_SHARE = 2.0, 0.25  # overlap of pieces without silence, and its largest share of a piece
SAME_WORD_SECONDS = 0.5  # largest difference between the times of a word in two pieces


@dataclass(frozen=True)
class Piece:
    """A part of a recording, from sample `start` to sample `end`; `spoken` unless all of it is silent."""

    start: int
    end: int
    spoken: bool


def speech_pieces(samples: Samples, longest_seconds: float) -> list[Piece]:
    """Pieces with speech of a recording, in order.

    Silence before and after the speech of a piece is cut off, but for half a second. A recording that is not longer
    than `longest_seconds` stays whole.

    Args:
        samples: (N,) at 16 kHz.
        longest_seconds: longest piece, 1 or more.
    """
    silent_T = _silent(samples)
    found = _cut(silent_T, len(samples), longest_seconds)
    return [_trimmed(piece, silent_T) if len(found) > 1 else piece for piece in found if piece.spoken]


def pieces(samples: Samples, longest_seconds: float) -> list[Piece]:
    """Pieces that cover a recording, in order.

    Each ends at the middle of the longest silence in its second half, else in its first half. A piece without silence
    has the full length, and the next one overlaps it.

    Args:
        samples: (N,) at 16 kHz.
        longest_seconds: longest piece, 1 or more.
    """
    return _cut(_silent(samples), len(samples), longest_seconds)


def _cut(silent_T: npt.NDArray[np.bool_], samples: int, longest_seconds: float) -> list[Piece]:
    if longest_seconds < 1:
        raise ValueError(f"longest_seconds must be 1 or more, but got {longest_seconds}")
    depth_T = np.minimum(_depth(silent_T), LONG_SILENCE)
    longest = int(longest_seconds * LEVELS_PER_SECOND)
    overlap = int(min(OVERLAP_SECONDS * LEVELS_PER_SECOND, OVERLAP_SHARE * longest))
    found: list[Piece] = []
    start = 0
    while samples - start * LEVEL_SAMPLES > longest_seconds * SAMPLE_RATE:
        half, last = start + longest // 2, start + longest
        cut = _deepest(depth_T, half, last) or _deepest(depth_T, start + overlap + 1, half)
        found.append(_piece(start, cut or last, silent_T, samples))
        start = cut or last - overlap
    found.append(_piece(start, len(silent_T), silent_T, samples))
    return found


def _silent(samples: Samples) -> npt.NDArray[np.bool_]:
    """Whether each 20 ms of a recording are silent, (T,): below a threshold that depends on all its levels."""
    padded = np.pad(samples, (0, -len(samples) % LEVEL_SAMPLES)).reshape(-1, LEVEL_SAMPLES)
    power = np.einsum("ts,ts->t", padded, padded) / LEVEL_SAMPLES
    levels_T = 10 * np.log10(np.maximum(power, 1e-10))  # dB of full scale
    pause, highest = np.quantile(levels_T, PAUSE_QUANTILE), levels_T.max()
    return levels_T < max(LOWEST_LEVEL, min(pause + SILENCE_SHARE * (highest - pause), highest - CONTRAST))


def _depth(silent_T: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number of silent levels before or after a cut at each level, whichever is lower, (T,); 0 or less near speech."""
    places = np.arange(len(silent_T))
    last_sound = np.maximum.accumulate(np.where(silent_T, -1, places))
    next_sound = np.minimum.accumulate(np.where(silent_T, len(silent_T), places)[::-1])[::-1]
    return np.minimum(places - last_sound - 1, next_sound - places)


def _deepest(depth_T: npt.NDArray[np.int64], first: int, last: int) -> int | None:
    """Last of the levels from `first` to `last` with the highest depth; None if no silence is long enough."""
    window = depth_T[first : last + 1]
    if not len(window) or window.max() < SILENCE:
        return None
    return last - int(window[::-1].argmax())


def _piece(first: int, end: int, silent_T: npt.NDArray[np.bool_], samples: int) -> Piece:
    return Piece(first * LEVEL_SAMPLES, min(end * LEVEL_SAMPLES, samples), spoken=not silent_T[first:end].all())


def _trimmed(piece: Piece, silent_T: npt.NDArray[np.bool_]) -> Piece:
    first = piece.start // LEVEL_SAMPLES
    sounds = first + np.flatnonzero(~silent_T[first : -(-piece.end // LEVEL_SAMPLES)])
    start, end = (int(sounds[0]) - MARGIN) * LEVEL_SAMPLES, (int(sounds[-1]) + 1 + MARGIN) * LEVEL_SAMPLES
    return Piece(max(piece.start, start), min(piece.end, end), spoken=True)


def join_words(parts: Sequence[tuple[Piece, Sequence[Word]]]) -> list[Word]:
    """Words of a recording, from the words of its pieces in order.

    Two overlapping pieces are joined at a word that both have at about the same time, or else in the middle of the
    overlap.

    Args:
        parts: words with times in seconds from the start of their piece; in the result, from that of the recording.
    """
    found: list[Word] = []
    covered = 0.0  # end of the piece before, in seconds
    for piece, words in parts:
        start, end = piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE
        later = [word._replace(start=min(start + word.start, end), end=min(start + word.end, end)) for word in words]
        if start < covered:
            found, later = _joined(found, later, start, covered)
        last = found[-1].end if found else 0.0
        found += [word._replace(start=max(word.start, last), end=max(word.end, last)) for word in later]
        covered = end
    return found


def _joined(left: list[Word], right: list[Word], start: float, end: float) -> tuple[list[Word], list[Word]]:
    """Words to keep of each of two pieces that overlap from `start` to `end`, in seconds."""
    late = [(i, word) for i, word in enumerate(left) if word.end > start]
    early = [(j, word) for j, word in enumerate(right) if word.start < end]
    common = [
        (abs(_middle(one) - _middle(other)), i, j) for i, one in late for j, other in early if one.text == other.text
    ]
    difference, i, j = min(common, default=(SAME_WORD_SECONDS, 0, 0))
    if difference < SAME_WORD_SECONDS:
        return left[: i + 1], right[j + 1 :]
    middle = (start + end) / 2
    return [word for word in left if _middle(word) < middle], [word for word in right if _middle(word) >= middle]


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2
