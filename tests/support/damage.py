"""Ways in which a SQLite database is damaged: by a bad disk, a cut copy, a hand."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def another_header(path: Path) -> None:
    path.write_bytes(b"SQLite format 4\0" + path.read_bytes()[16:])


def half_of_it(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def nothing_left(path: Path) -> None:
    os.truncate(path, 0)


def another_file(path: Path) -> None:
    path.write_text("not a database\n" * 1000)


def a_page_of_noise(path: Path) -> None:
    """The last page that has anything on it."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    pages = [start for start in range(size, len(content), size) if any(content[start + size // 2 : start + size])]
    content[pages[-1] : pages[-1] + size] = random.Random(0).randbytes(size)
    path.write_bytes(content)


def gone(path: Path) -> None:
    path.unlink()


KINDS: tuple[Damage, ...] = (another_header, half_of_it, nothing_left, another_file, a_page_of_noise, gone)


def flip(path: Path, seed: int) -> None:
    """Turns over up to eight bytes in a row, somewhere where there are any."""
    dice, content = random.Random(seed), bytearray(path.read_bytes())
    used = [place for place, byte in enumerate(content) if byte]
    start = dice.choice(used)
    for place in range(start, min(start + dice.randint(1, 8), len(content))):
        content[place] ^= dice.randint(1, 255)
    path.write_bytes(content)
