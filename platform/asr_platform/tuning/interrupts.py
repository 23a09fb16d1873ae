"""Stops a run of a sweep early: after a signal, at a spending limit, or when every trial fails.

Code that finds a reason to stop calls `Interrupt.stop`. Ray Tune asks the interrupt after each step, and then ends all
trials, which stay unfinished in the ledger and continue with --resume.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray import tune

from asr_platform.study.run_record import RunState

# Ctrl-C; the signal of Slurm, containers and systemd; the signal of a closed terminal.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTICE = signal.SIGUSR1  # as Slurm's --signal gives it minutes before a job ends


class NotPickled:
    """Base of objects that pickle to nothing: Ray Tune pickles its arguments for a way to resume that is not used."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class Interrupt(NotPickled, tune.Stopper):
    """Request to end the run early; the first reason counts.

    Attributes:
        is_patient: whether the first signal lets a run stop cleanly; before there is one, it ends the command at once.
        leaving: whether there was a notice: the machines will be gone in a minute or two. Trials then save a checkpoint
            of their unfinished epochs before the run is stopped (`loop/departure.py`).
        state: `stopped` by a signal, `capped` by a spending limit, `paused`, or `failed`; `finished` without a request.
        reason: spending limit or failure in words.
    """

    def __init__(self) -> None:
        self.is_patient = self.leaving = False
        self.state: RunState = "finished"
        self.reason = ""

    def stop(self, state: RunState, reason: str = "") -> None:
        if not self.requested:
            self.state, self.reason = state, reason

    @property
    def requested(self) -> bool:
        return self.state != "finished"

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.requested

    def stop_all(self) -> bool:
        return self.requested


@contextmanager
def stop_on_signals() -> Iterator[Interrupt]:
    """Yields an interrupt that the first Ctrl-C, SIGTERM or SIGHUP stops; the second raises KeyboardInterrupt.

    The first one does so too until the interrupt is patient, and so does SIGUSR1, a notice (`Interrupt.leaving`).

    Ignored signals (nohup) stay ignored. Signals are only handled if the block is in the main thread.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    signals = itertools.count(1)

    def handle(number: int, frame: FrameType | None) -> None:
        interrupt.stop("stopped")
        if next(signals) > 1 or not interrupt.is_patient:
            raise KeyboardInterrupt

    def heed(number: int, frame: FrameType | None) -> None:
        interrupt.leaving = True
        if not interrupt.is_patient:
            interrupt.stop("stopped")
            raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, NOTICE)}
    handled = [number for number, handler in handlers.items() if handler is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, heed if number == NOTICE else handle)
    try:
        yield interrupt
    finally:
        for number in handled:
            signal.signal(number, handlers[number])
