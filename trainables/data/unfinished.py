"""A folder that is being written: under another name until it is whole, and removed if nobody finishes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from typing import Self

from trainables.folders import make_folder


class UnfinishedFolder:
    """A new folder `.NAME.unfinished-...` beside the folder NAME that it is to become.

    Making one removes those of earlier processes that were killed. A lock tells them from those that are being written;
    where a file system has no locks on folders, such as NFS, they are left.

    Args:
        target: the finished folder's path; its parent is made if needed.

    Raises:
        InputError: the system has no folders there, as in /proc.
    """

    def __init__(self, target: Path) -> None:
        self.target = target.resolve()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        stem = f".{self.target.name}.unfinished-"
        for path in list(self.target.parent.iterdir()):
            if path.name.startswith(stem):
                _remove_abandoned(path)
        while True:
            self.path = self.target.with_name(stem + secrets.token_hex(4))
            make_folder(self.path)
            try:
                self._lock = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # another process has just taken it for an abandoned one
            with contextlib.suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                break
            os.close(self._lock)

    def finish(self) -> None:
        """Gives the folder its final name."""
        os.rename(self.path, self.target)

    def close(self) -> None:
        """Removes what was not finished."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _remove_abandoned(folder: Path) -> None:
    """Removes a folder unless a process holds its lock."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass
    finally:
        os.close(lock)
