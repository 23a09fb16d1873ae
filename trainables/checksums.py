"""SHA-256 digests of the files of a model directory or checkpoint, in its `checksums.json`, which is written last.

Directories without this file load unchecked: those of early versions, and those in which somebody deleted it to change
a file on purpose.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from trainables.errors import DamagedError

CHECKSUMS = "checksums.json"


class _Checksums(BaseModel):
    """Content of `checksums.json`: lower-case hexadecimal digests by file name."""

    model_config = ConfigDict(extra="forbid")

    sha256: dict[str, str]


def record_checksums(folder: Path, names: Iterable[str]) -> None:
    """Records the digests of the files `names` that exist in the folder's `checksums.json`, by atomic rename.

    Recorded digests of other files stay.
    """
    _write(folder, _read(folder) | {name: _digest(folder / name) for name in names if (folder / name).is_file()})


def copy_checksums(source: Path, folder: Path) -> None:
    """Copies the recorded digests of `source` for the files that `folder` has."""
    digests = {name: digest for name, digest in _read(source).items() if (folder / name).is_file()}
    if digests:
        _write(folder, digests)


def same_file(one: Path, other: Path, name: str) -> bool:
    """Whether the file `name` has the same recorded digest in two folders.

    Raises:
        DamagedError: a `checksums.json` is damaged.
    """
    digest = _read(one).get(name)
    return digest is not None and digest == _read(other).get(name)


def verify_checksums(folder: Path, names: Iterable[str]) -> None:
    """Compares the files `names` with their recorded digests, if the folder has any.

    Raises:
        DamagedError: a file differs from its digest, has none, or is missing; or `checksums.json` is damaged.
    """
    digests = _read(folder)
    remedy = f"Use another copy; if you changed the file on purpose, delete {folder / CHECKSUMS}."
    for name in names if digests else ():
        found = _digest(folder / name) if (folder / name).is_file() else None
        if found is None and name in digests:
            raise DamagedError(f"{folder / name}: missing, but listed in {CHECKSUMS}", remedy)
        if found != digests.get(name):
            raise DamagedError(f"{folder / name}: damaged: its SHA-256 is not the one in {CHECKSUMS}", remedy)


def _read(folder: Path) -> dict[str, str]:
    """Recorded digests by file name; empty where the folder has no `checksums.json`."""
    path = folder / CHECKSUMS
    try:
        return _Checksums.model_validate_json(path.read_bytes()).sha256
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        raise DamagedError(f"{path}: not a list of checksums", "The file is damaged; use another copy.") from None


def _write(folder: Path, digests: dict[str, str]) -> None:
    partial = folder / f".{CHECKSUMS}.partial"
    partial.write_text(_Checksums(sha256=digests).model_dump_json(indent=1), encoding="utf-8")
    os.replace(partial, folder / CHECKSUMS)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
