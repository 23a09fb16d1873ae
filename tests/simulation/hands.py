"""What stands for Ray Tune's event loop: it asks, starts, delivers and stops in the order of Tune's controller.

`Hands.execute` takes the place of `execution.execute`. The order of calls is that of
`ray/tune/execution/tune_controller.py` (2.60): ask the searcher, start what waits, handle one event, stop everything
if somebody asks for it, `on_step_end`. Which event comes next is drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from crashes import Writes
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict
from workers import Message, Speech, Worker, pickled

from asr_platform.tuning.callbacks.background import Background
from asr_platform.tuning.interrupts import Interrupt
from asr_platform.tuning.loop.execution import Recorder
from asr_platform.tuning.loop.proposer import Proposer
from asr_platform.tuning.loop.scheduler import RungStopper

MOST_STEPS = 1000  # of one run, which needs fewer than a hundred
TWICE, LOST, BEHIND = 0.1, 0.03, 0.5  # how likely: a report comes twice, a process is lost, a background job is done


@dataclass
class Clock:
    """Time that passes only when the simulation says so; it stands where modules have `time`."""

    now: float = 1_800_000_000.0

    def time(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Later(Background):
    """Background work that is done when the simulation says so, and all of it in the end."""

    def _start(self) -> None:
        """No thread."""

    def drain(self) -> None:
        while self.do_next():
            pass


@dataclass(eq=False)
class Trial:
    """A trial as callbacks and schedulers of Ray Tune see it."""

    trial_id: str
    config: dict[str, Any]
    worker: Worker
    status: str = "PENDING"
    pickled_error_file: str | None = None
    error_file: str | None = None
    last_result: dict[str, Any] = field(default_factory=dict)

    def is_finished(self) -> bool:
        return self.status in ("TERMINATED", "ERROR")


class Hands:
    """Runs trials of one run of a sweep.

    Args:
        tell_apart: makes names of checkpoints, in the order of time.
        interrupt_at: the step at which a signal asks for an end; None: never.
        ended: numbers of trials that had ended before.
        steer: asks for something in the place of another process, or not.
    """

    def __init__(
        self, random: Random, writes: Writes, clock: Clock, speech: Speech, tell_apart: Callable[[], str],
        errors: Path, interrupt_at: int | None, ended: set[int], steer: Callable[[Random], None],
    ) -> None:  # fmt: skip
        self.random, self.writes, self.clock, self.speech = random, writes, clock, speech
        self.tell_apart, self.errors, self.interrupt_at, self.ended = tell_apart, errors, interrupt_at, ended
        self.steer = steer
        self.background: Later | None = None
        self.trials: list[Trial] = []
        self.stopping: list[Worker] = []  # that still write
        self.asked = self.steps = 0
        self.finished = False

    def beside(self, say: Callable[[str], None]) -> Later:
        """Takes the place of the class `Background`."""
        self.background = Later(say)
        return self.background

    @property
    def live(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.is_finished()]

    def execute(
        self, proposer: Proposer, stopper: RungStopper, recorder: Recorder, interrupt: Interrupt, folder: Path
    ) -> None:
        self.proposer, self.stopper, self.recorder, self.interrupt = proposer, stopper, recorder, interrupt
        while True:
            self.steps += 1
            assert self.steps < MOST_STEPS, "the sweep gets nowhere"
            self._ask()
            if self.finished and not self.live:
                recorder.on_step_end(self.steps, self.trials)  # of the step in which the searcher was asked
                break
            self._meanwhile()
            self._event()
            if self.steps == self.interrupt_at:
                interrupt.stop("stopped")
            if interrupt.stop_all():
                self.finished = True
                for trial in self.live:
                    self._end_worker(trial, "TERMINATED")
            recorder.on_step_end(self.steps, self.trials)
        self.let_linger()
        if not self.writes.failed:
            self._check()

    def _check(self) -> None:
        """Checks that early stopping agrees with the ledger, and that no trial was given up that can continue."""
        trials = self.proposer.ledger.trials()
        settings = self.proposer.feasibility.space.comparable_settings
        recorded = {rung: values for rung, values in self.stopper.rungs.recorded.items() if values}
        assert recorded == RungStopper(settings, trials).rungs.recorded, "rungs differ from those of the ledger"
        if not self.interrupt.requested:
            left = [trial.number for trial in trials if trial.state == "running" and not trial.paused]
            assert all(self.recorder.is_given_up(number) for number in left), f"given up: {left}"
            assert left or len(trials) >= self.proposer.ledger.about["trials"], "trials are left out"

    def let_linger(self) -> None:
        """Whatever runs on without a driver comes to its end."""
        with self.writes.aside():
            for trial in self.live:
                trial.worker.linger(self.random)
            while self.stopping:
                self.stopping.pop().linger(self.random)

    def _ask(self) -> None:
        while not self.finished:
            self.asked += 1
            name = f"tune{self.asked}"
            told = self.proposer.suggest(name)
            if told == Searcher.FINISHED:
                self.finished = True
            if not isinstance(told, dict):
                assert self.live or self.finished, "nothing runs, and the proposer has nothing yet"
                return
            number = told["number"]
            assert number not in self.ended, f"trial {number} has ended, and is run again"
            left = told["until"] - told["reported_epochs"]
            assert left > 0 or self.recorder.losses.get(number), f"trial {number} has all its epochs, and is run again"
            assert number not in [trial.config["number"] for trial in self.live], f"trial {number} runs already"
            now = self.proposer.ledger.trial(number)
            assert now.state == "running" and not now.paused, f"trial {number} is stopped or paused, and is run"
            self.trials.append(Trial(name, told, Worker(told, self.speech, self.tell_apart)))
            self.stopper.on_trial_add(self, self.trials[-1])  # type: ignore[arg-type]

    def _meanwhile(self) -> None:
        """Time passes: workers train, ahead of what has been heard of them, or are lost; background work is done."""
        random = self.random
        self.clock.now += random.uniform(0, 30)
        with self.writes.aside():
            for trial in self.live:
                worker = trial.worker
                if trial.status == "RUNNING" and not worker.ended and random.random() < 0.7:
                    if random.random() < LOST:
                        worker.lose(random)
                    else:
                        worker.step()
            if self.stopping and random.random() < 0.5:
                self.stopping.pop(0).linger(random)
            self.steer(random)
        while self.background is not None and random.random() < BEHIND and self.background.do_next():
            pass

    def _event(self) -> None:
        """One thing that the controller hears of, if there is any."""
        able = [trial for trial in self.live if trial.status == "PENDING" or trial.worker.reports]
        if not able:
            return
        trial = self.random.choice(able)
        if trial.status == "PENDING":
            self.recorder.on_trial_start(self.steps, self.trials, trial)
            trial.status = "RUNNING"
            return
        message = trial.worker.reports.popleft()
        if isinstance(message, BaseException):
            self._failed(trial, message)
        else:
            self._result(trial, dict(message))
            if not trial.is_finished() and "metrics" in message and self.random.random() < TWICE:
                self._result(trial, dict(message))

    def _result(self, trial: Trial, result: Message) -> None:
        assert isinstance(result, dict)
        flat = flatten_dict(result)
        if self.interrupt(trial.trial_id, result) or result.get("done"):
            decision = TrialScheduler.STOP
        else:
            decision = self.stopper.on_trial_result(None, trial, flat)
        if decision != TrialScheduler.STOP:
            self.proposer.on_trial_result(trial.trial_id, flat)
        self.recorder.on_trial_result(self.steps, self.trials, trial, result)
        trial.last_result = result
        if decision == TrialScheduler.STOP:
            self.stop_trial(trial)

    def stop_trial(self, trial: Trial) -> None:
        """What Tune's controller has under this name, which schedulers may call."""
        if trial.is_finished():
            return
        flat = flatten_dict(trial.last_result)
        if trial.status == "PENDING":
            self.stopper.on_trial_remove(None, trial)
            self.proposer.on_trial_complete(trial.trial_id)
        else:
            self.stopper.on_trial_complete(None, trial, flat)
            self.proposer.on_trial_complete(trial.trial_id, result=flat)
        self.recorder.on_trial_complete(self.steps, self.trials, trial)
        self._end_worker(trial, "TERMINATED")

    def _failed(self, trial: Trial, error: BaseException) -> None:
        with self.writes.aside():
            trial.pickled_error_file = pickled(error, self.errors, trial.trial_id)
        self.stopper.on_trial_error(None, trial)
        self.proposer.on_trial_complete(trial.trial_id, error=True)
        self._end_worker(trial, "ERROR")
        self.recorder.on_trial_error(self.steps, self.trials, trial)

    def _end_worker(self, trial: Trial, status: str) -> None:
        trial.status = status
        self.stopping.append(trial.worker)  # it may write for a while
