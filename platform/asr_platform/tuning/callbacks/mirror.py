"""Mirrors a sweep's trials from the storage into the home, which is a cache of it.

Ray Train's workers write checkpoints to the storage. What the driver and the commands read of a checkpoint (metrics,
errors, examples, the configuration, logs) is small, and is copied to where it would be without a storage; weights stay
there until somebody needs them (`Home.whole_model`).
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from asr_platform.storage.home import TRIALS, Home, trial_name
from asr_platform.storage.stored_sweeps import claim
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import TrialRecord
from asr_platform.study.provenance import RECORD
from trainables.inference.model_files import WEIGHTS
from trainables.storage.remote import Remote
from trainables.training.checkpoint_files import TRAINING_FILES

CHECKPOINTS = "checkpoint_"  # prefix of the names of Ray Train's folders
MANY = 20  # trials from which on one listing of all is faster than one for each
Files = dict[str, int]  # sizes in bytes of a trial's files on the storage, by path


class Mirror(Callback):
    """Mirrors one sweep.

    Args:
        ledger: id of the ledger to which the sweep on the storage belongs.

    Attributes:
        files: files of each trial on the storage, by the name of its folder, as they were last seen.
        claimed: whether the sweep on the storage is known to be this ledger's.
    """

    def __init__(self, home: Home, name: str, storage: Remote, ledger: str) -> None:
        self.home, self.name, self.storage, self.ledger = home, name, storage, ledger
        self.folder, self.remote = home.sweep(name), f"sweeps/{name}"
        self.files: dict[str, Files] = {}
        self.claimed = False

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        """Copies what another home has left on the storage, and stores the record of this run."""
        self.sync(None)
        model, folder = f"models/{self.name}", self.home.model(self.name)
        if not folder.is_dir() and (names := self.storage.files(model)):
            self.storage.fetch_folder(model, folder, names)
        if (self.folder / RECORD).is_dir():
            self.storage.store_folder(self.folder / RECORD, f"{self.remote}/{RECORD}")

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self.sync([trial.number])

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.sync([trial.number])

    def store_model(self) -> None:
        """Copies the best model, if there is one, to the storage."""
        if self.home.model(self.name).is_dir():
            self.storage.store_folder(self.home.model(self.name), f"models/{self.name}")

    def sync(self, numbers: Collection[int] | None) -> dict[str, Files]:
        """Mirrors trials (None: all that have a folder on the storage); returns their files by the folder's name.

        Raises:
            StorageError: the storage cannot be read; what has been mirrored stays.
            InputError: the sweep on the storage belongs to another ledger.
        """
        if not self.claimed:  # before anything there is believed to be the sweep's, and so may be deleted
            claim(self.storage, self.name, self.folder, self.ledger)
            self.claimed = True
        if numbers is None or len(numbers) >= MANY:
            found: dict[str, Files] = defaultdict(dict)
            for path, size in self.storage.files(f"{self.remote}/{TRIALS}").items():
                trial, _, name = path.partition("/")
                found[trial][name] = size
            if numbers is not None:
                found = {name: found.get(name, {}) for name in map(trial_name, numbers)}
        else:
            names = map(trial_name, numbers)
            found = {name: self.storage.files(f"{self.remote}/{TRIALS}/{name}") for name in names}
        for name, files in found.items():
            self._mirror(name, files)
        return found

    def remove(self, number: int, names: Collection[str]) -> None:
        """Deletes files of a trial on the storage."""
        self.storage.delete(f"{self.remote}/{TRIALS}/{trial_name(number)}", names)
        known = self.files.get(trial_name(number), {})
        self.files[trial_name(number)] = {name: size for name, size in known.items() if name not in names}

    def remove_trial(self, name: str) -> None:
        """Deletes a trial's folder on the storage."""
        self.storage.delete_folder(f"{self.remote}/{TRIALS}/{name}")
        self.files.pop(name, None)

    @property
    def size(self) -> int:
        """Bytes of all trials on the storage."""
        return sum(sum(files.values()) for files in self.files.values())

    def _mirror(self, name: str, files: Files) -> None:
        self.files[name] = files
        here = self.folder / TRIALS / name
        missing = [path for path, size in files.items() if _is_mirrored(path) and _lacks(here / path, path, size)]
        self.storage.fetch_folder(f"{self.remote}/{TRIALS}/{name}", here, missing)
        there = {PurePosixPath(path).parts[0] for path in files}
        for folder in here.glob(f"{CHECKPOINTS}*"):
            if folder.name not in there:
                shutil.rmtree(folder, ignore_errors=True)


def _is_mirrored(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return name != WEIGHTS and name not in TRAINING_FILES if folder else name.endswith(".txt")  # logs


def _lacks(file: Path, path: str, size: int) -> bool:
    """Whether a file is not here as a whole; a log that is longer here is being written on this machine."""
    return not file.is_file() or ("/" not in path and file.stat().st_size < size)
