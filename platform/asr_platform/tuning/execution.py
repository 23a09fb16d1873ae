"""Ray Tune executes what the ledger proposes, and what happens goes back into the ledger.

The idea: Tune is a pair of hands. It keeps no state that a sweep would ever be restored from, so all that is given to
it (searcher, stopper, callback) is a view of the ledger, and none of it is saved.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.failures import Streak, blame, reason_in
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.halving import Promotions
from asr_platform.study.ledger import Ledger, State, TrialRecord
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.cluster import TRIAL_CPUS
from asr_platform.tuning.interrupts import Interrupt, Unsaved
from asr_platform.tuning.scheduler import RungStopper
from asr_platform.tuning.trial import Settings, SweepTrial
from asr_platform.tuning.watch import Watch
from trainables.errors import InputError

RETRIES = 2  # of a trial that the machine took, in one run of a sweep


def execute(
    proposer: Proposer, stopper: RungStopper, recorder: Recorder, interrupt: Interrupt, concurrency: int, folder: Path
) -> None:
    """Lets Ray Tune run trials until the proposer has no more, or an interrupt asks it to stop.

    Trials that an interrupt (or a cap) stops stay running in the ledger: they go on when the sweep is resumed.
    """
    tuner = tune.Tuner(
        # A class of the sweep's name: `with_resources` keeps it, and Ray's dashboard shows it for each trial's process.
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


class Proposer(Unsaved, Searcher):
    """Hands Tune what is left to do: unfinished trials first, then the ledger's proposals.

    Where the space asks for promotions, a trial is handed out until it is to wait, and again when it is its turn.

    Args:
        settings: what every trial is told besides its own number, configuration and progress.
        say: tells a person that the space has nothing more to propose.
    """

    def __init__(
        self, ledger: Ledger, feasibility: Feasibility, settings: Settings, say: Callable[[str], None]
    ) -> None:
        super().__init__(metric="objective", mode="min")
        self.ledger, self.feasibility, self.settings, self.say = ledger, feasibility, settings, say
        self.promotions = Promotions(feasibility.space.settings)
        self.unfinished: deque[int] = deque()
        self.exhausted = False  # the space has nothing more to propose
        self.training: dict[str, int] = {}  # Tune's name of a trial that is being trained -> number
        for trial in ledger.trials():
            for row in trial.curve:
                self.promotions.record(trial.number, row)
            if trial.state == "running" and not self.promotions.wait(trial.number, trial.epochs):
                self.unfinished.append(trial.number)

    def suggest(self, trial_id: str) -> Settings | str | None:
        """The next trial's settings; None while there is none yet, or word that there will be none.

        Interrupted trials come first, then promoted ones, new ones, and at last all other trials that wait.
        """
        trials, waiting = self.ledger.trials(), self.promotions.waiting
        for number in [one for one in waiting if trials[one].state != "running"]:
            del waiting[number]  # pruned at a rung that lies where it was to wait
        ahead = self.unfinished.popleft() if self.unfinished else self.promotions.promoted()
        trial = self._new(len(trials)) if ahead is None else trials[ahead]
        until = None
        if trial is not None:
            until = self.promotions.next_epoch(trial.epochs)
        elif (last := self.promotions.best()) is not None:
            trial = trials[last]
        else:
            return None if self.training else str(Searcher.FINISHED)  # what is being trained may come back
        waiting.pop(trial.number, None)
        config = self.feasibility.space.config(trial.params)
        self.training[trial_id] = trial.number
        told = {"number": trial.number, "reported_epochs": trial.epochs, "until": until or config.training.epochs}
        return {**self.settings, **told, "config": config.model_dump(mode="json")}

    def _new(self, begun: int) -> TrialRecord | None:
        """The ledger's next proposal after so many; None where no more are asked for, or possible."""
        if self.exhausted or begun >= self.ledger.about["trials"]:
            return None
        try:
            return self.ledger.propose(self.feasibility.space, self.feasibility)
        except LedgerError:
            raise
        except InputError as error:  # the trials that are running shall end well
            self.exhausted = True
            self.say(str(error))
            return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder writes the ledger, and proposals are made from it: only promotions matter here."""
        number = self.training.pop(trial_id, None)
        if number is None or error:
            return
        trial = self.ledger.trial(number)
        if trial.curve:
            self.promotions.record(number, trial.curve[-1])
            self.promotions.wait(number, trial.epochs)

    def again(self, number: int) -> None:
        """A trial that has lost its processes goes on before all others."""
        self.unfinished.appendleft(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `Unsaved`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `Unsaved`."""


