"""Runs the ledger's proposals with Ray Tune, and records the results in the ledger.

A sweep is resumed from the ledger alone: Tune's searcher, scheduler and callback keep no state of their own that would
have to be saved.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from asr_platform.compat.ray import root_errors
from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import trial_name
from asr_platform.study import recorded_space as recorded
from asr_platform.study.callbacks import Callback
from asr_platform.study.failures import LONGEST_REASON, UNKNOWN, Streak, blame, most_specific
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.halving import Promotions
from asr_platform.study.ledger import Ledger, TrialRecord, TrialStatus
from asr_platform.study.spending import epoch_seconds
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.cluster import TRIAL_CPUS
from asr_platform.tuning.interrupts import Interrupt, NotPickled
from asr_platform.tuning.scheduler import RungStopper
from asr_platform.tuning.trial import Settings, SweepTrial
from asr_platform.tuning.watch import Watch
from trainables.errors import InputError

RETRIES = 2  # retries of a trial that lost a process, in one run of a sweep


def execute(
    proposer: Proposer, stopper: RungStopper, recorder: Recorder, interrupt: Interrupt, concurrency: int, folder: Path
) -> None:
    """Runs trials with Ray Tune until the proposer has no more, or the interrupt is stopped.

    Trials that the interrupt stops stay running in the ledger: they continue when the sweep is resumed.
    """
    tuner = tune.Tuner(
        # A class with the name of the sweep: Ray's dashboard shows it for the process of each trial.
        tune.with_resources(type(folder.name, (SweepTrial,), {}), {"CPU": TRIAL_CPUS}),
        tune_config=tune.TuneConfig(
            search_alg=proposer,
            scheduler=stopper,
            num_samples=-1,
            max_concurrent_trials=concurrency,
            trial_name_creator=lambda trial: f"{folder.name}/{trial_name(trial.config['number'])}",
            trial_dirname_creator=lambda trial: f"{trial_name(trial.config['number'])}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            callbacks=[recorder],
            stop=interrupt,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # Ray Train keeps the checkpoints
        ),
    )
    tuner.fit()


class Proposer(NotPickled, Searcher):
    """Ray Tune's searcher: gives the next trial, unfinished trials first, then the ledger's proposals.

    With promotions, Tune gets a trial up to the next epoch of promotion, and again once the trial continues.

    Args:
        settings: settings common to all trials; number, configuration and progress of the trial are added.
        say: prints a line for the user.
    """

    def __init__(
        self, ledger: Ledger, feasibility: Feasibility, settings: Settings, say: Callable[[str], None]
    ) -> None:
        super().__init__(metric="objective", mode="min")
        self.ledger, self.feasibility, self.settings, self.say = ledger, feasibility, settings, say
        self.space = feasibility.space
        self.exhausted = False  # the space has no further proposal
        self.training: dict[str, int] = {}  # numbers of the trials in training, by Tune's ids
        self._sort_unfinished()

    def _sort_unfinished(self) -> None:
        """Sorts the unfinished trials that are not in training into those that wait and those that continue first."""
        self.promotions, self.unfinished = Promotions(self.space.settings), deque[int]()
        for trial in self.ledger.trials():
            for row in trial.curve:
                self.promotions.record(trial.number, row)
            if trial.state != "running" or trial.number in self.training.values():
                continue
            if not self.promotions.wait(trial.number, trial.epochs):
                self.unfinished.append(trial.number)

    def suggest(self, trial_id: str) -> Settings | str | None:
        """The next trial's settings; None if there is none yet; `Searcher.FINISHED` if there will be none.

        Interrupted trials come first, then promoted ones, new ones, and at last all other trials that wait.
        """
        trials, waiting = self.ledger.trials(), self.promotions.waiting
        for number in [one for one in waiting if trials[one].state != "running"]:
            del waiting[number]  # pruned at the epoch of promotion
        self.unfinished = deque(number for number in self.unfinished if trials[number].state == "running")
        ahead = self.unfinished.popleft() if self.unfinished else self.promotions.promoted()
        trial = self._new(len(trials)) if ahead is None else trials[ahead]
        until = None
        if trial is not None:
            until = self.promotions.next_epoch(trial.epochs) if self.ledger.about["trials"] > 1 else None
        elif (last := self.promotions.best()) is not None:
            trial = trials[last]
        else:
            return None if self.training else str(Searcher.FINISHED)  # trials in training may become waiting ones
        waiting.pop(trial.number, None)
        self.training[trial_id] = trial.number
        config = self.space.config(trial.params)
        own = {"number": trial.number, "reported_epochs": trial.epochs, "until": until or config.training.epochs}
        return {**self.settings, **own, "config": config}

    def _new(self, begun: int) -> TrialRecord | None:
        """Next proposal of the ledger; None if the sweep has `begun` all its trials, or the space is exhausted."""
        if self.exhausted or begun >= self.ledger.about["trials"]:
            return None
        try:
            return self.ledger.propose(self.space, self.feasibility)
        except LedgerError:
            raise
        except InputError as error:  # running trials continue
            self.exhausted = True
            self.say(str(error))
            return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Marks a trial that has reached an epoch of promotion as waiting."""
        number = self.training.pop(trial_id, None)
        if number is None or error:
            return
        trial = self.ledger.trial(number)
        if trial.curve:
            self.promotions.record(number, trial.curve[-1])
            waits = self.promotions.wait(number, trial.epochs)
            if not waits and trial.state == "running" and trial.epochs < self.space.settings.epochs:
                self.unfinished.append(number)  # stopped at an epoch of promotion that is none since `measure`

    def measure(self, start: float, epoch: float) -> None:
        """Chooses the first epoch of promotion (`asha.promotion: auto`) once, from the sweep's first measurement.

        Args:
            start: seconds from the start of a trial's processes until its training began.
            epoch: seconds of an epoch.
        """
        if recorded.MEASURED in self.ledger.about:
            return
        first = self.space.settings.longer_promotion(start, epoch)
        self.ledger.note(recorded.MEASURED, {"start": start, "epoch": epoch, "promotion": first})
        if first is not None:
            self.space = recorded.measured_space(self.ledger.about, self.space)
            self._sort_unfinished()
            times = f"a trial's start took {start:.1f} s, an epoch {epoch:.1f} s"
            self.say(f"trials first wait to be promoted after {first} epochs: {times}")

    def retry(self, number: int) -> None:
        """Makes a trial the next one that Tune gets."""
        self.unfinished.appendleft(number)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing (see `NotPickled`)."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing (see `NotPickled`)."""


