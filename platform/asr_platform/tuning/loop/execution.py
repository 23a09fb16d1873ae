"""Runs the ledger's proposals with Ray Tune, and records the results in the ledger.

A sweep is resumed from the ledger alone: Tune's searcher, scheduler and callback keep no state of their own that would
have to be saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune.experiment import Trial

from asr_platform.compat.ray import silent_progress
from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.failures import Streak, blame
from asr_platform.study.ledger import TrialRecord, TrialStatus
from asr_platform.study.spending import epoch_seconds
from asr_platform.study.steering.acts import STOPPED_ON_REQUEST, added_for
from asr_platform.study.steering.requests import Request
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.interrupts import Interrupt, NotPickled
from asr_platform.tuning.loop.departure import Departure
from asr_platform.tuning.loop.failure_reasons import reason_in
from asr_platform.tuning.loop.proposer import Proposer
from asr_platform.tuning.loop.scheduler import RungStopper
from asr_platform.tuning.loop.steering import Steering
from asr_platform.tuning.loop.watch import Watch
from asr_platform.tuning.nodes.membership import Nodes
from asr_platform.tuning.nodes.notices import give_notice
from asr_platform.tuning.trial import INTERRUPTED, SweepTrial

RESTART_SECONDS = 15.0  # that more workers must save a trial to be worth its start anew
RETRIES = 2  # retries of a trial that lost a process, in one run of a sweep
RETRIES_IN_PLACE = 5  # retries of a trial that records no epoch in between, whatever it has lost


class Loss(NamedTuple):
    """When a trial that lost a process had been started, and when it lost the process (time.monotonic), and where."""

    since: float
    until: float
    epochs: int


def execute(proposer: Proposer, stopper: RungStopper, recorder: Recorder, interrupt: Interrupt, folder: Path) -> None:
    """Runs trials with Ray Tune until the proposer has no more, or the interrupt is stopped.

    Trials that the interrupt stops stay running in the ledger: they continue when the sweep is resumed.
    """
    tuner = tune.Tuner(
        # A class with the name of the sweep, which Ray shows for the actor of each trial.
        type(folder.name, (SweepTrial,), {}),
        tune_config=tune.TuneConfig(
            search_alg=proposer,
            scheduler=stopper,
            num_samples=-1,
            trial_name_creator=lambda trial: f"{folder.name}/{trial_name(trial.config['number'])}",
            trial_dirname_creator=lambda trial: f"{trial_name(trial.config['number'])}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            callbacks=[recorder, silent_progress()],
            stop=interrupt,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # Ray Train keeps the checkpoints
        ),
    )
    tuner.fit()


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
        steering: Steering, nodes: Nodes, callbacks: Sequence[Callback],
    ) -> None:  # fmt: skip
        self.ledger, self.proposer, self.stopper, self.interrupt = proposer.ledger, proposer, stopper, interrupt
        self.meter, self.watch, self.steering, self.nodes, self.callbacks = meter, watch, steering, nodes, callbacks
        self.began: dict[int, float] = {}  # when trials were started, until their first report; by number
        self.started: dict[int, float] = {}  # when trials were started last, by number
        self.losses: dict[int, list[Loss]] = {}  # by number of the trial
        self.growing: set[int] = set()  # numbers of the trials that were given notice, to go on with more workers
        self.streak = Streak()
        proposer.closed = lambda: interrupt.requested or interrupt.leaving
        self.departure = Departure(interrupt, proposer, nodes, watch.say)

    @_stops_on_ledger_error
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.watch.trials = trials
        given_up = self.proposer.promotions.given_up
        while given_up:
            number, chance = given_up.popitem()
            self._finish(number, "pruned", f"chance to beat the best: {chance:.1%}")
        # Tune still takes a step after the last trial: a trial that was added then would never be trained.
        if not self.interrupt.requested and not self.proposer.finished:
            for request in self.steering.act():
                self._follow(request, trials)
        if cap := self.meter.reached():
            self.interrupt.stop("capped", cap)
        self.departure.step()

    @_stops_on_ledger_error
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.growing.discard(trial.config["number"])
        self.began[trial.config["number"]] = self.started[trial.config["number"]] = time.monotonic()
        self.watch.note_start(trial.config["number"])
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
        self._grow(trial, row)

    @_stops_on_ledger_error
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        grows = number in self.growing
        self.growing.discard(number)
        now, reported = self.ledger.trial(number), (trial.last_result or {}).get("epoch", 0)
        if now.state != "running":
            return  # stopped on request
        if now.paused:
            self._call("on_trial_paused", now)
            return
        if self.interrupt.requested and now.epochs < reported:
            return  # the last epoch came too late to be recorded: it is reported again when the sweep is resumed
        if number in self.stopper.stopped:
            self._finish(number, "pruned", self.stopper.stopped[number])
        elif now.epochs >= trial.config["config"].training.epochs:
            self._finish(number, "complete")
        elif now.epochs >= trial.config["until"]:
            self._call("on_trial_paused", now)
        elif not self.interrupt.requested and (trial.last_result or {}).get(INTERRUPTED):
            self._move(now, grows)
        elif not self.interrupt.requested:
            self._lose(number, "ended before its last epoch")

    @_stops_on_ledger_error
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.growing.discard(trial.config["number"])
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

    def _follow(self, request: Request, trials: list[Trial]) -> None:
        """Has Ray Tune and the callbacks follow what was done in the ledger on request."""
        if request.kind in ("stop", "pause"):
            number = request.content["trial"]
            now = self.ledger.trial(number)
            if now.state == "running" and not now.paused:
                return  # unpaused by a later request of the same look, or about to be recorded as complete
            in_training = number in self.proposer.training.values()
            self.stopper.end(trials, number)  # calls `on_trial_complete`
            if request.kind == "stop" and now.reason == STOPPED_ON_REQUEST:
                self._call("on_trial_end", now)
            elif now.paused and not in_training:
                self._call("on_trial_paused", now)
        elif request.kind == "unpause":
            self.proposer.admit(request.content["trial"])
        elif request.kind == "add" and (added := added_for(self.ledger, request)):
            self.proposer.admit(added.number)

    def _grow(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """Gives an elastic trial notice after an epoch if it would end earlier with the room that nobody uses."""
        number, sizes = trial.config["number"], self.proposer.workers
        # One at a time: the room that is free now is there for one of them.
        if not self.nodes.options.elastic or self.growing or self.interrupt.leaving or number not in sizes:
            return
        others = [size for other, size in sizes.items() if other != number]
        more = self.nodes.grown(others, sizes[number], self.proposer.beginning)
        left = (trial.config["until"] - row["epoch"]) * epoch_seconds(row)
        if left * (1 - sizes[number] / more) > RESTART_SECONDS:
            self.growing.add(number)
            give_notice(trial.trial_id)

    def _move(self, trial: TrialRecord, grows: bool) -> None:
        """Has a trial go on that has saved all it had and ended, since it was given notice."""
        self.proposer.retry(trial.number)
        how = "with --resume" if self.interrupt.leaving else "with more workers" if grows else "elsewhere"
        self._call("on_trial_moved", trial, how)

    def _lose(self, number: int, reason: str) -> None:
        """Retries a trial that lost a process from its checkpoint, unless it `is_given_up` and so stays unfinished."""
        now, epochs = time.monotonic(), self.ledger.trial(number).epochs
        self.losses.setdefault(number, []).append(Loss(self.started.get(number, now), now, epochs))
        retried = not self.is_given_up(number)
        self.nodes.suspect()
        if retried:
            self.proposer.retry(number)
        self.watch.note_event()
        lost = self.ledger.trial(number)
        for callback in self.callbacks:
            callback.on_worker_lost(lost, reason, retried)
        if not retried:
            self._stop_on_streak(replace(lost, state="failed", reason=reason))

    def is_given_up(self, number: int) -> bool:
        """Whether a trial has lost so many processes that it is not retried.

        Those that were lost together with a node do not count, unless the trial makes no progress: where machines come
        and go, one is lost at nearly any time, also when a trial crashes by its own fault.
        """
        losses = self.losses.get(number, [])
        counted = sum(not self.nodes.lost_between(loss.since, loss.until) for loss in losses)
        in_place = sum(loss.epochs == losses[-1].epochs for loss in losses)
        return counted > RETRIES or in_place > RETRIES_IN_PLACE

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

    def _call(self, method: str, trial: TrialRecord, *words: str) -> None:
        self.watch.note_event()
        for callback in self.callbacks:
            getattr(callback, method)(trial, *words)
