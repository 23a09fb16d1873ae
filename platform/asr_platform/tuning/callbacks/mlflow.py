"""The MLflow callback: logs a sweep and its trials to MLflow, as the ledger has them.

Every step logs the data that a run lacks and can be repeated. So the next step completes whatever an unreachable store
or a killed driver has missed, and a store that fails does not end the sweep.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from asr_platform.analysis.bootstrap import error_interval
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.analysis.text import short_value
from asr_platform.reporting.plots import PLOTS, draw_sweep, draw_trial
from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import Home, trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.provenance import RECORD, provenance
from asr_platform.study.run_record import MLFLOW_VIEW
from asr_platform.tracking.notes import lacks_note, record_equal, sync_note, sync_notes
from asr_platform.tracking.runs import DESCRIPTION, INTERRUPTED, LEDGER, Run, Tracker, datasets_of, experiment_of
from asr_platform.tracking.shared_view import charts_of, share_view
from asr_platform.tracking.store import FAILURES, is_deleted, one_line
from search_spaces.space import Space
from trainables.config.parsing import flatten
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.evaluation.examples import Examples

NOTE = "mlflow_note"  # key of the ledger: the description of the sweep's run as it was last set
SLOW = 1.0  # seconds; a store that takes longer to fail is not used for a while
PAUSE = 20  # that while, as a multiple of the failed call's time: at most a twentieth of the driver's time is lost
NOTES_INTERVAL = 60.0  # seconds at least between searches for notes in MLflow, which are made at ends of epochs
Step = Callable[[Tracker, Run], None]  # writes to the store; gets the sweep's run as well


class MLflowCallback(Callback):
    """Logs one sweep.

    Args:
        say: prints a line for the user, such as that the store cannot be reached.
        dashboard: address of Ray's dashboard, while the sweep runs.

    Attributes:
        away: whether the store failed at its latest use.
        missed: numbers of trials whose runs lack data of the ledger.
    """

    def __init__(
        self, home: Home, ledger: Ledger, space: Space, corpus: Corpus, say: Callable[[str], None], dashboard: str = ""
    ) -> None:
        self.home, self.ledger, self.space, self.corpus = home, ledger, space, corpus
        self.say, self.dashboard = say, dashboard
        self.folder = home.sweep(ledger.name)
        self.errors = RecordedErrors(self.folder)
        self.connection: tuple[Tracker, Run] | None = None  # the store, and the sweep's run in it
        self.away = False
        self.missed: set[int] = set()
        self.recorded = False  # whether the run's record has been logged
        self.paused_until = self.notes_due = 0.0

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        """Logs the data that runs lack; of runs that lack nothing, the store is asked once for all."""
        lacking = [trial.number for trial in trials]

        def compare(tracker: Tracker, sweep_run: Run) -> None:
            lacking[:] = tracker.lacking(sweep_run.id, trials)
            self._sync_notes(tracker, tracker.known.values())

        self.attempt(compare)
        self.log_trials(*lacking)
        self.attempt(self._log_record)

    def on_trial_start(self, trial: TrialRecord) -> None:
        self.log_trials(trial.number)

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self.log_trials(trial.number)
        if time.monotonic() >= self.notes_due:
            self.attempt(self._read_notes)

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.log_trials(trial.number)

    def log_all(self) -> None:
        """Logs the data that the runs of all trials lack, and the files that record the latest run of the sweep.

        Notes that users have written in MLflow come into the ledger.
        """
        self.log_trials(*(trial.number for trial in self.ledger.trials()))
        self.attempt(self._read_notes)
        self.attempt(self._log_record)

    def log_trials(self, *numbers: int) -> None:
        """Logs the data that the runs of these trials and of `missed` lack; creates missing runs."""
        others = sorted(self.missed.difference(numbers))
        self.missed.update(numbers)
        for number in [*numbers, *others]:
            if not self.attempt(partial(self._log_trial, number=number)):
                return
            self.missed.discard(number)
        self.away = False

    def end(self, status: str, best: TrialRecord | None, reason: str = "") -> None:
        """Closes the sweep's run and the runs of interrupted trials, with their plots.

        Args:
            status: status of the sweep's run in MLflow, such as FINISHED.
            best: trial whose metrics are logged in the sweep's run.
            reason: why the sweep ended early.
        """
        self.paused_until = 0.0
        with suppress(LedgerError):  # noting the id of a new run fails where the ledger's disk is full
            self.log_trials(*(trial.number for trial in self.ledger.trials() if "mlflow_run_id" not in trial.about))
            self.attempt(self._read_notes)
        trials = self.ledger.trials()
        steps: list[Step] = [] if self.recorded else [self._log_record]
        steps += [partial(self._interrupt, trial=trial) for trial in trials if trial.state == "running"]
        steps.append(lambda tracker, sweep_run: tracker.log_files(sweep_run, PLOTS, partial(draw_sweep, trials)))
        steps.append(lambda tracker, sweep_run: tracker.end_sweep(sweep_run, status, best, reason))
        done = [self.attempt(step) for step in steps]
        if self.missed or not all(done):
            self.say(f"MLflow lacks some of the sweep's records: platform doctor {self.ledger.name} --repair adds them")

    def attempt(self, step: Step) -> bool:
        """Runs `step` with the store and the sweep's run; returns False after a message if the store fails.

        If a user has deleted the run or its experiment, `step` is run again after reconnecting, which restores the
        experiment.
        """
        start = time.monotonic()
        if start < self.paused_until:
            return False
        try:
            try:
                step(*self._connected())
            except FAILURES as error:
                if not is_deleted(error):
                    raise
                self.connection = None
                step(*self._connected())
        except FAILURES as error:
            if self.connection:
                self.connection[0].known.clear()  # a write that has failed may have arrived
            if not self.away:
                self.say(f"MLflow cannot be written ({_root(error)}); what it lacks is logged later")
            self.away = True
            now = time.monotonic()
            if now - start > SLOW:
                self.paused_until = now + PAUSE * (now - start)
            return False
        return True

    def _connected(self) -> tuple[Tracker, Run]:
        if self.connection is None:
            tracker = Tracker(self.home.store(self.ledger.about), experiment_of(self.corpus))
            self.connection = tracker, self._sweep_run(tracker)
        return self.connection

    def _sweep_run(self, tracker: Tracker) -> Run:
        """The sweep's run, marked as running, with its description; created if it is missing."""
        about, space = self.ledger.about, self.space
        run = tracker.run(about.get("mlflow_run_id"))
        if run:
            tracker.set_status(run, "RUNNING")
        else:
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
            run = tracker.start(self.ledger.name, params, tags, datasets=self._datasets(space.config({})))
            self.ledger.note("mlflow_run_id", run.id)
        if self.dashboard:
            tracker.tag(run, {"ray_dashboard": self.dashboard})
        self._describe(tracker, run)
        return run

    def _describe(self, tracker: Tracker, run: Run) -> None:
        """Adds the view of the trials, and describes the sweep's run by links to it and to Ray's dashboard."""
        name, key = self.ledger.name, f"{self.ledger.name}-{self.ledger.id[:8]}"
        view = share_view(tracker.client, tracker.experiment, key, name, run.id, self.space)
        self.ledger.note(MLFLOW_VIEW, view)
        lines = []
        if view:
            lines += [f"[The trials, best first]({view[1:]})", f"[The best ten in charts]({charts_of(view)[1:]})"]
        if self.dashboard:
            lines.append(
                f"[Ray's dashboard]({self.dashboard}), while the sweep runs; `ray get-auth-token` prints its token"
            )
        text = "\n\n".join(lines)
        tracker.describe(run, text, self.ledger.about.get(NOTE))
        self.ledger.note(NOTE, text)

    def _log_trial(self, tracker: Tracker, sweep_run: Run, number: int) -> None:
        trial = self.ledger.trial(number)
        run = tracker.run(trial.about.get("mlflow_run_id"))
        if run is None:
            config = self.space.config(trial.params)
            params = {**dict(flatten(config.model_dump(mode="json"))), "parameters": trial.about["parameters"]}
            values = ", ".join(f"{key} **{short_value(value)}**" for key, value in trial.params.items())
            tags = {
                "kind": "trial", "sweep": self.ledger.name, "state": "running",
                "corpus_hash": self.ledger.about["corpus_hash"], **provenance(),
                DESCRIPTION: values,
            }  # fmt: skip
            run = tracker.start(trial_name(number), params, tags, sweep_run.id, self._datasets(config))
            tracker.start_model(run, trial.params, config.model.kind)
            known = values in run.tags.get(DESCRIPTION, "")  # else a driver of an earlier version has begun the run
            record_equal(self.ledger, number, run.id, values if known else None, "", values)
            self.ledger.describe(number, "mlflow_run_id", run.id)
            trial = self.ledger.trial(number)
        if trial.state != "running" and run.status == "RUNNING":
            self._log_plots(tracker, run, trial)
        tracker.catch_up(run, trial, lambda: self._interval(trial))
        if lacks_note(trial):
            sync_note(tracker.client, self.ledger, trial)

    def _read_notes(self, tracker: Tracker, sweep_run: Run) -> None:
        start = time.monotonic()
        self._sync_notes(tracker, tracker.children(sweep_run.id))
        now = time.monotonic()
        self.notes_due = now + max(NOTES_INTERVAL, PAUSE * (now - start))

    def _sync_notes(self, tracker: Tracker, runs: Iterable[Run]) -> None:
        sync_notes(tracker.client, self.ledger, {run.id: run.tags for run in runs})

    def _interval(self, trial: TrialRecord) -> dict[str, str]:
        """Tag with the confidence interval of a trial's CER; empty if the trial's errors are not recorded."""
        errors = self.errors.of(trial)
        return {"interval": str(error_interval(errors))} if errors else {}

    def _log_record(self, tracker: Tracker, sweep_run: Run) -> None:
        record = self.folder / RECORD
        if record.is_dir():
            tracker.log_files(sweep_run, RECORD, partial(shutil.copytree, record, dirs_exist_ok=True))
        self.recorded = True

    def _log_plots(self, tracker: Tracker, run: Run, trial: TrialRecord) -> None:
        """Logs a trial's plots and, if its best checkpoint has examples of transcripts, a table of the examples."""
        if not trial.curve:
            return
        tracker.log_files(run, PLOTS, partial(draw_trial, trial))
        examples = Examples.load(Path(trial.checkpoint)) if trial.checkpoint else None
        if examples is not None:
            tracker.log_table(run, f"examples_epoch_{examples.epoch}.json", examples.columns())

    def _interrupt(self, tracker: Tracker, sweep_run: Run, trial: TrialRecord) -> None:
        """Ends the run of an interrupted trial; resuming the trial opens it again."""
        if run := tracker.run(trial.about.get("mlflow_run_id")):
            self._log_plots(tracker, run, trial)
            tracker.set_status(run, INTERRUPTED)

    def _datasets(self, config: Config) -> list[Any]:
        data = config.data
        splits = {"train": self.corpus.training_name(data), "dev": self.corpus.validation_name(data)}
        return datasets_of(self.corpus, splits)


def _root(error: BaseException) -> str:
    """Message of an error's first cause in one line, without the long texts of the exceptions around it."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return one_line(error)
