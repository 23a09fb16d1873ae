"""Limits of requests to a served model, and the order in which concurrent requests are computed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from trainables.config.parsing import problems
from trainables.decoding import Search
from trainables.errors import InputError
from trainables.inference.recognizer import BATCH_FRAMES, Recognizer, TimedText

TURN_SECONDS = {"cpu": 100.0, "cuda": 300.0}  # of audio: seconds of work, and enough for efficient batches


class RequestLimits(BaseModel):
    """Upper limits of one request.

    Attributes:
        megabytes: size of the body, and of each audio file in it; 10^6 bytes.
        seconds: total duration of the recordings.
        channels: channels of a recording.
        rate: sample rate of a recording in Hz.
        characters: length of a text for a language model.
        megabytes_at_once: total size of concurrent requests; others wait, unread. MLflow needs 16 times as much memory.
        hotwords: length of the decoding option `hotwords`, in characters.
        beam, editing_steps: the largest values of these decoding options that a request may ask for.
        values: commas, quotes, braces and brackets in the JSON; each may need 400 bytes of memory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    megabytes: float = Field(20.0, ge=1)
    seconds: float = Field(600.0, ge=1)
    channels: float = Field(8, ge=1)
    rate: float = Field(192_000, ge=1)
    characters: float = Field(10_000, ge=1)
    hotwords: float = Field(1_000, ge=1)
    beam: float = Field(32, ge=1)
    editing_steps: float = Field(10, ge=1)
    megabytes_at_once: float = Field(60.0, ge=1)
    values: float = Field(100_000, ge=1)

    @classmethod
    def of(cls, changes: Mapping[str, Any]) -> Self:
        """The default limits with changes.

        Raises:
            InputError: a key is unknown, or a value is not a finite number of at least 1.
        """
        try:
            return cls(**changes)
        except ValidationError as error:
            raise InputError("\n".join(problems(error, cls)), "Limits are numbers of at least 1.") from None

    @property
    def bytes(self) -> float:
        """Largest body in bytes."""
        return self.megabytes * 1e6


UNLIMITED = RequestLimits().model_copy(update=dict.fromkeys(RequestLimits.model_fields, math.inf))


class RequestError(ValueError):
    """A request that is refused.

    Args:
        reason: message for the client, without the request's content.
        status: status of the HTTP answer.
    """

    code = "INVALID_PARAMETER_VALUE"  # MLflow's name for such errors

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


class LateError(RuntimeError):
    """The deadline of a request has passed: its client no longer waits for an answer."""


class Turns:
    """Lets one thread work at a time; the waiting thread with the smallest request is next.

    A long request delays a short one by at most one turn. Of equal requests, the earliest is finished first.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, float, int]] = []
        self._tickets = count()
        self._taken = False

    @contextmanager
    def turn(self, amount: float, deadline: float = math.inf) -> Iterator[None]:
        """Waits for a turn and holds it for the time of the block.

        Args:
            amount: size of the whole request, such as its seconds of audio.
            deadline: on the clock of `time.monotonic`.

        Raises:
            LateError: the deadline passed first.
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
    """A recogniser for concurrent requests, each of which transcribes a few seconds of audio in a turn.

    Args:
        turns: shared by all requests to the model.
        seconds: duration of the audio in the request.
        deadline: on the clock of `time.monotonic`, after which transcribing raises LateError.
    """

    turns: Turns = field(default_factory=Turns)
    seconds: float = 0.0
    deadline: float = math.inf

    def for_request(self, seconds: float, deadline: float) -> Self:
        """A view of this recogniser for a request with `seconds` of audio."""
        return replace(self, seconds=seconds, deadline=deadline)

    def transcribe_timed(
        self,
        features: Sequence[np.ndarray | Tensor],
        search: Search | None = None,
        timed: bool = True,
        batch_frames: int = BATCH_FRAMES,
        nbest: int = 0,
    ) -> list[TimedText]:
        """Texts of utterances as `Recognizer.transcribe_timed` gives them, computed in turns.

        Raises:
            LateError: the deadline has passed.
        """
        search = search or self.search()
        found: list[TimedText] = []
        for some in self._portions(features):
            with self.turns.turn(self.seconds, self.deadline):
                found += super().transcribe_timed(features[some], search, timed, batch_frames, nbest)
        return found

    def _portions(self, features: Sequence[np.ndarray | Tensor]) -> Iterator[slice]:
        """Yields slices of `features`; the utterances of a slice, at least one, are transcribed in one turn."""
        most = TURN_SECONDS["cuda" if self.device.type == "cuda" else "cpu"] * self.recipe.frames_per_second
        start = frames = 0
        for number, item in enumerate(features):
            if number > start and frames + len(item) > most:
                yield slice(start, number)
                start, frames = number, 0
            frames += len(item)
        if start < len(features):
            yield slice(start, len(features))
