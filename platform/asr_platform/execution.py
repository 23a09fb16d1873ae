"""Ray Tune executes what the ledger proposes, and what happens goes back into the ledger.

The idea: Tune is a pair of hands. It keeps no state that a sweep would ever be restored from, so all that is given to
it (searcher, stopper, callback) is a view of the ledger, and none of it is saved.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY
from ray.tune.search import Searcher

from asr_platform.cluster import TRIAL_CPUS, Reaper
from asr_platform.early_stopping import Looks, RungStopper
from asr_platform.failures import reason_in
from asr_platform.feasibility import Feasibility
from asr_platform.following import Follower
from asr_platform.home import trial_name
from asr_platform.limits import Meter
from asr_platform.study import Ledger, State, TrialRecord
from asr_platform.trial import Settings, run_trial
from trainables.errors import InputError


def execute(
    proposer: Proposer, stopper: RungStopper, recorder: Recorder, interrupt: Interrupt, concurrency: int, folder: Path
) -> None:
    """Lets Ray Tune run trials until the proposer has no more, or an interrupt asks it to stop.

    Trials that an interrupt (or a cap) stops stay running in the ledger: they go on when the sweep is resumed.
    """
    tuner = tune.Tuner(
        tune.with_resources(_named(folder.name), {"CPU": TRIAL_CPUS}),
        tune_config=tune.TuneConfig(
            search_alg=proposer,
            scheduler=stopper,
            num_samples=-1,
            max_concurrent_trials=concurrency,
            trial_name_creator=lambda trial: f"{folder.name}/{trial_name(trial.config['number'])}",
            trial_dirname_creator=lambda trial: f"{trial_name(trial.config['number'])}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(folder), callbacks=[recorder], stop=interrupt, verbose=0
        ),
    )
    tuner.fit()


def _named(sweep: str) -> Callable[[Settings], None]:
    """What runs a trial, under the name by which Ray's dashboard knows those that do."""

    def run(settings: Settings) -> None:
        run_trial(settings)

    run.__name__ = sweep
    return run


class Unsaved:
    """Tune writes copies of what it is given into a file for its own restoring, which is never used here."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class Proposer(Unsaved, Searcher):
    """Hands Tune what is left to do: unfinished trials first, then the ledger's proposals.

    Where the space asks for looks, a trial is handed out until one is over, and again when it is its turn.

    Args:
        settings: what every trial is told besides its own number, configuration and progress.
        say: tells a person that the space has nothing more to propose.
    """

    def __init__(
        self, ledger: Ledger, feasibility: Feasibility, settings: Settings, say: Callable[[str], None]
    ) -> None:
        super().__init__(metric="objective", mode="min")
        self.ledger, self.feasibility, self.settings, self.say = ledger, feasibility, settings, say
        self.looks = Looks(feasibility.space.settings)
        self.unfinished: deque[int] = deque()
        self.exhausted = False  # the space has nothing more to propose
        self.looked_at: dict[str, int] = {}  # Tune's name of a trial that is being looked at -> number
        for trial in ledger.trials():
            for row in trial.curve:
                self.looks.record(trial.number, row)
            if trial.state == "running" and not self.looks.wait(trial.number, trial.epochs):
                self.unfinished.append(trial.number)

    def suggest(self, trial_id: str) -> Settings | str | None:
        """The next trial's settings; None while there is none yet, or word that there will be none.

        Interrupted trials come first, then those that promise much, new ones, and at last all that wait.
        """
        trials, waiting = self.ledger.trials(), self.looks.waiting
        for number in [one for one in waiting if trials[one].state != "running"]:
            del waiting[number]  # a rung where its look ends has stopped it
        ahead = self.unfinished.popleft() if self.unfinished else self.looks.promising()
        trial = self._new(len(trials)) if ahead is None else trials[ahead]
        until = None
        if trial is not None:
            until = self.looks.next_end(trial.epochs)
        elif (last := self.looks.best()) is not None:
            trial = trials[last]
        else:
            return None if self.looked_at else str(Searcher.FINISHED)
        waiting.pop(trial.number, None)
        config = self.feasibility.space.config(trial.params)
        if until is not None:
            self.looked_at[trial_id] = trial.number
        told = {"number": trial.number, "reported_epochs": trial.epochs, "until": until or config.training.epochs}
        return {**self.settings, **told, "config": config.model_dump(mode="json")}

    def _new(self, begun: int) -> TrialRecord | None:
        """The ledger's next proposal after so many; None where no more are asked for, or possible."""
        if self.exhausted or begun >= self.ledger.about["trials"]:
            return None
        try:
            return self.ledger.propose(self.feasibility.space, self.feasibility)
        except InputError as error:  # the trials that are running shall end well
            self.exhausted = True
            self.say(str(error))
            return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder writes the ledger, and proposals are made from it: only looks matter here."""
        number = self.looked_at.pop(trial_id, None)
        if number is None or error:
            return
        trial = self.ledger.trial(number)
        if trial.curve:
            self.looks.record(number, trial.curve[-1])
            self.looks.wait(number, trial.epochs)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `Unsaved`."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `Unsaved`."""


