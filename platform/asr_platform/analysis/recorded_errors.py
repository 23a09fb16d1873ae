"""Utterance errors of every trial's best epoch, kept in the sweep's folder after the checkpoint is gone."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from asr_platform.analysis.bootstrap import CerInterval, cer_intervals
from asr_platform.analysis.leaderboard import ranked
from asr_platform.storage.home import trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS


class RecordedErrors(Callback):
    """Utterance errors of the trials of a sweep, one file for each trial.

    Args:
        folder: folder of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "errors"

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        """Copies the errors that a killed driver has not copied."""
        for trial in trials:
            self.on_epoch_end(trial)

    def on_epoch_end(self, trial: TrialRecord) -> None:
        """Copies the errors of the trial's best epoch from its checkpoint, unless they are recorded already.

        Does nothing if the checkpoint has no errors (language models) or cannot be read from this machine. A full disk
        does not end the sweep; the next call tries again.
        """
        if trial.best is None or self.of(trial) is not None:
            return
        checkpoint = trial.best.get("checkpoint")
        if checkpoint is None or "://" in checkpoint:
            return
        path = self._path(trial)
        partial = path.with_name(f".{path.name}.partial")
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(checkpoint) / ERRORS, partial)
            os.replace(partial, path)

    def of(self, trial: TrialRecord) -> UtteranceErrors | None:
        """Utterance errors of the trial's best epoch; None if they are not recorded."""
        errors = UtteranceErrors.load(self._path(trial))
        return errors if errors and trial.best and errors.epoch == trial.best["epoch"] else None

    def cer_intervals(self, trials: list[TrialRecord]) -> dict[int, CerInterval]:
        """CER intervals of the trials with recorded errors, by number."""
        found = {trial.number: self.of(trial) for trial in ranked(trials)}
        best = next(iter(found), 0)
        return cer_intervals(best, {number: errors for number, errors in found.items() if errors})

    def _path(self, trial: TrialRecord) -> Path:
        return self.folder / f"{trial_name(trial.number)}.json"
