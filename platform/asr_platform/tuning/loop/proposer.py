"""Ray Tune's searcher: unfinished trials first, then the ledger's proposals."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from asr_platform.storage.database import LedgerError
from asr_platform.study import recorded_space as recorded
from asr_platform.study.allocation.promotions import START, Promotions
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.tuning.interrupts import NotPickled
from asr_platform.tuning.trial import Settings
from trainables.errors import InputError

Place = Callable[[Sequence[int], Callable[[], int]], Settings | None]
"""`Nodes.place`."""


class Proposer(NotPickled, Searcher):
    """Ray Tune's searcher: gives the next trial, unfinished trials first, then the ledger's proposals.

    With promotions, Tune gets a trial up to the next epoch of promotion, and again once the trial continues.

    Args:
        settings: settings common to all trials; number, configuration and progress of the trial are added.
        place: settings of one more trial, or None if there is no room (`Nodes.place`).
        say: prints a line for the user.
    """

    def __init__(
        self, ledger: Ledger, feasibility: Feasibility, settings: Settings, place: Place,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(metric="objective", mode="min")
        self.ledger, self.feasibility, self.settings, self.say = ledger, feasibility, settings, say
        self.place = place
        self.space = feasibility.space
        self.exhausted = False  # the space has no further proposal
        self.closed: Callable[[], bool] = lambda: False  # whether no trial may begin or go on any more
        self.finished = False  # Tune was told that no further trial will come, and asks no more
        self.training: dict[str, int] = {}  # numbers of the trials in training, by Tune's ids
        self.workers: dict[int, int] = {}  # of the trials in training, by number
        self._sort_unfinished()

    def _sort_unfinished(self) -> None:
        """Sorts the unfinished trials that are not in training into those that wait and those that continue first."""
        measured = self.ledger.about.get(recorded.MEASURED)
        start = measured["start"] / measured["epoch"] if measured else START
        self.promotions, self.unfinished = Promotions(self.space.settings, start), deque[int]()
        for trial in self.ledger.trials():
            for row in trial.curve:
                self.promotions.record(trial.number, row)
            if trial.state != "running" or trial.paused or trial.number in self.training.values():
                continue
            if not self.promotions.wait(trial.number, trial.epochs):
                self.unfinished.append(trial.number)

    def suggest(self, trial_id: str) -> Settings | str | None:
        """The next trial's settings; None if there is none or no room yet; `Searcher.FINISHED` if there will be none.

        Interrupted trials come first, then promoted or new ones, and at last other trials that wait.
        """
        if self.closed() and self.training:
            return None
        if self.closed():  # else Ray Tune would ask again for ten minutes, and do nothing else
            self.finished = True
            return str(Searcher.FINISHED)
        place = self.place([*self.workers.values()], self.beginning)
        if place is None and self.training:
            return None
        trials, waiting = self.ledger.trials(), self.promotions.waiting
        self.promotions.ended = frozenset(trial.number for trial in trials if trial.state in ("pruned", "failed"))
        for number in [one for one in waiting if not _goes_on(trials[one])]:
            del waiting[number]  # pruned at the epoch of promotion, stopped or paused
        in_training = set(self.training.values())
        self.unfinished = deque(
            number for number in self.unfinished if _goes_on(trials[number]) and number not in in_training
        )
        if place is None and (self.unfinished or waiting or self._left(len(trials))):
            return None
        if self.unfinished:
            chosen: int | None = self.unfinished.popleft()
        else:
            chosen = self.promotions.next(lambda: self._new(len(trials)), self._left(len(trials)))
        if chosen is None:
            if self.training:
                return None  # trials in training may become waiting ones
            self.finished = True
            return str(Searcher.FINISHED)
        trial = self.ledger.trial(chosen)
        until = self.promotions.next_epoch(trial.epochs) if self.ledger.about["trials"] > 1 else None
        self.training[trial_id] = trial.number
        self.workers[trial.number] = (place or {}).get("workers", 1)
        config = self.space.config(trial.params)
        own = {"number": trial.number, "reported_epochs": trial.epochs, "until": until or config.training.epochs}
        return {**self.settings, **(place or {}), **own, "config": config}

    def beginning(self) -> int:
        """Number of trials that could begin or go on now."""
        return self._left(len(self.ledger.trials())) + len(self.unfinished) + len(self.promotions.waiting)

    def _left(self, begun: int) -> int:
        """Number of new trials that are left after those that have `begun`."""
        return 0 if self.exhausted else max(0, int(self.ledger.about["trials"]) - begun)

    def _new(self, begun: int) -> int | None:
        """Number of the ledger's next proposal; None if all trials have `begun`, or the space is exhausted."""
        if not self._left(begun):
            return None
        try:
            return self.ledger.propose(self.space, self.feasibility).number
        except LedgerError:
            raise
        except InputError as error:  # running trials continue
            self.exhausted = True
            self.say(str(error))
            return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Marks a trial that has reached an epoch of promotion as waiting."""
        number = self.training.pop(trial_id, None)
        if number is None:
            return
        self.workers.pop(number, None)
        trial = self.ledger.trial(number)
        for row in trial.curve:
            self.promotions.record(number, row)
        if trial.curve and not error:
            waits = self.promotions.wait(number, trial.epochs)
            if not waits and _goes_on(trial) and trial.epochs < self.space.settings.epochs:
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
        self.space = recorded.measured_space(self.ledger.about, self.space)
        self._sort_unfinished()
        if first is not None:
            times = f"a trial's start took {start:.1f} s, an epoch {epoch:.1f} s"
            self.say(f"trials first wait to be promoted after {first} epochs: {times}")

    def admit(self, number: int) -> None:
        """Lets a trial that was added or resumed on request go on: next, or once it is promoted if it waited for that.

        Does nothing if the trial is paused again, or has ended.
        """
        trial = self.ledger.trial(number)
        known = number in self.unfinished or number in self.training.values()
        if _goes_on(trial) and not known and not self.promotions.wait(number, trial.epochs):
            self.unfinished.append(number)

    def retry(self, number: int) -> None:
        """Makes a trial the next one that Tune gets."""
        self.promotions.waiting.pop(number, None)
        self.unfinished = deque([number, *(other for other in self.unfinished if other != number)])

    def save(self, checkpoint_path: str) -> None:
        """Does nothing (see `NotPickled`)."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing (see `NotPickled`)."""


def _goes_on(trial: TrialRecord) -> bool:
    return trial.state == "running" and not trial.paused
