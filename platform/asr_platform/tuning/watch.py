"""Runs Ray Tune's event loop in a thread, and watches from the main thread whether it still gets anywhere.

Where Ray's head or this machine's raylet is gone, the loop's calls to Ray never return, not even for a signal. The main
thread makes no such call: it heeds signals at once, leaves the loop behind once the cluster is gone, and says so when
nothing has happened for long.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ray.tune.experiment import Trial

from asr_platform.storage.home import TRIALS, trial_name
from asr_platform.storage.trial_logs import last_lines
from asr_platform.tuning.callbacks.background import Background
from asr_platform.tuning.cluster import Address
from asr_platform.tuning.connection import accepts
from asr_platform.tuning.interrupts import Interrupt

EVERY = 1.0  # seconds between looks
GONE_AFTER = 12.0  # seconds without an answer, after which a part of the cluster is gone
SILENCE = 600.0  # seconds without an event after which that is said, unless epochs take long
LONG_EPOCHS = 3.0  # so many times the longest epoch so far


class Watch:
    """Watches one run of a sweep.

    Args:
        folder: the sweep's own.
        interrupt: is asked to stop the run once the cluster is gone.
        background: whose current job is told when nothing moves.
        parts: the addresses of what a driver cannot do without, by their names in words.
        say: tells a person.
        silence: seconds without an event after which that is said.
    """

    def __init__(
        self, folder: Path, interrupt: Interrupt, background: Background, parts: Mapping[str, Address],
        say: Callable[[str], None], silence: float = SILENCE,
    ) -> None:  # fmt: skip
        self.folder, self.interrupt, self.background = folder, interrupt, background
        self.parts, self.say, self.silence = parts, say, silence
        self.answered = dict.fromkeys(parts, time.monotonic())  # when each part answered last
        self.trials: Sequence[Trial] = ()
        self.quiet_for = silence  # doubles each time that silence is told
        self.longest_epoch = 0.0
        self.last_event = time.monotonic()

    def step(self, trials: Sequence[Trial]) -> None:
        """The event loop has come round, with these trials."""
        self.trials = trials

    def heard(self, epoch_seconds: float = 0.0) -> None:
        """Something has happened: a trial began, ended, or reported an epoch that took so long."""
        self.last_event = time.monotonic()
        self.longest_epoch = max(self.longest_epoch, epoch_seconds)
        self.quiet_for = max(self.silence, LONG_EPOCHS * self.longest_epoch)

    def over(self, loop: Callable[[], None]) -> None:
        """Runs the event loop until it returns, or until a part of the cluster is gone: then it is left behind.

        Raises:
            Exception: what the loop raised, unless the cluster is gone.
        """
        raised: list[BaseException] = []
        self.loop = threading.Thread(target=_catching, args=[loop, raised], name="event loop", daemon=True)
        self.loop.start()
        while self.loop.is_alive():
            self.loop.join(EVERY)
            if gone := self._gone():
                self._leave(gone)
                return
            if time.monotonic() - self.last_event > self.quiet_for:
                self._tell_silence()
        # An error may be the first sign of a lost cluster, which tells more.
        while raised and not (gone := self._gone()):
            if all(map(accepts, self.parts.values())):
                raise raised[0]
            time.sleep(EVERY)
        if raised:
            self._leave(gone)

    def _leave(self, gone: Sequence[str]) -> None:
        reason = f"{' and '.join(gone)} cannot be reached any more"
        self.interrupt.stop("failed", reason)
        self.say(f"{reason}: the sweep stops")

    def _gone(self) -> list[str]:
        """The parts of the cluster that have not answered for `GONE_AFTER`.

        Only a connection is asked for: a process that stands still (SIGSTOP) is not noticed here, but by its silence.
        """
        for part, address in self.parts.items():
            if accepts(address):
                self.answered[part] = time.monotonic()
        return [part for part, when in self.answered.items() if time.monotonic() - when > GONE_AFTER]

    def _tell_silence(self) -> None:
        minutes = (time.monotonic() - self.last_event) / 60
        self.quiet_for *= 2
        self.say(f"nothing has happened for {minutes:.0f} min:")
        for line in self.waiting_for():
            self.say(f"  {line}")

    def waiting_for(self) -> list[str]:
        """One line for each unfinished trial, the event loop and the background: what it does or waits for."""
        lines = [self._trial_waits_for(trial) for trial in self.trials if not trial.is_finished()]
        frame = sys._current_frames().get(self.loop.ident or 0)
        if frame:
            at = traceback.extract_stack(frame)[-1]
            lines.append(f"the event loop: in {at.name} ({Path(at.filename).name}, line {at.lineno})")
        lines.append(f"beside it: {self.background.current or 'nothing to do'}")
        return lines

    def _trial_waits_for(self, trial: Trial) -> str:
        number = trial.config["number"]
        if trial.status == Trial.PENDING:
            asked = " and ".join(f"{amount:g} {name}" for name, amount in trial.config["resources"].items())
            return f"trial {number}: waits for room: {trial.config['workers']} workers of {asked}"
        _, lines = last_lines(self.folder / TRIALS / trial_name(number), 1)
        return f"trial {number}: in training; its log ends: {lines[0] if lines else 'nothing yet'}"


def _catching(loop: Callable[[], None], raised: list[BaseException]) -> None:
    try:
        loop()
    except BaseException as error:
        raised.append(error)
