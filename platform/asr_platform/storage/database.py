"""Opening the ledger's database: its address, patience with other processes, and its failures in a person's words."""

from __future__ import annotations

import os
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from asr_platform.compat.optuna import LAST_TABLE
from trainables.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

BUSY_SECONDS = 120  # how long a ledger that another process has locked is waited for
PRIVATE = 0o600  # mode of the databases made here
REPAIR = "platform doctor --repair restores it from the copies that sweeps keep."


class LedgerError(InputError):
    """The ledger's database cannot be read or written: it is locked, damaged, or on a disk that is full or failing."""


class DamagedLedgerError(LedgerError):
    """The ledger's database is damaged, or gone: `ledger_copies.restore` rebuilds it."""

    def __init__(self, path: Path, how: str) -> None:
        Exception.__init__(self, path, how)  # what unpickling hands back to this method
        self.problem, self.remedy = f"{path}: the ledger is damaged ({how})", REPAIR


def sqlite_address(path: Path) -> str:
    """The address of a SQLite database for SQLAlchemy, Optuna and MLflow.

    SQLAlchemy decodes `%41` to `A` and ends the path at `?`; Optuna fills in what is in braces. Everything else stays
    as it is, since MLflow also takes the address's text for a path (see `tracking.quiet`).
    """
    escaped = re.sub(r"%(?=[0-9A-Fa-f]{2})|[?{}\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", str(path))
    return f"sqlite:///{escaped}"


def database_file(address: str) -> Path | None:
    """The file of a SQLite database by its address; None for other databases and for one in memory."""
    from sqlalchemy import make_url

    url = make_url(address)
    memory = url.database in (None, "", ":memory:")
    return None if url.get_backend_name() != "sqlite" or memory else Path(str(url.database))


def make_folder_of(address: str) -> Path | None:
    """Makes the folder of a SQLite database, and returns the database's file; None for other databases."""
    path = database_file(address)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def make_database(address: str) -> Path | None:
    """Makes a SQLite database that is missing, without tables and for its owner alone; returns its file.

    None for other databases, which are left alone.
    """
    path = make_folder_of(address)
    if path is not None:
        make_private(path)
    return path


def open_storage(storage: str | BaseStorage) -> tuple[BaseStorage, Path | None]:
    """An Optuna storage and, where it is a SQLite database, its file. A missing file is made, for its owner alone.

    Args:
        storage: an address, or a storage that is open already.

    Raises:
        LedgerError: now, and from every use of the storage, where the database fails.
    """
    import optuna  # a second's import

    if not isinstance(storage, str):
        engine = getattr(storage, "engine", None)
        return storage, database_file(engine.url.render_as_string()) if engine is not None else None
    path = database_file(storage)
    if path is None:
        return optuna.storages.RDBStorage(storage), None
    from sqlalchemy import event
    from sqlalchemy.exc import DBAPIError

    options = {"connect_args": {"timeout": BUSY_SECONDS}}
    try:
        if not path.exists():
            _make(path)
        opened = optuna.storages.RDBStorage(storage, options, skip_table_creation=is_whole(path))
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        raise explained(path, getattr(error.__cause__, "orig", error.__cause__)) or error from None
    except RuntimeError as error:  # from here on errors are translated as they arise
        raise LedgerError(f"{path}: {error}", "Install the Optuna that it was made with, or do as it says.") from None
    event.listen(opened.engine, "handle_error", lambda context: explained(path, context.original_exception))
    return opened, path


def explained(path: Path, error: BaseException | None) -> LedgerError | None:
    """A database's error in a person's words; None where it is a bug of the program's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # text that is not UTF-8, be it that of the error
        undecodable = isinstance(error, sqlite3.OperationalError | UnicodeDecodeError)
        return DamagedLedgerError(path, str(error)) if undecodable else None
    match code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LedgerError(
                f"{path}: another process has kept the ledger locked for {BUSY_SECONDS} s",
                f"End that process (fuser {path} names it), then try again, a sweep with --resume.",
            )
        case sqlite3.SQLITE_FULL:
            return LedgerError(
                f"{path}: the disk is full",
                "Free space on it, then go on with platform sweep --resume.",
            )
        case sqlite3.SQLITE_IOERR:
            return LedgerError(
                f"{path}: cannot be written or read: {error}",
                "Free space on its disk if that or a quota is full, then go on with platform sweep --resume.",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return LedgerError(f"{path}: {error}", "Choose a --home that you may read and write.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:  # the last: no such table
            return DamagedLedgerError(path, str(error))
    return None


@contextmanager
def decoding(path: Path | None) -> Iterator[None]:
    """Around reading: values that the database hands over and that mean nothing are a damaged ledger.

    Raises:
        DamagedLedgerError: they do not decode, or are of another kind than was written.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if path is None:
            raise
        raise DamagedLedgerError(path, f"{type(error).__name__}: {error}") from error


def check(path: Path) -> None:
    """Reads a whole database, in tenths of a second for many megabytes.

    Raises:
        DamagedLedgerError: its pages or indexes contradict each other, or it is no database.
        LedgerError: it cannot be read now.
    """
    try:
        with closing(connect(path)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise explained(path, error) or error from None
    if found != "ok":
        raise DamagedLedgerError(path, " ".join(str(found).split()))


def connect(path: Path, timeout: float | None = None) -> sqlite3.Connection:
    """A connection to a database that is there, without implicit transactions; it waits for locks (BUSY_SECONDS).

    Not read-only: where a driver was killed in a write, SQLite takes that write back before it reads.
    """
    uri, seconds = f"{path.resolve().as_uri()}?mode=rw", BUSY_SECONDS if timeout is None else timeout
    return sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None)


def is_whole(path: Path) -> bool:
    """Whether the tables of a ledger have all been made; a database that somebody has locked is taken to have them.

    Raises:
        DamagedLedgerError: it is no database, or cannot be read.
    """
    try:
        with closing(connect(path, timeout=1)) as database:
            return bool(database.execute(f"SELECT 1 FROM {LAST_TABLE}").fetchone())
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise explained(path, error) or error from None


def make_private(path: Path) -> bool:
    """Makes an empty file that only its owner may read, whatever the umask; False where there is one already."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
        return True
    return False


def make_tables(path: Path) -> None:
    """Makes an empty ledger's tables in a new file that only its owner may read."""
    import optuna

    make_private(path)
    optuna.storages.RDBStorage(sqlite_address(path)).engine.dispose()


def _make(path: Path) -> None:
    """Makes an empty ledger, whole at once: of processes that begin together, one makes it and all find it."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        make_tables(partial)
        os.link(partial, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not path.exists():
            os.rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)
