"""One run of a sweep: trains the trials that the ledger lacks, and makes the best model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import Home
from asr_platform.study import recorded_space as recorded
from asr_platform.study.callbacks import Callback, Display
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.ledger_copies import CopyKeeper, keep_copy
from asr_platform.study.provenance import write_record
from asr_platform.study.run_record import STOPPED, RunRecord, RunState
from asr_platform.tuning.best_model import best_of, make_best_model, register_best_model, tune_best_model
from asr_platform.tuning.callbacks.background import Background, InBackground
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.callbacks.mirror import Mirror
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.callbacks.retention import CHECKPOINTS_PER_TRIAL, Retention
from asr_platform.tuning.cluster import Options
from asr_platform.tuning.interrupts import Interrupt
from asr_platform.tuning.loop.execution import Recorder, execute
from asr_platform.tuning.loop.proposer import Proposer
from asr_platform.tuning.loop.scheduler import RungStopper
from asr_platform.tuning.loop.steering import Steering
from asr_platform.tuning.loop.watch import Watch
from asr_platform.tuning.nodes.groups import PlacementGroupKeeper
from asr_platform.tuning.nodes.membership import Nodes
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError

MLFLOW_STATUS: dict[RunState, str] = {
    "finished": "FINISHED", "capped": "KILLED", "paused": "KILLED", "stopped": "KILLED", "failed": "FAILED"
}  # fmt: skip


@dataclass(frozen=True)
class RunningSweep:
    """A sweep that a run works on: its home, ledger, space, corpus and options."""

    home: Home
    name: str
    ledger: Ledger
    feasibility: Feasibility
    options: Options

    @property
    def space(self) -> Space:
        return self.feasibility.space

    @property
    def corpus(self) -> Corpus:
        return self.feasibility.corpus

    @property
    def folder(self) -> Path:
        return self.home.sweep(self.name)


@dataclass(frozen=True)
class Outcome:
    """The result of a run of a sweep.

    Args:
        split: name of the validation split.
        model: the best trial's model directory; None if no trial finished an epoch, or after a signal.
        registered: address of the model in MLflow's registry; empty if it could not be registered.
        state: `finished`; or `stopped` by a signal, `capped`, `paused` (only paused trials are left), `failed`, after
            which --resume continues.
        reason: the spending limit or the failure in words.
        intervals: CER intervals by trial number.
        objectives: metrics that the sweep minimises.
    """

    name: str
    corpus: Corpus
    split: str
    trials: list[TrialRecord]
    model: Path | None
    registered: str
    state: RunState
    reason: str
    intervals: Mapping[int, CerInterval]
    objectives: Sequence[str]


@contextmanager
def tolerating_failures(state: RunState, display: Display) -> Iterator[None]:
    """Context that prints errors instead of raising them if the run has failed already, as on a full disk.

    Raises:
        InputError, OSError: errors of the block, if the run has not failed.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if state != "failed":
            raise
        display.say(f"left undone: {error}")


