"""MLflow shows what the ledger holds: one sweep's parent run and its children, kept in step.

Everything goes through one idempotent step, `show`, which brings a trial's run up to the ledger. So a store that was
away, or lost, or a driver that was killed between two writes is mended by the next step, and never ends a sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from asr_platform.following import Follower
from asr_platform.home import trial_name
from asr_platform.plots import PLOTS, draw_sweep, draw_trial
from asr_platform.study import Ledger, TrialRecord
from asr_platform.tracking import FAILURES, LEDGER, Tracker, provenance
from search_spaces.space import Space
from trainables.config import flatten
from trainables.examples import Examples


class Mirror(Follower):
    """One sweep in MLflow.

    Args:
        connect: opens the store; called again for as long as it fails.
        say: tells a person, once each time that the store goes away.
    """

    def __init__(
        self, name: str, ledger: Ledger, space: Space, connect: Callable[[], Tracker], say: Callable[[str], None]
    ) -> None:
        self.name, self.ledger, self.space, self.connect, self.say = name, ledger, space, connect, say
        self.tracker: Tracker | None = None
        self.parent = ""
        self.away = False

    def opened(self, trials: list[TrialRecord]) -> None:
        self.show_all()

    def started(self, trial: TrialRecord) -> None:
        self.show(trial.number)

    def progressed(self, trial: TrialRecord) -> None:
        self.show(trial.number)

    def ended(self, trial: TrialRecord) -> None:
        self.show(trial.number)

    def show(self, number: int) -> None:
        """Brings a trial's run up to the ledger; makes it first where there is none."""
        self._try(lambda tracker: self._show(tracker, number))

    def show_all(self) -> None:
        """The same for every trial: what a sweep begins with."""
        for trial in self.ledger.trials():
            self.show(trial.number)
        self._try(lambda tracker: None)

    def end(self, status: str, best: TrialRecord | None, model: Path | None, reason: str = "") -> None:
        """Closes the parent run with the best trial's figures, its model directory and the sweep's curves as artifacts.

        `reason` says why the sweep ended early. Trials that were interrupted keep their pictures as well.
        """
        if self.away:
            self.show_all()
        trials = self.ledger.trials()
        for trial in trials:
            if trial.state == "running":
                self._try(partial(self._keep, trial=trial))
        self._try(lambda tracker: tracker.keep(self.parent, PLOTS, partial(draw_sweep, trials)))
        self._try(lambda tracker: tracker.end_sweep(self.parent, status, best, model, reason))

    def _try(self, step: Callable[[Tracker], None]) -> None:
        try:
            if self.tracker is None:
                tracker = self.connect()
                self.parent = self._open_parent(tracker)
                self.tracker = tracker
            step(self.tracker)
            self.away = False
        except FAILURES as error:
            if not self.away:
                self.say(f"MLflow cannot be written ({' '.join(str(error).split())[:200]}); it will be told later")
            self.away = True

    def _open_parent(self, tracker: Tracker) -> str:
        """The sweep's own run, reopened, or made where there is none (any more)."""
        about, space = self.ledger.about, self.space
        parent = about.get("mlflow_run_id")
        if parent is not None and tracker.reopen(parent):
            return str(parent)
        params = {
            "corpus": about["corpus"],
            "corpus_hash": about["corpus_hash"],
            "trials": about["trials"],
            "budget": space.settings.budget,
            "epochs": space.settings.epochs,
            **{f"asha.{key}": value for key, value in space.settings.asha.model_dump().items()},
            "seed": space.settings.seed,
        }
        tags = {"kind": "sweep", "space": space.source, LEDGER: self.ledger.id, **provenance()}
        parent = tracker.start(self.name, params, tags)
        self.ledger.note("mlflow_run_id", parent)
        return parent

    def _show(self, tracker: Tracker, number: int) -> None:
        trial = self.ledger.trial(number)
        run_id = trial.about.get("mlflow_run_id")
        if run_id is None or not tracker.knows(run_id):
            config = self.space.config(trial.params).model_dump(mode="json")
            params = {**dict(flatten(config)), "parameters": trial.about["parameters"]}
            tags = {"kind": "trial", "state": "running", "corpus_hash": self.ledger.about["corpus_hash"]}
            run_id = tracker.start(trial_name(number), params, {**tags, **provenance()}, self.parent)
            self.ledger.describe(number, "mlflow_run_id", run_id)
            trial = self.ledger.trial(number)
        if trial.state != "running" and not tracker.ended(run_id):
            self._keep(tracker, trial)
        tracker.catch_up(run_id, trial)

    def _keep(self, tracker: Tracker, trial: TrialRecord) -> None:
        """Pictures of a trial and, where its best checkpoint has them, its transcripts as a table."""
        run_id = trial.about.get("mlflow_run_id")
        if run_id is None or not trial.curve:
            return
        tracker.keep(run_id, PLOTS, partial(draw_trial, trial))
        examples = Examples.load(Path(trial.checkpoint)) if trial.checkpoint else None
        if examples is not None:
            tracker.keep_table(run_id, f"examples_epoch_{examples.epoch}.json", examples.columns())
