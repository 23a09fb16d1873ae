"""A made-up finished sweep of ten trials with a CER and one without, logged to MLflow with its model."""

from __future__ import annotations

import random
from pathlib import Path

import babbler
import pytest
import records

from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.storage.home import Home, trial_name
from asr_platform.study.ledger import Ledger
from asr_platform.study.provenance import write_record
from asr_platform.tracking.model_card import CARD, ModelCard
from asr_platform.tuning.best_model import register_best_model
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from trainables.data.corpus import Corpus

NAME = "shown"
TRIALS = 11
UTTERANCES, CHARACTERS = 200, 20


def finished_sweep(home: Home, corpus: Corpus) -> Ledger:
    """A sweep in which half of the trials are complete, the last one failed at once, and the others were pruned."""
    about = {"corpus": str(corpus.path), "corpus_hash": corpus.hash, "trials": TRIALS, "epochs": 9}
    ledger = records.ledger_in(home.path, NAME, **about)
    for number in range(TRIALS - 1):
        complete = number % 2 == 0
        cers = [_cer(0.9 / epoch + 0.02 * number) for epoch in range(1, 10 if complete else 4)]
        reason = "" if complete else f"rung at epoch 3: val CER {cers[-1]:.2%} against a cutoff of 30.00%"
        records.add(ledger, "complete" if complete else "pruned", cers, reason)
        _write_errors(home, number, cers)
    records.add(ledger, "failed", reason="DivergedError: the train_loss became nan in epoch 1")
    return ledger


def show(home: Home, ledger: Ledger, corpus: Corpus) -> None:
    write_record(home.sweep(NAME), records.SPACE, home.path / "no plan")
    mlflow_callback = MLflowCallback(home, ledger, records.space(), corpus, pytest.fail, "http://127.0.0.1:8265")
    mlflow_callback.log_all()
    mlflow_callback.end("FINISHED", ledger.trial(0))
    register_best_model(mlflow_callback, ledger, ledger.trial(0), _model(home, ledger, corpus), pytest.fail)


def _model(home: Home, ledger: Ledger, corpus: Corpus) -> Path:
    """A model directory with a model card; the model is untrained."""
    model, best, errors = home.model(NAME), ledger.trial(0), RecordedErrors(home.sweep(NAME))
    babbler.save_model(corpus, model)
    trials = ledger.trials()
    intervals, store = errors.cer_intervals(trials), home.tracking
    card = ModelCard(NAME, records.space(), corpus, trials, best, intervals, errors.of(best), store)
    (model / CARD).write_text(card.render(), encoding="utf-8")
    return model


def _cer(wanted: float) -> float:
    """The CER nearest to `wanted` that CHARACTERS in UTTERANCES can have."""
    return round(wanted * UTTERANCES * CHARACTERS) / (UTTERANCES * CHARACTERS)


def _write_errors(home: Home, number: int, cers: list[float]) -> None:
    """Writes the errors of a trial, spread over the utterances at random."""
    counts, dice = [0] * UTTERANCES, random.Random(number)
    for _ in range(round(cers[-1] * UTTERANCES * CHARACTERS)):
        counts[dice.randrange(UTTERANCES)] += 1
    folder = RecordedErrors(home.sweep(NAME)).folder
    folder.mkdir(parents=True, exist_ok=True)
    records.errors_of(counts, epoch=len(cers)).save(folder / f"{trial_name(number)}.json")
