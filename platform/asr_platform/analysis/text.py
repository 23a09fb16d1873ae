"""English text from lists, counts and values."""

from __future__ import annotations

from collections.abc import Iterable


def enumerated(items: Iterable[object]) -> str:
    """Items as `a, b and c`."""
    *first, last = [*map(str, items)] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def enumerated_trials(numbers: Iterable[int]) -> str:
    """Trial numbers as `trial 2` or `trials 2, 3 and 7`."""
    found = list(numbers)
    return f"trial{'s' * (len(found) > 1)} {enumerated(found)}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 trial` or `2 trials`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def one_line(text: str, width: int = 40) -> str:
    """A text of several lines as one, cut off after `width` characters."""
    words = " ".join(text.split())
    return words if len(words) <= width else f"{words[: width - 1]}…"


def short_value(value: object) -> str:
    """Value of a configuration key with at most three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
