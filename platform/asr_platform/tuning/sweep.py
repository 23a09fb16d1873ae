"""The main job: a space and a corpus become a running Tune experiment, a full ledger and a best model.

The idea: the ledger is the sweep, and running is only a way of adding to it. Starting makes a ledger, resuming opens
one; then the same few lines ask it what is left to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import Home, taken
from asr_platform.study.callbacks import Callback, Display
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import WARM_START, Ledger, TrialRecord
from asr_platform.study.ledger_copies import CopyKeeper, keep_copy
from asr_platform.study.provenance import PROVENANCE, provenance, write_record
from asr_platform.study.recorded_space import changed_trials, recorded_limits, recorded_space, written_space
from asr_platform.study.run_record import SPENT, STOPPED, RunRecord, RunState
from asr_platform.study.warm_start import gather
from asr_platform.study.widening import check_widening
from asr_platform.tuning.best_model import best_of, make_best_model, register_best_model
from asr_platform.tuning.callbacks.background import Background, Beside
from asr_platform.tuning.callbacks.meter import DiskMeter, Meter
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.callbacks.notify import message
from asr_platform.tuning.callbacks.retention import CHECKPOINTS_PER_TRIAL, Retention
from asr_platform.tuning.cluster import Cluster, Options
from asr_platform.tuning.connection import PlacementGroupCleaner, check_address, connect
from asr_platform.tuning.execution import Proposer, Recorder, execute
from asr_platform.tuning.interrupts import Interrupt, interrupts
from asr_platform.tuning.scheduler import RungStopper
from asr_platform.tuning.watch import Watch
from search_spaces.settings import Limits
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError


@dataclass(frozen=True)
class RunningSweep:
    """What one sweep is: its place, its ledger, what may vary on which data, and how to run it."""

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


@dataclass(frozen=True)
class Outcome:
    """What a run of a sweep left.

    Args:
        split: the validation split's name.
        model: the best trial's model directory; None where no trial finished an epoch, or after a signal.
        registered: its name in MLflow's registry; empty where it could not be registered.
        state: `finished`; or `stopped` by a signal, `capped`, `failed`, all of which --resume goes on with.
        reason: which cap, or what failed, in words.
        intervals: CER intervals by trial number.
        objectives: what the sweep minimises.
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
    home: Home, space: Space, corpus: Corpus, name: str | None, trials: int | None, options: Options,
    view: Display, warm_start: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    """Runs a new sweep to its end, or to one of the space's limits; `trials` overrides the space's number.

    Args:
        warm_start: earlier sweeps, whose finished trials the sampler learns from.

    Raises:
        InputError: the name is taken, or no model of the space fits its budget and this corpus, or an earlier sweep is
            not there.
    """
    if options.address:
        check_address(options.address)
    if name is not None:
        home.sweep(name)  # refuses names that cannot be a folder's
        if name in Ledger.names(home.studies):
            raise taken(name)
    known, lines = gather(home.studies, warm_start, space, corpus.hash)
    feasibility = Feasibility(space, corpus)
    lines += [f"not tried: {left_out}" for left_out in feasibility.check()]
    for line in lines:
        view.say(line)
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
        WARM_START: known,
        "options": asdict(options),
        PROVENANCE: provenance(),
    }
    chosen = home.lock_new(name, space.name, lambda: Ledger.names(home.studies))
    with chosen as own, interrupts() as interrupt, connect(options.address) as machine:
        machine.workers(options)  # what cannot fit leaves no sweep behind
        sweep = RunningSweep(home, own, Ledger.create(home.studies, own, about), feasibility, options)
        return _run(sweep, machine, interrupt, view)