def result_epoch(trial: Trial) -> int:
    """The epoch of the latest report that Tune has of a trial; 0 before any."""
    return int(trial.last_result.get("epoch", 0)) if trial.last_result else 0


def _ends_the_sweep(method: Callable[..., None]) -> Callable[..., None]:
    """A ledger that cannot be written (a full disk, another process that keeps it locked) stops the sweep cleanly.

    Tune would wrap the error in the text of a traceback.
    """

    @wraps(method)
    def guarded(self: Recorder, *arguments: Any, **information: Any) -> None:
        try:
            method(self, *arguments, **information)
        except LedgerError as error:
            self.interrupt.stop("failed", f"{error.problem}. {error.remedy}")

    return guarded


class Recorder(Unsaved, tune.Callback):
    """Writes down what happens to trials: first in the ledger, then wherever its callbacks do.

    Tune's event loop waits for every method, so callbacks must return at once (see background.py).

    Args:
        again: has a trial that the machine took go on.
        watch: is told that something has happened.
        callbacks: told of each step in this order.
    """

    def __init__(
        self, ledger: Ledger, stopper: RungStopper, interrupt: Interrupt, meter: Meter, watch: Watch,
        again: Callable[[int], None], callbacks: Sequence[Callback],
    ) -> None:  # fmt: skip
        self.ledger, self.stopper, self.interrupt = ledger, stopper, interrupt
        self.meter, self.watch, self.again, self.callbacks = meter, watch, again, callbacks
        self.losses: Counter[int] = Counter()
        self.streak = Streak()

    @_ends_the_sweep
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.watch.step(trials)
        if cap := self.meter.reached():
            self.interrupt.stop("capped", cap)

    @_ends_the_sweep
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._tell("on_trial_start", self.ledger.trial(trial.config["number"]))

    @_ends_the_sweep
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if self.interrupt.asked or "metrics" not in result:
            return  # no early stopping was asked about this epoch: it is reported again when the sweep goes on
        number = trial.config["number"]
        # An epoch that a killed driver had not recorded is reported once more, and may come without its checkpoint.
        row = {**result["metrics"], "checkpoint": result["checkpoint"]}
        if self.ledger.record(number, row):
            self.meter.add(row)
            self.watch.heard(row["train_seconds"] + row["validation_seconds"])
            self._tell("on_epoch_end", self.ledger.trial(number))

    @_ends_the_sweep
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        if self.interrupt.asked and self.ledger.trial(number).epochs < result_epoch(trial):
            return  # its last report came too late to be recorded: it is reported again when the sweep goes on
        if number in self.stopper.stopped:
            self._finish(number, "pruned", self.stopper.stopped[number])
        elif (now := self.ledger.trial(number)).epochs >= trial.config["config"]["training"]["epochs"]:
            self._finish(number, "complete")
        elif now.epochs >= trial.config["until"]:
            self._tell("on_trial_paused", now)
        elif not self.interrupt.asked:
            self._lost(number, "ended before its last epoch")

    @_ends_the_sweep
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.interrupt.asked:
            return
        number, reason = trial.config["number"], reason_in(trial.pickled_error_file, trial.error_file)
        whose = blame(reason)
        if whose == "configuration":
            self._finish(number, "failed", reason)
        elif whose == "machine":
            self._lost(number, reason)
        else:
            self.interrupt.stop("failed", f"{reason} (trial {number}, which goes on with --resume)")

    def _lost(self, number: int, reason: str) -> None:
        """The trial is no worse for what the machine did: it stays unfinished, and goes on from its checkpoint."""
        self.losses[number] += 1
        again = self.losses[number] <= RETRIES
        if again:
            self.again(number)
        self.watch.heard()
        lost = self.ledger.trial(number)
        for callback in self.callbacks:
            callback.on_worker_lost(lost, reason, again)
        if not again:
            self._count(replace(lost, state="failed", reason=reason))

    def _finish(self, number: int, state: State, reason: str = "") -> None:
        self.ledger.finish(number, state, reason)
        ended = self.ledger.trial(number)
        self._tell("on_trial_end", ended)
        self._count(ended)

    def _count(self, ended: TrialRecord) -> None:
        """Stops the sweep where the same failure has ended one trial after the other."""
        trials = self.ledger.trials()
        if same := self.streak.add(ended, trials):
            begun, asked = len(trials), self.ledger.about["trials"]
            self.interrupt.stop("failed", f"{same}. Not spent: {asked - begun} of {asked} trials, not begun yet")

    def _tell(self, step: str, trial: TrialRecord) -> None:
        self.watch.heard()
        for callback in self.callbacks:
            getattr(callback, step)(trial)
