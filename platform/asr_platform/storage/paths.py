"""Paths of homes and names of sweeps from what users give, and sizes of folders."""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from trainables.errors import InputError


def where_runs_live(home: str | Path | None = None) -> Path:
    """Folder of the home: `home`, else $ASR_PLATFORM_HOME, else `mlruns` in the current directory.

    Raises:
        InputError: an address such as `s3://BUCKET`.
    """
    return local_path(os.environ.get("ASR_PLATFORM_HOME", "mlruns") if home is None else home)


def local_path(text: str | os.PathLike[str]) -> Path:
    """A path on this machine, with `~` and `~NAME` replaced by the home directory of a user.

    Raises:
        InputError: an address such as `s3://BUCKET/FOLDER`.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(text)):
        raise InputError(
            f"{os.fspath(text)}: an address, not a path",
            "Give a file or folder on this machine; --storage takes addresses.",
        )
    return Path(os.path.expanduser(text))


def expressible_path(path: Path) -> Path:
    """Returns `path` if it is a local path that can be part of an address and of JSON.

    Raises:
        InputError: the path is not UTF-8, or is an address.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path.absolute()).decode(errors="replace")
        raise InputError(f"{shown}: a path that is not UTF-8", "Rename the folder, or choose another --home.") from None
    return local_path(path)


def plain_name(text: str) -> str:
    """A sweep's name from any text: accents are dropped, other characters become dashes."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:100] or "sweep"


def folder_size(folder: Path) -> int:
    """Total size in bytes of the files below `folder`; files and folders deleted during the walk count as 0."""
    total = 0
    for place, _, names in os.walk(folder):  # it skips what it cannot list
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
