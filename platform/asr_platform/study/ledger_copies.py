"""Copies of the ledger, from which a damaged ledger is restored.

Each sweep's folder has an Optuna database with the sweep's study. An update copies only what has changed: trials that
have ended are copied once.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import optuna

from asr_platform.compat.optuna import STUDY_TABLES, TRIAL_TABLES, VERSION_TABLES
from asr_platform.storage.database import (
    DamagedLedgerError,
    LedgerError,
    connect,
    explained,
    make_private,
    make_tables,
    open_storage,
    sqlite_address,
)
from asr_platform.storage.home import COPY, LOCK, STUDIES, Home
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import ABOUT, Ledger, TrialRecord


def keep_copy(home: Home, name: str) -> None:
    """Copies the changes of a sweep's study since the last call into the sweep's copy, in one transaction.

    The caller must hold the sweep's lock and call from one thread at a time; it may be killed at any moment. A copy
    that is missing, damaged, or of an earlier sweep with this name is made anew. PostgreSQL has copies of its own.

    Raises:
        LedgerError: the ledger or the copy cannot be read or written; the copy stays as it was.
    """
    if home.addresses.ledger:
        return
    copy, ledger = home.sweep(name) / COPY, home.path / STUDIES
    try:
        with _transaction(copy, ledger) as database:
            if _is_copy(database, name):
                _update(database, name)
                return
    except sqlite3.DatabaseError as error:
        failure = explained(ledger, error)
        if copy.exists() and failure and not isinstance(failure, DamagedLedgerError):
            raise failure from None  # such as a full disk: a new copy would fail too
    partial = copy.with_name(f".{COPY}.partial")
    try:
        partial.unlink(missing_ok=True)  # of a process that was killed here
        make_private(partial)
        with _transaction(partial, ledger) as database:
            _create_tables(database)
            _update(database, name)
        os.replace(partial, copy)
    except sqlite3.DatabaseError as error:
        raise explained(ledger, error) or error from None
    finally:
        partial.unlink(missing_ok=True)


class CopyKeeper(Callback):
    """Updates a sweep's copy when a run starts, and whenever a trial starts or ends.

    Epochs recorded between updates are also in the trials' checkpoints, and are reported from there if a copy is used.
    """

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        keep_copy(self.home, self.name)

    def on_trial_start(self, trial: TrialRecord) -> None:
        keep_copy(self.home, self.name)  # so that every folder of checkpoints belongs to a known trial

    def on_trial_end(self, trial: TrialRecord) -> None:
        keep_copy(self.home, self.name)


def restore(home: Home) -> list[str]:
    """Moves a damaged ledger aside and rebuilds it from the sweeps' copies.

    Sweeps without a copy are taken from the damaged ledger if they can be read. A sound ledger is left alone.

    Returns:
        A description of each step.

    Raises:
        RunningError: a sweep of the home is running.
        LedgerError: the ledger cannot be written.
    """
    ledger = home.path / STUDIES
    if is_sound(home):
        return []
    with ExitStack() as locks:
        for lock in sorted(home.path.glob(f"sweeps/*/{LOCK}")):
            locks.enter_context(home.lock(lock.parent.name, "doctor"))
        fresh = ledger.with_name(f".{STUDIES}.{uuid.uuid4().hex}")
        try:
            make_tables(fresh)
            done, names = _fill(fresh, home)
            aside = _move_aside(ledger)
            os.rename(fresh, ledger)
        except sqlite3.Error as error:
            raise explained(ledger, error) or error from None
        finally:
            fresh.unlink(missing_ok=True)
        for name in names:
            keep_copy(home, name)
    return [*done, *([f"moved the damaged ledger to {aside}"] if aside else [])]


def is_sound(home: Home) -> bool:
    """Whether everything in the ledger can be read; True if there is no ledger.

    Raises:
        LedgerError: the ledger is locked, or its disk fails.
    """
    try:
        home.check()
        if home.begun:
            for name in Ledger.names(home.studies):
                ledger = Ledger.open(home.studies, name)
                _ = ledger.about, ledger.trials(), ledger.whole()
    except DamagedLedgerError:
        return False
    return True


def _fill(fresh: Path, home: Home) -> tuple[list[str], list[str]]:
    """Copies all sweeps into an empty ledger, in the order of their start; returns a line for each, and their names."""
    sources = [(copy, "its copy") for copy in home.copies()]
    sources += [(damaged, "the damaged ledger") for damaged in [home.path / STUDIES] if damaged.exists()]
    found: dict[str, tuple[int, Path, str]] = {}
    for source, words in sources:
        for name, study in _readable(source):
            found.setdefault(name, (study, source, words))
    done, (target, _) = [], open_storage(sqlite_address(fresh))
    for name, (_, source, words) in sorted(found.items(), key=lambda item: item[1][0]):
        storage, _ = open_storage(sqlite_address(source))
        optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=target)
        done.append(f"restored the sweep {name} from {words}")
    lost = sorted({path.parent.name for path in home.path.glob("sweeps/*/trials")}.difference(found))
    return done + [f"lost what the ledger knew of the sweep {name}: it has no copy" for name in lost], list(found)


def _readable(source: Path) -> Iterator[tuple[str, int]]:
    """Names and study ids of the sweeps in a database that can be read completely."""
    studies: list[tuple[str, int]] = []
    with suppress(sqlite3.Error), closing(connect(source)) as database:
        studies = database.execute("SELECT study_name, study_id FROM studies").fetchall()
    for name, study in studies:
        with suppress(LedgerError, UnicodeError):
            opened, file = open_storage(sqlite_address(source))
            ledger = Ledger(optuna.load_study(storage=opened, study_name=name), file)
            if ledger.about and ledger.trials() is not None and ledger.whole() is not None:
                yield name, study


def _move_aside(ledger: Path) -> Path | None:
    """Renames a damaged database and its journal; returns the new path, or None if there is no database."""
    if not ledger.exists():
        return None
    number = 1
    while (aside := ledger.with_name(f"{ledger.name}.damaged-{number}")).exists():
        number += 1
    os.rename(ledger, aside)
    with suppress(FileNotFoundError):  # SQLite would apply the journal to the new ledger
        os.rename(f"{ledger}-journal", f"{aside}-journal")
    return aside


@contextmanager
def _transaction(target: Path, source: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on the database `target`, with the database `source` attached as the schema `source`."""
    with closing(connect(target)) as database:
        database.execute("ATTACH DATABASE ? AS source", (f"{source.resolve().as_uri()}?mode=rw",))
        database.execute("BEGIN")
        try:
            yield database
        except BaseException:
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


