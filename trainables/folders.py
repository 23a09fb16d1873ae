"""Replaces folders and files as a whole: readers find the old content or the new, never a part."""

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

CACHE = "ASR_PLATFORM_CACHE"  # variable with the folder of `cached_corpus`


def cached_corpus(hash: str) -> Path:
    """Folder of this machine's copy of the corpus with a hash (storage/corpus_cache.py); it may be missing.

    Copies are in $ASR_PLATFORM_CACHE, by default ~/.cache/asr-platform.
    """
    root = os.environ.get(CACHE) or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "asr-platform")
    return Path(root).expanduser() / "corpora" / hash


def check_decodable(path: Path) -> None:
    """Raises InputError if a path is not valid UTF-8: Arrow and safetensors cannot open such paths."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: a path that is not UTF-8", "Rename it, or choose another.") from None


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Context manager with a new folder that replaces `folder` when the block ends.

    After an exception, `folder` is unchanged and the new folder is removed; the new folder of a killed process is
    removed by the next call. A kill between the two renames at the end leaves the old content at `previous(folder)`.
    """
    with UnfinishedFolder(folder) as unfinished:
        yield unfinished.path
        if folder.exists():
            # Removed last: after a kill, the previous content may be the only whole copy.
            shutil.rmtree(previous(folder), ignore_errors=True)
            os.rename(folder, previous(folder))
        unfinished.finish()
    shutil.rmtree(previous(folder), ignore_errors=True)


class UnfinishedFolder:
    """A new folder `.NAME.unfinished-...` beside the path `target`, which `finish` renames it to.

    Unfinished folders of killed processes are removed first. A lock on each folder tells whether a process still writes
    it; on file systems without such locks (NFS), unfinished folders are left.

    Args:
        target: path of the finished folder; its parent is created if needed.

    Raises:
        InputError: no folder can be created there, as in /proc.
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
            make_folder(self.path)  # under the final name, by which the next process finds it after a kill
            try:
                self._lock = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # another process has removed it as abandoned before it was locked
            with contextlib.suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():
                break
            os.close(self._lock)

    def finish(self) -> None:
        """Renames the folder to `target`."""
        os.rename(self.path, self.target)

    def close(self) -> None:
        """Removes the folder unless it is finished."""
        try:
            shutil.rmtree(self.path, ignore_errors=True)
        finally:
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _remove_abandoned(folder: Path) -> None:
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
    """Path of a folder's old content while `replaced` swaps it."""
    return folder.with_name(f".{folder.name}.previous")


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents.

    Raises:
        InputError: no folder can be created there, as in /proc.
        OSError: any other failure.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileNotFoundError as error:
        raise InputError(f"{folder.parent}: cannot hold a folder: {error.strerror}", "Choose another place.") from None


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """Context manager with a new UTF-8 text file that replaces `path` when the block ends without an exception.

    Undecodable bytes of file names are written as the escape \\udcXX.

    Raises:
        InputError: `path` cannot be written, or is a symbolic link, a folder, a device or a pipe.
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


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Context manager with the path of a new file that replaces `path` when the block ends without an exception.

    Processes that write it at once do not disturb each other.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def this_process() -> str:
    """Name of this process, `HOST-PID`, unique among the machines that share a folder."""
    return f"{socket.gethostname()}-{os.getpid()}"


def has_ended(process: str) -> bool:
    """Whether a process named by `this_process` has ended; False for another machine's process."""
    host, _, number = process.rpartition("-")
    try:
        if host == socket.gethostname():
            os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        pass
    return False
