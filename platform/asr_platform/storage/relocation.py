"""A home that has been moved or copied: what MLflow's database says of places inside it is rewritten to where it is.

The ledger stores paths relative to the home, but MLflow stores addresses of artifacts as absolute ones. So a home knows
each path that it has had.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

LOCATIONS = "locations.json"  # in a home: the paths that it has had, the present one last
ARTIFACTS = "artifacts"
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database (3.17) in which addresses of artifacts stand."""
PATIENCE = 60  # seconds that a locked database is waited for


def locations(home: Path) -> list[str]:
    """The paths that a home has had, the latest last; none where that was never written down."""
    try:
        found = json.loads((home / LOCATIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(place) for place in found] if isinstance(found, list) else []


def record_location(home: Path, database: Path) -> None:
    """Makes MLflow's addresses of places in a home right again after the home was moved or copied.

    A home that cannot be written to stays as it is.

    Args:
        home: its absolute path.
        database: its MLflow store.
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
    """Where a file or folder is now that was recorded as `path`: there, or where it was as seen from the home.

    A project is moved as a whole, with the corpora beside its home. What is nowhere keeps its recorded path.
    """
    for former in [] if os.path.exists(path) else reversed(locations(home)):
        now = os.path.normpath(home / os.path.relpath(path, former))
        if os.path.exists(now):
            return now
    return path


def _vanished(database: Path) -> list[str]:
    """Former paths of a home from before they were written down: those of artifacts that are no longer there."""
    if not database.is_file():
        return []
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as opened:
        rows = opened.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    places = [_path(address).parent for (address,) in rows if address and address.endswith(f"/{ARTIFACTS}")]
    return [str(place) for place in places if place.is_absolute() and not place.exists()]


def _path(address: str) -> Path:
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(address).path)) if address.startswith("file:") else Path(address)


def _rewrite(database: Path, former: Iterable[str], home: Path) -> None:
    """Puts the home's address in the place of its former ones, in one transaction."""
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as opened, opened:
        for old in former:
            prefix = Path(old).as_uri()
            for table, column in ADDRESSES:
                opened.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (home.as_uri(), len(prefix) + 1, prefix, len(prefix) + 1, f"{prefix}/"),
                )
