"""Speeds at which an utterance is searched, written as numbers separated by commas."""

from __future__ import annotations

from trainables.bounds import FASTEST_SPEED, MOST_SPEEDS, SLOWEST_SPEED


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a text such as `0.8, 1, 1.25`; raises ValueError where a part is none."""
    return tuple(float(part) for part in text.split(","))


def checked_speeds(text: str) -> str:
    """The text itself, if it is a list of speeds.

    Raises:
        ValueError: it is none, or has too many, or a speed is too low or too high.
    """
    try:
        found = numbers(text)
    except ValueError:
        raise ValueError(f"{text!r} must be numbers separated by commas, such as 0.8, 1, 1.25") from None
    if len(found) > MOST_SPEEDS or not all(SLOWEST_SPEED <= one <= FASTEST_SPEED for one in found):
        raise ValueError(f"{text!r} must be 1 to {MOST_SPEEDS} numbers from {SLOWEST_SPEED:g} to {FASTEST_SPEED:g}")
    return text
