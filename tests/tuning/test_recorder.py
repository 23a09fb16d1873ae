"""What becomes of a trial that ends early, by whose fault it does."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import records
from ray.exceptions import ActorDiedError
from ray.tune.search import Searcher

from asr_platform.study.callbacks import Callback
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import PAUSED, Ledger, TrialRecord
from asr_platform.study.run_record import RunRecord
from asr_platform.study.steering import requests
from asr_platform.tuning.callbacks.background import Background
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.callbacks.retention import Retention
from asr_platform.tuning.cluster import Cluster, Node, Options
from asr_platform.tuning.interrupts import Interrupt
from asr_platform.tuning.loop.execution import RETRIES, RETRIES_IN_PLACE, Recorder
from asr_platform.tuning.loop.proposer import Proposer
from asr_platform.tuning.loop.scheduler import RungStopper
from asr_platform.tuning.loop.steering import Steering
from asr_platform.tuning.loop.watch import Watch
from asr_platform.tuning.nodes.membership import Nodes
from asr_platform.tuning.trial import INTERRUPTED
from search_spaces.settings import Limits
from trainables.config.tree import Config, Training
from trainables.data.corpus import Corpus

LOST = f"ActorDiedError: {ActorDiedError.BASE_ERROR_MSG}"


class Steps(Callback):
    """Remembers what is lost and what ends."""

    def __init__(self) -> None:
        self.lost_trials: list[tuple[int, bool]] = []
        self.ended_trials: list[tuple[int, str]] = []
        self.moved_trials: list[tuple[int, str]] = []

    def on_worker_lost(self, trial: TrialRecord, reason: str, retried: bool) -> None:
        self.lost_trials.append((trial.number, retried))

    def on_trial_moved(self, trial: TrialRecord, how: str) -> None:
        self.moved_trials.append((trial.number, how))

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.ended_trials.append((trial.number, trial.state))


class Sweep:
    """A recorder over a ledger, told what Tune would tell it."""

    def __init__(self, folder: Path, ledger: Ledger, trials: int) -> None:
        self.folder, self.ledger, self.interrupt, self.steps = folder, ledger, Interrupt(), Steps()
        self.retried, self.reported = list[int](), dict[int, int]()
        for _ in range(trials):
            records.add(ledger, "running")
        watch = Watch(folder, self.interrupt, Background(print), {}, print)
        meter = Meter(ledger, Limits(), 1, Retention(ledger, folder, 3))
        stopper = RungStopper(records.space().settings, [])
        proposer: Any = SimpleNamespace(
            ledger=ledger,
            retry=self.retried.append,
            finished=False,
            workers={},
            training={},
            beginning=lambda: 0,
            promotions=SimpleNamespace(given_up={}),
        )
        feasible: Any = records.parameters_of
        steering = Steering(ledger, feasible, meter, RunRecord(ledger, 1, 1, "", ""))
        self.nodes = Nodes(
            Cluster([Node(1.0)], joined=True), Options(), lambda node: pytest.fail("no node is looked at"), print
        )
        self.recorder = Recorder(proposer, stopper, self.interrupt, meter, watch, steering, self.nodes, [self.steps])

    def completes(self, number: int, interrupted: bool) -> None:
        trial = self.trial(number)
        trial.last_result[INTERRUPTED] = interrupted
        self.recorder.on_trial_complete(1, [], trial)

    def trial(self, number: int) -> Any:
        config = {"number": number, "until": 9, "config": Config(training=Training(epochs=9))}
        last = {"epoch": self.reported.get(number, 0)}
        error = str(self.folder / "error.txt")
        run = {"trial_id": f"run of trial {number}", "last_result": last}
        return SimpleNamespace(config=config, pickled_error_file=None, error_file=error, **run)

    def fails(self, number: int, reason: str) -> None:
        (self.folder / "error.txt").write_text(f"Failure # 1\n{reason}\n")
        self.recorder.on_trial_error(1, [], self.trial(number))

    def reports(self, number: int, epoch: int) -> None:
        self.reported[number] = epoch
        result = {"metrics": records.row(epoch, 0.5), "checkpoint": None}
        self.recorder.on_trial_result(1, [], self.trial(number), result)

    def states(self) -> list[str]:
        return [trial.state for trial in self.ledger.trials()]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path, records.ledger_in_memory(20), 3)


def test_what_the_machine_took_goes_on_twice_and_then_waits(sweep: Sweep) -> None:
    sweep.reports(0, 1)
    for _ in range(RETRIES + 1):
        sweep.fails(0, LOST)
    assert sweep.retried == [0] * RETRIES
    assert sweep.steps.lost_trials == [(0, True), (0, True), (0, False)]
    assert sweep.states()[0] == "running" and sweep.ledger.trial(0).epochs == 1
    assert not sweep.interrupt.requested, "the others go on"


def test_what_a_lost_node_took_goes_on_however_often(sweep: Sweep) -> None:
    """Ray knows that a node is lost some time after its processes have failed; until then no trial begins."""
    losses = RETRIES_IN_PLACE + 2
    for epoch in range(1, losses + 1):
        sweep.reports(0, epoch)
        sweep.fails(0, LOST)
        assert sweep.nodes.suspicious_until > time.monotonic()
        sweep.nodes.losses.append(time.monotonic())
    assert sweep.steps.lost_trials == [(0, True)] * losses


def test_a_trial_that_crashes_again_and_again_is_not_excused_by_nodes_that_come_and_go(sweep: Sweep) -> None:
    for _ in range(RETRIES_IN_PLACE + 1):
        sweep.fails(0, LOST)
        sweep.nodes.losses.append(time.monotonic())
    assert sweep.steps.lost_trials == [(0, True)] * RETRIES_IN_PLACE + [(0, False)]


def test_three_trials_that_are_lost_for_good_one_after_the_other_stop_the_sweep(sweep: Sweep) -> None:
    """A driver that makes every worker crash would else be tried with each trial of the sweep, three times."""
    for number in range(3):
        for _ in range(RETRIES + 1):
            assert not sweep.interrupt.requested
            sweep.fails(number, LOST)
    assert sweep.interrupt.reason.startswith("the same failure ended trials 0, 1, 2 one after the other: a process of")
    assert sweep.states() == ["running"] * 3


def test_a_trial_that_ends_before_its_last_epoch_without_a_word_is_lost_too(sweep: Sweep) -> None:
    sweep.recorder.on_trial_complete(1, [], sweep.trial(1))
    assert sweep.retried == [1] and sweep.states()[1] == "running"


def test_a_trial_that_was_given_notice_goes_on_however_often_and_none_waits_for_it(sweep: Sweep) -> None:
    for _ in range(RETRIES + 2):
        sweep.completes(0, interrupted=True)
    assert sweep.retried == [0] * (RETRIES + 2) and sweep.steps.lost_trials == []
    assert sweep.steps.moved_trials == [(0, "elsewhere")] * (RETRIES + 2)
    assert sweep.states()[0] == "running" and sweep.nodes.suspicious_until < time.monotonic()


def test_an_elastic_trial_is_given_notice_once_where_more_workers_save_more_than_its_start(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for its last epochs, and not where another trial could begin. Its epochs take 12 s here."""
    told: list[str] = []
    monkeypatch.setattr("asr_platform.tuning.loop.execution.give_notice", told.append)
    sweep.nodes.cluster, sweep.nodes.options = Cluster([Node(4.0)]), Options(max_workers=4)
    sweep.nodes.gather()
    proposer: Any = sweep.recorder.proposer
    proposer.workers |= {0: 2, 1: 2}
    sweep.reports(0, 1)
    assert told == [], "there is no room"
    del proposer.workers[1]
    monkeypatch.setattr(proposer, "beginning", lambda: 1)
    sweep.reports(0, 2)
    assert told == [], "another trial begins"
    sweep.nodes.options = Options(1, max_workers=4)  # not beside this one
    sweep.reports(0, 3)
    sweep.reports(0, 4)
    assert told == ["run of trial 0"]
    sweep.completes(0, interrupted=True)
    assert sweep.steps.moved_trials == [(0, "with more workers")]
    sweep.reports(0, 9)
    assert told == ["run of trial 0"], "nothing is left to train"


