"""Words as phrases, SRT and WebVTT."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asr_platform.inference.subtitles import phrases, srt, vtt
from trainables.decoding import Word

WORDS = st.lists(
    st.tuples(st.text("ab<&>-'é", min_size=1, max_size=12), st.floats(0.01, 2), st.sampled_from([0.0, 0.1, 0.79, 3.0])),
    max_size=60,
)
TIME = r"(\d\d+):([0-5]\d):([0-5]\d)[.,](\d{3})"
Cue = tuple[float, float, list[str]]


def spoken(parts: list[tuple[str, float, float]]) -> list[Word]:
    words, now = [], 0.0
    for text, seconds, pause in parts:
        words.append(Word(text, now, now + seconds))
        now += seconds + pause
    return words


def read(block: str) -> Cue:
    """A cue's seconds and lines."""
    times, *lines = block.split("\n")
    match = re.fullmatch(f"{TIME} --> {TIME}", times)
    assert match, times
    fields = [int(group) for group in match.groups()]
    start, end = (h * 3600 + m * 60 + s + ms / 1000 for h, m, s, ms in (fields[:4], fields[4:]))
    return start, end, lines


def check(cues: list[Cue], words: list[Word], seconds: float) -> None:
    """They can be read, do not overlap, and say all words while they are said."""
    assert [word for _, _, lines in cues for line in lines for word in line.split()] == [word.text for word in words]
    starts = iter(words)
    for start, end, lines in cues:
        said = [next(starts) for line in lines for _ in line.split()]
        assert abs(start - said[0].start) <= 0.00051 and end >= said[-1].end - 0.00051
        assert end > start
        assert 1 <= len(lines) <= 2 and max(map(len, lines)) <= 42
        assert end - start <= 6.001
    for (_, end, _), (start, _, _) in pairwise(cues):
        assert end <= start
    assert not cues or cues[-1][1] <= max(seconds, words[-1].end) + 0.00051


@given(WORDS, st.floats(0, 3))
def test_srt(parts: list[tuple[str, float, float]], silence: float) -> None:
    words = spoken(parts)
    seconds = (words[-1].end if words else 0) + silence
    blocks = [block.split("\n", 1) for block in srt(words, seconds).split("\n\n") if block]
    assert [number for number, _ in blocks] == [str(number) for number in range(1, len(blocks) + 1)]
    assert all("." not in block.split("\n")[0] for _, block in blocks)
    check([read(block) for _, block in blocks], words, seconds)


@given(WORDS, st.floats(0, 3))
def test_vtt(parts: list[tuple[str, float, float]], silence: float) -> None:
    words = spoken(parts)
    seconds = (words[-1].end if words else 0) + silence
    head, *blocks = vtt(words, seconds).split("\n\n")
    assert head == "WEBVTT"
    assert all("," not in block.split("\n")[0] for block in blocks)
    found = [read(block) for block in blocks]
    assert not any(re.search("[<>]|&(?!(amp|lt|gt);)", line) for _, _, lines in found for line in lines)
    check([(start, end, [unescape(line) for line in lines]) for start, end, lines in found], words, seconds)


def test_how_they_look() -> None:
    words = [Word("FIVE", 3599.9996, 3600.2), Word("<&>", 3600.3, 3600.9), Word("NINE", 3602.0, 3602.1)]
    assert srt(words, 3605.0) == (
        "1\n01:00:00,000 --> 01:00:01,000\nFIVE <&>\n\n2\n01:00:02,000 --> 01:00:03,000\nNINE"
    )
    assert vtt(words, 3602.5) == (
        "WEBVTT\n\n01:00:00.000 --> 01:00:01.000\nFIVE &lt;&amp;&gt;\n\n01:00:02.000 --> 01:00:02.500\nNINE"
    )
    assert (srt([], 9.0), vtt([], 9.0)) == ("", "WEBVTT")


def test_what_begins_a_phrase() -> None:
    """A pause, more than two lines, or more than six seconds."""
    word = "ABCDEFGHI"  # four of them and their spaces are 39 characters
    flowing = [Word(word, 0.5 * n, 0.5 * n + 0.4) for n in range(9)]
    assert [len(phrase) for phrase in phrases(flowing)] == [8, 1]
    paused = [*flowing[:3], *(Word(text, start + 0.8, end + 0.8) for text, start, end, _ in flowing[3:6])]
    assert [len(phrase) for phrase in phrases(paused)] == [3, 3]
    slow = [Word("A", 1.5 * n, 1.5 * n + 1.4) for n in range(6)]
    assert [len(phrase) for phrase in phrases(slow)] == [4, 2]


def test_a_word_longer_than_a_line_stays_whole() -> None:
    assert srt([Word("A" * 60, 0.0, 1.0)], 1.0).endswith("\n" + "A" * 60)
