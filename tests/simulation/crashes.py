"""The death of a driver at any of its writes: to the ledger, to MLflow, to the disk.

A driver that is killed says nothing more: after `Crash` every further write of its cleanup code is refused as well, so
what a kill would have left is what stays. All that a driver can write goes through `Writes`: commits of SQLite
databases, the methods by which Optuna's storage in memory changes, and the functions of `os` and `open`.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from optuna.storages import BaseStorage

from asr_platform.storage.database import LedgerError
from asr_platform.storage.home import STORE

Kind = Literal["before", "after", "full", "away"]
STORAGE = (
    "create_new_study", "set_study_user_attr", "create_new_trial", "set_trial_user_attr",
    "set_trial_intermediate_value", "set_trial_state_values",
)  # fmt: skip
"""The methods by which an Optuna storage changes."""
FILES = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link")
"""The functions of `os` that change a folder; the first argument says where."""
GROWING = ("mkdir", "link")  # those of them that a full disk refuses
RANDOM = re.compile(r"[0-9a-f]{32}|(?<=tmp)[a-z0-9_]{8}")  # in names: what differs from run to run
OF_MLFLOW = f"commit {STORE}"
AWAY = 60  # writes for which MLflow's store fails
REMEMBERED = 12  # writes that are told of a schedule that fails


class Crash(BaseException):
    """The driver is killed. Nothing may catch it."""


@dataclass(frozen=True)
class Fault:
    """What happens at a driver's n-th write, counted from 0.

    Args:
        kind: the driver is killed `before` or `after` it; or from then on the disk is `full` (MLflow's database lies on
            another one); or for a while MLflow's database fails (`away`).
    """

    kind: Kind
    write: int

    def __str__(self) -> str:
        words = {"full": "disk full from", "away": "MLflow away from"}
        return f"{words.get(self.kind, f'killed {self.kind}')} write {self.write}"


class Writes:
    """Counts the writes of one driver after the other, and lets each driver's fault happen.

    Attributes:
        root: of the file system, only what lies below this folder is counted.
        count: writes of the present driver so far.
        failed: whether any of them failed.
        latest: what the latest writes were, in words.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.counting = False
        self.begin(None)
        self.counting = False

    def begin(self, fault: Fault | None) -> None:
        """A driver begins."""
        self.fault, self.count, self.dead, self.counting = fault, 0, False, True
        self.failed = False
        self.latest: deque[str] = deque(maxlen=REMEMBERED)
        self.connections: list[sqlite3.Connection] = []

    def end(self) -> None:
        """The driver's process is gone, and with it the transactions that it had begun."""
        self.counting = self.dead = False
        for connection in self.connections:
            with suppress(sqlite3.Error):
                connection.close()
        self.connections = []

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what other processes do: it does not count, and no fault of the driver's befalls it."""
        counting, self.counting = self.counting, False
        dead, self.dead = self.dead, False
        try:
            yield
        finally:
            self.counting, self.dead = counting, dead

    @property
    def full(self) -> bool:
        """Whether the disk is full."""
        return self.counting and self.fault is not None and self.fault.kind == "full" and self.count >= self.fault.write

    def is_away(self, what: str) -> bool:
        """Whether a write is one of MLflow's database, and that fails."""
        if self.fault is None or self.fault.kind != "away" or what != OF_MLFLOW:
            return False
        return self.fault.write <= self.count < self.fault.write + AWAY

    def pass_on(self, what: str, write: Callable[[], Any], fail: Callable[[], BaseException] | None = None) -> Any:
        """Does a write, unless a fault comes first.

        Args:
            fail: the error of this write where the disk is full; None for those that need no room.
        """
        if self.dead:
            raise Crash
        if not self.counting:
            return write()
        if fail is not None and ((self.full and what != OF_MLFLOW) or self.is_away(what)):
            self.count += 1
            self.failed = True
            raise fail()
        number, fault = self.count, self.fault
        self.count += 1
        self.latest.append(f"{number}: {RANDOM.sub('*', what)}")
        if fault == Fault("before", number):
            self._die()
        result = write()
        if fault == Fault("after", number):
            if hasattr(result, "close"):
                result.close()  # an open file stays empty
            self._die()
        return result

    def _die(self) -> None:
        self.dead = True
        raise Crash

    def is_ours(self, place: Any, options: dict[str, Any]) -> bool:
        """Whether a path is below the root; what is removed relative to an open folder is."""
        if options.get("dir_fd") is not None:
            return True
        return not isinstance(place, int) and os.fsdecode(place).startswith(self.root)

    def shown(self, place: Any) -> str:
        return os.fsdecode(place).removeprefix(self.root)


