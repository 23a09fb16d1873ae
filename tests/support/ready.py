"""What worker processes do in tests, in a module of its own: they load it, and it should be quick to load."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass

import numpy as np

from trainables.data.features import FeatureRecipe
from trainables.data.utterance import Featurised


@dataclass(frozen=True)
class Ready:
    """A source without audio, whose frames all hold one value."""

    value: float = 0.0
    frames: int = 4

    def features(self, recipe: FeatureRecipe) -> Featurised:
        return np.full((self.frames, recipe.bins), self.value, np.float32), self.frames * recipe.hop_seconds


def end_process(number: float) -> float:
    """Returns a number; at 5, ends this process as the system does where memory runs out."""
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exhaust_memory(number: int) -> int:
    """Returns 0; at 5, asks for a petabyte."""
    return int(np.zeros(2**50 if number == 5 else 1)[0])


class KeywordError(Exception):
    """An error that pickle cannot build again."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"{number} is too large")


def refuse(number: int) -> int:
    """Returns a number; from 5 on, raises an error that pickle cannot build again."""
    if number >= 5:
        raise KeywordError(number=number)
    return number


class Unreadable:
    """An item that can be sent, and not be read."""

    def __reduce__(self) -> tuple[object, ...]:
        return math.sqrt, (-1,)


def unpicklable(number: int) -> object:
    """Returns a function that pickle cannot write."""
    return lambda: number
