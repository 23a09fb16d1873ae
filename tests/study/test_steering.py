"""Requests to the driver of a sweep: what can be asked for, what is refused, and that all of it is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import records

from asr_platform.storage.home import Home
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import REQUEST, Ledger
from asr_platform.study.run_record import SPENT, RunRecord
from asr_platform.study.steering import acts, asking, requests
from search_spaces.settings import Limits
from trainables.data.corpus import Corpus
from trainables.errors import InputError

VALUES = {"tokenizer.kind": "char", "model.d_model": 32, "model.dropout": 0.125, "optimizer.lr": 0.003}


@pytest.fixture
def ledger(tmp_path: Path, tiny_corpus: Corpus) -> Ledger:
    """Two unfinished trials and one that is complete."""
    made = records.ledger_in(tmp_path, corpus=str(tiny_corpus.path), corpus_hash=tiny_corpus.hash)
    records.add(made, "running", [0.5, 0.4])
    records.add(made, "running")
    records.add(made, "complete", [0.5] * 9)
    return made


@pytest.fixture
def feasibility(tiny_corpus: Corpus) -> Feasibility:
    return Feasibility(records.space(), tiny_corpus)


def done(ledger: Ledger, feasibility: Feasibility) -> list[str]:
    """What the driver says to all that is asked for."""
    keys = [request.key for request in acts.act_on_pending(ledger, feasibility)]
    return [request.answer for request in requests.read(ledger) if request.key in keys]


def test_a_trial_is_stopped_paused_and_goes_on(ledger: Ledger, feasibility: Feasibility) -> None:
    asking.pause(ledger, 0)
    assert not ledger.trial(0).paused, "it is the driver's to do"
    assert done(ledger, feasibility) == ["trial 0 is paused after epoch 2"]
    assert ledger.trial(0).paused
    asking.unpause(ledger, 0)
    asking.stop(ledger, 1)
    assert done(ledger, feasibility) == [
        "trial 0 goes on after epoch 2", "trial 1 is stopped, before its first epoch has ended",
    ]  # fmt: skip
    assert not ledger.trial(0).paused
    assert (ledger.trial(1).state, ledger.trial(1).reason) == ("pruned", acts.STOPPED_ON_REQUEST)
    assert done(ledger, feasibility) == [], "nothing is done twice"


@pytest.mark.parametrize(("ask", "number", "problem"), [
    (asking.stop, 2, "trial 2 of small has ended: complete"),
    (asking.pause, 2, "trial 2 of small has ended: complete"),
    (asking.unpause, 0, "trial 0 of small is not paused"),
    (asking.stop, 3, "no trial 3 in the sweep small"),
    (asking.pause, -1, "no trial -1 in the sweep small"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_and_not_written(
    ask: Callable[[Ledger, int], object], number: int, problem: str, ledger: Ledger
) -> None:
    with pytest.raises(InputError) as error:
        ask(ledger, number)
    assert error.value.problem == problem and error.value.remedy
    assert requests.read(ledger) == []


def test_what_waits_counts_as_done(ledger: Ledger) -> None:
    """While no driver runs, a second request is checked against the first."""
    asking.pause(ledger, 0)
    with pytest.raises(InputError, match="trial 0 of small is paused"):
        asking.pause(ledger, 0)
    asking.unpause(ledger, 0)
    asking.stop(ledger, 0)
    with pytest.raises(InputError, match="has ended: about to be stopped"):
        asking.pause(ledger, 0)
    asking.add(ledger, VALUES)
    with pytest.raises(InputError, match="a trial that is already asked for has these values"):
        asking.add(ledger, VALUES)
    assert [one.kind for one in requests.pending(ledger)] == ["pause", "unpause", "stop", "add"]
    with pytest.raises(InputError, match="--trials 3: 4 trials have begun"):
        asking.change(ledger, Path(), 3, Limits())


def test_a_trial_with_given_values(ledger: Ledger, feasibility: Feasibility) -> None:
    """The sweep has one trial more, and the next ones are those that it would have had."""
    asking.add(ledger, VALUES)
    (said,) = done(ledger, feasibility)
    added = ledger.trial(3)
    assert said == f"trial 3 is added ({added.about['parameters']:,} parameters); 21 trials"
    assert (added.params, added.state, added.epochs, ledger.about["trials"]) == (VALUES, "running", 0, 21)
    with pytest.raises(InputError, match="trial 3 has these values"):
        asking.add(ledger, VALUES)


def test_keys_that_are_left_out_have_the_values_of_the_base(ledger: Ledger, feasibility: Feasibility) -> None:
    text = records.SPACE + "base: {model: {d_model: 64, dropout: 0.1}, optimizer: {lr: 0.001}, tokenizer: {kind: char}}"
    ledger.widen(records.space(text), Path(), {trial.number: trial.params for trial in ledger.trials()})
    asking.add(ledger, {"model.dropout": 0.2})
    acts.act_on_pending(ledger, Feasibility(records.space(text), feasibility.corpus))
    base = {"tokenizer.kind": "char", "model.d_model": 64, "optimizer.lr": 0.001}
    assert ledger.trial(3).params == {**base, "model.dropout": 0.2}


@pytest.mark.parametrize(("values", "problem"), [
    ({"model.dropout": 0.5}, "model.dropout=0.5: 0.5 is not in [0, 0.2]"),
    ({"model.heads": 2}, "model.heads=2: does not vary here"),
    ({"tokenizer.vocab_size": 24}, "tokenizer.vocab_size=24: has no meaning here: it varies when"),
    ({"optimizer.lr": "fast"}, "optimizer.lr=fast: "),
])  # fmt: skip
def test_values_outside_of_the_space(values: dict[str, object], problem: str, ledger: Ledger) -> None:
    with pytest.raises(InputError) as error:
        asking.add(ledger, {**VALUES, **values})
    assert problem in error.value.problem
    assert "What varies: tokenizer.kind" in error.value.remedy
    assert requests.read(ledger) == []


def test_entries_of_start_are_not_displaced(tiny_corpus: Corpus) -> None:
    space = records.space(records.SPACE + f"start: [{VALUES}, {{**VALUES}}]".replace("{**VALUES}", str(
        {**VALUES, "model.dropout": 0.0}
    )))  # fmt: skip
    ledger = records.ledger_in_memory(3)
    feasible = Feasibility(space, tiny_corpus)
    first = ledger.propose(space, feasible)
    ledger.add(space, VALUES | {"model.d_model": 64}, feasible.trial(VALUES), {"key": "k", "trials": 4})
    second = ledger.propose(space, feasible)
    assert (first.params, second.params["model.dropout"]) == (VALUES, 0.0)
    assert REQUEST not in second.about


def test_the_number_of_trials_and_the_caps(ledger: Ledger, feasibility: Feasibility) -> None:
    ledger.note(SPENT, 2 * 3600.0)
    ledger.note("limits", {"hours": 1.0, "device_hours": 4.0, "disk_gb": None})
    asking.change(ledger, Path(), 5, Limits(hours=3.0))
    assert done(ledger, feasibility) == [
        "5 trials, 3 of them begun; 3 hours (--max-hours); 4 device-hours (--max-device-hours)"
    ]
    assert ledger.about["trials"] == 5 and ledger.about["limits"]["hours"] == 3.0


def test_caps_that_are_spent(ledger: Ledger, tmp_path: Path) -> None:
    ledger.note(SPENT, 2 * 3600.0)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "checkpoint").write_bytes(b"x" * 1000)
    for limits, problem in (
        (Limits(hours=1.5), "1.5 hours (--max-hours): 2 are spent"),
        (Limits(device_hours=0.01), "0.01 device-hours (--max-device-hours): 0.0367 are spent"),
        (Limits(disk_gb=1e-7), "1e-07 GB on disk (--max-disk-gb): 1e-06 are spent"),
        (Limits(), "nothing to change"),
    ):
        with pytest.raises(InputError) as error:
            asking.change(ledger, tmp_path / "sweeps", None, limits)
        assert error.value.problem == problem
    assert requests.read(ledger) == []


def test_facts_about_the_sweep_are_not_those_of_requests(ledger: Ledger) -> None:
    before = ledger.about
    asking.stop(ledger, 0)
    assert ledger.about == before


def test_what_becomes_of_a_request(ledger: Ledger, feasibility: Feasibility, tmp_path: Path) -> None:
    """Without a driver it waits; with one its answer is waited for."""
    home = Home(tmp_path)
    request = asking.stop(ledger, 0)
    assert requests.outcome(home, ledger, request).endswith("when the sweep goes on: platform sweep --resume small")
    with home.lock("small"):
        assert requests.outcome(home, ledger, request, seconds=0).startswith("the driver is busy")
        driver = threading.Timer(0.2, acts.act_on_pending, [ledger, feasibility])
        driver.start()
        assert requests.outcome(home, ledger, request) == "trial 0 is stopped after epoch 2"
        driver.join()


def test_a_request_at_the_end_of_a_run_waits_for_the_next_one(ledger: Ledger, tmp_path: Path) -> None:
    """While the best model is made, the lock is held, and nothing is trained any more."""
    home, record = Home(tmp_path), RunRecord(ledger, 1, 1, "", "")
    request = asking.stop(ledger, 0)
    with home.lock("small"):
        assert requests.outcome(home, ledger, request, seconds=0).startswith("the driver is busy")
        record.begin_end()
        told = requests.outcome(home, ledger, request)
        assert told.startswith("this run of the sweep is ending: this is done when the sweep goes on: ")
        RunRecord(ledger, 1, 1, "", "")
        assert requests.outcome(home, ledger, request, seconds=0).startswith("the driver is busy"), "resumed"
