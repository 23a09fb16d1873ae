"""Trials of one space in another: a sweep's space may grow, and a new sweep learns from earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import records
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from asr_platform.study import samplers
from asr_platform.study.ledger import WARM_START, Ledger, Storage
from asr_platform.study.migration import check_widening, earlier_trials
from asr_platform.study.recorded_space import recorded_space, wider_space
from asr_platform.study.samplers import Observation, observe, propose
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
asha: {grace: 3, promotion: null, reduction: 3}
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
    space = wider_space(about, records.space(text))
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
    seen = [observe(trial, record.params) for trial, record in zip(ledger.frozen(), again, strict=True)]
    copies = samplers._copies(space, seen)
    assert [trial.params for trial in copies] == [trial.params for trial in again]
    assert {trial.distributions["tokenizer.kind"].choices for trial in copies} == {("unigram", "bpe", "char")}
    assert [trial.value for trial in copies[:5]] == [trial.value for trial in ledger.study.get_trials()[:5]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("epochs: 9", "epochs: 12"), "epochs: a sweep cannot change it"),
        (("trials: 30", "trials: 30\nrules: hw4p2"), "rules: a sweep cannot change it"),
        (("trials: 30", "trials: 30\nobjectives: [val_cer, parameters]"), "objectives: a sweep cannot change it"),
        (("[char, bpe, unigram]", "[bpe, unigram]"), "tokenizer.kind: 'char' is not one of 'bpe', 'unigram'"),
        (("[0, 0.5]", "[0, 0.00001]"), "trial 0: model.dropout: 0.1"),
        (("  model.dropout: {float: [0, 0.5]}\n", ""), "model.dropout was "),
        (("{choice: [0.3, 0.5]}", "{choice: [0.1, 0.5]}"), "loss.ctc_weight: 0.3 is not one of 0.1, 0.5"),
        (("loss: {ctc_weight: 0.3}", "loss: {ctc_weight: 0.3}\n  optimizer: {warmup: 0.5}"), "optimizer.warmup was "),
    ],
)  # fmt: skip
def test_what_would_change_a_trial_is_refused_by_key(unchanged: Ledger, change: tuple[str, str], problem: str) -> None:
    assert change[0] in WIDER
    with pytest.raises(InputError) as error:
        widen(unchanged, WIDER.replace(*change))
    assert problem in error.value.problem and "small.yaml" in error.value.problem
    assert unchanged.about["space"] == NARROW


def test_a_sweep_goes_on_with_another_kind_of_model() -> None:
    """The base of that kind, without a meaning for the trials so far, may come with it; their own may not change."""
    text = "base: {model: {editor: {d_model: 96}}}\nvary:\n  model.dropout: {float: [0, 0.2]}\n"
    both = f"{text}  model.kind: {{choice: [encoder_decoder, transcript_editor]}}\n"
    origin, trials = records.space(text.replace("d_model: 96", "d_model: 256")), {0: {"model.dropout": 0.1}}
    found = check_widening(trials, origin, records.space(both))
    assert found == {0: {"model.dropout": 0.1, "model.kind": "encoder_decoder"}}
    with pytest.raises(InputError, match=r"trial 0: model\.decoder_layers was 2, not 3"):
        check_widening(trials, origin, records.space(both.replace("{editor", "{decoder_layers: 3, editor")))


def test_a_sweep_over_former_keys_goes_on_with_those_of_today() -> None:
    text = "base: {training: {batch_seconds: 30}}\nvary: {training.accumulation: {choice: [1, 2]}}\n"
    today = "vary: {training.update_seconds: {choice: [30, 60, 90]}}\n"
    trials = {0: {"training.accumulation": 1}, 1: {"training.accumulation": 2}}
    found = check_widening(trials, records.space(text), records.space(today))
    assert found == {0: {"training.update_seconds": 30}, 1: {"training.update_seconds": 60}}
    with pytest.raises(InputError, match=r"trial 1: training\.update_seconds: 60"):
        check_widening(trials, records.space(text), records.space(today.replace("60, ", "")))


def test_a_sweep_is_not_restated_by_former_keys_that_it_does_not_have() -> None:
    today = "vary: {training.update_seconds: {choice: [30, 60, 90]}}\n"
    former = "vary: {training.accumulation: {choice: [1, 2]}}\n"
    with pytest.raises(InputError, match=r"trial 0: training\.accumulation: a former key"):
        check_widening({0: {"training.update_seconds": 30}}, records.space(today), records.space(former))


def test_a_sweep_of_other_length_than_its_file_says_goes_on_with_its_own() -> None:
    """Started with --epochs 2, it is resumed with a file that says 9 as before."""
    ledger = Ledger.create(InMemoryStorage(), "small", {**records.ABOUT, "space": NARROW, "epochs": 2})
    records.add(ledger, "complete", [0.9, 0.5])
    assert widen(ledger).settings.epochs == 2
    assert recorded_space(ledger.about).settings.epochs == 2


# Warm start


def earlier(folder: Path, name: str, epochs: int = 9, corpus_hash: str = "same", key: str = "val_cer") -> Ledger:
    """A sweep of twelve trials: eight complete, two pruned, one failed, one that runs."""
    ledger = Ledger.create(
        records.storage_in(folder), name, {**records.ABOUT, "corpus_hash": corpus_hash} | {"epochs": epochs}
    )
    source = Ledger(optuna.create_study())
    for number in range(12):
        source.study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params={"model.dropout": 0.04 * number},
                distributions={"model.dropout": FloatDistribution(0, 0.5)},
                user_attrs={"parameters": 1000},
            )
        )
        row: dict[str, Any] = {**records.row(1, 0.1 * number + 0.1), "real_time_factor": 0.01}
        row[key] = row.pop("val_cer")
        source.record(number, row)
        if number < 11:
            source.finish(number, "complete" if number < 8 else "pruned" if number < 10 else "failed")
    ledger.study.add_trials(source.study.get_trials())
    return ledger


def nine_epochs(text: str) -> Space:
    return records.space(f"{text}\nepochs: 9\n")


def test_trials_with_former_keys_start_a_sweep_with_those_of_today(tmp_path: Path) -> None:
    text = "base: {training: {batch_seconds: 30}}\nvary: {training.accumulation: {choice: [1, 2]}}\n"
    ledger = records.ledger_in(tmp_path, "former", space=text)
    for passes in (1, 2):
        trial = ledger.add(records.space(text), {"training.accumulation": passes}, records.counting(1000), {})
        ledger.record(trial.number, records.row(1, 0.5))
        ledger.finish(trial.number, "complete")
    today = records.space("vary: {training.update_seconds: {choice: [30, 90]}}\n")
    known, lines = earlier_trials(records.storage_in(tmp_path), ["former"], today, "same")
    assert [trial["params"] for trial in known] == [{"training.update_seconds": 30}]
    assert "1 of 2 trials fit (1: training.update_seconds: 60" in lines[0]


def test_what_fits_is_copied_and_the_rest_is_explained(tmp_path: Path) -> None:
    """Values of the trials at 0, 0.04, ... 0.36 that ended well."""
    earlier(tmp_path, "first")
    earlier(tmp_path, "second", epochs=20, corpus_hash="other")
    narrow = nine_epochs("vary: {model.dropout: {float: [0.1, 0.33]}}")
    known, lines = earlier_trials(records.storage_in(tmp_path), ["first", "second", "first"], narrow, "same")
    assert len(known) == 2 * 6
    reasons = [f"1: model.dropout: {value} is not in [0.1, 0.33]" for value in ("0.0", "0.04", "0.08", "0.36")]
    assert lines == [
        f"warm start from first: 6 of 10 trials fit ({'; '.join(reasons)})",
        f"warm start from second: 6 of 10 trials fit ({'; '.join(reasons)}); its corpus is another; "
        "its trials are of 20 epochs, these of 9",
    ]
    seen = [Observation(**trial) for trial in known]
    assert seen[:6] == seen[6:]
    assert [(trial.state, trial.params["model.dropout"], trial.last) for trial in (seen[0], seen[5])] == [
        ("complete", 0.12, pytest.approx(0.4)),
        ("pruned", 0.32, pytest.approx(0.9)),
    ]


@pytest.mark.parametrize(
    ("text", "fit", "said"),
    [
        ("vary: {model.dropout: {float: [0, 0.5]}}", 10, "10 of 10 trials fit"),
        ("vary: {loss.ctc_weight: {float: [0, 1]}}", 0, "0 of 10 trials fit (10: model.dropout: does not vary here)"),
        (
            "vary: {model.dropout: {float: [0, 0.5]}, loss.ctc_weight: {float: [0, 1]}}",
            0,
            "0 of 10 trials fit (10: loss.ctc_weight: varies only here)",
        ),
        (
            "base: {model: {kind: language_model}}\nvary: {model.dropout: {float: [0, 0.5]}}",
            0,
            "0 of 10 trials fit (10: ranked by val CER)",
        ),
        ("sampler: random\nvary: {model.dropout: {float: [0, 0.5]}}", 10, "10 of 10 trials fit; the sampler random "
         "learns nothing from them"),
        ("objectives: [val_cer, real_time_factor]\nvary: {model.dropout: {float: [0, 0.5]}}",
         10, "10 of 10 trials fit"),
    ],
)  # fmt: skip
def test_only_what_the_space_could_propose_fits(text: str, fit: int, said: str, tmp_path: Path) -> None:
    earlier(tmp_path, "first")
    known, lines = earlier_trials(records.storage_in(tmp_path), ["first"], nine_epochs(text), "same")
    assert (len(known), lines) == (fit, [f"warm start from first: {said}"])


def test_an_unknown_sweep_is_refused(tmp_path: Path) -> None:
    earlier(tmp_path, "first")
    with pytest.raises(InputError, match="no sweep named frist") as error:
        earlier_trials(records.storage_in(tmp_path), ["frist"], nine_epochs("vary: {}"), "same")
    assert "first" in error.value.remedy


def test_they_outlive_their_sweep_and_are_no_trials_of_the_new_one(tmp_path: Path) -> None:
    storage, wide = records.storage_in(tmp_path), nine_epochs("vary: {model.dropout: {float: [0, 0.5]}}")
    earlier(tmp_path, "first")
    known, _ = earlier_trials(storage, ["first"], wide, "same")
    Ledger.create(storage, "new", {WARM_START: known})
    optuna.delete_study(study_name="first", storage=storage)
    ledger = Ledger.open(storage, "new")
    assert ledger.trials() == []
    trial = ledger.propose(wide, lambda values: records.counting(1))
    warm, _ = propose(wide, [], lambda values: records.counting(1), [Observation(**seen) for seen in known])
    cold, _ = propose(wide, [], lambda values: records.counting(1))
    assert trial.params == warm.params != cold.params
    assert ledger.trials() == [trial]
