"""Reads the files of importers: visible names, lines of UTF-8 text, and numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from trainables.errors import InputError


def visible(paths: Iterable[Path]) -> list[Path]:
    """Paths whose name does not begin with a dot, sorted.

    Archives made on macOS hold a file `._NAME` beside each NAME, with attributes and no content.
    """
    return sorted(path for path in paths if not path.name.startswith("."))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its end) of a UTF-8 text file; a byte order mark is dropped.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: unreadable: {error}", "Give a text file in UTF-8.") from None


def load_array(path: Path) -> npt.NDArray[Any]:
    """Array in a `.npy` file.

    Raises:
        InputError: the file is not a `.npy` array, holds Python objects, or ends before its header says.
    """
    try:
        with path.open("rb") as file:
            promised, there = _promised(file), path.stat().st_size - file.tell()
            if promised > there:
                raise InputError(
                    f"{path}: its header promises {promised:,} bytes, but {there:,} follow", "Copy the file again."
                )
            file.seek(0)
            array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path}: not readable as a .npy array: {error}", "Copy the file again.") from None
    return array


def _promised(file: BinaryIO) -> int:
    """Size in bytes of the array in a `.npy` file according to its header, which is read from `file`."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize if not dtype.hasobject else 0
