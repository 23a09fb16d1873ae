"""Made-up trials and ledgers, for tests of what reads and writes them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from asr_platform.storage.database import sqlite_address
from asr_platform.study.ledger import Ledger, TrialRecord, TrialStatus
from asr_platform.study.samplers import Observation, observe
from search_spaces.reader import parse_space
from search_spaces.space import Proposal, Space
from trainables.config.tree import Config
from trainables.evaluation.utterance_errors import UtteranceErrors

SPACE = """
vary:
  tokenizer.kind: {choice: [char, bpe]}
  tokenizer.vocab_size: {choice: [24, 32], when: {tokenizer.kind: bpe}}
  model.d_model: {choice: [32, 64, 128]}
  model.dropout: {float: [0, 0.2]}
  optimizer.lr: {log: [1e-4, 1e-2]}
trials: 20
epochs: 9
asha: {grace: 3, promotion: null, reduction: 3}
"""


ABOUT = {"space": SPACE, "source": "small.yaml", "folder": "/", "trials": 20, "epochs": 9}


def space(text: str = SPACE) -> Space:
    return parse_space(text, "small.yaml")


def row(epoch: int, cer: float) -> dict[str, Any]:
    """The metrics of an epoch, as the training loop reports them."""
    return {
        "epoch": epoch,
        "train_loss": 1.5,
        "val_loss": 2.5,
        "val_cer": cer,
        "val_wer": min(1.0, 2 * cer),
        "val_ctc_cer": cer + 0.01,
        "infeasible_ctc": 0,
        "updates": 100 * epoch,
        "audio_hours": epoch / 2,
        "train_seconds": 10.0,
        "validation_seconds": 2.0,
        "checkpoint": f"/checkpoints/{epoch}",
    }


def curve(cers: Sequence[float]) -> list[dict[str, Any]]:
    return [row(epoch, cer) for epoch, cer in enumerate(cers, start=1)]


def trial(
    number: int,
    state: TrialStatus,
    cers: Sequence[float] = (),
    params: Mapping[str, Any] | None = None,
    reason: str = "",
    **about: Any,
) -> TrialRecord:
    """A record with one epoch for each CER."""
    return TrialRecord(number, state, dict(params or {}), curve(cers), {"parameters": 1_234_567, **about}, reason)


def ledger_in(folder: Path, name: str = "small", **about: Any) -> Ledger:
    """A new ledger in the storage that a home at `folder` has."""
    return Ledger.create(storage_in(folder), name, {**ABOUT, **about})


def ledger_in_memory(trials: int) -> Ledger:
    """A ledger without a file, for tests of what only reads it."""
    ledger = Ledger(optuna.create_study())
    ledger.note("trials", trials)
    return ledger


def storage_in(folder: Path) -> str:
    return sqlite_address(folder / "studies.db")


def add(ledger: Ledger, state: TrialStatus, cers: Sequence[float] = (), reason: str = "") -> int:
    """Proposes a trial, records its epochs and ends it; returns its number."""
    number = ledger.propose(space(), parameters_of).number
    for entry in curve(cers):
        ledger.record(number, entry)
    if state != "running":
        ledger.finish(number, state, reason)
    return number


def parameters_of(values: Mapping[str, Any]) -> Proposal | None:
    """A made-up parameter count; the widest models have too many."""
    return counting(1000 * int(values["model.d_model"])) if values["model.d_model"] < 128 else None


def observed(trials: Sequence[FrozenTrial]) -> list[Observation]:
    """Trials of a space without a fitted width, as samplers see them."""
    return [observe(trial, trial.params) for trial in trials]


def counting(parameters: int, **fitted: int) -> Proposal:
    """What becomes of a proposal, with a made-up count."""
    return Proposal(Config(), parameters, {f"model.{name}": width for name, width in fitted.items()})


def errors_of(counts: Sequence[int], lengths: Sequence[int] | None = None, epoch: int = 1) -> UtteranceErrors:
    """Utterances, of 20 characters and one word each unless told otherwise, with so many errors."""
    ids, lengths = [f"{number:04}" for number in range(len(counts))], list(lengths or [20] * len(counts))
    texts = ["A" * length for length in lengths]
    wrong = [int(count > 0) for count in counts]
    return UtteranceErrors("dev", epoch, ids, texts, texts, list(counts), lengths, wrong, [1] * len(counts))


class Dice:
    """Proposes at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.random.choice(list(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return self.random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self.random.uniform(low, high)
