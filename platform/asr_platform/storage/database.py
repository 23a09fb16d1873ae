"""Opens the ledger's database, and explains its errors."""

from __future__ import annotations

import os
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asr_platform.compat.optuna import LAST_TABLE, SCHEMA
from trainables.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

BUSY_SECONDS = 120  # how long to wait for a database that another process has locked
PRIVATE = 0o600  # mode of the databases made here
REPAIR = "platform doctor --repair restores it from the copies that sweeps keep."


class LedgerError(InputError):
    """The ledger's database cannot be read or written: it is locked or damaged, or its disk is full or fails."""


class DamagedLedgerError(LedgerError):
    """The ledger's database is damaged or missing; `ledger_copies.restore` rebuilds it."""

    def __init__(self, path: Path, how: str) -> None:
        Exception.__init__(self, path, how)  # the arguments for unpickling
        self.problem, self.remedy = f"{path}: the ledger is damaged ({how})", REPAIR


@dataclass(frozen=True)
class SharedLedger:
    """A ledger in a PostgreSQL database, and the home that is its cache on this machine."""

    address: str
    home: Path


def sqlite_address(path: Path) -> str:
    """Address of a SQLite database for SQLAlchemy, Optuna and MLflow.

    SQLAlchemy decodes `%41` to `A` and ends the path at `?`; Optuna replaces names in braces. All other characters stay
    as they are, since MLflow also uses the text of the address as a path.
    """
    escaped = re.sub(r"%(?=[0-9A-Fa-f]{2})|[?{}\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", str(path))
    return f"sqlite:///{escaped}"


def database_file(address: str) -> Path | None:
    """Path of the SQLite database at an address; None for other kinds of databases and for one in memory."""
    from sqlalchemy import make_url

    url = make_url(address)
    memory = url.database in (None, "", ":memory:")
    return None if url.get_backend_name() != "sqlite" or memory else Path(str(url.database))


def make_database(address: str) -> Path | None:
    """Makes an empty SQLite database at an address, readable by its owner only, unless it exists; returns its path.

    Does nothing for other kinds of databases, and returns None.
    """
    path = database_file(address)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_private(path)
    return path


def open_storage(storage: str | BaseStorage | SharedLedger) -> tuple[BaseStorage, Path | None]:
    """Opens an Optuna storage; returns it with the path of its SQLite file (made if missing; None if not SQLite).

    Args:
        storage: address of a storage, a ledger on PostgreSQL, or an open storage.

    Raises:
        LedgerError: the database fails. Every later use of the storage can raise it too.
    """
    import optuna  # a second's import

    if isinstance(storage, SharedLedger):
        return _open_shared(storage), None
    if not isinstance(storage, str):
        engine = getattr(storage, "engine", None)
        return storage, database_file(engine.url.render_as_string()) if engine is not None else None
    from asr_platform.compat.optuna_storage import BulkStorage, open_current

    path = database_file(storage)
    if path is None:
        return BulkStorage(storage), None
    from sqlalchemy import event
    from sqlalchemy.exc import DBAPIError

    options = {"connect_args": {"timeout": BUSY_SECONDS}}
    try:
        if not path.exists():
            _make(path)
        whole = is_whole(path)
        if whole and _revision(path) == SCHEMA:
            opened = open_current(storage, options)
        else:
            opened = BulkStorage(storage, options, skip_table_creation=whole)
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        raise explained(path, getattr(error.__cause__, "orig", error.__cause__)) or error from None
    except RuntimeError as error:  # Optuna refuses tables of another version
        raise LedgerError(f"{path}: {error}", "Install the Optuna that it was made with, or do as it says.") from None
    event.listen(opened.engine, "handle_error", lambda context: explained(path, context.original_exception))
    return opened, path


def _open_shared(ledger: SharedLedger) -> BaseStorage:
    """Opens a ledger on PostgreSQL, whose tables are made if they are missing."""
    import optuna
    from sqlalchemy import make_url
    from sqlalchemy.exc import DBAPIError

    from asr_platform.compat.patient_storage import PatientStorage
    from asr_platform.storage.postgresql import Patience, explain_errors, unreachable

    url = make_url(ledger.address)
    patience = Patience(url)
    # A connection that was lost while nobody used it is made anew without an error.
    options = {"creator": patience.connect, "pool_pre_ping": True}

    def made(again: bool) -> PatientStorage:
        try:
            return PatientStorage(ledger.address, options, patience)
        except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ or error
            raise unreachable(url, getattr(cause, "orig", None) or cause) from None
        except RuntimeError as error:  # Optuna refuses tables of another version
            remedy = "Install the Optuna that it was made with, or do as it says."
            raise LedgerError(f"{url}: {error}", remedy) from None

    opened = patience(made)
    explain_errors(opened.engine, url)
    opened.home = ledger.home
    return opened


def explained(path: Path, error: BaseException | None) -> LedgerError | None:
    """LedgerError that explains an error of the database at `path`; None if the error is a bug of this program."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # text that is not UTF-8, perhaps that of the error
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
    """Context for code that decodes values from the database.

    Raises:
        DamagedLedgerError: a value cannot be decoded, or has an unexpected type.
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
    """Checks the integrity of a whole database, which takes tenths of a second for many megabytes.

    Raises:
        DamagedLedgerError: pages or indexes contradict each other, or the file is not a database.
        LedgerError: the database is locked, or its disk fails.
    """
    try:
        with closing(connect(path)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise explained(path, error) or error from None
    if found != "ok":
        raise DamagedLedgerError(path, " ".join(str(found).split()))


def connect(path: Path, timeout: float | None = None) -> sqlite3.Connection:
    """A connection to an existing database, without implicit transactions.

    The connection can write: after a kill during a write, SQLite must roll back before it can read.

    Args:
        timeout: seconds to wait for a lock; default: BUSY_SECONDS.
    """
    uri, seconds = f"{path.resolve().as_uri()}?mode=rw", BUSY_SECONDS if timeout is None else timeout
    return sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None)


def is_whole(path: Path) -> bool:
    """Whether a ledger has all its tables; True if the database is locked.

    Raises:
        DamagedLedgerError: the file is not a database, or cannot be read.
    """
    try:
        with closing(connect(path, timeout=1)) as database:
            return bool(database.execute(f"SELECT 1 FROM {LAST_TABLE}").fetchone())
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise explained(path, error) or error from None


def _revision(path: Path) -> str | None:
    """Revision of the tables of a whole ledger, such as `v3.2.0.a`; None if it cannot be read now."""
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(connect(path, timeout=1)) as database:
        return str(database.execute(f"SELECT version_num FROM {LAST_TABLE}").fetchone()[0])
    return None


def make_private(path: Path) -> bool:
    """Makes an empty file that only its owner may read; returns False if the file exists already."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
        return True
    return False


def make_tables(path: Path) -> None:
    """Makes an empty ledger in a new file that only its owner may read."""
    import optuna

    make_private(path)
    optuna.storages.RDBStorage(sqlite_address(path)).engine.dispose()


def _make(path: Path) -> None:
    """Makes an empty ledger in one step, so that concurrent processes never find a part of it."""
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
