"""What a process prints, in a file."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

OUT, ERR = 1, 2  # standard output and error, as the system numbers them


@contextmanager
def output_in(file: Path, streams: Sequence[int] = (OUT, ERR)) -> Iterator[None]:
    """All that this process writes meanwhile goes to the end of a file: what libraries in C say, too, and crashes.

    An exception leaves its traceback there. Where the file cannot be written, the output stays where it was.
    """
    kept = {stream: os.dup(stream) for stream in streams}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        _turn(dict.fromkeys(streams, opened))
        os.close(opened)
    try:
        yield
    except BaseException:
        write(traceback.format_exc())
        raise
    finally:
        _turn(kept)
        for descriptor in kept.values():
            os.close(descriptor)


def say(line: str) -> None:
    """A line with the time before it."""
    write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def write(text: str) -> None:
    """Text for standard error, at once and whole. A full disk is no reason to end a training."""
    with suppress(OSError):
        os.write(ERR, text.encode(errors="replace"))


def _turn(streams: dict[int, int]) -> None:
    """Lets each of these streams flow where its descriptor flows."""
    for own in (sys.stdout, sys.stderr):
        with suppress(OSError):
            own.flush()
    for stream, descriptor in streams.items():
        os.dup2(descriptor, stream)
