"""Folders and files that change as a whole: a reader finds the old content or the new, and never half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from trainables.errors import InputError


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Gives a fresh folder to write into; when the block has ended, that takes the place of `folder`.

    Where the block fails (a full disk, say), `folder` stays as it is and the remains are removed. Killed between the
    two renames at the end, the old content is still at `previous(folder)`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir()
        yield partial
        if folder.exists():
            # Only now: where a kill left nothing else, what lies there is the one whole copy.
            shutil.rmtree(previous(folder), ignore_errors=True)
            os.rename(folder, previous(folder))
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(previous(folder), ignore_errors=True)


def previous(folder: Path) -> Path:
    """Where the old content waits while the new takes its place."""
    return folder.with_name(f".{folder.name}.previous")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """A file under a temporary name, which takes the place of `path` when the block has ended.

    Raises:
        InputError: it cannot be written there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}", "Choose another --out.") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