def resume(
    home: Home, name: str, trials: int | None, limits: Limits, address: str | None, view: Display,
    wider: Space | None = None, tracking_uri: str | None = None,
) -> Outcome:  # fmt: skip
    """Goes on with a sweep: unfinished trials from their checkpoints, then new ones up to the number asked for.

    Args:
        limits: those that there are take the place of the sweep's own.
        wider: the space to go on with; default: that which the sweep has.
        tracking_uri: the MLflow store to go on with; default: that which the sweep has.

    Raises:
        InputError: no such sweep, it is running, its corpus is gone or another, or its trials are not in the space.
    """
    ledger = Ledger.open(home.studies, name)
    with home.lock(name):
        about = ledger.about
        corpus = Corpus.open(Path(about["corpus"]))
        if corpus.hash != about["corpus_hash"]:
            raise InputError(f"{corpus.path}: not the corpus that sweep {name} began with", "Start a new sweep.")
        options = Options(**about["options"])
        options = replace(
            options, address=address or options.address, tracking_uri=tracking_uri or options.tracking_uri
        )
        space = recorded_space(about)
        if wider is not None:
            space, values = widened(ledger, space, wider)
            trials = trials or changed_trials(about, wider)
        feasibility = Feasibility(space, corpus)
        feasibility.check()
        sweep = RunningSweep(home, name, ledger, feasibility, options)
        with interrupts() as interrupt, connect(options.address) as machine:
            machine.workers(options)  # a cluster that cannot be used leaves the sweep as it was
            if trials is not None:
                ledger.note("trials", trials)
            ledger.note("limits", recorded_limits(about).replaced_by(limits).model_dump())
            ledger.note("options", asdict(options))
            if wider is not None:
                ledger.widen(space, Path.cwd(), values)
            return _run(sweep, machine, interrupt, view)


def widened(ledger: Ledger, space: Space, wider: Space) -> tuple[Space, dict[int, dict[str, Any]]]:
    """The space that a sweep goes on with, and the values there of its trials so far, by number.

    Raises:
        InputError: they do not fit.
    """
    about = ledger.about
    if wider.settings.epochs == written_space(about).settings.epochs:
        wider = wider.with_epochs(about["epochs"])
    return wider, check_widening({trial.number: trial.params for trial in ledger.trials()}, space, wider)


def _run(sweep: RunningSweep, machine: Cluster, interrupt: Interrupt, view: Display) -> Outcome:
    """Executes what the ledger has left to do, and lets it be known how that ended."""
    workers = machine.workers(sweep.options)
    concurrency = machine.concurrency(workers, sweep.options)
    run = RunRecord(sweep.ledger, concurrency, workers.count, machine.dashboard, machine.logs)
    try:
        outcome = _execute(sweep, machine, interrupt, view, run)
    except BaseException as error:
        state: RunState = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        with suppress(Exception):  # what keeps the ledger from being written may be what went wrong
            run.end(state, reason)
        with suppress(Exception):
            view.on_finish(_message(sweep, state, reason))
        raise
    with _as_far_as_it_goes(outcome.state, view):
        run.end(outcome.state, outcome.reason)
    view.on_finish(_message(sweep, outcome.state, outcome.reason, outcome))
    return outcome