class Recorder(Unsaved, tune.Callback):
    """Writes down what happens to trials: first in the ledger, then wherever its followers do.

    Args:
        followers: told of each step in this order.
    """

    def __init__(
        self, ledger: Ledger, stopper: RungStopper, interrupt: Interrupt, meter: Meter, reaper: Reaper,
        followers: Sequence[Follower],
    ) -> None:  # fmt: skip
        self.ledger, self.stopper, self.interrupt = ledger, stopper, interrupt
        self.meter, self.reaper, self.followers = meter, reaper, followers

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.reaper.look()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        begun = self.ledger.trial(trial.config["number"])
        for follower in self.followers:
            follower.started(begun)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if self.interrupt.asked:
            return  # no early stopping was asked about this epoch: it is reported again when the sweep goes on
        number = trial.config["number"]
        # An epoch that a killed driver had not recorded is reported once more, and may come without its checkpoint.
        row = {**result["metrics"], "checkpoint": result.get(CHECKPOINT_PATH_KEY)}
        if self.ledger.record(number, row):
            self.meter.add(row)
            progressed = self.ledger.trial(number)
            for follower in self.followers:
                follower.progressed(progressed)
        self.interrupt.cap = self.meter.reached()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        if number in self.stopper.stopped:
            self._finish(number, "pruned", self.stopper.stopped[number])
        elif (now := self.ledger.trial(number)).epochs >= trial.config["config"]["training"]["epochs"]:
            self._finish(number, "complete")
        elif now.epochs >= trial.config["until"]:
            for follower in self.followers:
                follower.waits(now)
        elif not self.interrupt.asked:
            self._finish(number, "failed", "ended before its last epoch")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if not self.interrupt.asked:
            reason = reason_in(trial.pickled_error_file, trial.error_file)
            self._finish(trial.config["number"], "failed", reason)

    def _finish(self, number: int, state: State, reason: str = "") -> None:
        self.ledger.finish(number, state, reason)
        ended = self.ledger.trial(number)
        for follower in self.followers:
            follower.ended(ended)


class Interrupt(Unsaved, tune.Stopper):
    """Ends the whole run once Ctrl-C has been pressed or a cap has been reached.

    Attributes:
        cap: which, in words.
    """

    pressed = False
    cap = ""

    @property
    def asked(self) -> bool:
        return self.pressed or bool(self.cap)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.asked

    def stop_all(self) -> bool:
        return self.asked


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turns the first Ctrl-C (or SIGTERM) into a clean stop; the second one acts at once."""
    interrupt = Interrupt()

    def ask(number: int, frame: FrameType | None) -> None:
        if interrupt.pressed:
            raise KeyboardInterrupt
        interrupt.pressed = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
