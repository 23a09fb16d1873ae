"""Sweeps on a storage, each of which belongs to one ledger.

Homes with ledgers of their own may share a storage, and a sweep's folder is found by its name alone. So a sweep writes
the id of its ledger there before anything else, and nobody else writes to or deletes what another ledger's sweep has.
"""

from __future__ import annotations

from pathlib import Path

from trainables.errors import InputError
from trainables.storage.remote import Remote

OWNER = "ledger.txt"  # in a sweep's folder, here and on the storage: the id of its ledger


def stored_sweeps(storage: Remote | None) -> set[str]:
    """Names of all sweeps on a storage, whosever they are.

    Raises:
        StorageError: the storage cannot be read.
    """
    return storage.folders("sweeps") if storage else set()


def owner(storage: Remote, name: str) -> str | None:
    """Id of the ledger that a sweep on a storage belongs to; None if it is not there, or of an earlier version."""
    return storage.text(f"sweeps/{name}/{OWNER}")


def claim(storage: Remote, name: str, folder: Path, ledger: str) -> None:
    """Makes a sweep on a storage, which may be there already, that of a ledger.

    Two homes that begin a sweep of the same name within the same moment both succeed where the storage answers both
    readings before either writing; from then on only one does.

    Args:
        folder: folder of the sweep in the home.
        ledger: id of the ledger.

    Raises:
        InputError: it belongs to another ledger.
        StorageError: the storage cannot be read or written.
    """
    if owner(storage, name) is None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OWNER).write_text(ledger, encoding="utf-8")
        storage.store(folder / OWNER, f"sweeps/{name}/{OWNER}")
    if owner(storage, name) != ledger:
        raise foreign(storage, name)


def foreign(storage: Remote, name: str) -> InputError:
    """The error for a sweep whose name is that of another ledger's sweep on a storage."""
    return InputError(
        f"sweep {name} is on {storage.address}, and belongs to another ledger",
        "Choose another --name; or go on with it: platform --ledger URI, or --home DIR, where it was begun.",
    )
