"""Folders and files that change as a whole: a reader finds the old content or the new, and never half of one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TextIO

from trainables.errors import InputError


def check_decodable(path: Path) -> None:
    """Refuses a path with bytes that are not UTF-8, which Arrow and safetensors cannot open.

    Raises:
        InputError: it has some.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: a path that is not UTF-8", "Rename it, or choose another.") from None


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Gives a fresh folder to write into; when the block has ended, that takes the place of `folder`.

    Where the block fails (a full disk, say), `folder` stays as it is and the remains are removed; those of a process
    that was killed are removed by the next one. Killed between the two renames at the end, the old content is still at
    `previous(folder)`.
    """
    with UnfinishedFolder(folder) as unfinished:
        yield unfinished.path
        if folder.exists():
            # Only now: where a kill left nothing else, what lies there is the one whole copy.
            shutil.rmtree(previous(folder), ignore_errors=True)
            os.rename(folder, previous(folder))
        unfinished.finish()
    shutil.rmtree(previous(folder), ignore_errors=True)


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
        self.target = target.absolute()
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
        try:
            shutil.rmtree(self.path, ignore_errors=True)
        finally:
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


def previous(folder: Path) -> Path:
    """Where the old content waits while the new takes its place."""
    return folder.with_name(f".{folder.name}.previous")


def make_folder(folder: Path) -> None:
    """Makes a new folder, with its parents.

    Raises:
        InputError: the system has no folders there, as in /proc.
        OSError: for any other reason.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileNotFoundError as error:
        raise InputError(f"{folder.parent}: cannot hold a folder: {error.strerror}", "Choose another place.") from None


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """Gives a new UTF-8 text file under a temporary name; when the block has ended, it takes the place of `path`.

    No symbolic link is followed. Bytes of file names that are not UTF-8 are written as \\udcXX.

    Raises:
        InputError: it cannot be written there, or what lies there is a symbolic link, a device or a pipe.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            kind = "a symbolic link" if path.is_symlink() else "not a regular file"
            raise InputError(f"{path}: {kind}, which is not replaced", "Choose another --out.")
        partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            with partial.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
                yield file
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}", "Choose another --out.") from None


def this_process() -> str:
    """The name of this process among those of all machines that may share a folder: `HOST-ID`."""
    return f"{socket.gethostname()}-{os.getpid()}"


def has_ended(process: str) -> bool:
    """Whether the process of that name (see `this_process`) has ended; False where that cannot be known from here."""
    host, _, number = process.rpartition("-")
    try:
        if host == socket.gethostname():
            os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        return False
    return False
