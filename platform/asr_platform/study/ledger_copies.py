"""Each sweep keeps a copy of what the ledger knows of it, in its own folder; from these a damaged ledger is rebuilt.

A copy is an Optuna database with one study. Keeping it costs what has changed: trials that have ended are copied once.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import optuna

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

# Optuna's tables (5.0).
OF_STUDY = ("study_directions", "study_user_attributes", "study_system_attributes")
OF_TRIAL = (
    "trial_user_attributes", "trial_system_attributes", "trial_params", "trial_values", "trial_intermediate_values",
    "trial_heartbeats",
)  # fmt: skip


def keep_copy(home: Home, name: str) -> None:
    """Brings a sweep's own copy of the ledger up to date: what changed since, in one transaction.

    Called by the holder of the sweep's lock, from one thread at a time; it may be killed at any moment. A copy that is
    missing, damaged, or of an earlier sweep of that name is made anew; one that is locked, or on a full disk, is not,
    since that would fail for the same reason.

    Raises:
        LedgerError: the ledger or the copy cannot be read or written; the copy stays as it was.
    """
    copy, ledger = home.sweep(name) / COPY, home.path / STUDIES
    try:
        with _transaction(copy, ledger) as database:
            if _is_copy(database, name):
                _update(database, name)
                return
    except sqlite3.DatabaseError as error:
        failure = explained(ledger, error)
        if copy.exists() and failure and not isinstance(failure, DamagedLedgerError):
            raise failure from None
    partial = copy.with_name(f".{COPY}.partial")
    try:
        partial.unlink(missing_ok=True)  # of a process that was killed here
        make_private(partial)
        with _transaction(partial, ledger) as database:
            _make_tables_as_in_source(database)
            _update(database, name)
        os.replace(partial, copy)
    except sqlite3.DatabaseError as error:
        raise explained(ledger, error) or error from None
    finally:
        partial.unlink(missing_ok=True)


class CopyKeeper(Callback):
    """Keeps a sweep's copy up to date: as a run begins, and whenever a trial has begun or ended.

    Epochs that only the damaged ledger had are in the checkpoints of their trials, which report them again.
    """

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        keep_copy(self.home, self.name)

    def on_trial_start(self, trial: TrialRecord) -> None:
        keep_copy(self.home, self.name)  # else its folder, with checkpoints, would be of a trial that nobody knows

    def on_trial_end(self, trial: TrialRecord) -> None:
        keep_copy(self.home, self.name)


def restore(home: Home) -> list[str]:
    """Moves a damaged ledger aside and rebuilds it: from the sweeps' copies, and what can be read of the others.

    The ledger is left alone where it is sound, and where a sweep of the home is running.

    Returns:
        What was done, in words.

    Raises:
        RunningError: a sweep of the home is running.
        LedgerError: it cannot be written.
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
    """Whether everything in the ledger can be read, or there is none.

    Raises:
        LedgerError: it is locked, or its disk fails.
    """
    try:
        home.check()
        if home.begun:
            for name in Ledger.names(home.studies):
                ledger = Ledger.open(home.studies, name)
                _ = ledger.about, ledger.trials()
    except DamagedLedgerError:
        return False
    return True


def _fill(fresh: Path, home: Home) -> tuple[list[str], list[str]]:
    """Puts all sweeps into an empty ledger, in the order in which they were begun; words for each, and their names."""
    sources = [(copy, "its copy") for copy in home.copies()]
    sources += [(damaged, "the damaged ledger") for damaged in [home.path / STUDIES] if damaged.exists()]
    found: dict[str, tuple[int, Path, str]] = {}
    for source, words in sources:
        for name, study in _readable(source):
            found.setdefault(name, (study, source, words))
    done = []
    for name, (_, source, words) in sorted(found.items(), key=lambda item: item[1][0]):
        with _transaction(fresh, source) as database:
            _append(database, name)
        done.append(f"restored the sweep {name} from {words}")
    lost = sorted({path.parent.name for path in home.path.glob("sweeps/*/trials")}.difference(found))
    return done + [f"lost what the ledger knew of the sweep {name}: it has no copy" for name in lost], list(found)


def _readable(source: Path) -> Iterator[tuple[str, int]]:
    """The sweeps of which everything in a database can be read, with their studies' ids."""
    studies: list[tuple[str, int]] = []
    with suppress(sqlite3.Error), closing(connect(source)) as database:
        studies = database.execute("SELECT study_name, study_id FROM studies").fetchall()
    for name, study in studies:
        with suppress(LedgerError, UnicodeError):
            opened, file = open_storage(sqlite_address(source))
            ledger = Ledger(optuna.load_study(storage=opened, study_name=name), file)
            if ledger.about and ledger.trials() is not None:
                yield name, study


