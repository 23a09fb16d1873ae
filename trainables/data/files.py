"""Reads what importers find in folders: names that are shown, text as UTF-8, and arrays of numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from trainables.errors import InputError


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths whose name does not begin with a dot, sorted.

    Archives made on macOS hold a file `._NAME` beside each NAME, with attributes and no content.
    """
    return sorted(path for path in paths if not path.name.startswith("."))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file in UTF-8, counted from 1, without their ends and without a byte order mark.

    Raises:
        InputError: it cannot be read, or is in another encoding.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: unreadable: {error}", "Give a text file in UTF-8.") from None


def load_array(path: Path) -> npt.NDArray[Any]:
    """The array in a `.npy` file.

    Raises:
        InputError: the file is something else, holds Python objects, or ends before its header says.
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
    """The bytes of the array behind the header of a `.npy` file, which is read."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize if not dtype.hasobject else 0
