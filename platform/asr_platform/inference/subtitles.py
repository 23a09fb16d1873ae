"""Phrases of timed words, and the subtitle formats SRT and WebVTT.

Sizes follow the guidelines of the BBC (37 to 42 characters a line, two lines) and Netflix (42 characters, two lines,
5/6 to 7 seconds).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.decoding import Word

LINE_CHARACTERS = 42
LINES = 2
LONGEST_SECONDS = 6.0  # of a phrase
PAUSE_SECONDS = 0.8  # pause between two words at which a new phrase begins
SHORTEST_SECONDS = 1.0  # on the screen, unless the next phrase begins sooner


def phrases(words: Sequence[Word]) -> list[list[Word]]:
    """Groups words into phrases that fit on a screen; a phrase ends at a pause, or before it becomes too long."""
    found: list[list[Word]] = []
    for word in words:
        if found and word.start - found[-1][-1].end < PAUSE_SECONDS and _fits([*found[-1], word]):
            found[-1].append(word)
        else:
            found.append([word])
    return found


def text_of(words: Sequence[Word]) -> str:
    """Words as one text, separated by spaces."""
    return " ".join(word.text for word in words)


def srt(words: Sequence[Word], seconds: float) -> str:
    """SubRip subtitles: numbered cues, without escapes (the format has none).

    Args:
        seconds: duration of the recording.
    """
    return "\n\n".join(
        f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{chr(10).join(lines)}"
        for number, (start, end, lines) in enumerate(_cues(words, seconds), start=1)
    )


def vtt(words: Sequence[Word], seconds: float) -> str:
    """WebVTT subtitles (W3C, https://www.w3.org/TR/webvtt1), with &, < and > escaped.

    Args:
        seconds: duration of the recording.
    """
    cues = [
        f"{_time(start, '.')} --> {_time(end, '.')}\n{chr(10).join(escape(line, quote=False) for line in lines)}"
        for start, end, lines in _cues(words, seconds)
    ]
    return "\n\n".join(["WEBVTT", *cues])


def _cues(words: Sequence[Word], seconds: float) -> list[tuple[float, float, list[str]]]:
    """Start, end and lines of each phrase; a short one stays for `SHORTEST_SECONDS`, or until the next one begins."""
    found = phrases(words)
    cues = []
    for number, phrase in enumerate(found):
        start, end = phrase[0].start, phrase[-1].end
        limit = found[number + 1][0].start if number + 1 < len(found) else seconds
        # In WebVTT a cue must end after its start.
        cues.append((start, max(end, min(start + SHORTEST_SECONDS, limit), start + 0.001), _lines(phrase)))
    return cues


def _fits(phrase: list[Word]) -> bool:
    return phrase[-1].end - phrase[0].start <= LONGEST_SECONDS and len(_lines(phrase)) <= LINES


def _lines(phrase: list[Word]) -> list[str]:
    return textwrap.wrap(text_of(phrase), LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def _time(seconds: float, point: str) -> str:
    """A time such as `01:02:03,456`, with `point` before the milliseconds."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
