"""Room on disk: of the trials that have ended, the models of the best stay, and nothing that only training needs.

Everything here may be killed at any moment and done again. What is to go is noted in the ledger first; a folder is
renamed before it is emptied, so that no reader finds half a checkpoint; and each thinning goes through all trials that
have ended, so that it also takes what an earlier one left, or what a worker that was being stopped wrote late.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from asr_platform.analysis.leaderboard import pareto_front, ranked
from asr_platform.compat.ray import CHECKPOINT_LIST
from asr_platform.storage.home import trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import REMOVED, Ledger, TrialRecord
from asr_platform.tuning.trial import DAMAGED_LIST
from trainables.evaluation.examples import ATTENTION
from trainables.training.checkpoint_files import TRAINING_FILES

CHECKPOINTS_PER_TRIAL = 2
"""Number of best checkpoints that Ray Train keeps of a trial, beside the latest. The second best is the best that the
ledger knows while the report of the best is on its way, which a stop or a kill can make forever."""
GOING = ".removed-"  # before the name of a folder that is being removed


class Retention(Callback):
    """Thins out the checkpoints of one sweep.

    Args:
        folder: the sweep's own.
        keep: so many best trials keep their models, and with several objectives those on the Pareto front.
        drawn: whether the pictures of the trial with this number have been kept. Until then the small file that they
            are drawn from stays, so that an MLflow server that is away does not stop retention.
    """

    def __init__(
        self, ledger: Ledger, folder: Path, keep: int, drawn: Callable[[int], bool] = lambda number: True
    ) -> None:
        self.ledger, self.folder, self.trials, self.keep = ledger, folder, folder / "trials", keep
        self.drawn = drawn

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        self.apply()

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.apply()

    def apply(self) -> None:
        """Removes what ended trials no longer need; running trials are left alone."""
        ended = [trial for trial in self.ledger.trials() if trial.state != "running" and self._is_here(trial)]
        here = [trial for trial in ranked(ended) if trial.model]
        objectives = self.ledger.objectives
        kept = {trial.number for trial in here[: self.keep]}
        kept |= pareto_front(here, objectives) if len(objectives) > 1 else set()
        for trial in ended:
            if (trial.model or _is_overtaken(trial)) and trial.number not in kept and not trial.about.get(REMOVED):
                self.ledger.describe(trial.number, REMOVED, True)
            self._thin(trial, trial.number in kept)
        for leftover in self.leftovers():
            _remove(leftover)

    def leftovers(self) -> list[Path]:
        """Folders whose removal was begun, and those of no trial in the ledger."""
        folders = list(_folders(self.trials))  # before the ledger is read: trials that begin meanwhile are in that
        names = {trial_name(trial.number) for trial in self.ledger.trials()}
        strays = [path for path in folders if path.name not in names]
        return strays + [path for path in self.trials.glob(f"*/{GOING}*") if path.is_dir()]

    def superfluous(self, trial: TrialRecord) -> list[Path]:
        """Of an ended trial: the checkpoints other than its best one; none where that one is not to be found."""
        lost = bool(trial.curve) and not trial.checkpoint
        if not self._is_here(trial) or (lost and not _is_overtaken(trial)):
            return []
        best = Path(trial.checkpoint).name if trial.checkpoint else None
        folders = _folders(self.trials / trial_name(trial.number))
        return [path for path in folders if path.name.startswith("checkpoint_") and path.name != best]

    def _is_here(self, trial: TrialRecord) -> bool:
        """Whether all its checkpoints lie in this folder: not on remote storage, nor where the home was before."""
        named = [row["checkpoint"] for row in trial.curve if row["checkpoint"]]
        return all(Path(checkpoint).parent == self.trials / trial_name(trial.number) for checkpoint in named)

    def _thin(self, trial: TrialRecord, kept: bool) -> None:
        """The best checkpoint becomes a model directory; without its model, records in JSON are what stays."""
        for name in (CHECKPOINT_LIST, DAMAGED_LIST):  # they would name what is gone
            (self.trials / trial_name(trial.number) / name).unlink(missing_ok=True)
        for folder in self.superfluous(trial):
            _remove(folder)
        if trial.checkpoint:
            for name in TRAINING_FILES:
                (Path(trial.checkpoint) / name).unlink(missing_ok=True)
            spared = "" if self.drawn(trial.number) else ATTENTION
            for path in [] if kept else Path(trial.checkpoint).iterdir():
                if path.suffix != ".json" and path.name != spared:
                    path.unlink()


def _is_overtaken(trial: TrialRecord) -> bool:
    """Whether nothing on record of a stopped trial is left.

    Its worker trains on until it is stopped, and Ray Train keeps the best of all epochs, those after the stop included.
    """
    return trial.state in ("pruned", "failed") and bool(trial.curve) and not trial.checkpoint


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else iter(())


def _remove(folder: Path) -> None:
    """Removes a folder under another name. What is still being written there goes the next time."""
    going = folder if folder.name.startswith(GOING) else folder.with_name(f"{GOING}{folder.name}")
    with suppress(OSError):
        folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)
