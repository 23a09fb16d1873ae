"""A new sweep learns from what earlier ones in its home have found, and says from how much of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import records
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from asr_platform.study.ledger import WARM_START, Ledger
from asr_platform.study.samplers import Observation, propose
from asr_platform.study.warm_start import gather
from search_spaces.space import Space
from trainables.errors import InputError


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


def space(text: str) -> Space:
    return records.space(f"{text}\nepochs: 9\n")


def test_what_fits_is_copied_and_the_rest_is_explained(tmp_path: Path) -> None:
    """Of the trials at 0, 0.04, ... 0.36 that ended well."""
    earlier(tmp_path, "first")
    earlier(tmp_path, "second", epochs=20, corpus_hash="other")
    narrow = space("vary: {model.dropout: {float: [0.1, 0.33]}}")
    known, lines = gather(records.storage_in(tmp_path), ["first", "second", "first"], narrow, "same")
    assert len(known) == 2 * 6
    reasons = [f"1: model.dropout={value} is outside [0.1, 0.33]" for value in ("0.0", "0.04", "0.08", "0.36")]
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
        ("vary: {loss.ctc_weight: {float: [0, 1]}}", 0, "0 of 10 trials fit (10: model.dropout does not vary here)"),
        (
            "vary: {model.dropout: {float: [0, 0.5]}, loss.ctc_weight: {float: [0, 1]}}",
            0,
            "0 of 10 trials fit (10: loss.ctc_weight varies here alone)",
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
    known, lines = gather(records.storage_in(tmp_path), ["first"], space(text), "same")
    assert (len(known), lines) == (fit, [f"warm start from first: {said}"])


def test_an_unknown_sweep_is_refused(tmp_path: Path) -> None:
    earlier(tmp_path, "first")
    with pytest.raises(InputError, match="no sweep named frist") as error:
        gather(records.storage_in(tmp_path), ["frist"], space("vary: {}"), "same")
    assert "first" in error.value.remedy


def test_they_outlive_their_sweep_and_are_no_trials_of_the_new_one(tmp_path: Path) -> None:
    storage, wide = records.storage_in(tmp_path), space("vary: {model.dropout: {float: [0, 0.5]}}")
    earlier(tmp_path, "first")
    known, _ = gather(storage, ["first"], wide, "same")
    Ledger.create(storage, "new", {WARM_START: known})
    optuna.delete_study(study_name="first", storage=storage)
    ledger = Ledger.open(storage, "new")
    assert ledger.trials() == []
    trial = ledger.propose(wide, lambda values: records.counting(1))
    warm, _ = propose(wide, [], lambda values: records.counting(1), [Observation(**seen) for seen in known])
    cold, _ = propose(wide, [], lambda values: records.counting(1))
    assert trial.params == warm.params != cold.params
    assert ledger.trials() == [trial]