def _stops_on_ledger_error(method: Callable[..., None]) -> Callable[..., None]:
    """Decorator for methods of `Recorder`: stops the sweep cleanly if the ledger cannot be written (full disk).

    Without it, Tune would print a traceback.
    """

    @wraps(method)
    def guarded(self: Recorder, *arguments: Any, **information: Any) -> None:
        try:
            method(self, *arguments, **information)
        except LedgerError as error:
            self.interrupt.stop("failed", f"{error.problem}. {error.remedy}")

    return guarded


class Recorder(NotPickled, tune.Callback):
    """Records what Ray Tune reports of trials: first in the ledger, then by the callbacks in their order.

    Tune's event loop waits for every method, so callbacks must return at once (see `callbacks/background.py`).
    """

    def __init__(
        self, proposer: Proposer, stopper: RungStopper, interrupt: Interrupt, meter: Meter, watch: Watch,
        callbacks: Sequence[Callback],
    ) -> None:  # fmt: skip
        self.ledger, self.proposer, self.stopper, self.interrupt = proposer.ledger, proposer, stopper, interrupt
        self.meter, self.watch, self.callbacks = meter, watch, callbacks
        self.began: dict[int, float] = {}  # when trials were started, until their first report; by number
        self.losses: Counter[int] = Counter()
        self.streak = Streak()

    @_stops_on_ledger_error
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.watch.trials = trials
        if cap := self.meter.reached():
            self.interrupt.stop("capped", cap)

    @_stops_on_ledger_error
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.began[trial.config["number"]] = time.monotonic()
        self._call("on_trial_start", self.ledger.trial(trial.config["number"]))

    @_stops_on_ledger_error
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if self.interrupt.requested or "metrics" not in result:
            return  # the scheduler was not asked about this epoch: it is reported again when the sweep is resumed
        number = trial.config["number"]
        # An epoch that a killed driver had not recorded is reported once more, and may come without its checkpoint.
        row = {**result["metrics"], "checkpoint": result["checkpoint"]}
        if self.ledger.record(number, row):
            self.meter.add(row)
            self.watch.note_event(epoch_seconds(row))
            self._call("on_epoch_end", self.ledger.trial(number))
        if (began := self.began.pop(number, None)) is not None:
            self.proposer.measure(time.monotonic() - began - epoch_seconds(row), epoch_seconds(row))

    @_stops_on_ledger_error
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        now, reported = self.ledger.trial(number), (trial.last_result or {}).get("epoch", 0)
        if self.interrupt.requested and now.epochs < reported:
            return  # the last epoch came too late to be recorded: it is reported again when the sweep is resumed
        if number in self.stopper.stopped:
            self._finish(number, "pruned", self.stopper.stopped[number])
        elif now.epochs >= trial.config["config"].training.epochs:
            self._finish(number, "complete")
        elif now.epochs >= trial.config["until"]:
            self._call("on_trial_paused", now)
        elif not self.interrupt.requested:
            self._lose(number, "ended before its last epoch")

    @_stops_on_ledger_error
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.interrupt.requested:
            return
        number, reason = trial.config["number"], reason_in(trial.pickled_error_file, trial.error_file)
        whose = blame(reason)
        if whose == "configuration":
            self._finish(number, "failed", reason)
        elif whose == "machine":
            self._lose(number, reason)
        else:
            self.interrupt.stop("failed", f"{reason} (trial {number}, which goes on with --resume)")

    def _lose(self, number: int, reason: str) -> None:
        """Retries a trial that lost a process from its checkpoint, up to `RETRIES` times; then it stays unfinished."""
        self.losses[number] += 1
        retried = self.losses[number] <= RETRIES
        if retried:
            self.proposer.retry(number)
        self.watch.note_event()
        lost = self.ledger.trial(number)
        for callback in self.callbacks:
            callback.on_worker_lost(lost, reason, retried)
        if not retried:
            self._stop_on_streak(replace(lost, state="failed", reason=reason))

    def _finish(self, number: int, state: TrialStatus, reason: str = "") -> None:
        self.ledger.finish(number, state, reason)
        ended = self.ledger.trial(number)
        self._call("on_trial_end", ended)
        self._stop_on_streak(ended)

    def _stop_on_streak(self, ended: TrialRecord) -> None:
        trials = self.ledger.trials()
        if streak := self.streak.add(ended, trials):
            begun, asked = len(trials), self.ledger.about["trials"]
            self.interrupt.stop("failed", f"{streak}. Not spent: {asked - begun} of {asked} trials, not begun yet")

    def _call(self, method: str, trial: TrialRecord) -> None:
        self.watch.note_event()
        for callback in self.callbacks:
            getattr(callback, method)(trial)


