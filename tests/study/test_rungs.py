"""The rungs: Ray's own decisions, the same after a restart, each with its reason."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.utils import flatten_dict

from asr_platform.study.allocation.rungs import HALF, Rungs
from asr_platform.study.ledger import TrialRecord, TrialStatus
from asr_platform.tuning.loop.scheduler import RungStopper
from search_spaces.settings import Asha, Settings
from trainables.config.tree import Config, Optimizer

RUNGS = [(1, 2), (2, 2), (3, 3), (1, 4), (2, 1.5), (1, 2.5), (5, 3)]  # grace and reduction


@dataclass(frozen=True)
class Event:
    """One report, in the order of their arrival."""

    number: int
    epoch: int
    cer: float


@dataclass(frozen=True)
class Sweep:
    """What each of several trials would report if nothing stopped it, and how the reports interleave."""

    cers: Sequence[Sequence[float]]
    order: Sequence[int]
    grace: int
    reduction: float
    epochs: int

    def stopper(self, recorded: list[TrialRecord]) -> RungStopper:
        return RungStopper(rungs(self.grace, self.reduction, self.epochs), recorded)


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    grace, reduction = draw(st.sampled_from(RUNGS))
    epochs, trials = draw(st.integers(grace, 20)), draw(st.integers(2, 12))
    source = random.Random(draw(st.integers(0, 2**32)))
    digits = draw(st.sampled_from([1, 6]))  # with one digit there are many equal values
    cers = [[round(source.random(), digits) for _ in range(epochs)] for _ in range(trials)]
    together = draw(st.integers(1, 4))
    order: list[int] = []
    waiting, running = list(range(trials)), list[list[int]]()
    while waiting or running:
        while waiting and len(running) < together:
            running.append([waiting.pop(0), epochs])
        chosen = source.choice(running)
        order.append(chosen[0])
        chosen[1] -= 1
        running = [entry for entry in running if entry[1]]
    return Sweep(cers, order, grace, reduction, epochs)


def rungs(grace: float | None, reduction: float, epochs: int, **asha: Any) -> Settings:
    """Plain ASHA, but for what is said."""
    plain: dict[str, Any] = {"plateau": None, "promotion": None}
    return Settings(epochs=epochs, asha=Asha(grace=grace, reduction=reduction, **{**plain, **asha}))


def trial(number: int, warmup: float = 0.0) -> Trial:
    """Tune's idea of a trial: its id is another in every run."""
    config = Config(optimizer=Optimizer(warmup=warmup))
    return Trial("trial", config={"number": number, "config": config}, stub=True)


def result(epoch: int, cer: float, ctc: float = 1.0) -> dict[str, Any]:
    """What a worker reports, as Tune hands it to schedulers: epochs of 100 updates and half an hour."""
    row = {"epoch": epoch, "updates": 100 * epoch, "audio_hours": epoch / 2, "val_cer": cer, "val_ctc_cer": ctc}
    return flatten_dict({"epoch": epoch, "objective": cer, "ranked_by": "val_cer", "metrics": row})


def run(
    sweep: Sweep, stopper: RungStopper, order: Sequence[int], so_far: Sequence[Event] = (), gone: Sequence[int] = ()
) -> tuple[list[Event], list[int]]:
    """Reports in this order to a stopper; all reports until now, and the trials stopped, in order."""
    seen, stopped = list(so_far), list(gone)
    trials = {number: trial(number) for number in set(order)}
    for number in order:
        if number in stopped:
            continue
        epoch = 1 + sum(event.number == number for event in seen)
        event = Event(number, epoch, sweep.cers[number][epoch - 1])
        action = stopper.on_trial_result(None, trials[number], result(event.epoch, event.cer))
        seen.append(event)
        if action == TrialScheduler.STOP:
            stopped.append(number)
    return seen, stopped


def run_ray(sweep: Sweep) -> list[int]:
    """The trials that Ray's own scheduler stops before their last epoch, in order."""
    scheduler = ASHAScheduler("epoch", "objective", "min", sweep.epochs, sweep.grace, sweep.reduction)
    trials = {number: trial(number) for number in set(sweep.order)}
    ended: dict[int, int] = {}
    epochs = dict.fromkeys(trials, 0)
    for number in sweep.order:
        if number in ended:
            continue
        if not epochs[number]:
            scheduler.on_trial_add(None, trials[number])
        epochs[number] += 1
        report = result(epochs[number], sweep.cers[number][epochs[number] - 1])
        if scheduler.on_trial_result(None, trials[number], report) == TrialScheduler.STOP:
            scheduler.on_trial_complete(None, trials[number], report)
            ended[number] = epochs[number]
    return [number for number, epoch in ended.items() if epoch < sweep.epochs]


