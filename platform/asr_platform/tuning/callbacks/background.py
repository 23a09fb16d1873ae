"""Work beside Ray Tune's event loop: pictures, MLflow, checkpoint retention.

The event loop must return to Ray at once: while it is busy, no trial starts, ends or is stopped. So what takes long, or
may wait for a server, is done by one thread, in the order in which it was asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import TrialRecord


class Background:
    """Runs jobs one after the other on a thread of its own.

    Args:
        say: is told of each kind of failure once; a job that fails ends neither the thread nor the sweep.

    Attributes:
        current: what the job that is being done does; empty where there is none.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.current = ""
        self.failures: set[str] = set()
        self._jobs: dict[Hashable, tuple[str, Callable[[], None]]] = {}  # a dictionary keeps the order of arrival
        self._changed = threading.Condition()
        self._start()

    def do(self, what: str, job: Callable[[], None], key: Hashable = None) -> None:
        """Asks for a job; `what` it does, in words. It takes the place of one that still waits under the same key."""
        with self._changed:
            self._jobs[object() if key is None else key] = (what, job)
            self._changed.notify_all()

    def drain(self) -> None:
        """Waits until all that was asked for is done."""
        with self._changed:
            while self._jobs or self.current:
                self._changed.wait(1)  # in steps: a signal is heeded between them

    def do_next(self) -> bool:
        """Does the job that has waited longest; False where there is none."""
        with self._changed:
            if not self._jobs:
                return False
            what, job = self._jobs.pop(next(iter(self._jobs)))
            self.current = what
        try:
            job()
        except Exception as error:
            self._failed(f"{what} failed: {type(error).__name__}: {error}")
        with self._changed:
            self.current = ""
            self._changed.notify_all()
        return True

    def _start(self) -> None:
        threading.Thread(target=self._work, name="background", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    self._changed.wait()
            self.do_next()

    def _failed(self, text: str) -> None:
        if text not in self.failures:
            self.failures.add(text)
            self.say(text)


class Beside(Callback):
    """Tells callbacks of each step in the background, in their order.

    Where the same step of a trial is still waiting to be told, it is told once: callbacks look at what is on record.
    """

    def __init__(self, background: Background, callbacks: Sequence[Callback]) -> None:
        self.background, self.callbacks = background, callbacks

    def on_trial_start(self, trial: TrialRecord) -> None:
        self._tell("on_trial_start", trial)

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self._tell("on_epoch_end", trial)

    def on_trial_paused(self, trial: TrialRecord) -> None:
        self._tell("on_trial_paused", trial)

    def on_trial_end(self, trial: TrialRecord) -> None:
        self._tell("on_trial_end", trial)

    def _tell(self, step: str, trial: TrialRecord) -> None:
        for callback in self.callbacks:
            name = type(callback).__name__
            what = f"{name}.{step} of trial {trial.number}"
            self.background.do(what, partial(getattr(callback, step), trial), (name, step, trial.number))
