"""Where a person's runs live: by default the folder `mlruns` where the command is run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asr_platform.store_address import SERVERS
from asr_platform.store_address import checked_uri as checked_uri
from trainables.errors import InputError

STUDIES = "studies.db"
LOCK, SWEEP = "lock", "sweep"
TRIALS = "trials"  # in a sweep's folder: those of its trials
LOG = "log.txt"  # in a trial's folder: what its first worker prints; that of the second is log-1.txt
TRIES, BETWEEN_TRIES = 10, 0.05  # of a lock, in seconds: whoever asks for its holder has it for a moment


@dataclass(frozen=True)
class Store:
    """An MLflow store: a server, which looks after artifacts itself, or a database with a folder for them."""

    uri: str
    artifacts: Path

    @property
    def is_server(self) -> bool:
        return urlsplit(self.uri).scheme in SERVERS


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
        if not cls(path).begun:
            raise InputError(
                f"{path}: nothing has been run here",
                "Run platform sweep first, or say where that was: platform --home DIR ...",
            )
        return cls(path.resolve())

    @property
    def begun(self) -> bool:
        """Whether anything has been run here."""
        return _is_ready(self.path / STUDIES)

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

    def store(self, about: Mapping[str, Any], uri: str | None = None) -> Store:
        """The MLflow store at that address, or that of a sweep, by what its ledger notes about it: the home's own, or
        the one that it was told of.
        """
        return Store(uri or about.get("options", {}).get("tracking_uri") or self.tracking, self.artifacts)

    def plan(self, space: str, corpus: str) -> Path:
        """Where the latest plan for a space, by its text, on a corpus, by its hash, is kept."""
        return self.path / "plans" / f"{hashlib.sha256(f'{corpus}{space}'.encode()).hexdigest()[:16]}.json"

    def keep_plan(self, space: str, corpus: str, text: str) -> None:
        path = self.plan(space, corpus)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

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

    def trial(self, name: str, number: int) -> Path:
        """The folder of one of a sweep's trials."""
        return self.sweep(name) / TRIALS / trial_name(number)

    @contextmanager
    def lock(self, name: str, holder: str = SWEEP) -> Iterator[None]:
        """Keeps a second driver off a sweep. The system frees the lock however the process ends.

        Raises:
            InputError: somebody holds it.
        """
        folder = self.sweep(name)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("a+") as file:
            for left in reversed(range(TRIES)):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if not left:
                        raise InputError(
                            f"sweep {name} is running", "Wait for it to end, or stop it with Ctrl-C."
                        ) from None
                    time.sleep(BETWEEN_TRIES)
            file.truncate(0)
            file.write(f"{holder} {os.getpid()}")
            file.flush()
            yield

    def holder(self, name: str) -> str:
        """Who holds a sweep's lock, such as `sweep 4711` with the process's id; empty where nobody does."""
        with suppress(FileNotFoundError), (self.sweep(name) / LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read() or f"{SWEEP} 0"
        return ""


def where_runs_live(home: str | Path | None = None) -> Path:
    """A home's folder, as the command finds it: what is given, else $ASR_PLATFORM_HOME, else `mlruns` here."""
    return Path(os.environ.get("ASR_PLATFORM_HOME", "mlruns") if home is None else home)


def trial_name(number: int) -> str:
    """The name of a trial's folder, run and row: `trial-0007`."""
    return f"trial-{number:04d}"


def used(folder: Path) -> int:
    """Bytes of the files in a folder; of those that vanish meanwhile, none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _is_ready(studies: Path) -> bool:
    """Whether a store of studies is whole: Optuna would make what is missing, in a race with whoever is making it."""
    try:
        with closing(sqlite3.connect(f"{studies.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT 1 FROM alembic_version").fetchone())  # which it writes last
    except sqlite3.OperationalError as error:  # no file, no table yet, or somebody writes for seconds
        return "locked" in str(error)
