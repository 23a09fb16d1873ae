"""Runs Ray Tune's event loop in a thread, and watches from the main thread whether it still makes progress.

If Ray's head or this machine's raylet is gone, the loop's calls to Ray never return, not even after a signal. The main
thread makes no such call: it handles signals at once, abandons the loop if the cluster is gone, and prints a message if
there were no events for long.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ray.tune.experiment import Trial

from asr_platform.storage.home import LOG, TRIALS, trial_name
from asr_platform.storage.ports import accepts
from asr_platform.storage.trial_logs import last_lines
from asr_platform.tuning.callbacks.background import Background
from asr_platform.tuning.cluster import Address
from asr_platform.tuning.connection import CONNECT_TIMEOUT
from asr_platform.tuning.interrupts import Interrupt
from asr_platform.tuning.nodes.notices import has_begun

CHECK_INTERVAL = 1.0  # seconds
GONE_AFTER = 12.0  # seconds without an answer, after which a part of the cluster is gone
SILENCE = 600.0  # seconds without an event before the first message about it, unless epochs take long
LONG_EPOCHS = 3.0  # then this multiple of the longest epoch


class Watch:
    """Watches one run of a sweep.

    Args:
        folder: folder of the sweep.
        interrupt: interrupt to stop if the cluster is gone.
        background: background thread, whose current job is part of the message about missing events.
        parts: addresses of the processes on which a driver depends, by name.
        say: prints a line for the user.
        silence: seconds without an event before the first message.

    Attributes:
        trials: Ray Tune's trials, set after each step of the event loop.
    """

    def __init__(
        self, folder: Path, interrupt: Interrupt, background: Background, parts: Mapping[str, Address],
        say: Callable[[str], None], silence: float = SILENCE,
    ) -> None:  # fmt: skip
        self.folder, self.interrupt, self.background = folder, interrupt, background
        self.parts, self.say, self.silence = parts, say, silence
        self.trials: Sequence[Trial] = ()
        self.last_answer = dict.fromkeys(parts, time.monotonic())
        self.last_event = time.monotonic()
        self.next_message = silence  # seconds after the last event; doubles with each message
        self.longest_epoch = 0.0
        self.started: dict[int, float] = {}  # when trials were started last, in seconds since 1970, by number

    def note_event(self, epoch_seconds: float = 0.0) -> None:
        """Records an event: a trial began, ended, or reported an epoch that took `epoch_seconds`."""
        self.last_event = time.monotonic()
        self.longest_epoch = max(self.longest_epoch, epoch_seconds)
        self.next_message = max(self.silence, LONG_EPOCHS * self.longest_epoch)

    def note_start(self, number: int) -> None:
        """Records that a trial was started, or goes on."""
        self.started[number] = time.time()

    def waiting(self) -> list[str]:
        """Lines on the trials that have been started and whose workers have not begun."""
        unfinished = [trial for trial in self.trials if not trial.is_finished()]
        return [self._wish(trial) for trial in unfinished if not self._has_begun(trial)]

    def _has_begun(self, trial: Trial) -> bool:
        """Whether the workers of a trial have begun since it was started: they write to its log at once.

        With a storage, the log of a worker on another machine is not here before the first epoch.
        """
        number = trial.config["number"]
        log = self.folder / TRIALS / trial_name(number) / LOG
        with suppress(OSError):
            if log.stat().st_mtime >= self.started.get(number, math.inf):
                return True
        return has_begun(trial.trial_id)

    def run(self, loop: Callable[[], None]) -> None:
        """Runs the event loop until it returns or a part of the cluster is gone.

        Raises:
            Exception: the event loop failed although the cluster is reachable.
        """
        raised: list[BaseException] = []
        self.loop = threading.Thread(target=_catching, args=[loop, raised], name="event loop", daemon=True)
        self.loop.start()
        while self.loop.is_alive():
            self.loop.join(CHECK_INTERVAL)
            if gone := self._gone():
                self._abandon(gone)
                return
            if time.monotonic() - self.last_event > self.next_message:
                self._report_silence()
        # The error may be the first sign of a lost cluster, which is the better explanation.
        while raised and not (gone := self._gone()):
            if all(accepts(*address, CONNECT_TIMEOUT) for address in self.parts.values()):
                raise raised[0]
            time.sleep(CHECK_INTERVAL)
        if raised:
            self._abandon(gone)

    def _abandon(self, gone: Sequence[str]) -> None:
        reason = f"{' and '.join(gone)} cannot be reached any more"
        self.interrupt.stop("failed", reason)
        self.say(f"{reason}: the sweep stops")

    def _gone(self) -> list[str]:
        """Names of the parts of the cluster that have not accepted a connection for `GONE_AFTER` seconds.

        Suspended processes (SIGSTOP) still accept connections, and are not detected here.
        """
        for part, address in self.parts.items():
            if accepts(*address, CONNECT_TIMEOUT):
                self.last_answer[part] = time.monotonic()
        return [part for part, when in self.last_answer.items() if time.monotonic() - when > GONE_AFTER]

    def _report_silence(self) -> None:
        minutes = (time.monotonic() - self.last_event) / 60
        self.next_message *= 2
        activities = self._activities()  # before anything is said, which may end what is told here
        self.say(f"nothing has happened for {minutes:.0f} min:")
        for line in activities:
            self.say(f"  {line}")

    def _activities(self) -> list[str]:
        """Lines on what each unfinished trial, the event loop and the background thread do or wait for."""
        lines = [self._activity(trial) for trial in self.trials if not trial.is_finished()]
        frame = sys._current_frames().get(self.loop.ident or 0)
        if frame:
            at = traceback.extract_stack(frame)[-1]
            lines.append(f"event loop: in {at.name} ({Path(at.filename).name}, line {at.lineno})")
        lines.append(f"background: {self.background.current or 'idle'}")
        return lines

    def _activity(self, trial: Trial) -> str:
        number = trial.config["number"]
        if trial.status == Trial.PENDING:
            return self._wish(trial)
        _, lines = last_lines(self.folder / TRIALS / trial_name(number), 1)
        return f"trial {number}: in training; its log ends: {lines[0] if lines else 'nothing yet'}"

    def _wish(self, trial: Trial) -> str:
        """A line on a trial whose workers wait for room: its number, and the resources that it asked for."""
        asked = " and ".join(f"{amount:g} {name}" for name, amount in trial.config["resources"].items())
        count = trial.config["workers"]
        return f"trial {trial.config['number']} waits for room: {count} worker{'s' * (count > 1)} of {asked}"


def _catching(loop: Callable[[], None], raised: list[BaseException]) -> None:
    try:
        loop()
    except BaseException as error:
        raised.append(error)