def as_recorded(seen: Sequence[Event], stopped: Sequence[int], epochs: int) -> list[TrialRecord]:
    """What the ledger knows after these reports."""
    trials = []
    for number in sorted({event.number for event in seen}):
        cers = [event.cer for event in seen if event.number == number]
        state: TrialStatus = "pruned" if number in stopped else "complete" if len(cers) == epochs else "running"
        trials.append(records.trial(number, state, cers))
    return trials


@given(sweeps())
def test_decisions_are_those_of_ray(sweep: Sweep) -> None:
    stopper = sweep.stopper([])
    seen, stopped = run(sweep, stopper, sweep.order)
    assert stopped == run_ray(sweep)
    assert list(stopper.stopped) == stopped
    assert all(event.epoch < sweep.epochs for event in seen if event.number in stopped)


@given(sweeps(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100)
def test_a_restart_changes_no_decision(sweep: Sweep, first: float, second: float) -> None:
    """Two restarts, each with a stopper made from what is on record, decide as one run does."""
    cuts = sorted(int(share * len(sweep.order)) for share in (first, second))
    whole = run(sweep, sweep.stopper([]), sweep.order)
    seen: list[Event] = []
    stopped: list[int] = []
    for part in (sweep.order[: cuts[0]], sweep.order[cuts[0] : cuts[1]], sweep.order[cuts[1] :]):
        stopper = sweep.stopper(as_recorded(seen, stopped, sweep.epochs))
        seen, stopped = run(sweep, stopper, part, seen, stopped)
    assert (seen, stopped) == whole


def test_the_reason_names_the_rung_the_result_and_the_cutoff() -> None:
    """Of three, the upper half goes on: the cutoff is the median of what the rung had seen."""
    stopper = RungStopper(
        rungs(2, 2, 8), [records.trial(0, "running", [0.9, 0.3]), records.trial(1, "running", [0.9, 0.5])]
    )
    assert stopper.on_trial_result(None, trial(2), result(1, 0.99)) == TrialScheduler.CONTINUE
    assert stopper.on_trial_result(None, trial(2), result(2, 0.456)) == TrialScheduler.STOP
    assert stopper.stopped == {2: "rung at epoch 2: val CER 45.60% against a cutoff of 40.00%"}


def test_a_rung_that_is_passed_over_judges_nobody_later() -> None:
    """Where rungs lie closer than epochs, a report counts at the highest one reached: epoch 5 at 4 x 1.1^2."""
    stopper = RungStopper(rungs(4, 1.1, 20), [])
    for number, fifth in ((0, 0.2), (1, 0.4)):
        for epoch in range(1, 6):
            stopper.on_trial_result(None, trial(number), result(epoch, fifth if epoch == 5 else 0.2))
    assert stopper.stopped == {1: "rung at epoch 4.84: val CER 40.00% against a cutoff of 20.00%"}


@pytest.mark.parametrize(("grace", "reduction", "epochs"), [(4, 2, 8), (8, 2, 8), (1, 3, 9)])
def test_nothing_is_stopped_at_its_last_epoch(grace: int, reduction: float, epochs: int) -> None:
    """Even where a rung lies there: the training is over."""
    good = [records.trial(number, "complete", [0.01] * epochs) for number in range(5)]
    stopper = RungStopper(rungs(grace, reduction, epochs), good)
    assert stopper.on_trial_result(None, trial(9), result(epochs, 1.0)) == TrialScheduler.CONTINUE
    assert stopper.stopped == {}


def verdicts(settings: Settings, *curves: Sequence[tuple[float, float]], warmup: float = 0.0) -> list[int]:
    """At which epoch each trial is stopped, 0 where none is: trials come one by one, an epoch is CER and CTC's."""
    stopper = RungStopper(settings, [])
    ended = []
    for number, curve in enumerate(curves):
        reports = (result(epoch, *both) for epoch, both in enumerate(curve, start=1))
        actions = (stopper.on_trial_result(None, trial(number, warmup), report) for report in reports)
        stops = (epoch for epoch, action in enumerate(actions, start=1) if action == TrialScheduler.STOP)
        ended.append(next(stops, 0))
    return ended


GOOD, BAD = [(0.2, 0.2)] * 12, [(0.9, 0.9)] * 12
LATE = [(0.9, 0.9)] * 4 + [(0.1, 0.1)] * 8
FALLEN = [(0.5, 0.9), *BAD[1:]]


def test_a_late_bloomer_is_spared_in_its_first_half_and_judged_in_its_second() -> None:
    """Rungs at epochs 2, 4 and 8 of 12, and then at 6: `LATE` drops just before; what has dropped once is judged."""
    assert verdicts(rungs(2, 2, 12), GOOD, LATE, FALLEN) == [0, 2, 2]
    assert verdicts(rungs(2, 2, 12, plateau=0.6), GOOD, LATE, FALLEN) == [0, 0, 2]
    assert verdicts(rungs(2, 2, 12, plateau=0.6), GOOD, BAD) == [0, 6]


def test_grace_is_a_fifth_of_a_trial_and_its_own_warmup_and_two_epochs() -> None:
    """Rungs at 3 and 6 of 12 by default; a warm-up of 0.25 lasts 3 epochs, one of 0.35 lasts 5: to epoch 5, to 7."""
    assert verdicts(rungs(None, 2, 12), GOOD, BAD) == [0, 3]
    assert verdicts(rungs(None, 2, 12), GOOD, BAD, warmup=0.25) == [0, 6]
    assert verdicts(rungs(None, 2, 12), GOOD, BAD, warmup=0.35) == [0, 0]
    assert verdicts(rungs(3, 2, 12), GOOD, BAD, warmup=0.35) == [0, 3]  # the space has said otherwise


def test_rungs_may_compare_ctc() -> None:
    better_by_ctc = [(0.5, 0.1)] * 12
    assert verdicts(rungs(2, 2, 12), GOOD, better_by_ctc) == [0, 2]
    assert verdicts(rungs(2, 2, 12, metric="val_ctc_cer"), GOOD, better_by_ctc, BAD) == [0, 0, 2]


def test_rungs_may_lie_at_hours() -> None:
    """An epoch has half an hour."""
    assert verdicts(rungs(2.5, 2, 12, unit="hours"), GOOD, BAD) == [0, 5]
    stopper = RungStopper(rungs(1.5, 2, 12, unit="hours"), [records.trial(0, "running", [0.2] * 3)])
    stopper.on_trial_result(None, trial(1), result(3, 0.9))
    assert stopper.stopped == {1: "rung at 1.5 hours: val CER 90.00% against a cutoff of 20.00%"}


def test_updates_are_the_bases_in_hours_of_audio() -> None:
    """So a trial whose updates are twice as large is judged after as much audio as the others."""
    text = "base: {training: {update_seconds: 360}}\nasha: {unit: updates, grace: 20}\n"
    space = records.SPACE.replace("asha: {grace: 3, promotion: null, reduction: 3}\n", text)
    asha = records.space(space).comparable_settings.asha
    assert (asha.unit, asha.grace) == ("hours", 20 * 360 / 3600)
    assert records.space().comparable_settings == records.space().settings


@given(hours=st.floats(0.01, 50), epochs=st.integers(4, 60), grace=st.floats(0.05, 0.4))
def test_a_trial_is_judged_at_most_once_at_each_rung(hours: float, epochs: int, grace: float) -> None:
    """Whatever the last digits of the hours are: half of a trial is one rung, at which all trials meet."""
    found = Rungs(rungs(grace * epochs * hours, 2, epochs, unit="hours", plateau=0.6))
    judged = []
    for number in range(3):
        amounts = itertools.accumulate([hours / 3] * (3 * epochs))
        rows = [records.row(epoch, 0.9) | {"audio_hours": total} for epoch, total in enumerate(list(amounts)[2::3], 1)]
        judged.append([row["epoch"] for row in rows if found.record(number, row) is not None])
    assert judged[0] == judged[1] == judged[2]
    assert len(judged[0]) <= len(found.places(epochs * hours)) + 1, "one where a rung lies at the very end"
    assert {len(values) for values in found.recorded.values()} <= {0, 3}


def test_trials_of_other_lengths_in_updates_meet_at_half() -> None:
    """With stages, or where the audio of an update varies, half of a trial is at another number of updates in each."""
    found = Rungs(rungs(50, 2, 8, unit="updates", plateau=0.6))
    for number, factor in enumerate((1, 3)):
        for epoch in range(1, 5):
            found.record(number, records.row(epoch, 0.9) | {"updates": 37 * factor * epoch})
    assert set(found.recorded[HALF]) == {0, 1}


def test_a_language_model_is_judged_by_its_perplexity() -> None:
    stopper = RungStopper(rungs(1, 2, 8, plateau=0.6), [])
    for number, perplexity in enumerate((4.0, 5.5)):
        row = {"epoch": 1, "updates": 10, "val_character_perplexity": perplexity}
        stopper.on_trial_result(None, trial(number), flatten_dict({"epoch": 1, "metrics": row}))
    assert stopper.stopped == {1: "rung at epoch 1: val perplexity 5.500 against a cutoff of 4.000"}


def test_without_a_grace_period_trials_that_wait_have_no_rungs() -> None:
    assert not Rungs(Settings(epochs=20)).places(20) and Rungs(Settings(epochs=20, asha=Asha(grace=4))).places(20)
    assert verdicts(Settings(epochs=12), GOOD, BAD) == [0, 0]
