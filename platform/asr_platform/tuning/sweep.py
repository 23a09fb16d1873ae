"""Starts and resumes sweeps, which train the trials of a space on a corpus and keep the best model.

A sweep is stored in its ledger. `start` makes a new ledger, `resume` opens an existing one, and `SweepRun` trains the
trials that the ledger lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import Home, name_taken
from asr_platform.study import recorded_space as recorded
from asr_platform.study.callbacks import Callback, Display
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import WARM_START, Ledger, TrialRecord
from asr_platform.study.ledger_copies import CopyKeeper, keep_copy
from asr_platform.study.migration import check_widening, earlier_trials
from asr_platform.study.provenance import PROVENANCE, provenance, write_record
from asr_platform.study.run_record import SPENT, STOPPED, RunRecord, RunState
from asr_platform.tuning.best_model import best_of, make_best_model, register_best_model, tune_best_model
from asr_platform.tuning.callbacks.background import Background, InBackground
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.callbacks.notify import message, notify
from asr_platform.tuning.callbacks.retention import CHECKPOINTS_PER_TRIAL, Retention
from asr_platform.tuning.cluster import Cluster, Options
from asr_platform.tuning.connection import PlacementGroupCleaner, check_address, connect
from asr_platform.tuning.execution import Proposer, Recorder, execute
from asr_platform.tuning.interrupts import Interrupt, stop_on_signals
from asr_platform.tuning.scheduler import RungStopper
from asr_platform.tuning.watch import Watch
from search_spaces.settings import Limits
from search_spaces.space import INITIAL_MODEL, Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError

MLFLOW_STATUS = {"finished": "FINISHED", "capped": "KILLED", "stopped": "KILLED", "failed": "FAILED"}


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
        state: `finished`; or `stopped` by a signal, `capped`, `failed`, after which --resume continues.
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


def start(
    home: Home, space: Space, corpus: Corpus, name: str | None, trials: int | None, options: Options, display: Display,
    warm_start: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    """Runs a new sweep until all its trials have ended or a spending limit is reached.

    Args:
        trials: number of trials; default: the space's.
        warm_start: names of earlier sweeps whose finished trials the sampler learns from.

    Raises:
        InputError: the name is taken, no model of the space fits its budget and this corpus, or an earlier sweep does
            not exist.
    """
    if options.address:
        check_address(options.address)
    if name is not None:
        home.sweep(name)  # refuses names that cannot be a folder's
        if name in Ledger.names(home.studies):
            raise name_taken(name)
    earlier, lines = earlier_trials(home.studies, warm_start, space, corpus.hash)
    feasibility = Feasibility(space, corpus)
    lines += [*(f"not tried: {left_out}" for left_out in feasibility.check()), *feasibility.heard_voices()]
    for line in lines:
        display.say(line)
    about = {
        "space": space.text,
        "source": space.source,
        "folder": str(Path.cwd()),
        "corpus": str(corpus.path.resolve()),
        "corpus_hash": corpus.hash,
        "trials": trials or space.settings.trials,
        "limits": space.settings.limits.model_dump(),
        "epochs": space.settings.epochs,
        "objectives": space.settings.objectives,
        recorded.INIT_FROM: space.base.get(INITIAL_MODEL),
        recorded.RECORDED_DEFAULTS: recorded.defaults_to_record(),
        WARM_START: earlier,
        "options": asdict(options),
        PROVENANCE: provenance(),
    }
    locked = home.lock_new(name, space.name, lambda: Ledger.names(home.studies))
    with locked as own, stop_on_signals() as interrupt, connect(options.address) as cluster:
        cluster.workers(options)  # raises before the sweep is on record if no trial fits
        sweep = RunningSweep(home, own, Ledger.create(home.studies, own, about), feasibility, options)
        return run(sweep, cluster, interrupt, display)


def resume(
    home: Home, name: str, trials: int | None, limits: Limits, address: str | None, display: Display,
    wider: Space | None = None, tracking_uri: str | None = None, tune_decoding: bool = True,
) -> Outcome:  # fmt: skip
    """Continues a sweep: unfinished trials from their checkpoints, then new ones up to the number asked for.

    Args:
        trials: number of trials, the present ones included; default: as before.
        limits: limits that are set here replace the sweep's own.
        address: address of the Ray cluster; default: as before.
        wider: a space that contains the sweep's space and replaces it.
        tracking_uri: address of the MLflow store; default: as before.
        tune_decoding: False: the decoding options of the best model are not tuned; True: as before.

    Raises:
        InputError: the sweep does not exist or is running, its corpus is missing or has changed, or `wider` does not
            contain its trials.
    """
    ledger = Ledger.open(home.studies, name)
    with home.lock(name):
        about = ledger.about
        corpus = Corpus.open(Path(about["corpus"]))
        if corpus.hash != about["corpus_hash"]:
            raise InputError(f"{corpus.path}: not the corpus that sweep {name} began with", "Start a new sweep.")
        options = Options(**about["options"]).changed(address, tracking_uri, tune_decoding)
        space = recorded.recorded_space(about)
        if wider is not None:
            trials = trials or recorded.changed_trials(about, wider)
            wider = recorded.wider_space(about, wider)
            values = check_widening({trial.number: trial.params for trial in ledger.trials()}, space, wider)
            space = wider
        feasibility = Feasibility(space, corpus)
        feasibility.check()
        sweep = RunningSweep(home, name, ledger, feasibility, options)
        with stop_on_signals() as interrupt, connect(options.address) as cluster:
            cluster.workers(options)  # raises before the sweep is changed if no trial fits
            if trials is not None:
                ledger.note("trials", trials)
            ledger.note("limits", recorded.recorded_limits(about).replaced_by(limits).model_dump())
            ledger.note("options", asdict(options))
            if wider is not None:
                ledger.widen(space, Path.cwd(), values)
            return run(sweep, cluster, interrupt, display)


def run(sweep: RunningSweep, cluster: Cluster, interrupt: Interrupt, display: Display) -> Outcome:
    """Trains the trials that a sweep lacks, records the end of the run, and sends notifications."""
    workers = cluster.workers(sweep.options)
    concurrency = cluster.concurrency(workers, sweep.options)
    record = RunRecord(sweep.ledger, concurrency, workers.count, cluster.dashboard, cluster.logs)
    try:
        outcome = SweepRun(sweep, cluster, interrupt, display, record).execute()
    except BaseException as error:
        state: RunState = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        with suppress(Exception):  # fails if the error was that the ledger cannot be written
            record.end(state, reason)
        with suppress(Exception):
            _notify(sweep, display, state, reason)
        raise
    with tolerating_failures(outcome.state, display):
        record.end(outcome.state, outcome.reason)
    _notify(sweep, display, outcome.state, outcome.reason, outcome)
    return outcome


def _notify(sweep: RunningSweep, display: Display, state: str, reason: str, outcome: Outcome | None = None) -> None:
    intervals, model = (outcome.intervals, outcome.model) if outcome else ({}, None)
    seconds = sweep.ledger.about.get(SPENT, 0.0)
    trials = sweep.ledger.trials()
    notify(display.targets, message(sweep.name, state, reason, trials, intervals, model, seconds), display.say)


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
        self, sweep: RunningSweep, cluster: Cluster, interrupt: Interrupt, display: Display, record: RunRecord
    ) -> None:
        self.sweep, self.cluster, self.interrupt, self.display, self.record = sweep, cluster, interrupt, display, record
        self.ledger, self.space, self.folder = sweep.ledger, sweep.space, sweep.folder
        self.workers = cluster.workers(sweep.options)
        self.mlflow = MLflowCallback(sweep.home, self.ledger, self.space, sweep.corpus, display.say, cluster.dashboard)
        self.errors = RecordedErrors(self.folder)
        models, is_plotted = self.space.settings.keep, lambda number: number not in self.mlflow.missed
        self.retention = Retention(self.ledger, self.folder, models, is_plotted)
        self.meter = Meter(self.ledger, recorded.recorded_limits(self.ledger.about), self.workers.count, self.retention)
        self.copies = CopyKeeper(sweep.home, sweep.name)
        self.background = Background(display.say)

    def execute(self) -> Outcome:
        """Prepares the run, trains trials, and makes the best model."""
        try:
            self.prepare()
            with self.display.sweep(
                self.sweep.name, self.cluster.dashboard, self.ledger, self.space.settings.epochs, self.folder
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
            self.display.say(f"what this run rests on cannot be written down: {error}")
        self.ledger.complete_trials(self.space.settings.epochs)
        trials = self.ledger.trials()
        callbacks: list[Callback] = [self.record, self.errors, self.mlflow, self.display, self.copies, self.retention]
        for callback in [*callbacks, self.meter]:
            callback.on_sweep_start(trials)

    def train(self) -> None:
        """Trains trials with Ray Tune until none is left, or the interrupt is stopped."""
        settings = {
            "folder": str(self.folder),
            "corpus": str(self.sweep.corpus.path.resolve()),
            "corpus_hash": self.sweep.corpus.hash,
            "workers": self.workers.count,
            "threads": self.workers.threads,
            "resources": self.workers.resources,
            "checkpoints": CHECKPOINTS_PER_TRIAL,
        }
        # Retention runs after the callbacks that read checkpoints, and after the ledger's copy has been updated.
        slow: list[Callback] = [self.errors, self.mlflow, self.copies, self.retention, self.meter]
        callbacks = [self.record, self.display, InBackground(self.background, slow)]
        interrupt = self.interrupt
        proposer = Proposer(self.ledger, self.sweep.feasibility, settings, self.display.say)
        stopper = RungStopper(self.space.comparable_settings, self.ledger.trials())
        watch = Watch(self.folder, interrupt, self.background, self.cluster.parts, self.display.say)
        recorder = Recorder(proposer, stopper, interrupt, self.meter, watch, callbacks)
        if cap := self.meter.reached():
            interrupt.stop("capped", cap)
        if not interrupt.requested:
            try:
                with PlacementGroupCleaner(self.cluster.dashboard):
                    concurrency = self.record.concurrency
                    watch.run(partial(execute, proposer, stopper, recorder, interrupt, concurrency, self.folder))
            except LedgerError as error:
                interrupt.stop("failed", f"{error.problem}. {error.remedy}")
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
        if lost := [str(trial.number) for trial in trials if trial.state == "running"]:
            interrupt.stop("failed", f"trials that lost their processes again and again: {', '.join(lost)}")
        state, reason = interrupt.state, interrupt.reason
        if model and best and state == "finished" and self.sweep.options.tune_decoding:
            tune_best_model(model, best, self.sweep.corpus, display.say, lambda: interrupt.requested)
        steps = (
            self.meter.note,
            partial(ledger.note, STOPPED, reason if state == "capped" else ""),
            partial(self.mlflow.end, MLFLOW_STATUS[state], best, reason),
            self.retention.apply,
            partial(keep_copy, self.sweep.home, self.sweep.name),
        )
        for step in steps:
            with tolerating_failures(state, display):
                step()
        if best and model:
            registered = register_best_model(self.mlflow, ledger, best, model, display.say)
        return Outcome(
            name=self.sweep.name,
            corpus=self.sweep.corpus,
            split=self.sweep.corpus.validation_split(self.space.config({}).data.validation).name,
            trials=trials,
            model=model,
            registered=registered.uri if registered else "",
            state=state,
            reason=reason,
            intervals=self.errors.cer_intervals(trials),
            objectives=ledger.objectives,
        )