def test_a_run_whose_machines_will_be_gone_stops_once_its_trials_have_saved_what_they_have(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("asr_platform.tuning.loop.departure.give_notice", told.append)
    training = sweep.recorder.proposer.training
    training.update({"run of trial 0": 0, "run of trial 1": 1})
    sweep.recorder.on_step_end(1, [])
    assert not told and not sweep.recorder.proposer.closed()
    sweep.interrupt.leaving = True
    for run in [*training]:
        sweep.recorder.on_step_end(1, [])
        assert told == ["run of trial 0", "run of trial 1"] and sweep.recorder.proposer.closed()
        assert not sweep.interrupt.requested, "others have not ended yet"
        sweep.completes(training.pop(run), interrupted=True)
    sweep.recorder.on_step_end(1, [])
    assert sweep.interrupt.state == "stopped" and sweep.states() == ["running"] * 3
    assert sweep.steps.moved_trials == [(0, "with --resume"), (1, "with --resume")]


@pytest.mark.parametrize("reason", ["nobody watches", "too late"])
def test_a_run_whose_machines_will_be_gone_waits_no_longer_than_it_may(
    reason: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_platform.tuning.loop.departure.give_notice", lambda run: None)
    sweep.recorder.proposer.training["run of trial 0"] = 0
    sweep.interrupt.leaving = True
    if reason == "too late":
        sweep.recorder.on_step_end(1, [])
        assert not sweep.interrupt.requested
        sweep.recorder.departure.deadline = 0.0
    else:
        sweep.nodes.cluster = Cluster([Node(1.0)])
    sweep.recorder.on_step_end(1, [])
    assert sweep.interrupt.state == "stopped"


def test_a_trial_that_fails_instead_of_growing_lets_the_next_one_grow(sweep: Sweep) -> None:
    sweep.recorder.growing |= {0, 1}
    sweep.fails(0, "MemoryError: ")
    assert sweep.recorder.growing == {1}
    sweep.completes(1, interrupted=False)
    assert sweep.recorder.growing == set()


def test_what_the_configuration_did_fails_at_once(sweep: Sweep) -> None:
    sweep.fails(0, "MemoryError: ")
    assert sweep.steps.ended_trials == [(0, "failed")] and sweep.retried == []
    assert sweep.ledger.trial(0).reason == "MemoryError:"


def test_the_same_failure_of_three_trials_stops_the_sweep(sweep: Sweep) -> None:
    for number in range(3):
        assert not sweep.interrupt.requested
        sweep.fails(number, "ValueError: no such file")
    assert sweep.interrupt.state == "failed"
    assert sweep.interrupt.reason.startswith("the same failure ended trials 0, 1, 2 one after the other: ValueError")
    assert sweep.interrupt.reason.endswith("Not spent: 17 of 20 trials, not begun yet")


def test_what_every_trial_would_meet_stops_the_sweep_and_fails_none(sweep: Sweep) -> None:
    sweep.fails(2, "OSError: [Errno 28] No space left on device")
    assert sweep.interrupt.state == "failed" and "No space left on device (trial 2" in sweep.interrupt.reason
    assert sweep.states() == ["running"] * 3
    sweep.fails(1, "MemoryError: ")
    assert sweep.states() == ["running"] * 3, "what ends as the sweep stops is tried again when it goes on"


def test_a_trial_is_not_pruned_by_an_epoch_that_is_not_on_record(sweep: Sweep) -> None:
    """A signal came between the decision and its record: the epoch is reported again when the sweep goes on."""
    sweep.reports(0, 1)
    sweep.interrupt.stop("stopped")
    sweep.recorder.stopper.stopped[0] = "rung at epoch 2"
    sweep.reports(0, 2)
    sweep.recorder.on_trial_complete(1, [], sweep.trial(0))
    assert sweep.states()[0] == "running" and sweep.ledger.trial(0).epochs == 1


def test_a_ledger_that_cannot_be_written_stops_the_sweep(tmp_path: Path) -> None:
    """As on a full disk: no file may grow."""
    sweep = Sweep(tmp_path, records.ledger_in(tmp_path), 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        sweep.reports(0, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sweep.interrupt.state == "failed" and "Free space" in sweep.interrupt.reason
    assert sweep.ledger.trial(0).epochs == 0


def test_a_trial_that_is_paused_and_unpaused_in_one_look_trains_on(tmp_path: Path, tiny_corpus: Corpus) -> None:
    sweep = Sweep(tmp_path, records.ledger_in(tmp_path), 2)
    proposer = Proposer(
        sweep.ledger, Feasibility(records.space(), tiny_corpus), {}, lambda training, beginning: {}, print
    )
    sweep.recorder.proposer = proposer
    told: Any = proposer.suggest("tune1")
    assert told["number"] == 0
    trial, stopped = sweep.trial(0), list[int]()
    trial.is_finished, trial.temporary_state = (lambda: bool(stopped)), SimpleNamespace(ray_actor=None)

    def stop_trial(trial: Any) -> None:
        stopped.append(trial.config["number"])
        proposer.on_trial_complete("tune1")
        sweep.recorder.on_trial_complete(1, [trial], trial)

    sweep.recorder.stopper.controller = SimpleNamespace(stop_trial=stop_trial)
    requests.write(sweep.ledger, "pause", {"trial": 0})
    requests.write(sweep.ledger, "unpause", {"trial": 0})
    sweep.recorder.on_step_end(1, [trial])
    assert requests.pending(sweep.ledger) == []
    assert stopped == [] and sweep.steps.lost_trials == []
    after: Any = proposer.suggest("tune2")
    assert after["number"] == 1, "the first one is in training still"

    sweep.recorder.steering.next_look = 0.0
    requests.write(sweep.ledger, "pause", {"trial": 0})
    sweep.recorder.on_step_end(2, [trial])
    assert stopped == [0] and sweep.ledger.trial(0).paused


def test_requests_wait_once_tune_asks_for_no_more_trials(tmp_path: Path, tiny_corpus: Corpus) -> None:
    sweep = Sweep(tmp_path, records.ledger_in(tmp_path, trials=1), 1)
    sweep.recorder.proposer = Proposer(
        sweep.ledger, Feasibility(records.space(), tiny_corpus), {}, lambda training, beginning: {}, print
    )
    sweep.ledger.describe(0, PAUSED, True)
    assert sweep.recorder.proposer.suggest("tune1") == Searcher.FINISHED
    requests.write(sweep.ledger, "unpause", {"trial": 0})
    sweep.recorder.on_step_end(1, [])
    assert sweep.ledger.trial(0).paused and len(requests.pending(sweep.ledger)) == 1


def test_a_trial_that_is_put_back_twice_is_given_out_once(tmp_path: Path, tiny_corpus: Corpus) -> None:
    sweep = Sweep(tmp_path, records.ledger_in(tmp_path), 2)
    proposer = Proposer(
        sweep.ledger, Feasibility(records.space(), tiny_corpus), {}, lambda training, beginning: {}, print
    )
    proposer.suggest("tune1")
    proposer.on_trial_complete("tune1")  # before its last epoch
    proposer.retry(0)
    given: list[Any] = [proposer.suggest(f"tune{number}") for number in (2, 3)]
    assert [one["number"] for one in given] == [0, 1]
