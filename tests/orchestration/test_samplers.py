"""Every sampler keeps the same promises: what it proposes fits, follows from the ledger alone, and is tried once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import records
from optuna.trial import TrialState

from asr_platform import samplers
from asr_platform.samplers import Observation, observe, propose
from asr_platform.study import WARM_START, Ledger, TrialRecord
from search_spaces.space import Space
from trainables.errors import InputError

GRID = """
vary:
  tokenizer.kind: {choice: [char, bpe]}
  tokenizer.vocab_size: {choice: [24, 32], when: {tokenizer.kind: bpe}}
  model.d_model: {choice: [32, 64, 128]}
  model.encoder_layers: {int: [2, 6], step: 2}
  model.dropout: {float: [0, 0.3], step: 0.1}
"""
POINTS = 3 * 3 * 3 * 4  # the three tokenizers, widths, depths, dropouts
NAMES = ("tpe", "gp", "random", "grid", "nsga2")
KINDS = [(name, ("val_cer",)) for name in NAMES] + [
    (name, ("val_cer", *more))
    for name, more in [
        ("tpe", ("parameters",)),
        ("nsga2", ("real_time_factor", "parameters")),
        ("random", ("parameters",)),
        ("grid", ("parameters",)),
    ]
]
TRIALS = 14


def space_of(sampler: str, objectives: tuple[str, ...] = ("val_cer",), start: tuple[dict[str, Any], ...] = ()) -> Space:
    """A space for the sampler; all but the grid's vary real numbers too."""
    text = GRID if sampler == "grid" else records.SPACE
    space = records.space(f"{text}\nsampler: {sampler}\nobjectives: [{', '.join(objectives)}]\n")
    return replace(space, start=start)


every_kind = pytest.mark.parametrize(("sampler", "objectives"), KINDS, ids=lambda value: "".join(value[:4]))


def end(ledger: Ledger, trial: TrialRecord) -> None:
    """Finishes a trial as its number and its values have it; a third of the trials stop early, one fails."""
    params = trial.params
    cer = 0.1 + abs(params["model.dropout"] - 0.1) + 5 / params["model.d_model"] + 0.1 * (trial.number % 3)
    factor = params["model.d_model"] / 10_000
    for epoch in (1, 2) if trial.number % 3 else (1, 2, 3):
        ledger.record(trial.number, {**records.row(epoch, cer + 1 / epoch), "real_time_factor": factor})
    ledger.finish(trial.number, "failed" if trial.number == 4 else "pruned" if trial.number % 3 else "complete")


def search(ledger: Ledger, space: Space, trials: int = TRIALS) -> list[dict[str, Any]]:
    """The values of so many trials, one after the other."""
    for _ in range(trials):
        end(ledger, ledger.propose(space, records.parameters_of))
    return [trial.params for trial in ledger.trials()]


@every_kind
def test_the_same_ledger_gives_the_same_trials(sampler: str, objectives: tuple[str, ...], tmp_path: Path) -> None:
    """In one process, and with the ledger read from its file before each; all of them fit, and are other ones."""
    space = space_of(sampler, objectives)
    trials = search(records.ledger_in(tmp_path, "once"), space)
    records.ledger_in(tmp_path, "resumed")
    for _ in range(TRIALS):
        again = search(Ledger.open(records.storage_in(tmp_path), "resumed"), space, 1)
    assert again == trials
    for number, params in enumerate(trials):
        assert records.parameters_of(params) is not None
        assert ("tokenizer.vocab_size" in params) == (params["tokenizer.kind"] == "bpe")
        assert set(params) | {"tokenizer.vocab_size"} == set(space.vary)
        space.config(params)
        assert params not in trials[:number]
    other_seed = replace(space, settings=space.settings.model_copy(update={"seed": 5_000_000_000}))
    assert search(Ledger.create(records.storage_in(tmp_path), "seed", {}), other_seed, 2) != trials[:2]
