"""Sweeps with results, made without training: real models, ledger, home and MLflow store."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import babbler
import pytest
import records
from mlflow.tracking import MlflowClient

from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.storage.home import Home, trial_name
from asr_platform.study.ledger import Ledger
from asr_platform.study.recorded_space import recorded_space
from asr_platform.tracking.registry import Registered
from asr_platform.tracking.runs import Tracker, experiment_of
from asr_platform.tuning.best_model import best_of, make_best_model, register_best_model
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from trainables.data.corpus import Corpus
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS

SPLIT = "dev"
USUAL_SECONDS = 1.5  # longer recordings are heard in pieces


class Found:
    """A sweep whose trials have one epoch each.

    Args:
        store: the address of another MLflow store than its home's own.
    """

    def __init__(self, home: Path, corpus: Corpus, name: str = "small", store: str = "") -> None:
        self.home, self.corpus, self.name = Home.at(home), corpus, name
        about = {"corpus": str(corpus.path), "corpus_hash": corpus.hash, "epochs": 1, "trials": 0}
        about |= {"options": {"tracking_uri": store or None}}
        self.ledger: Ledger = records.ledger_in(self.home.path, name, **about)
        self.said: list[str] = []

    def trial(self, wrong: int, lost: float = 0.5) -> Path:
        """Adds a trial whose hypotheses lack a share of the text of `wrong` validation utterances.

        Args:
            lost: the share, counted from the beginning of each text.

        Returns:
            The trial's model directory.
        """
        number = self.ledger.propose(records.space(), records.parameters_of).number
        checkpoint = self.home.sweep(self.name) / "trials" / trial_name(number) / "checkpoint_1"
        babbler.save_model(self.corpus, checkpoint, seed=number + 1, usual_seconds=USUAL_SECONDS)
        split = self.corpus.split(SPLIT)
        references = list(split.texts or [])
        hypotheses = [text[round(lost * len(text)) * (place < wrong) :] for place, text in enumerate(references)]
        errors = UtteranceErrors.of(SPLIT, 1, split.ids, references, hypotheses)
        errors.save(checkpoint / ERRORS)
        self.ledger.record(number, {**records.row(1, errors.cer), "checkpoint": str(checkpoint)})
        self.ledger.finish(number, "complete")
        self.ledger.note("trials", number + 1)
        return checkpoint

    def tracker(self) -> Tracker:
        return Tracker(self.home.store(self.ledger.about), experiment_of(self.corpus))

    @cached_property
    def client(self) -> MlflowClient:
        return self.tracker().client

    def callback(self) -> MLflowCallback:
        """A new MLflow callback."""
        return MLflowCallback(self.home, self.ledger, recorded_space(self.ledger.about), self.corpus, self.said.append)

    def end(self) -> Registered | None:
        """Does the last steps of a sweep's run, with a new MLflow callback."""
        space, trials = recorded_space(self.ledger.about), self.ledger.trials()
        mlflow_callback = self.callback()
        with pytest.MonkeyPatch.context() as patch:
            for drawing in (
                "tuning.callbacks.mlflow.draw_trial",
                "tuning.callbacks.mlflow.draw_sweep",
                "tuning.best_model.draw_trial",
                "tuning.best_model.draw_sweep",
            ):
                patch.setattr(f"asr_platform.{drawing}", lambda *_: None)  # it would take most of the time
            mlflow_callback.log_all()
            RecordedErrors(self.home.sweep(self.name)).on_sweep_start(trials)
            model = make_best_model(self.home, self.ledger, space, self.corpus, self.said.append)
            best = best_of(trials)
            mlflow_callback.end("FINISHED", best)
            assert best is not None and model is not None
            return register_best_model(mlflow_callback, self.ledger, best, model, self.said.append)

    @property
    def parent(self) -> str:
        """Id of the sweep's run."""
        return str(self.ledger.about["mlflow_run_id"])

    def run(self, number: int) -> str:
        """Id of a trial's run."""
        return str(self.ledger.trial(number).about["mlflow_run_id"])
