"""What is read of a ledger as far as it is asked for is what reading all of it anew finds."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path

import pytest
import records
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from rich.console import Console

from asr_platform.analysis.leaderboard import rows
from asr_platform.cli.tables.leaderboard import print_leaderboard
from asr_platform.study.ledger import PAUSED, REMOVED, Ledger, TrialRecord, TrialStatus
from asr_platform.study.samplers import observe
from asr_platform.study.steering.notes import NOTE
from asr_platform.study.trials.reading import FITTED, OF_TRIAL, REASON, STATES, by_trial

OBJECTIVES = ("val_cer", "parameters", "real_time_factor")
CERS = [0.0, 0.2, 0.2, 0.5, 0.5, 1.5, math.inf]  # with ties


def step(ledger: Ledger, draw: random.Random) -> None:
    """What a driver, or one who is killed in between, may do to a ledger next."""
    running = [trial for trial in ledger.trials() if trial.state == "running"]
    if not running or draw.random() < 0.2:
        ledger.propose(records.space(), records.parameters_of)
        return
    trial = draw.choice(running)
    row = records.row(trial.epochs + 1, draw.choice(CERS))
    match draw.choice(["epoch"] * 5 + ["end", "half", "pause", "facts"]):
        case "epoch":
            assert ledger.record(trial.number, {**row, "real_time_factor": draw.random()})
        case "end":
            ends: list[TrialStatus] = ["pruned", "failed", *(["complete"] if trial.epochs else [])]
            ledger.finish(trial.number, draw.choice(ends), draw.choice(["", "a reason"]))
        case "half":
            key = f"epoch:{trial.epochs + 1}"
            ledger.study._storage.set_trial_user_attr(ledger.frozen()[trial.number]._trial_id, key, json.dumps(row))
        case "pause":
            ledger.describe(trial.number, PAUSED, not trial.paused)
        case "facts":
            ended = draw.choice(ledger.trials()).number
            ledger.describe(ended, *draw.choice([(REMOVED, True), (NOTE, {"version": 1, "text": "é"})]))


def read_anew(ledger: Ledger, address: str) -> tuple[list[FrozenTrial], list[TrialRecord]]:
    """All trials as Optuna's own storage reads them, and the records that they make."""
    whole = RDBStorage(address).get_all_trials(ledger.study._study_id)
    facts = by_trial(ledger.notes(OF_TRIAL))
    return whole, [plain(trial) if not facts[trial.number] else plain(trial, **facts[trial.number]) for trial in whole]


def plain(trial: FrozenTrial, **facts: object) -> TrialRecord:
    texts = {epoch: trial.user_attrs.get(f"epoch:{epoch}") for epoch in sorted(trial.intermediate_values)}
    own = {key: fact for key, fact in trial.user_attrs.items() if not key.startswith("epoch:")}
    fitted, reason = own.pop(FITTED, {}), own.pop(REASON, "")
    curve = [json.loads(text) for text in texts.values() if text]
    return TrialRecord(trial.number, STATES[trial.state], {**trial.params, **fitted}, curve, {**own, **facts}, reason)


def shown(trials: list[TrialRecord]) -> tuple[str, str]:
    """The leaderboard as JSON and as a table."""
    target = Console(file=io.StringIO(), width=200)
    print_leaderboard(target, trials, objectives=OBJECTIVES)
    assert isinstance(target.file, io.StringIO)
    return json.dumps(rows(trials, objectives=OBJECTIVES)), target.file.getvalue()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_driver_does_trials_are_as_if_all_were_read_anew(seed: int, tmp_path: Path) -> None:
    """In the driver's ledger, in one that another process keeps open, and in one that is opened at the end."""
    draw, address = random.Random(seed), records.storage_in(tmp_path)
    driver = records.ledger_in(tmp_path, trials=100)
    other = Ledger.open(address, "small")
    for number in range(43):
        step(driver, draw)
        if number % 7:
            continue
        whole, expected = read_anew(driver, address)
        for ledger in (driver, other):
            found = ledger.trials()
            assert shown(found) == shown(expected)
            assert [ledger.trial(trial.number) for trial in expected] == expected == found
            assert [trial.seconds for trial in found] == [trial.seconds for trial in expected]
            seen = [observe(trial, trial.params) for trial in ledger.frozen()]
            assert seen == [observe(trial, trial.params) for trial in whole]
    ends: list[TrialStatus] = ["running", "complete", "pruned", "failed"]
    for state in ends:
        records.add(driver, state, [0.5, 0.25, 0.25, 0.5])
    late = Ledger.open(address, "small")
    assert shown(late.trials()) == shown(read_anew(driver, address)[1])
    assert {trial.state for trial in late.trials()} == set(ends)


def test_only_the_best_epochs_metrics_are_read_for_a_leaderboard(tmp_path: Path) -> None:
    ledger = records.ledger_in(tmp_path)
    for _ in range(3):
        records.add(ledger, "complete", [0.5, 0.25, 0.75])
    late = Ledger.open(records.storage_in(tmp_path), "small")
    print_leaderboard(Console(file=io.StringIO()), late.trials())
    kept = late._stored._texts
    assert [list(texts) for texts in kept.values()] == [[2]] * 3
    first, second, third = late.trials()
    assert len(list(first.curve)) == 3 and [len(texts) for texts in kept.values()] == [3, 1, 1]
    assert len(list(second.curve)) == 3 and [len(texts) for texts in kept.values()] == [3, 3, 3]
    assert third.seconds == first.seconds