def watch_storage(storage: BaseStorage, writes: Writes) -> None:
    """Has every change of a storage in memory go through `writes`."""

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            keys = [word for word in words if isinstance(word, str)]
            what = " ".join([f"ledger {name}", *keys[:1]])
            return writes.pass_on(what, lambda: function(*words, **options), _ledger_full)

        return call

    for name in STORAGE:
        setattr(storage, name, watched(name, getattr(storage, name)))


def _ledger_full() -> LedgerError:
    return LedgerError("the ledger: the disk is full", "Free space on it.")


def watch_files_and_databases(patch: pytest.MonkeyPatch, writes: Writes) -> None:
    """Has every change of a file, a folder or an SQLite database go through `writes`.

    Folders are listed in the order of names, whatever the file system's order is: a schedule is the same everywhere.
    """
    for name in FILES:
        patch.setattr(os, name, _watched_file(name, getattr(os, name), writes))
    patch.setattr(os, "open", _watched_os_open(os.open, writes))
    opening = _watched_open(io.open, writes)
    patch.setattr(builtins, "open", opening)
    patch.setattr(io, "open", opening)
    listdir, scandir = os.listdir, os.scandir
    patch.setattr(os, "listdir", lambda *words: sorted(listdir(*words)))
    patch.setattr(os, "scandir", lambda *words: _Sorted(scandir(*words)))
    patch.setattr(sqlite3, "connect", _connecting(sqlite3.connect, writes))
    patch.setattr(sqlite3.dbapi2, "connect", sqlite3.connect)


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _watched_file(name: str, function: Callable[..., Any], writes: Writes) -> Callable[..., Any]:
    def call(place: Any, *words: Any, **options: Any) -> Any:
        if not writes.is_ours(place, options):
            return function(place, *words, **options)
        what = f"{name} {writes.shown(place)}"
        return writes.pass_on(what, lambda: function(place, *words, **options), _no_space if name in GROWING else None)

    return call


def _watched_os_open(function: Callable[..., int], writes: Writes) -> Callable[..., int]:
    def call(place: Any, flags: int, *words: Any, **options: Any) -> int:
        if not flags & os.O_CREAT or not writes.is_ours(place, options):
            return function(place, flags, *words, **options)
        descriptor: int = writes.pass_on(
            f"make {writes.shown(place)}", lambda: function(place, flags, *words, **options), _no_space
        )
        return descriptor

    return call


def _watched_open(function: Callable[..., Any], writes: Writes) -> Callable[..., Any]:
    def call(place: Any, mode: str = "r", *words: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or isinstance(place, int) or not writes.is_ours(place, {}):
            return function(place, mode, *words, **options)
        return writes.pass_on(
            f"write {writes.shown(place)}", lambda: function(place, mode, *words, **options), _no_space
        )

    return call


class _Sorted:
    """What `os.scandir` gives, in the order of names."""

    def __init__(self, entries: Any) -> None:
        with entries:
            self.entries = iter(sorted(entries, key=lambda entry: entry.name))

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        return self.entries

    def __next__(self) -> os.DirEntry[str]:
        return next(self.entries)

    def __enter__(self) -> _Sorted:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open any more."""

    def close(self) -> None:
        """Nothing is open any more."""


def _connecting(function: Callable[..., sqlite3.Connection], writes: Writes) -> Callable[..., sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        """Commits through `writes`, and never waits for the disk: nobody cuts the power here."""

        def __init__(self, database: Any, *words: Any, **options: Any) -> None:
            super().__init__(database, *words, **options)
            self.name = Path(os.fsdecode(database).partition("?")[0]).name
            super().execute("PRAGMA synchronous = OFF")
            writes.connections.append(self)

        def commit(self) -> None:
            if self.in_transaction:
                writes.pass_on(f"commit {self.name}", super().commit, _database_full)

        def execute(self, statement: str, *words: Any) -> sqlite3.Cursor:
            if statement != "COMMIT":
                return super().execute(statement, *words)
            cursor: sqlite3.Cursor = writes.pass_on(
                f"commit {self.name}", lambda: sqlite3.Connection.execute(self, statement), _database_full
            )
            return cursor

    def call(*words: Any, **options: Any) -> sqlite3.Connection:
        return function(*words, **{"factory": Connection, **options})

    return call


def _database_full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error
