"""The ledger: one SQLite file that outlives every process, and proposals that follow from its content alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import records
from optuna.trial import TrialState

from asr_platform.study import samplers
from asr_platform.study.ledger import Ledger, TrialStatus
from asr_platform.study.samplers import propose
from trainables.errors import InputError

HERE = Path(records.__file__).parent
ENDS: list[TrialStatus] = ["complete", "pruned", "failed"]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return records.ledger_in(tmp_path)


def in_new_process(code: str, folder: Path, hash_seed: int = 0) -> subprocess.Popen[str]:
    """Runs code that finds `ledger`, opened anew, and `records`."""
    begin = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import json, records\n"
        f"from asr_platform.study.ledger import *; from asr_platform.study.samplers import propose; "
        f"ledger = Ledger.open({records.storage_in(folder)!r}, 'small')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", begin + code],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        text=True,
    )


# Proposals


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger in which the sampler is past its random start, and two trials still run."""
    folder = tmp_path_factory.mktemp("searched")
    ledger = records.ledger_in(folder)
    for number in range(12):
        records.add(ledger, ENDS[number % 5 // 2], [0.9, 0.05 * (number * 7 % 12)])
    records.add(ledger, "running", [0.8])
    records.add(ledger, "running", [])
    return folder


def test_lists_are_proposed_and_come_back_from_the_ledger(tmp_path: Path) -> None:
    """At random and then by the model that the sampler makes of its record."""
    space = records.space("vary: {training.stages: {choice: [[], [{epochs: 2}]]}, model.dropout: {float: [0, 0.1]}}")
    ledger = records.ledger_in(tmp_path)
    proposed = []
    for number in range(14):
        proposed.append(ledger.propose(space, lambda values: records.counting(1)).params)
        ledger.record(number, records.row(1, 0.1 if proposed[-1]["training.stages"] == "[]" else 0.9))
        ledger.finish(number, "complete")
    again = [trial.params for trial in Ledger.open(records.storage_in(tmp_path), "small").trials()]
    assert again == proposed
    assert {len(space.config(params).training.stages) for params in again} == {0, 1}


def test_the_same_ledger_gives_the_same_proposal(searched: Path) -> None:
    """Asked twice, reopened, and in new processes where Python hashes strings in other ways."""
    ledger = Ledger.open(records.storage_in(searched), "small")
    trials = records.observed(ledger.study.get_trials())
    proposals = [propose(records.space(), trials, records.parameters_of) for _ in range(2)]
    first = [proposals[0][0].params, proposals[0][1].parameters]
    assert [proposals[1][0].params, proposals[1][1].parameters] == first
    code = "found = propose(records.space(), records.observed(ledger.study.get_trials()), records.parameters_of)\n"
    code += "print(json.dumps([found[0].params, found[1].parameters]))"
    processes = [in_new_process(code, searched, hash_seed) for hash_seed in (1, 2)]
    assert [json.loads(process.communicate()[0]) for process in processes] == [first, first]


def test_proposals_follow_the_results_and_the_seed(searched: Path) -> None:
    trials = Ledger.open(records.storage_in(searched), "small").study.get_trials()
    expected = propose(records.space(), records.observed(trials), records.parameters_of)[0].params
    other_seed = records.space(records.SPACE + "seed: 1\n")
    assert propose(other_seed, records.observed(trials), records.parameters_of)[0].params != expected
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            trial.intermediate_values = {2: 1.0 - trial.intermediate_values[2]}
            trial.user_attrs["epoch:2"] = "{}"
    assert propose(records.space(), records.observed(trials), records.parameters_of)[0].params != expected


def test_what_does_not_fit_never_becomes_a_trial(searched: Path) -> None:
    """The widest models are refused: a third of what the sampler begins with."""
    trials = Ledger.open(records.storage_in(searched), "small").trials()
    assert [trial.number for trial in trials] == list(range(14))
    assert {trial.params["model.d_model"] for trial in trials} == {32, 64}
    for trial in trials:
        assert trial.about == {"parameters": 1000 * trial.params["model.d_model"]}
        assert ("tokenizer.vocab_size" in trial.params) == (trial.params["tokenizer.kind"] == "bpe")


def test_a_fitted_width_is_a_value_of_the_trial_and_no_matter_of_the_sampler(tmp_path: Path) -> None:
    space = records.space("vary: {model.d_model: fit, model.dropout: {float: [0, 0.1]}}")
    ledger = records.ledger_in(tmp_path)
    widths = [64 + 8 * number for number in range(12)]  # past the sampler's random start
    solved = iter(widths)
    for number, width in enumerate(widths):
        trial = ledger.propose(space, lambda values: records.counting(7, d_model=next(solved)))
        ledger.record(number, records.row(1, 0.5))
        ledger.finish(number, "complete")
        assert trial.params["model.d_model"] == width
        assert list(ledger.study.get_trials()[number].params) == ["model.dropout"]
    reopened = Ledger.open(records.storage_in(tmp_path), "small").trial(3)
    assert reopened.about == {"parameters": 7}
    assert space.config(reopened.params).model.d_model == 88


def test_a_space_without_anything_that_fits_is_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "PROPOSALS", 30)
    with pytest.raises(InputError, match=r"small\.yaml: none of 30 proposals fits the budget of 30,000,000") as error:
        ledger.propose(records.space(), lambda values: None)
    assert "Raise the budget" in error.value.remedy
    assert ledger.trials() == []


def test_a_proposal_is_a_running_trial(ledger: Ledger) -> None:
    trial = ledger.propose(records.space(), lambda values: records.counting(7))
    assert (trial.number, trial.state, trial.curve, trial.best, trial.epochs) == (0, "running", [], None, 0)
    assert trial.about == {"parameters": 7}
    assert ledger.trials() == [trial] == [ledger.trial(0)]


# Results


def test_an_epoch_is_recorded_once(ledger: Ledger) -> None:
    number = ledger.propose(records.space(), lambda values: records.counting(7)).number
    assert ledger.record(number, records.row(1, 0.5))
    before = ledger.trial(number)
    assert not ledger.record(number, records.row(1, 0.1))
    assert ledger.trial(number) == before
    assert before.curve == [records.row(1, 0.5)]


def test_a_curve_is_in_the_order_of_epochs_and_knows_its_best(ledger: Ledger) -> None:
    number = ledger.propose(records.space(), lambda values: records.counting(7)).number
    cers = {2: 0.25, 1: 0.5, 10: 0.25, 3: 0.75}
    for epoch, cer in cers.items():
        assert ledger.record(number, records.row(epoch, cer))
    trial = ledger.trial(number)
    assert [row["epoch"] for row in trial.curve] == [1, 2, 3, 10]
    assert trial.best == records.row(10, 0.25), "the last of equals, whose checkpoint Ray keeps"
    assert trial.epochs == 4


@pytest.mark.parametrize(
    ("state", "expected", "value"),
    [("complete", TrialState.COMPLETE, 0.25), ("pruned", TrialState.PRUNED, 0.5), ("failed", TrialState.FAIL, None)],
)
def test_states_are_those_of_optuna(
    ledger: Ledger, state: TrialStatus, expected: TrialState, value: float | None
) -> None:
    """Complete: the value is the best CER. Pruned: the last one, with its step, so that samplers compare like with
    like. Failed: none."""
    number = records.add(ledger, state, [0.75, 0.25, 0.5], "because")
    frozen = ledger.study.get_trials()[number]
    assert (frozen.state, frozen.value, frozen.last_step) == (expected, value, 3)
    trial = ledger.trial(number)
    assert (trial.state, trial.reason, trial.epochs) == (state, "because", 3)


def test_a_trial_with_all_its_epochs_is_ended_by_whoever_finds_it(ledger: Ledger) -> None:
    """The driver that recorded the last one was killed."""
    whole, begun, failed = (records.add(ledger, state, cers) for state, cers in (
        ("running", [0.5, 0.4, 0.6]), ("running", [0.5, 0.4]), ("failed", [0.5, 0.4, 0.3]),
    ))  # fmt: skip
    ledger.complete_trials(3)
    assert [ledger.trial(number).state for number in (whole, begun, failed)] == ["complete", "running", "failed"]
    assert ledger.study.get_trials()[whole].value == 0.4


def test_a_trial_that_fails_before_its_first_epoch_is_on_record(ledger: Ledger) -> None:
    trial = ledger.trial(records.add(ledger, "failed", [], "InputError: no"))
    assert (trial.state, trial.curve, trial.reason) == ("failed", [], "InputError: no")


def test_facts_about_sweep_and_trial_are_kept(ledger: Ledger, tmp_path: Path) -> None:
    number = ledger.propose(records.space(), lambda values: records.counting(7)).number
    ledger.describe(number, "mlflow_run_id", "abc")
    ledger.note("trials", 40)
    reopened = Ledger.open(records.storage_in(tmp_path), "small")
    assert reopened.trial(number).about == {"parameters": 7, "mlflow_run_id": "abc"}
    assert reopened.about == {**records.ABOUT, "trials": 40}


def test_the_model_is_that_of_the_best_epoch_whose_checkpoint_is_there(tmp_path: Path) -> None:
    """Ray removes checkpoints; those on remote storage cannot be looked at and are taken to be there."""
    trial = records.trial(0, "complete", [0.2, 0.4, 0.3])
    assert trial.model is None
    for row in trial.curve:
        row["checkpoint"] = str(tmp_path / str(row["epoch"]))
    for epoch in (2, 3):
        (tmp_path / str(epoch)).mkdir()
    assert trial.model == str(tmp_path / "3")
    trial.curve[0]["checkpoint"] = None
    assert trial.model == str(tmp_path / "3")
    trial.curve[0]["checkpoint"] = "s3://bucket/1"
    assert trial.model == "s3://bucket/1"


def test_a_fact_about_a_trial_that_has_ended_is_kept(ledger: Ledger) -> None:
    """Its MLflow run, say, where the store was away until then; and of each trial its own."""
    numbers = [records.add(ledger, "complete", [0.5]) for _ in range(12)]
    ledger.describe(numbers[1], "mlflow_run_id", "abc")
    ledger.describe(numbers[11], "mlflow_run_id", "def")
    assert [trial.about.get("mlflow_run_id") for trial in ledger.trials()] == [None, "abc", *[None] * 9, "def"]
    assert ledger.about == records.ABOUT


# Processes that die, and others that watch


def test_an_epoch_half_recorded_is_recorded_again(ledger: Ledger, tmp_path: Path) -> None:
    """As a kill between the two steps of recording leaves it: the row is there, its value is not reported."""
    number = records.add(ledger, "running", [0.5])
    storage, trial = ledger.study._storage, ledger.frozen()[number]._trial_id
    storage.set_trial_user_attr(trial, "epoch:2", json.dumps(records.row(2, 0.1)))
    reopened = Ledger.open(records.storage_in(tmp_path), "small")
    assert reopened.trial(number).curve == [records.row(1, 0.5)]
    assert reopened.trial(number).about == {"parameters": reopened.trial(number).about["parameters"]}
    assert reopened.record(number, records.row(2, 0.4))
    assert reopened.trial(number).curve == [records.row(1, 0.5), records.row(2, 0.4)]


@pytest.fixture
def writer(ledger: Ledger, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that records epoch after epoch of trial 0 and says which it has recorded."""
    records.add(ledger, "running", [])
    code = "for epoch in range(1, 10**6): ledger.record(0, records.row(epoch, 1 / epoch)); print(epoch, flush=True)"
    process = in_new_process(code, tmp_path)
    yield process
    process.kill()
    process.communicate()


def test_a_reader_sees_whole_epochs_while_another_process_writes(
    ledger: Ledger, writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    """And after `kill -9` at any moment, all that was recorded is there, and recording goes on."""
    assert writer.stdout is not None
    seen = [0]
    while seen[-1] < 12:
        said = int(writer.stdout.readline())
        curve = Ledger.open(records.storage_in(tmp_path), "small").trial(0).curve if said % 4 == 0 else []
        curve = curve or ledger.trial(0).curve
        assert curve == [records.row(epoch, 1 / epoch) for epoch in range(1, len(curve) + 1)]
        assert len(curve) >= max(said, seen[-1])
        seen.append(len(curve))
    writer.kill()
    writer.wait()
    epochs = ledger.trial(0).epochs
    assert epochs >= seen[-1]
    assert not ledger.record(0, records.row(epochs, 0.0))
    assert ledger.record(0, records.row(epochs + 1, 0.0))
    ledger.finish(0, "complete")
    assert ledger.trial(0).epochs == epochs + 1


# Names


def test_a_taken_name_is_refused_and_the_sweep_stays(ledger: Ledger, tmp_path: Path) -> None:
    records.add(ledger, "running", [])
    with pytest.raises(InputError, match="sweep small exists") as error:
        records.ledger_in(tmp_path)
    assert "--resume small" in error.value.remedy
    assert len(ledger.trials()) == 1


def test_a_ledger_that_was_never_whole_is_none_and_its_name_is_free(tmp_path: Path) -> None:
    """As a kill between the two steps of making it leaves it."""
    optuna.create_study(storage=records.storage_in(tmp_path), study_name="small")
    assert Ledger.names(records.storage_in(tmp_path)) == []
    assert records.ledger_in(tmp_path).about == records.ABOUT
    assert Ledger.names(records.storage_in(tmp_path)) == ["small"]


def test_an_unknown_name_is_refused_with_those_there_are(ledger: Ledger, tmp_path: Path) -> None:
    records.ledger_in(tmp_path, "another")
    with pytest.raises(InputError, match=r"no sweep named smal\n") as error:
        Ledger.open(records.storage_in(tmp_path), "smal")
    assert error.value.remedy == "The sweeps are: small, another."


def test_names_are_in_the_order_of_creation(tmp_path: Path) -> None:
    assert Ledger.names(records.storage_in(tmp_path)) == []
    with pytest.raises(InputError) as error:
        Ledger.open(records.storage_in(tmp_path), "any")
    assert "none yet" in error.value.remedy
    names = ["zebra-1", "ant-2", "zebra-10", "bee-1"]
    for name in names:
        records.ledger_in(tmp_path, name)
    assert Ledger.names(records.storage_in(tmp_path)) == names
