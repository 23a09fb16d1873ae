"""Checkpoint retention: removes checkpoints and models of ended trials that are no longer needed.

Every step may be killed and repeated. A removal is recorded in the ledger first. A folder is renamed before its files
are deleted, so that no reader finds half a checkpoint. At the start and the end of a run, all trials that have ended
are visited; in between those whose files may still change. Leftovers of earlier calls, and of workers that wrote after
they were stopped, are removed as well.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from asr_platform.analysis.leaderboard import pareto_front, ranked
from asr_platform.compat.ray import CHECKPOINT_LIST
from asr_platform.storage.home import TRIALS, trial_name
from asr_platform.storage.paths import folder_size
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import REMOVED, Ledger, TrialRecord
from asr_platform.tuning.callbacks.mirror import Mirror
from asr_platform.tuning.trial import DAMAGED_LIST
from trainables.evaluation.examples import ATTENTION
from trainables.training.checkpoint_files import TRAINING_FILES

CHECKPOINTS_PER_TRIAL = 2
"""Number of best checkpoints that Ray Train keeps of a trial, beside the latest. The second best is the best that the
ledger knows while the report of the best is on its way, which a stop or a kill can make forever. The number of models
per sweep is the key `keep` of a space."""
LATEST_WRITE = 120  # seconds after which the worker of a trial that has ended writes no more
REMOVING = ".removed-"  # prefix of the names of folders whose removal has begun


class Retention(Callback):
    """Removes checkpoints of one sweep's ended trials.

    Args:
        folder: folder of the sweep.
        models: number of best trials that keep their models; with several objectives, trials on the Pareto front also
            keep their models.
        is_plotted: returns whether MLflow has the plots of a trial, given its number. Until then, the small file with
            the data of the plots is kept.
        mirror: mirror of the storage of the checkpoints; None: they are in the folder.
    """

    def __init__(
        self, ledger: Ledger, folder: Path, models: int, is_plotted: Callable[[int], bool] = lambda number: True,
        mirror: Mirror | None = None,
    ) -> None:  # fmt: skip
        self.ledger, self.folder, self.trials, self.models = ledger, folder, folder / TRIALS, models
        self.is_plotted, self.mirror = is_plotted, mirror
        self._settled = frozenset[int]()  # numbers of trials whose files do not change any more
        self._first_visits: dict[int, float] = {}  # after the end of a trial (time.monotonic), by number

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        self._first_visits = {trial.number: -math.inf for trial in trials if trial.state != "running"}
        self.apply()

    def on_trial_end(self, trial: TrialRecord) -> None:
        self._apply(self._settled)

    def apply(self) -> None:
        """Removes all that ended trials no longer need; running trials are left alone."""
        self._apply(frozenset())

    def _apply(self, settled: frozenset[int]) -> None:
        """Removes all that ended trials no longer need; trials in `settled` are not visited."""
        unsettled = [one for one in self.ledger.trials() if one.state != "running" and one.number not in settled]
        if self.mirror:  # raises if the storage is away: a checkpoint that is not seen is not one that is gone
            stored = self.mirror.sync([one.number for one in unsettled] if settled else None)
        ended = [trial for trial in unsettled if self._is_here(trial)]
        with_model = [trial for trial in ranked(ended) if trial.model]
        objectives = self.ledger.objectives
        kept = {trial.number for trial in with_model[: self.models]}
        kept |= pareto_front(with_model, objectives) if len(objectives) > 1 else set()
        for trial in ended:
            if (trial.model or _is_overtaken(trial)) and trial.number not in kept and not trial.about.get(REMOVED):
                self.ledger.describe(trial.number, REMOVED, True)
            if self.mirror:
                self.mirror.remove(trial.number, self._removable(trial, stored.get(trial_name(trial.number), {}), kept))
            self._reduce(trial, trial.number in kept)
        for leftover in self.leftovers(settled):
            if self.mirror and leftover.parent == self.trials:
                self.mirror.remove_trial(leftover.name)
            _remove(leftover)
        self._settled = settled | {one.number for one in unsettled if one.number not in kept and self._settles(one)}

    def _settles(self, trial: TrialRecord) -> bool:
        """Whether the files of an ended trial, whose model is not kept, have changed for the last time."""
        now = time.monotonic()
        since = now - self._first_visits.setdefault(trial.number, now)
        return since > LATEST_WRITE and self.is_plotted(trial.number)

    def leftovers(self, settled: Collection[int] = ()) -> list[Path]:
        """Folders whose removal has begun, and folders of no trial in the ledger.

        Args:
            settled: numbers of trials whose folders are not searched.
        """
        folders = list(_folders(self.trials))  # before the ledger is read, so that it has a trial for each
        numbers = {trial_name(trial.number): trial.number for trial in self.ledger.trials()}
        strays = [path for path in folders if path.name not in numbers]
        searched = [path for path in folders if path.name in numbers and numbers[path.name] not in settled]
        return strays + [path for folder in searched for path in _folders(folder) if path.name.startswith(REMOVING)]

    def superfluous(self, trial: TrialRecord) -> list[Path]:
        """Checkpoints of an ended trial except for the best one; empty if the best one is missing."""
        return self._superfluous(trial) if self._is_here(trial) else []

    def _superfluous(self, trial: TrialRecord) -> list[Path]:
        checkpoint = trial.checkpoint
        if trial.curve and not checkpoint and not _is_overtaken(trial):
            return []
        best = Path(checkpoint).name if checkpoint else None
        folders = _folders(self.trials / trial_name(trial.number))
        return [path for path in folders if path.name.startswith("checkpoint_") and path.name != best]

    def _is_here(self, trial: TrialRecord) -> bool:
        """Whether all recorded checkpoints are in the sweep's folder, not on remote storage or at a former path."""
        place = str(self.trials / trial_name(trial.number))
        return all(os.path.dirname(row["checkpoint"]) == place for row in trial.curve if row["checkpoint"])

    def _removable(self, trial: TrialRecord, files: Iterable[str], kept: Collection[int]) -> list[str]:
        """Files of a trial on the storage to remove: those that `_reduce` removes from its folder in the home."""
        superfluous = {path.name for path in self._superfluous(trial)}
        best = Path(trial.checkpoint).name if trial.checkpoint else None
        spared = "" if self.is_plotted(trial.number) else ATTENTION
        found = []
        for path in files:
            folder, _, name = path.rpartition("/")
            bulky = not name.endswith(".json") and name != spared and trial.number not in kept
            if (
                path in (CHECKPOINT_LIST, DAMAGED_LIST)
                or folder in superfluous
                or (folder == best and (name in TRAINING_FILES or bulky))
            ):
                found.append(path)
        return found

    @property
    def size(self) -> int:
        """Bytes of the sweep's checkpoints where they are kept."""
        return self.mirror.size if self.mirror else folder_size(self.folder)

    def _reduce(self, trial: TrialRecord, keep_model: bool) -> None:
        """Reduces a trial's folder to its best checkpoint, of which only the model or the JSON files are kept."""
        for name in (CHECKPOINT_LIST, DAMAGED_LIST):
            (self.trials / trial_name(trial.number) / name).unlink(missing_ok=True)
        for folder in self._superfluous(trial):
            _remove(folder)
        if trial.checkpoint:
            for name in TRAINING_FILES:
                (Path(trial.checkpoint) / name).unlink(missing_ok=True)
            spared = "" if self.is_plotted(trial.number) else ATTENTION
            for path in [] if keep_model else Path(trial.checkpoint).iterdir():
                if path.suffix != ".json" and path.name != spared:
                    path.unlink()


def _is_overtaken(trial: TrialRecord) -> bool:
    """Whether all checkpoints of a stopped trial's recorded epochs are gone.

    This happens because the worker trains on until it is stopped, and Ray Train keeps the best of all its epochs.
    """
    return trial.state in ("pruned", "failed") and bool(trial.curve) and not trial.checkpoint


def _folders(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        yield from [folder / entry.name for entry in found if entry.is_dir()]


def _remove(folder: Path) -> None:
    """Renames a folder and deletes its files; files that are still being written stay for the next call."""
    removing = folder if folder.name.startswith(REMOVING) else folder.with_name(f"{REMOVING}{folder.name}")
    with suppress(OSError):
        folder.rename(removing)
    shutil.rmtree(removing, ignore_errors=True)
