"""The errors of every trial's best epoch, in the sweep's folder, where they outlive its checkpoints."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from asr_platform.analysis.bootstrap import ConfidenceInterval, intervals
from asr_platform.analysis.leaderboard import ranked
from asr_platform.storage.home import trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.utterance_errors import ERRORS, UtteranceErrors


class RecordedErrors(Callback):
    """One file a trial, which is replaced whole when a better epoch is on record.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "errors"

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        for trial in trials:
            self.on_epoch_end(trial)

    def on_epoch_end(self, trial: TrialRecord) -> None:
        """Copies the errors of the trial's best epoch from its checkpoint, where they are not here yet.

        Nothing where the checkpoint has none (a language model's), is on remote storage, or on a disk that this machine
        does not see: the trial is ranked without an interval then. Nor is a full disk a reason to end a sweep: it is
        tried again as the sweep goes on.
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
        """The errors that the trial's CER counts; None where they are not on record."""
        errors = UtteranceErrors.load(self._path(trial))
        return errors if errors and trial.best and errors.epoch == trial.best["epoch"] else None

    def intervals(self, trials: list[TrialRecord]) -> dict[int, ConfidenceInterval]:
        """Intervals and ties of the trials whose errors are on record, by number."""
        found = {trial.number: self.of(trial) for trial in ranked(trials)}
        best = next(iter(found), 0)
        return intervals(best, {number: errors for number, errors in found.items() if errors})

    def _path(self, trial: TrialRecord) -> Path:
        return self.folder / f"{trial_name(trial.number)}.json"