class SweepRun:
    """One run of a sweep, with its callbacks and records.

    Args:
        record: the run's record in the ledger.
    """

    def __init__(
        self, sweep: RunningSweep, nodes: Nodes, interrupt: Interrupt, display: Display, record: RunRecord
    ) -> None:
        self.sweep, self.nodes, self.interrupt, self.display, self.record = sweep, nodes, interrupt, display, record
        self.ledger, self.space, self.folder = sweep.ledger, sweep.space, sweep.folder
        self.workers, cluster = nodes.workers, nodes.cluster
        self.mlflow = MLflowCallback(sweep.home, self.ledger, self.space, sweep.corpus, display.say, cluster.dashboard)
        self.errors = RecordedErrors(self.folder)
        storage = sweep.home.storage
        self.mirror = [Mirror(sweep.home, sweep.name, storage, self.ledger.id)] if storage else []
        models, is_plotted = self.space.settings.keep, lambda number: number not in self.mlflow.missed
        self.retention = Retention(self.ledger, self.folder, models, is_plotted, *self.mirror)
        self.meter = Meter(self.ledger, recorded.recorded_limits(self.ledger.about), self.workers.count, self.retention)
        self.steering = Steering(self.ledger, sweep.feasibility, self.meter, record)
        self.copies = CopyKeeper(sweep.home, sweep.name)
        self.background = Background(display.say)

    def execute(self) -> Outcome:
        """Prepares the run, trains trials, and makes the best model."""
        try:
            self.prepare()
            with self.display.sweep(
                self.sweep.name, self.nodes.cluster.dashboard, self.ledger, self.space.settings.epochs, self.folder
            ):
                self.train()
            return self.conclude()
        except Exception:
            with suppress(Exception):  # the first error counts
                self.background.drain()
                self.mlflow.end(MLFLOW_STATUS["failed"], best_of(self.ledger.trials()))
            raise

    def prepare(self) -> None:
        """Updates the ledger's copy, MLflow and the files: an earlier run may have been killed at any moment."""
        text, corpus = self.space.text, self.sweep.corpus
        try:
            write_record(self.folder, text, self.sweep.home.plan(text, corpus.hash))
        except OSError as error:
            self.display.say(f"the record of this run cannot be written: {error}")
        self.ledger.complete_trials(self.space.settings.epochs)
        self.steering.act()
        trials = self.ledger.trials()
        # The mirror comes before callbacks that read checkpoints.
        callbacks: list[Callback] = [self.record, *self.mirror, self.errors, self.mlflow, self.display, self.copies]
        for callback in [*callbacks, self.retention, self.meter]:
            callback.on_sweep_start(trials)

    def train(self) -> None:
        """Trains trials with Ray Tune until none is left, or the interrupt is stopped."""
        settings = {
            "folder": str(self.folder),
            "storage": self.sweep.home.addresses.storage,
            "corpus": str(self.sweep.corpus.path.resolve()),
            "corpus_hash": self.sweep.corpus.hash,
            "checkpoints": CHECKPOINTS_PER_TRIAL,
        }
        # Retention runs after the callbacks that read checkpoints, and after the ledger's copy has been updated.
        slow: list[Callback] = [*self.mirror, self.errors, self.mlflow, self.copies, self.retention, self.meter]
        callbacks = [self.record, self.display, InBackground(self.background, slow)]
        interrupt = self.interrupt
        nodes, cluster = self.nodes, self.nodes.cluster
        nodes.on_change = self.record.follow
        proposer = Proposer(self.ledger, self.sweep.feasibility, settings, nodes.place, self.display.say)
        stopper = RungStopper(self.space.comparable_settings, self.ledger.trials())
        watch = Watch(self.folder, interrupt, self.background, cluster.parts, self.display.say)
        recorder = Recorder(proposer, stopper, interrupt, self.meter, watch, self.steering, nodes, callbacks)
        if cap := self.meter.reached():
            interrupt.stop("capped", cap)
        if not interrupt.requested:
            try:
                with PlacementGroupKeeper(cluster.dashboard, watch.waiting, self.display.say):
                    watch.run(partial(execute, proposer, stopper, recorder, interrupt, self.folder))
            except LedgerError as error:
                interrupt.stop("failed", f"{error.problem}. {error.remedy}")
        with tolerating_failures(interrupt.state, self.display):
            self.record.begin_end()
        self.background.drain()

    def conclude(self) -> Outcome:
        """Makes the best model, closes the runs in MLflow, and registers the model.

        No model is made after a signal, so that the run ends quickly.
        """
        ledger, interrupt, display = self.ledger, self.interrupt, self.display
        trials, model, registered = ledger.trials(), None, None
        best = best_of(trials)
        if interrupt.state != "stopped":
            with tolerating_failures(interrupt.state, display):
                model = make_best_model(self.sweep.home, ledger, self.space, self.sweep.corpus, display.say)
        if lost := [str(trial.number) for trial in trials if trial.state == "running" and not trial.paused]:
            interrupt.stop("failed", f"trials that lost their processes again and again: {', '.join(lost)}")
        if paused := [str(trial.number) for trial in trials if trial.paused]:
            interrupt.stop("paused", f"all other trials have ended, and these are paused: {', '.join(paused)}")
        state, reason = interrupt.state, interrupt.reason
        if model and best and state == "finished" and self.sweep.options.tune_decoding:
            tune_best_model(
                model, best, self.sweep.corpus, display.say, lambda: interrupt.requested or interrupt.leaving
            )
        steps: tuple[Callable[[], object], ...] = (
            self.meter.note,
            partial(ledger.note, STOPPED, reason if state == "capped" else ""),
            partial(self.mlflow.end, MLFLOW_STATUS[state], best, reason),
            self.retention.apply,
            partial(keep_copy, self.sweep.home, self.sweep.name),
            *(mirror.store_model for mirror in self.mirror),
        )
        for step in steps:
            with tolerating_failures(state, display):
                step()
        if best and model:
            registered = register_best_model(self.mlflow, ledger, best, model, display.say)
        return Outcome(
            name=self.sweep.name,
            corpus=self.sweep.corpus,
            split=self.sweep.corpus.validation_name(self.space.config(best.params if best else {}).data),
            trials=trials,
            model=model,
            registered=registered.uri if registered else "",
            state=state,
            reason=reason,
            intervals=self.errors.cer_intervals(trials),
            objectives=ledger.objectives,
        )