@contextmanager
def _as_far_as_it_goes(state: RunState, view: Display) -> Iterator[None]:
    """Around the last steps of a run: one that has failed, for want of disk say, ends in order for all that.

    Raises:
        InputError, OSError: what the block raised, where the run has not failed.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if state != "failed":
            raise
        view.say(f"left undone: {error}")


def _message(sweep: RunningSweep, state: RunState, reason: str, outcome: Outcome | None = None) -> dict[str, Any]:
    """What is told of a sweep that has come to rest."""
    intervals, model = (outcome.intervals, outcome.model) if outcome else ({}, None)
    seconds = sweep.ledger.about.get(SPENT, 0.0)
    return message(sweep.name, state, reason, sweep.ledger.trials(), intervals, model, seconds)


def _execute(sweep: RunningSweep, machine: Cluster, interrupt: Interrupt, view: Display, run: RunRecord) -> Outcome:
    """Executes it; the run is on record already."""
    ledger, space, corpus, home = sweep.ledger, sweep.space, sweep.corpus, sweep.home
    folder, workers = home.sweep(sweep.name), machine.workers(sweep.options)
    _record(sweep, view)
    mlflow_callback = MLflowCallback(home, ledger, space, corpus, view.say, machine.dashboard)
    errors = RecordedErrors(folder)
    retention = Retention(ledger, folder, space.settings.keep, lambda number: number not in mlflow_callback.missed)
    meter = Meter(ledger, recorded_limits(ledger.about), workers.count, retention)
    copies = CopyKeeper(home, sweep.name)
    # Retention comes after what it takes away, and after a copy of the ledger that knows of it.
    beside: list[Callback] = [errors, mlflow_callback, copies, retention, DiskMeter(meter)]
    settings = {
        "folder": str(folder),
        "corpus": str(corpus.path.resolve()),
        "corpus_hash": corpus.hash,
        "workers": workers.count,
        "threads": workers.threads,
        "resources": workers.resources,
        "checkpoints": CHECKPOINTS_PER_TRIAL,
    }
    background = Background(view.say)
    try:
        ledger.settle(space.settings.epochs)
        begun = ledger.trials()
        for callback in [run, errors, mlflow_callback, view, copies, retention]:
            callback.on_sweep_start(begun)
        meter.measure()
        with view.sweep(sweep.name, machine.dashboard, ledger, space.settings.epochs, folder):
            proposer = Proposer(ledger, sweep.feasibility, settings, view.say)
            stopper = RungStopper(space.comparable_settings, ledger.trials())
            watch = Watch(folder, interrupt, background, machine.parts, view.say)
            callbacks = [run, view, Beside(background, beside)]
            recorder = Recorder(ledger, stopper, interrupt, meter, watch, proposer.again, callbacks)
            if cap := meter.reached():
                interrupt.stop("capped", cap)
            if not interrupt.asked:
                try:
                    with PlacementGroupCleaner(machine.dashboard):
                        watch.over(partial(execute, proposer, stopper, recorder, interrupt, run.concurrency, folder))
                except LedgerError as error:
                    interrupt.stop("failed", f"{error.problem}. {error.remedy}")
            background.drain()
        return _conclude(sweep, interrupt, mlflow_callback, errors, retention, meter, view)
    except Exception:
        with suppress(Exception):  # the first error is the one to tell
            background.drain()
            mlflow_callback.end("FAILED", best_of(ledger.trials()))
        raise


def _record(sweep: RunningSweep, view: Display) -> None:
    """What this run rests on, in the sweep's folder; without room for it the sweep goes on."""
    text = sweep.space.text
    try:
        write_record(sweep.home.sweep(sweep.name), text, sweep.home.plan(text, sweep.corpus.hash))
    except OSError as error:
        view.say(f"what this run rests on cannot be written down: {error}")


ENDED = {"finished": "FINISHED", "capped": "KILLED", "stopped": "KILLED", "failed": "FAILED"}
"""How MLflow calls the states in which a run of a sweep ends."""


def _conclude(
    sweep: RunningSweep, interrupt: Interrupt, mlflow_callback: MLflowCallback, errors: RecordedErrors,
    retention: Retention, meter: Meter, view: Display,
) -> Outcome:  # fmt: skip
    """Copies the best model, closes the records of the run and registers the model.

    After a signal, which asks for an end at once, no model is made.
    """
    ledger, trials, model = sweep.ledger, sweep.ledger.trials(), None
    best, registered = best_of(trials), None
    if interrupt.state != "stopped":
        with _as_far_as_it_goes(interrupt.state, view):
            model = make_best_model(sweep.home, ledger, sweep.space, sweep.corpus, view.say)
    if lost := [str(trial.number) for trial in trials if trial.state == "running"]:
        interrupt.stop("failed", f"trials that lost their processes again and again: {', '.join(lost)}")
    steps = (
        meter.note,
        partial(ledger.note, STOPPED, interrupt.reason if interrupt.state == "capped" else ""),
        partial(mlflow_callback.end, ENDED[interrupt.state], best, interrupt.reason),
        retention.apply,
        partial(keep_copy, sweep.home, sweep.name),
    )
    for step in steps:
        with _as_far_as_it_goes(interrupt.state, view):
            step()
    if best and model:
        registered = register_best_model(mlflow_callback, ledger, best, model, view.say)
    return Outcome(
        name=sweep.name,
        corpus=sweep.corpus,
        split=sweep.corpus.validation_split(sweep.space.config({}).data.validation).name,
        trials=trials,
        model=model,
        registered=registered.uri if registered else "",
        state=interrupt.state,
        reason=interrupt.reason,
        intervals=errors.cer_intervals(trials),
        objectives=ledger.objectives,
    )
