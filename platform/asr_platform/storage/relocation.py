"""Updates the paths of artifacts in MLflow's database after a home was moved or copied.

The ledger stores paths relative to the home, but MLflow stores absolute ones. So a home lists all its paths so far.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from asr_platform.compat.mlflow import ARTIFACT_COLUMNS, EXPERIMENT_ARTIFACTS

LOCATIONS = "locations.json"  # in a home: all its paths so far, the present one last
ARTIFACTS = "artifacts"
BUSY_SECONDS = 60  # how long to wait for a locked database


def locations(home: Path) -> list[str]:
    """All paths that a home has had, the latest last; empty if none were recorded."""
    try:
        found = json.loads((home / LOCATIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(place) for place in found] if isinstance(found, list) else []


def record_location(home: Path, database: Path) -> None:
    """Records the present path of a home, and updates the addresses in MLflow's database if it has changed.

    A home that is not writable stays as it is.

    Args:
        home: absolute path of the home.
        database: SQLite file of the home's MLflow store.
    """
    known, here = locations(home), str(home)
    if known[-1:] == [here]:
        return
    with suppress(OSError, sqlite3.Error):
        former = [place for place in known or _vanished(database) if place != here]
        if former and database.is_file():
            _rewrite(database, former, home)
        partial = home / f".{LOCATIONS}.partial"
        partial.write_text(json.dumps([*former, here]) + "\n", encoding="utf-8")
        os.replace(partial, home / LOCATIONS)


def moved_along(path: str, home: Path) -> str:
    """The present path of a file or folder that was recorded as `path`.

    If a project was moved as a whole, corpora have kept their paths relative to the home. So if `path` does not exist,
    the path with an equal relative path is tried; if that does not exist either, `path` is returned.
    """
    for former in [] if os.path.exists(path) else reversed(locations(home)):
        now = os.path.normpath(home / os.path.relpath(path, former))
        if os.path.exists(now):
            return now
    return path


def _vanished(database: Path) -> list[str]:
    """Former paths of a home that recorded none: paths in MLflow's database that no longer exist."""
    if not database.is_file():
        return []
    with closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as opened:
        table, column = EXPERIMENT_ARTIFACTS
        rows = opened.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
    places = [local_folder(address).parent for (address,) in rows if address and address.endswith(f"/{ARTIFACTS}")]
    return [str(place) for place in places if place.is_absolute() and not place.exists()]


def local_folder(address: str) -> Path:
    """Path of an artifact location of MLflow on this machine: a `file:` URI, or a path."""
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(address).path)) if address.startswith("file:") else Path(address)


def _rewrite(database: Path, former: Iterable[str], home: Path) -> None:
    """Replaces the former addresses of a home in MLflow's database, in one transaction."""
    with closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as opened, opened:
        for old in former:
            prefix = Path(old).as_uri()
            for table, column in ARTIFACT_COLUMNS:
                opened.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (home.as_uri(), len(prefix) + 1, prefix, len(prefix) + 1, f"{prefix}/"),
                )
