"""Starts and resumes sweeps, which train the trials of a space on a corpus and keep the best model.

A sweep is stored in its ledger. `start` makes a new ledger, `resume` opens an existing one, and `run` trains the trials
that the ledger lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from asr_platform.storage.home import Home, name_taken
from asr_platform.storage.stored_sweeps import foreign, stored_sweeps
from asr_platform.study import recorded_space as recorded
from asr_platform.study.callbacks import Display
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import WARM_START, Ledger
from asr_platform.study.migration import check_widening, earlier_trials
from asr_platform.study.provenance import PROVENANCE, provenance
from asr_platform.study.run_record import SPENT, RunRecord, RunState
from asr_platform.study.steering.acts import act_on_pending
from asr_platform.study.steering.requests import pending
from asr_platform.tuning.callbacks.notify import message, notify
from asr_platform.tuning.cluster import Cluster, Options, given_address
from asr_platform.tuning.connection import check_address, connect
from asr_platform.tuning.interrupts import Interrupt, stop_on_signals
from asr_platform.tuning.nodes.check import Check
from asr_platform.tuning.nodes.membership import Nodes
from asr_platform.tuning.sweep_run import Outcome, RunningSweep, SweepRun, tolerating_failures
from search_spaces.settings import Limits
from search_spaces.space import INITIAL_MODEL, Space
from trainables.data.corpus import Corpus
from trainables.storage.corpus_cache import local_corpus, store_corpus


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
    check_address(options.address)
    if name is not None:
        home.sweep(name)  # refuses names that cannot be a folder's
        if name in Ledger.names(home.studies):
            raise name_taken(name)
        if home.storage and name in stored_sweeps(home.storage):
            raise foreign(home.storage, name)
    if home.addresses.ledger:
        Ledger.names(home.studies)  # raises if it cannot be reached, before what takes long
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
    locked = home.lock_new(name, space.name, lambda: [*Ledger.names(home.studies), *stored_sweeps(home.storage)])
    if home.storage and store_corpus(home.storage, corpus):
        display.say(f"the corpus is now on {home.storage.address}")
    with locked as own, stop_on_signals() as interrupt, connect(options.address) as cluster:
        nodes = gathered(cluster, options, home, own, corpus, display)  # first, so that what fails leaves no sweep
        sweep = RunningSweep(home, own, Ledger.create(home.studies, own, about), feasibility, options)
        return run(sweep, nodes, interrupt, display)


def resume(
    home: Home, name: str, trials: int | None, limits: Limits, address: str | None, display: Display,
    wider: Space | None = None, tracking_uri: str | None = None, tune_decoding: bool = True,
) -> Outcome:  # fmt: skip
    """Continues a sweep: unfinished trials from their checkpoints, then new ones up to the number asked for.

    Args:
        trials: number of trials, the present ones included; default: as before.
        limits: limits that are set here replace the sweep's own.
        address: address of the Ray cluster; default: $RAY_ADDRESS, or as before.
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
        corpus = local_corpus(Path(about["corpus"]), about["corpus_hash"], home.storage)
        if home.storage:
            store_corpus(home.storage, corpus)  # deleted there meanwhile, or a storage that is new to the home
        options = Options(**about["options"]).changed(address, tracking_uri, tune_decoding)
        check_address(options.address, of_before=given_address(address) is None)
        space = recorded.recorded_space(about)
        if pending(ledger):  # older than what is asked for here
            ledger.complete_trials(about["epochs"])
            act_on_pending(ledger, Feasibility(space, corpus))
            about = ledger.about
        if wider is not None:
            trials = trials or recorded.changed_trials(about, wider)
            wider = recorded.wider_space(about, wider)
            values = check_widening({trial.number: trial.params for trial in ledger.trials()}, space, wider)
            space = wider
        feasibility = Feasibility(space, corpus)
        feasibility.check()
        sweep = RunningSweep(home, name, ledger, feasibility, options)
        with stop_on_signals() as interrupt, connect(options.address) as cluster:
            nodes = gathered(cluster, options, home, name, corpus, display)  # first, as in `start`
            if trials is not None:
                ledger.note("trials", trials)
            ledger.note("limits", recorded.recorded_limits(about).replaced_by(limits).model_dump())
            ledger.note("options", asdict(options))
            if wider is not None:
                ledger.widen(space, Path.cwd(), values)
            return run(sweep, nodes, interrupt, display)


def gathered(cluster: Cluster, options: Options, home: Home, name: str, corpus: Corpus, display: Display) -> Nodes:
    """The nodes of a cluster on which a sweep can be trained, once there is room for a trial."""
    folder, storage = home.sweep(name), home.addresses.storage
    nodes = Nodes(cluster, options, lambda node: Check(node, folder, corpus, storage), display.say)
    nodes.gather()
    return nodes


def run(sweep: RunningSweep, nodes: Nodes, interrupt: Interrupt, display: Display) -> Outcome:
    """Trains the trials that a sweep lacks, records the end of the run, and sends notifications."""
    interrupt.is_patient = True
    cluster = nodes.cluster
    record = RunRecord(sweep.ledger, nodes.concurrency, nodes.workers.count, cluster.dashboard, cluster.logs)
    try:
        outcome = SweepRun(sweep, nodes, interrupt, display, record).execute()
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
