"""What the requests to one served model share: limits on what each may ask for, and turns on the processor."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any, Self

import numpy as np
from torch import Tensor

from trainables.decoding import Search
from trainables.errors import InputError
from trainables.inference.recognizer import BATCH_FRAMES, Recognizer, TimedText

TURN_SECONDS = {"cpu": 100.0, "cuda": 300.0}  # of audio: some seconds of work, and enough to be decoded as a batch


@dataclass(frozen=True)
class RequestLimits:
    """The most that one request may ask for.

    Args:
        megabytes: its body, and each audio file in it; 10^6 bytes.
        seconds: of audio, all recordings together.
        channels: of a recording.
        rate: of a recording, in Hz.
        characters: of a text for a language model.
        megabytes_at_once: of the requests worked on at once; others wait, unread. MLflow takes some 16 times as much
            memory.
        values: JSON's commas, quotes, braces and brackets: each may take 400 bytes of memory.
    """

    megabytes: float = 20.0
    seconds: float = 600.0
    channels: float = 8
    rate: float = 192_000
    characters: float = 10_000
    megabytes_at_once: float = 60.0
    values: float = 100_000

    @classmethod
    def of(cls, changes: dict[str, Any]) -> Self:
        """The defaults with some changed.

        Raises:
            InputError: an unknown key, or a value that is no finite number of at least 1.
        """
        known = [one.name for one in fields(cls)]
        for key, value in changes.items():
            if key not in known:
                raise InputError(f"{key}: no limit of a served model", f"The limits are {', '.join(known)}.")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 1 <= value < math.inf:
                raise InputError(f"{key}: {value!r} is no limit", "Give a number of at least 1.")
        return cls(**changes)

    @property
    def bytes(self) -> float:
        return self.megabytes * 1e6


UNLIMITED = RequestLimits(*[math.inf] * len(fields(RequestLimits)))


class LateError(RuntimeError):
    """A request's time is over: nobody waits for its answer."""


class Turns:
    """Lets one thread after the other work, the one with the smallest request first.

    So a long request delays a short one by a turn alone; and of equal ones the earliest is answered first, where equal
    shares would make all of them late.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, float, int]] = []
        self._tickets = count()
        self._taken = False

    @contextmanager
    def turn(self, amount: float, deadline: float = math.inf) -> Iterator[None]:
        """Waits for a turn, which lasts as long as the block.

        Args:
            amount: how much the whole request asks for.
            deadline: on the clock of `time.monotonic`.

        Raises:
            LateError: the deadline came first.
        """
        me = (amount, deadline, next(self._tickets))
        with self._changed:
            self._waiting.append(me)
            try:
                left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
                if left == 0 or not self._changed.wait_for(lambda: not self._taken and min(self._waiting) == me, left):
                    raise LateError
                self._taken = True
            finally:
                self._waiting.remove(me)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()


@dataclass
class SharedRecognizer(Recognizer):
    """A recogniser for several threads: each works a few seconds of audio at a time, in turns with the others.

    Args:
        turns: shared by all that have the same model.
        seconds: of audio in the request.
        deadline: on the clock of `time.monotonic`; then `transcribe` and `align` raise LateError.
    """

    turns: Turns = field(default_factory=Turns)
    seconds: float = 0.0
    deadline: float = math.inf

    def for_request(self, seconds: float, deadline: float) -> Self:
        """The same recogniser for a request with so much audio."""
        return replace(self, seconds=seconds, deadline=deadline)

    def transcribe_timed(
        self,
        features: Sequence[np.ndarray | Tensor],
        search: Search | None = None,
        timed: bool = True,
        batch_frames: int = BATCH_FRAMES,
    ) -> list[TimedText]:
        """Texts of utterances as `Recognizer.transcribe_timed` gives them, computed in turns.

        Raises:
            LateError: the deadline has passed.
        """
        search = search or self.search()
        found: list[TimedText] = []
        for some in self._portions(features):
            with self.turns.turn(self.seconds, self.deadline):
                found += super().transcribe_timed(features[some], search, timed, batch_frames)
        return found

    def _portions(self, features: Sequence[np.ndarray | Tensor]) -> Iterator[slice]:
        """Utterances that make up a turn, at least one."""
        most = TURN_SECONDS["cuda" if self.device.type == "cuda" else "cpu"] * self.recipe.frames_per_second
        start = frames = 0
        for number, item in enumerate(features):
            if number > start and frames + len(item) > most:
                yield slice(start, number)
                start, frames = number, 0
            frames += len(item)
        if start < len(features):
            yield slice(start, len(features))