def reason_in(pickled: str | None, printed: str | None) -> str:
    """Reason of a failure in one line, from the files that Ray Tune writes.

    Args:
        pickled: path of the file with the pickled error; None if Tune has not written it.
        printed: path of the file with the error's text; None if Tune has not written it.
    """
    try:
        with open(pickled or "", "rb") as file:
            return reason_of(pickle.load(file))
    except Exception:  # it may need classes that only the worker has
        return _reason_of_text(Path(printed)) if printed and Path(printed).is_file() else UNKNOWN


def _reason_of_text(file: Path) -> str:
    """Reason of a failure in one line, from a file with a traceback (its last line) or a message (all of it)."""
    _, *lines = file.read_text(encoding="utf-8", errors="replace").split("\n")  # the first says when
    words = [" ".join(line.split()) for line in lines if line.strip()] or [UNKNOWN]
    return (words[-1] if "ray::" in words[0] else " ".join(words))[:LONGEST_REASON]


def reason_of(error: BaseException) -> str:
    """Reason of a failure in one line, `Type: message`, without Ray's wrapper exceptions.

    If several workers have errors, the one with the most specific cause counts.
    """
    roots = root_errors(error)
    return most_specific([f"{type(one).__name__}: {' '.join(str(one).split())}"[:LONGEST_REASON] for one in roots])
