"""The home: the folder with all sweeps, models and databases, by default `mlruns` in the current directory."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asr_platform.storage.addresses import ADDRESSES, NONE, Addresses, addresses_of, keep_addresses
from asr_platform.storage.database import (
    PRIVATE,
    DamagedLedgerError,
    SharedLedger,
    check,
    is_whole,
    open_storage,
    sqlite_address,
)
from asr_platform.storage.locks import DatabaseLock, file_holder, file_lock
from asr_platform.storage.locks import RunningError as RunningError
from asr_platform.storage.paths import expressible_path, plain_name
from asr_platform.storage.relocation import ARTIFACTS, locations, record_location
from asr_platform.storage.store_address import SERVERS
from trainables.errors import InputError
from trainables.inference.model_files import WEIGHTS

if TYPE_CHECKING:
    from trainables.storage.remote import Remote

STUDIES, STORE = "studies.db", "mlflow.db"
COPY = "ledger.db"  # in a sweep's folder: its copy of the ledger (study/ledger_copies.py)
LOCK, SWEEP = "lock", "sweep"
TRIALS = "trials"  # in a sweep's folder: the folders of its trials
LOG = "log.txt"  # in a trial's folder: the log of its first worker; that of the second is log-1.txt
SHARED = stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH  # mode bits of a home that several users write to


@dataclass(frozen=True)
class Store:
    """An MLflow store: a server, or a database with a folder for artifacts."""

    uri: str
    artifacts: Path

    @property
    def is_server(self) -> bool:
        return urlsplit(self.uri).scheme in SERVERS


@dataclass(frozen=True)
class Home:
    """Folders and databases of all runs, below one absolute path.

    Args:
        addresses: of what is elsewhere; the home is a cache of it.
    """

    path: Path
    addresses: Addresses = NONE

    @classmethod
    def at(cls, path: Path) -> Home:
        """The home at `path`, made if it is missing, in which a sweep may be started.

        Only the owner gets access: the folder gets mode 0700 and its databases 0600. Homes of other users, and shared
        homes (setgid, or writable for group or others), keep their modes.

        Raises:
            InputError: the folder or the storage cannot be written.
            LedgerError: the ledger's database cannot be reached.
            DamagedLedgerError: the ledger is damaged.
        """
        home = cls._made(path)
        if home.storage:
            home.storage.check()
        home._keep_addresses()
        return home

    def _keep_addresses(self) -> None:
        """Keeps the addresses in a home that has none yet, once what is there has answered."""
        if self.addresses.ledger and not (self.path / ADDRESSES).exists():
            open_storage(self.studies)
        keep_addresses(self.path, self.addresses)

    @classmethod
    def _made(cls, path: Path) -> Home:
        home = cls._with_addresses(path)
        try:
            home.path.parent.mkdir(parents=True, exist_ok=True)
            home.path.mkdir(mode=0o700, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise InputError(f"{path}: cannot be written to: {error.strerror}", "Choose another --home.") from None
        _make_private(home.path)
        home.check()
        home.relocate()
        return home

    @classmethod
    def _with_addresses(cls, path: Path) -> Home:
        place = expressible_path(path).resolve()
        return cls(place, addresses_of(place, owns_ledger=(place / STUDIES).exists()))

    @classmethod
    def existing(cls, path: Path) -> Home:
        """The home at `path`, which must have a ledger; one whose ledger is elsewhere is made if it is missing.

        Raises:
            InputError: there is no ledger.
            DamagedLedgerError: the ledger is damaged.
        """
        home = cls._with_addresses(path)
        if home.addresses.ledger:
            home = cls._made(path)
            home._keep_addresses()
            return home
        home.check()
        if not home.begun:
            raise InputError(
                f"{path}: nothing has been run here",
                "Run platform sweep first, or say where that was: platform --home DIR ...",
            )
        home.relocate()
        return home

    @property
    def begun(self) -> bool:
        """Whether there is a ledger with all its tables; one that is elsewhere gets them when it is opened."""
        return bool(self.addresses.ledger) or ((self.path / STUDIES).exists() and is_whole(self.path / STUDIES))

    def check(self) -> None:
        """Reads the whole ledger's database, if there is one.

        Raises:
            DamagedLedgerError: the database is damaged, or missing although sweeps have copies of it.
            LedgerError: the database is locked, or its disk fails.
        """
        if self.addresses.ledger:
            return
        studies = self.path / STUDIES
        if studies.exists():
            check(studies)
        if not self.begun and self.copies():
            raise DamagedLedgerError(studies, "its tables are gone" if studies.exists() else "the file is gone")

    def copies(self) -> list[Path]:
        """Paths of the sweeps' copies of the ledger."""
        return sorted(self.path.glob(f"sweeps/*/{COPY}"))

    def relocate(self) -> None:
        """Updates the paths in MLflow's database if the home was moved or copied (see `relocation.py`).

        Does nothing while a sweep runs: its process, in a container for example, may have another path for the home.
        """
        running = (file_holder(lock, SWEEP) for lock in self.path.glob(f"sweeps/*/{LOCK}"))
        if locations(self.path)[-1:] != [str(self.path)] and not any(running):
            record_location(self.path, self.path / STORE)

    @property
    def studies(self) -> str | SharedLedger:
        """The Optuna storage, which has a study for each sweep."""
        if self.addresses.ledger:
            return SharedLedger(self.addresses.ledger, self.path)
        return sqlite_address(self.path / STUDIES)

    @cached_property
    def storage(self) -> Remote | None:
        """The storage of checkpoints and models; None: this folder."""
        from trainables.storage.remote import Remote  # a quarter of a second's import

        return Remote(self.addresses.storage) if self.addresses.storage else None

    @property
    def tracking(self) -> str:
        """Address of the MLflow database."""
        return sqlite_address(self.path / STORE)

    @property
    def artifacts(self) -> Path:
        return self.path / ARTIFACTS

    def store(self, about: Mapping[str, Any], uri: str | None = None) -> Store:
        """The MLflow store at `uri`; default: the store of the sweep with the facts `about` (`Ledger.about`)."""
        found = uri or about.get("options", {}).get("tracking_uri") or self.tracking
        own = {sqlite_address(Path(place) / STORE) for place in locations(self.path)}
        return Store(self.tracking if found in own and not uri else found, self.artifacts)

    def plan(self, space: str, corpus: str) -> Path:
        """Path of the latest plan for a space on a corpus, given the space's text and the corpus's hash."""
        return self.path / "plans" / f"{hashlib.sha256(f'{corpus}{space}'.encode()).hexdigest()[:16]}.json"

    def keep_plan(self, space: str, corpus: str, text: str) -> None:
        path = self.plan(space, corpus)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def sweep(self, name: str) -> Path:
        """Folder of a sweep, with the checkpoints and logs of its trials.

        Raises:
            InputError: the name cannot be a folder's.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(f"--name {name!r}", "Use letters, digits, dots, dashes and underscores.")
        return self.path / "sweeps" / name

    def model(self, name: str) -> Path:
        """Model directory of a sweep's best trial."""
        return self.path / "models" / name

    def whole_model(self, model: str | Path) -> Path:
        """A trial's model directory, with its weights, which are fetched if they are on the storage alone.

        Raises:
            StorageError: the storage cannot be read.
        """
        weights = Path(model) / WEIGHTS
        if self.storage and not weights.is_file():
            with suppress(FileNotFoundError):  # removed meanwhile; whoever loads the model says so
                self.storage.fetch(weights.relative_to(self.path).as_posix(), weights)
        return Path(model)

    def trial(self, name: str, number: int) -> Path:
        """Folder of a trial."""
        return self.sweep(name) / TRIALS / trial_name(number)

    @contextmanager
    def lock(self, name: str, holder: str = SWEEP) -> Iterator[None]:
        """Holds a sweep's lock in the block; the system frees it if the process is killed.

        Args:
            holder: purpose of the lock, for `Home.holder`.

        Raises:
            RunningError: another process holds the lock.
        """
        folder = self.sweep(name)
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(file_lock(folder / LOCK, name, holder))
            if self.addresses.ledger:
                stack.enter_context(DatabaseLock(self.addresses.ledger, name, holder))
            yield

    @contextmanager
    def lock_new(self, name: str | None, base: str, names: Callable[[], list[str]]) -> Iterator[str]:
        """Holds a new sweep's lock in the block; yields its name: `name`, or the first free one of BASE-1, BASE-2 ...

        Args:
            names: returns the names of all sweeps; called under the lock, since two sweeps may start at the same time.

        Raises:
            InputError: a sweep `name` exists or is being started, or `name` is not valid as the name of a folder.
        """
        for number in count(1):
            chosen = f"{plain_name(base)}-{number}" if name is None else name
            if name is None and chosen in names():
                continue
            with ExitStack() as stack:
                try:
                    stack.enter_context(self.lock(chosen))
                except RunningError:
                    if name is not None:
                        raise
                    continue
                if chosen not in names():
                    yield chosen
                    return
            if name is not None:
                raise name_taken(name)

    def holder(self, name: str) -> str:
        """Purpose and process id of the holder of a sweep's lock, such as `sweep 4711`; empty if it is free."""
        found = file_holder(self.sweep(name) / LOCK, f"{SWEEP} 0")
        return found or (DatabaseLock(self.addresses.ledger, name).holder() if self.addresses.ledger else "")


def _make_private(home: Path) -> None:
    """Removes other users' permissions on a home and its databases, except for shared homes and those of others."""
    about = home.stat()
    if about.st_uid != os.geteuid() or about.st_mode & SHARED:
        return
    for path, mode in ((home, 0o700), (home / STUDIES, PRIVATE), (home / STORE, PRIVATE)):
        with suppress(OSError):  # not there yet, another user's, or a file system without modes
            if path.stat().st_mode & 0o077:
                path.chmod(mode)


def name_taken(name: str) -> InputError:
    """The error for a new sweep whose name exists already."""
    return InputError(
        f"sweep {name} exists", f"Go on with it: platform sweep --resume {name}; or choose another --name."
    )


def trial_name(number: int) -> str:
    """Name of a trial's folder and MLflow run, such as `trial-0007`."""
    return f"trial-{number:04d}"