def _create_tables(database: sqlite3.Connection) -> None:
    """Creates the tables and indexes of the schema `source`, and copies the versions of the schema."""
    for (statement,) in database.execute("SELECT sql FROM source.sqlite_master WHERE sql IS NOT NULL").fetchall():
        database.execute(statement)
    for table in VERSION_TABLES:
        database.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")


def _is_copy(database: sqlite3.Connection, name: str) -> bool:
    """Whether the database holds the ledger's study `name`, and no other study."""
    query = (
        "SELECT studies.study_id, value_json FROM {0}.studies JOIN {0}.study_user_attributes AS notes "
        "ON notes.study_id = studies.study_id WHERE key = ? AND study_name = ?"
    )
    one, other = (database.execute(query.format(schema), (ABOUT, name)).fetchall() for schema in ("main", "source"))
    return one == other and database.execute("SELECT count(*) FROM main.studies").fetchone() == (1,)


def _update(database: sqlite3.Connection, name: str) -> None:
    """Copies the study `name` from the schema `source`; trials that had ended at the last copy are skipped."""
    found = database.execute("SELECT study_id FROM source.studies WHERE study_name = ?", (name,)).fetchone()
    if found is None:
        raise sqlite3.DatabaseError(f"no sweep {name} in it")
    database.execute("DROP TABLE IF EXISTS temp.changed")
    database.execute(
        "CREATE TEMP TABLE changed AS SELECT trial_id FROM source.trials WHERE study_id = ? "
        "AND trial_id NOT IN (SELECT trial_id FROM main.trials WHERE state <> 'RUNNING')",
        found,
    )
    for table in STUDY_TABLES:
        database.execute(f"DELETE FROM main.{table}")
        database.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table} WHERE study_id = ?", found)
    for table in TRIAL_TABLES:
        database.execute(f"DELETE FROM main.{table} WHERE trial_id IN changed")
        database.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table} WHERE trial_id IN changed")
