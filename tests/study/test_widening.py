"""A sweep's space may grow: its trials stay what they were, and the sampler compares them with the new ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import records
from optuna.storages import InMemoryStorage

from asr_platform.study.ledger import Ledger, Storage
from asr_platform.study.recorded_space import recorded_space, with_recorded_epochs
from asr_platform.study.widening import check_widening, refit, restated
from search_spaces.space import Space
from trainables.errors import InputError

WIDER = """
base:
  loss: {ctc_weight: 0.3}
vary:
  tokenizer.kind: {choice: [char, bpe, unigram]}
  tokenizer.vocab_size: {choice: [24, 32, 48], when: {tokenizer.kind: [bpe, unigram]}}
  model.d_model: {int: [32, 128], step: 32}
  model.dropout: {float: [0, 0.5]}
  optimizer.lr: {log: [1e-5, 1e-1]}
  loss.ctc_weight: {choice: [0.3, 0.5]}
trials: 30
epochs: 9
asha: {grace: 3, reduction: 3}
"""
NARROW = records.SPACE.replace("vary:", "base: {loss: {ctc_weight: 0.3}}\nvary:")


def begun(storage: Storage) -> Ledger:
    """A sweep of the narrow space, in which char and bpe have been tried."""
    ledger = Ledger.create(storage, "small", {**records.ABOUT, "space": NARROW})
    for number in range(5):
        records.add(ledger, "complete", [0.9, 0.05 * (number * 7 % 12)])
    records.add(ledger, "running", [0.8])
    assert {trial.params["tokenizer.kind"] for trial in ledger.trials()} == {"char", "bpe"}
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return begun(records.storage_in(tmp_path))


@pytest.fixture(scope="module")
def unchanged() -> Ledger:
    """One that no test changes."""
    return begun(InMemoryStorage())


def widen(ledger: Ledger, text: str = WIDER) -> Space:
    about, params = ledger.about, {trial.number: trial.params for trial in ledger.trials()}
    space = with_recorded_epochs(about, records.space(text))
    values = check_widening(params, recorded_space(about), space)
    ledger.widen(space, Path("/"), values)
    return space


def test_old_trials_keep_their_configurations(ledger: Ledger, tmp_path: Path) -> None:
    """To the last key, in a ledger opened anew; a key that has begun to vary has the value that it had."""
    old = recorded_space(ledger.about)
    before = {trial.number: old.config(trial.params) for trial in ledger.trials()}
    rest = [(trial.curve, trial.state, trial.about) for trial in ledger.trials()]
    widen(ledger)
    reopened = Ledger.open(records.storage_in(tmp_path), "small")
    new = recorded_space(reopened.about)
    assert new.text == WIDER
    assert {trial.number: new.config(trial.params) for trial in reopened.trials()} == before
    assert [(trial.curve, trial.state, trial.about) for trial in reopened.trials()] == rest
    assert {trial.params["loss.ctc_weight"] for trial in reopened.trials()} == {0.3}


def test_new_trials_are_of_the_new_space_and_the_sampler_knows_the_old_ones(ledger: Ledger, tmp_path: Path) -> None:
    """Choices that have changed are no obstacle, twice over; and each proposal follows from what is on record."""
    space = widen(ledger)
    proposed = [ledger.propose(space, lambda values: records.counting(7)).params for _ in range(12)]
    assert {params["tokenizer.kind"] for params in proposed} == {"char", "bpe", "unigram"}
    space = widen(ledger, space.text.replace("[char, bpe, unigram]", "[unigram, bpe, char]"))
    more = [ledger.propose(space, lambda values: records.counting(7)).params for _ in range(3)]
    again = Ledger.open(records.storage_in(tmp_path), "small").trials()
    assert [trial.params for trial in again[6:]] == proposed + more
    refitted = ledger._in(space, ledger.study.get_trials())
    assert [trial.params for trial in refitted] == [trial.params for trial in again]
    assert {trial.distributions["tokenizer.kind"].choices for trial in refitted} == {("unigram", "bpe", "char")}
    assert [trial.value for trial in refitted[:5]] == [trial.value for trial in ledger.study.get_trials()[:5]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("epochs: 9", "epochs: 12"), "epochs: a sweep cannot change it"),
        (("trials: 30", "trials: 30\nobjectives: [val_cer, parameters]"), "objectives: a sweep cannot change it"),
        (("[char, bpe, unigram]", "[bpe, unigram]"), "tokenizer.kind=char is none of bpe, unigram"),
        (("[0, 0.5]", "[0, 0.00001]"), "trial 0: model.dropout=0.1"),
        (("  model.dropout: {float: [0, 0.5]}\n", ""), "model.dropout was "),
        (("{choice: [0.3, 0.5]}", "{choice: [0.1, 0.5]}"), "loss.ctc_weight=0.3 is none of 0.1, 0.5"),
        (("loss: {ctc_weight: 0.3}", "loss: {ctc_weight: 0.3}\n  optimizer: {warmup: 0.5}"), "optimizer.warmup was "),
    ],
)  # fmt: skip
def test_what_would_change_a_trial_is_refused_by_key(unchanged: Ledger, change: tuple[str, str], problem: str) -> None:
    assert change[0] in WIDER
    with pytest.raises(InputError) as error:
        widen(unchanged, WIDER.replace(*change))
    assert problem in error.value.problem and "small.yaml" in error.value.problem
    assert unchanged.about["space"] == NARROW


def test_a_sweep_of_other_length_than_its_file_says_goes_on_with_its_own() -> None:
    """Started with --epochs 2, it is resumed with a file that says 9 as before."""
    ledger = Ledger.create(InMemoryStorage(), "small", {**records.ABOUT, "space": NARROW, "epochs": 2})
    records.add(ledger, "complete", [0.9, 0.5])
    assert widen(ledger).settings.epochs == 2
    assert recorded_space(ledger.about).settings.epochs == 2


def test_a_trial_of_another_sweep_is_refitted_where_its_keys_fit(unchanged: Ledger) -> None:
    narrow, wide = records.space(NARROW), records.space(WIDER)
    trial = unchanged.study.get_trials()[0]
    fitted = refit(trial, restated(trial.params, narrow, wide), wide)
    assert fitted is not None and fitted.value == trial.value
    assert fitted.params == {**trial.params, "loss.ctc_weight": 0.3}
    assert list(fitted.intermediate_values) == list(trial.intermediate_values)
    assert refit(trial, {**trial.params, "model.dropout": 0.9}, wide) is None
