"""Work beside Ray Tune's event loop: plots, MLflow, checkpoint retention.

While the event loop is busy, no trial starts, ends or is stopped. So work that takes long or may wait for a server is
queued, and done by one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import TrialRecord


class Background:
    """Runs jobs one after the other in a thread.

    Args:
        say: prints a line for the user; called once for each different failure. A failed job does not end the sweep.

    Attributes:
        current: description of the running job; empty if there is none.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.current = ""
        self.failures: set[str] = set()
        self._jobs: dict[Hashable, tuple[str, Callable[[], None]]] = {}  # in order of arrival
        self._changed = threading.Condition()
        self._start()

    def do(self, description: str, job: Callable[[], None], key: Hashable = None) -> None:
        """Queues a job.

        Args:
            description: name of the job in messages.
            key: a waiting job with an equal key is replaced; None: no job is replaced.
        """
        with self._changed:
            self._jobs[object() if key is None else key] = (description, job)
            self._changed.notify_all()

    def drain(self) -> None:
        """Waits until all queued jobs are done."""
        with self._changed:
            while self._jobs or self.current:
                self._changed.wait(1)  # signals are handled between these waits

    def do_next(self) -> bool:
        """Runs the job that has waited longest; returns False if none waits."""
        with self._changed:
            if not self._jobs:
                return False
            self.current, job = self._jobs.pop(next(iter(self._jobs)))
        try:
            job()
        except Exception as error:
            failure = f"{self.current} failed: {type(error).__name__}: {error}"
            if failure not in self.failures:
                self.failures.add(failure)
                self.say(failure)
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


class InBackground(Callback):
    """Calls other callbacks in the background, in their order.

    A call replaces a waiting call of the same method for the same trial.
    """

    def __init__(self, background: Background, callbacks: Sequence[Callback]) -> None:
        self.background, self.callbacks = background, callbacks

    def on_trial_start(self, trial: TrialRecord) -> None:
        self._call("on_trial_start", trial)

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self._call("on_epoch_end", trial)

    def on_trial_paused(self, trial: TrialRecord) -> None:
        self._call("on_trial_paused", trial)

    def on_trial_end(self, trial: TrialRecord) -> None:
        self._call("on_trial_end", trial)

    def _call(self, method: str, trial: TrialRecord) -> None:
        for callback in self.callbacks:
            name = f"{type(callback).__name__}.{method}"
            job = partial(getattr(callback, method), trial)
            self.background.do(f"{name} of trial {trial.number}", job, key=(name, trial.number))
