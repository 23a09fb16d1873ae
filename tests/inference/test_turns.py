"""Several requests share one model: in turns, the smallest first, with the results that each would have alone."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import tiny
from tiny import Learned

from trainables.errors import InputError
from trainables.inference import serving
from trainables.inference.serving import LateError, RequestLimits, SharedRecognizer, Turns


def shared(learned: Learned) -> SharedRecognizer:
    one = learned.recognizer
    return SharedRecognizer(**{item.name: getattr(one, item.name) for item in fields(one)})


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0, 1000.0])
def test_turns_change_no_result(seconds: float, learned: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many utterances fit into one."""
    monkeypatch.setattr(serving, "TURN_SECONDS", {"cpu": seconds})
    random = np.random.default_rng(7)
    speech = [tiny.utterance(text, random) for text in ("CAB", "A BAD CAB", "BEAD", "FADE A BEAD", "ACE")]
    one, other = learned.recognizer, shared(learned)
    texts = one.transcribe(speech)
    assert other.transcribe(speech) == texts and other.transcribe([]) == []
    assert other.transcribe_timed(speech) == one.transcribe_timed(speech)


def test_the_smallest_request_is_next_and_of_equal_ones_the_earliest() -> None:
    turns, order = Turns(), []
    requests = [(600.0, 1.0), (5.0, 4.0), (600.0, 2.0), (5.0, 3.0)]  # amounts, and deadlines in hours from now
    now, ready = time.monotonic(), threading.Barrier(len(requests) + 1)

    def work(amount: float, hours: float) -> None:
        ready.wait()
        for _ in range(3):
            with turns.turn(amount, now + 3600 * hours):
                order.append((amount, hours))

    threads = [threading.Thread(target=work, args=request) for request in requests]
    for thread in threads:
        thread.start()
    with turns.turn(0.0):
        ready.wait()
        while len(turns._waiting) < len(requests):
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    first = {request: order.index(request) for request in requests}
    assert sorted(requests, key=first.__getitem__) == sorted(requests)
    assert len(order) == 3 * len(requests)


def test_a_request_that_is_late_ends_and_holds_up_nobody(learned: Learned) -> None:
    """Before it begins, while it waits, and between two of its turns."""
    recognizer = shared(learned)
    speech = [tiny.utterance("CAB", np.random.default_rng(7))]
    with pytest.raises(LateError):
        recognizer.for_request(1.0, time.monotonic()).transcribe(speech)
    with recognizer.turns.turn(0.0), pytest.raises(LateError):
        recognizer.for_request(1.0, time.monotonic() + 0.05).transcribe_timed(speech)
    with pytest.raises(ZeroDivisionError), recognizer.turns.turn(0.0):
        raise ZeroDivisionError
    assert recognizer.for_request(1.0, math.inf).transcribe(speech) == learned.recognizer.transcribe(speech)
    assert recognizer.turns._waiting == []


def test_limits_may_be_changed() -> None:
    assert RequestLimits.of({}) == RequestLimits()
    assert RequestLimits.of({"seconds": 3600, "megabytes": 1.5}) == RequestLimits(seconds=3600, megabytes=1.5)


@pytest.mark.parametrize(("key", "value"), [
    ("second", 3600), ("seconds", 0), ("seconds", -1), ("rate", "48k"), ("channels", True), ("values", math.nan),
    ("megabytes", math.inf), ("megabytes", None),
])  # fmt: skip
def test_what_is_no_limit_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{key}: ") as error:
        RequestLimits.of({key: value})
    assert error.value.remedy
