"""Work callbacks the event loop: in order, none twice, none lost, failures said."""

from __future__ import annotations

import threading

import records

from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import TrialRecord
from asr_platform.tuning.callbacks.background import Background, InBackground


class Told(Callback):
    """Remembers what it is told; with a gate, it waits there first."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.steps: list[tuple[str, int, int]] = []

    def on_trial_start(self, trial: TrialRecord) -> None:
        self._remember("on_trial_start", trial)

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self._remember("on_epoch_end", trial)

    def on_trial_end(self, trial: TrialRecord) -> None:
        self._remember("on_trial_end", trial)

    def _remember(self, step: str, trial: TrialRecord) -> None:
        assert self.gate.wait(60)
        self.steps.append((step, trial.number, trial.epochs))


def test_the_caller_does_not_wait_and_the_order_stays() -> None:
    """Of one trial's progress that still waits to be told, the latest is told: everything is on record."""
    background, told = Background(print), Told()
    callbacks = InBackground(background, [told])
    callbacks.on_trial_start(records.trial(0, "running"))
    while background.current != "Told.on_trial_start of trial 0":
        pass
    for epochs in (1, 2, 3):
        callbacks.on_epoch_end(records.trial(0, "running", [0.5] * epochs))
        callbacks.on_epoch_end(records.trial(1, "running", [0.5] * epochs))
    callbacks.on_trial_end(records.trial(0, "complete", [0.5] * 3))
    assert told.steps == []
    told.gate.set()
    background.drain()
    assert told.steps == [
        ("on_trial_start", 0, 0),
        ("on_epoch_end", 0, 3),
        ("on_epoch_end", 1, 3),
        ("on_trial_end", 0, 3),
    ]
    assert background.current == ""


def test_a_failure_is_said_once_and_ends_nothing() -> None:
    said: list[str] = []
    background, done = Background(said.append), list[int]()

    def fail() -> None:
        raise ValueError("no room for pictures")

    for number in range(3):
        background.do("drawing", fail)
        background.do("more", lambda number=number: done.append(number))
    background.drain()
    assert said == ["drawing failed: ValueError: no room for pictures"]
    assert done == [0, 1, 2]
