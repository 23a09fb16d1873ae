"""Where a person's runs live: by default the folder `mlruns` where the command is run."""

from __future__ import annotations

import fcntl
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import InputError

STUDIES = "studies.db"


@dataclass(frozen=True)
class Home:
    """The run state's folders and stores, all under one absolute path."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Home:
        """Makes the folder where it is missing.

        Raises:
            InputError: nothing can be written there, or no store can have its address there.
        """
        if "?" in str(path.resolve()):  # it would begin the options in the addresses of the stores
            raise InputError(f"{path.resolve()}: a question mark in the path", "Choose another --home.")
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise InputError(f"{path}: cannot be written to: {error.strerror}", "Choose another --home.") from None
        return cls(path.resolve())

    @classmethod
    def existing(cls, path: Path) -> Home:
        """A home in which something has been run.

        Raises:
            InputError: nothing has.
        """
        if not (path / STUDIES).is_file():
            raise InputError(
                f"{path}: nothing has been run here",
                "Run platform sweep first, or say where that was: platform --home DIR ...",
            )
        return cls(path.resolve())

    @property
    def studies(self) -> str:
        """The Optuna storage: one study for each sweep."""
        return f"sqlite:///{self.path / STUDIES}"

    @property
    def tracking(self) -> str:
        """The MLflow store."""
        return f"sqlite:///{self.path}/mlflow.db"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    def sweep(self, name: str) -> Path:
        """A sweep's own folder: its trials' checkpoints and logs.

        Raises:
            InputError: the name is no good as a folder's.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(f"--name {name!r}", "Use letters, digits, dots, dashes and underscores.")
        return self.path / "sweeps" / name

    def model(self, name: str) -> Path:
        """The model directory of a sweep's best trial."""
        return self.path / "models" / name

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keeps a second driver off a sweep. The system frees the lock however the process ends."""
        folder = self.sweep(name)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"sweep {name} is running", "Wait for it to end, or stop it with Ctrl-C.") from None
            yield

    def is_running(self, name: str) -> bool:
        """Whether a driver has the sweep's lock."""
        try:
            with (self.sweep(name) / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def trial_name(number: int) -> str:
    """The name of a trial's folder, run and row: `trial-0007`."""
    return f"trial-{number:04d}"
