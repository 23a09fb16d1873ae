"""How a run of a sweep ends before its last trial: a signal, a cap, a failure that every trial would meet.

Whoever finds a reason to stop says so to one object. Ray Tune asks it after each step and then ends all trials, which
stay unfinished in the ledger and go on with --resume.
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

# Ctrl-C, what Slurm, containers and systemd send, and what a closed terminal sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Unsaved:
    """Tune writes copies of what it is given into a file for its own restoring, which is never used here."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class Interrupt(Unsaved, tune.Stopper):
    """Ends the run once anybody has asked for it; the first reason counts.

    Attributes:
        state: how the run ends: `stopped` by a signal, `capped`, `failed`; `finished` where nobody stops it.
        reason: which cap, or what failed, in words.
    """

    def __init__(self) -> None:
        self.state: RunState = "finished"
        self.reason = ""

    def stop(self, state: RunState, reason: str = "") -> None:
        if not self.asked:
            self.state, self.reason = state, reason

    @property
    def asked(self) -> bool:
        return self.state != "finished"

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.asked

    def stop_all(self) -> bool:
        return self.asked


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a clean stop; the next one raises KeyboardInterrupt.

    A signal that the process was told to ignore (nohup) stays ignored. Outside the main thread, which alone receives
    signals, nothing is changed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    signals = itertools.count(1)

    def ask(number: int, frame: FrameType | None) -> None:
        interrupt.stop("stopped")  # a cap or a failure that came first stays the reason
        if next(signals) > 1:
            raise KeyboardInterrupt

    former = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number, handler in former.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, ask)
    try:
        yield interrupt
    finally:
        for number in heeded:
            signal.signal(number, former[number])
