"""Long recordings in pieces, and back together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainables.data.features import SAMPLE_RATE, Samples
from trainables.decoding import Word
from trainables.inference.segmentation import LEVEL_SAMPLES, Piece, join_words, pieces, speech_pieces

MARGIN = 0.1  # seconds of silence on each side of a cut
LEVEL = LEVEL_SAMPLES / SAMPLE_RATE  # how finely a silence is seen

# Speech and silence in turns, in seconds; some silences too short to be cut in.
TURNS = st.lists(st.tuples(st.floats(0.05, 9), st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 2.0, 8.0])), max_size=12)


def recorded(turns: Sequence[tuple[float, float]], noise: float) -> tuple[Samples, list[tuple[float, float]]]:
    """Loud and quiet noise in turns, and where the quiet is."""
    random = np.random.default_rng(0)
    parts, quiet, now = [], [], 0.0
    for speech, silence in turns:
        parts += [0.2 * random.normal(size=round(speech * SAMPLE_RATE))]
        parts += [noise * random.normal(size=round(silence * SAMPLE_RATE))]
        quiet.append((now + len(parts[-2]) / SAMPLE_RATE, now + (len(parts[-2]) + len(parts[-1])) / SAMPLE_RATE))
        now = quiet[-1][1]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32), quiet


# A level with a few samples of sound in it counts as silent: the cut must be as far from it as from others.
@example([(0.5937, 2.0), (1.0801, 0.0), (1.8663, 0.1), (4.4004, 0.3)], 0.02, 1.0)
@example([(0.593715, 2.0), (1.080058, 0.0), (1.866238, 0.1), (4.400337, 0.3)], 0.02, 1.0)
@example([(0.92025, 0.5), (1.15258, 2.0), (0.76347, 0.3)], 0.02, 1.0)
@given(TURNS.filter(len), st.sampled_from([0.0, 1e-4, 0.02]), st.sampled_from([1.0, 2.5, 6.01, 30.0]))
def test_pieces_cover_a_recording_and_end_in_silences(
    turns: list[tuple[float, float]], noise: float, longest: float
) -> None:
    samples, quiet = recorded(turns, noise)
    found = pieces(samples, longest)
    assert (found[0].start, found[-1].end) == (0, len(samples))
    assert all(piece.end - piece.start <= longest * SAMPLE_RATE for piece in found)
    if len(samples) <= longest * SAMPLE_RATE:
        assert len(found) == 1
    overlap = min(2.0, 0.25 * longest)
    for piece, following in pairwise(found):
        assert piece.start < following.start <= piece.end < following.end
        start, cut = piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE
        if following.start == piece.end:
            deep = [(a, b) for a, b in quiet if a + MARGIN - LEVEL <= cut <= b - MARGIN + LEVEL]
            assert deep, "in a silence"
        else:
            assert piece.end - piece.start == int(longest / LEVEL) * LEVEL_SAMPLES
            assert (piece.end - following.start) / SAMPLE_RATE == pytest.approx(overlap, abs=LEVEL)
            first, last = start + overlap + 2 * LEVEL, start + longest - LEVEL
            missed = [(a, b) for a, b in quiet if min(b - MARGIN, last) - max(a + MARGIN, first) > 2 * LEVEL]
            assert not missed, "there was no silence to cut in"


@given(TURNS.filter(len), st.sampled_from([1.0, 6.01]))
def test_a_piece_is_spoken_where_there_is_sound(turns: list[tuple[float, float]], longest: float) -> None:
    samples, _ = recorded(turns, 1e-4)
    for piece in pieces(samples, longest):
        if np.abs(samples[piece.start : piece.end]).max() < 1e-3:
            assert not piece.spoken
        elif (np.abs(samples[piece.start : piece.end]) > 1e-3).sum() > 2 * LEVEL_SAMPLES:
            assert piece.spoken


@given(TURNS.filter(len), st.sampled_from([1.0, 6.01]))
def test_silence_at_the_ends_of_pieces_is_cut_off(turns: list[tuple[float, float]], longest: float) -> None:
    """Half a second stays on both sides, and all speech; a recording of one piece stays whole."""
    samples, _ = recorded(turns, 1e-4)
    found, kept = speech_pieces(samples, longest), np.zeros(len(samples), bool)
    if len(samples) <= longest * SAMPLE_RATE:
        assert [(piece.start, piece.end) for piece in found] == [(0, len(samples))]
    for piece in found:
        kept[piece.start : piece.end] = True
        loud = np.flatnonzero(np.abs(samples[piece.start : piece.end]) > 1e-3)
        if len(samples) > longest * SAMPLE_RATE:
            silence = max(loud[0], piece.end - piece.start - loud[-1]) / SAMPLE_RATE
            assert silence <= 0.5 + 2 * LEVEL
    assert (~kept & (np.abs(samples) > 1e-3)).sum() <= 2 * LEVEL_SAMPLES * len(turns)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_silence_alone_is_not_spoken(noise: float) -> None:
    samples = (noise * np.random.default_rng(0).normal(size=100_000)).astype(np.float32)
    assert not any(piece.spoken for piece in pieces(samples, 2.0))


def test_a_steady_sound_has_no_silences() -> None:
    """A hum or a noise, however quiet: its pieces overlap."""
    times = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    for sound in (0.01 * np.sin(2 * np.pi * 100 * times), 0.01 * np.random.default_rng(0).normal(size=len(times))):
        found = pieces(sound.astype(np.float32), 6.0)
        assert all(piece.spoken for piece in found)
        assert all(following.start < piece.end for piece, following in pairwise(found))


def test_the_deepest_of_the_late_silences_is_chosen() -> None:
    samples, _ = recorded([(1.5, 2.0), (3.0, 0.3), (1.0, 0.5), (1.0, 0.3), (5.0, 0.0)], 1e-4)
    first, *_ = pieces(samples, 10.0)
    assert first.end / SAMPLE_RATE == pytest.approx(1.5 + 2.0 + 3.0 + 0.3 + 1.0 + 0.25, abs=LEVEL)


def test_a_limit_below_a_second_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 or more, but got 0\.5"):
        pieces(np.ones(10, np.float32), 0.5)


# Together again


def piece(start: float, end: float) -> Piece:
    return Piece(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE), spoken=True)


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.floats(0.15, 0.6), st.floats(0, 0.2)), min_size=30, max_size=60),
    st.sampled_from([None, "?", "A"]),
    st.integers(0, 1000),
)
def test_overlapping_pieces_give_what_was_said(
    said: list[tuple[str, float, float]], cut: str | None, seed: int
) -> None:
    """Each piece hears what is whole in it, at about the right time, and mistakes what its ends cut, or misses it."""
    random = np.random.default_rng(seed)
    words, now = [], 0.0
    for text, seconds, pause in said:
        words.append(Word(text, now, now + seconds))
        now += seconds + pause
    spans = [(start, min(start + 6.0, now)) for start in np.arange(0, max(now - 2.0, 1), 4.0)]

    def heard(start: float, end: float) -> list[Word]:
        found, late = [], random.uniform(-0.03, 0.03)
        for text, first, behind, _ in words:
            inside = start <= first and behind <= end
            if inside or (cut and first < end and behind > start):
                times = (max(first - start + late, 0), behind - start + late)
                found.append(Word(text if inside else cut or "", *times))
        return found

    found = join_words([(piece(start, end), heard(start, end)) for start, end in spans])
    assert [word.text for word in found] == [word.text for word in words]
    assert all(one.end <= other.start + 1e-9 for one, other in pairwise(found))
    assert all(0 <= word.start <= word.end <= now + 1 / SAMPLE_RATE for word in found)


def test_pieces_that_agree_in_nothing_part_in_the_middle() -> None:
    left = [Word("A", 0.0, 1.0), Word("B", 4.2, 4.8), Word("C", 5.2, 5.8)]
    right = [Word("D", 0.1, 0.7), Word("E", 1.3, 1.9), Word("F", 2.5, 3.0)]
    found = join_words([(piece(0, 6), left), (piece(4, 10), right)])
    assert [word.text for word in found] == ["A", "B", "E", "F"]
    assert found[2] == Word("E", 5.3, 5.9)


def test_pieces_side_by_side_follow_each_other() -> None:
    """Times are those of the recording, and no word ends behind its piece."""
    parts = [(piece(0, 2), [Word("A", 0.5, 2.1)]), (piece(2, 3), []), (piece(3, 5), [Word("A", 0.0, 0.5)])]
    assert join_words(parts) == [Word("A", 0.5, 2.0), Word("A", 3.0, 3.5)]
    assert join_words([]) == []