def _move_aside(ledger: Path) -> Path | None:
    """Moves a damaged database to the first free name; with it goes a write that was begun and not finished."""
    if not ledger.exists():
        return None
    number = 1
    while (aside := ledger.with_name(f"{ledger.name}.damaged-{number}")).exists():
        number += 1
    os.rename(ledger, aside)
    with suppress(FileNotFoundError):  # SQLite would apply it to whatever has the ledger's name
        os.rename(f"{ledger}-journal", f"{aside}-journal")
    return aside


@contextmanager
def _transaction(target: Path, source: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on a database that is there; the tables of another one are in the schema `source`."""
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


def _make_tables_as_in_source(database: sqlite3.Connection) -> None:
    """Makes the source's tables and indexes, and copies the versions of its schema."""
    for (statement,) in database.execute("SELECT sql FROM source.sqlite_master WHERE sql IS NOT NULL").fetchall():
        database.execute(statement)
    for table in ("version_info", "alembic_version"):
        database.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")


def _is_copy(database: sqlite3.Connection, name: str) -> bool:
    """Whether the target has this very study of the source, and no other."""
    query = (
        "SELECT studies.study_id, value_json FROM {0}.studies JOIN {0}.study_user_attributes AS notes "
        "ON notes.study_id = studies.study_id WHERE key = ? AND study_name = ?"
    )
    one, other = (database.execute(query.format(schema), (ABOUT, name)).fetchall() for schema in ("main", "source"))
    return one == other and database.execute("SELECT count(*) FROM main.studies").fetchone() == (1,)


def _update(database: sqlite3.Connection, name: str) -> None:
    """Copies a study from the source with its ids: all of it but the trials that had ended when they were copied."""
    study = _study(database, name)
    _choose(database, study, "SELECT trial_id FROM main.trials WHERE state <> 'RUNNING'")
    for table in (*OF_TRIAL, "trials"):
        database.execute(f"DELETE FROM main.{table} WHERE trial_id IN chosen")
    for table in (*OF_STUDY, "studies"):
        database.execute(f"DELETE FROM main.{table}")
    _copy(database, study, study, 0)


def _append(database: sqlite3.Connection, name: str) -> None:
    """Adds a study of the source behind the studies that the target has, under ids of its own."""
    study = _study(database, name)
    new, shift = database.execute(
        "SELECT (SELECT coalesce(max(study_id), 0) + 1 FROM main.studies), "
        "(SELECT coalesce(max(trial_id), 0) FROM main.trials)"
    ).fetchone()
    _choose(database, study, "SELECT NULL WHERE false")
    _copy(database, study, new, shift)


def _study(database: sqlite3.Connection, name: str) -> int:
    found = database.execute("SELECT study_id FROM source.studies WHERE study_name = ?", (name,)).fetchone()
    if found is None:
        raise sqlite3.DatabaseError(f"no sweep {name} in it")
    return int(found[0])


def _choose(database: sqlite3.Connection, study: int, without: str) -> None:
    """Makes the temporary table `chosen` of the study's trials in the source, without some."""
    database.execute("DROP TABLE IF EXISTS temp.chosen")
    database.execute("CREATE TEMP TABLE chosen (trial_id INTEGER PRIMARY KEY)")
    database.execute(
        f"INSERT INTO chosen SELECT trial_id FROM source.trials WHERE study_id = ? AND trial_id NOT IN ({without})",
        (study,),
    )


def _copy(database: sqlite3.Connection, study: int, new: int, shift: int) -> None:
    """Copies a study and its chosen trials from the source: the study under the id `new`, trials under shifted ids."""
    ids = {"study_id": str(new), "trial_id": f"trial_id + {shift}"}
    for table in ("studies", *OF_STUDY, "trials", *OF_TRIAL):
        where = (
            f"study_id = {study}" if table in ("studies", *OF_STUDY) else "trial_id IN (SELECT trial_id FROM chosen)"
        )
        known = {row[1] for row in database.execute(f"PRAGMA source.table_info({table})")}
        # Keys of rows that nothing refers to are given out anew.
        columns = [
            row[1]
            for row in database.execute(f"PRAGMA main.table_info({table})")
            if row[1] in known and (row[1] in ids or not row[5])
        ]
        values = ", ".join(ids.get(column, column) for column in columns)
        database.execute(
            f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {values} FROM source.{table} WHERE {where}"
        )
