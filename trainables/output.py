"""Standard output and error: redirected to files, in any encoding, and safe from closed terminals."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

OUT, ERR = 1, 2  # standard output and error, as the system numbers them
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # a later write may succeed
ESCAPES = "asr_platform.escapes"  # name of the codec error handler


@contextmanager
def output_in(file: Path, streams: Sequence[int] = (OUT, ERR)) -> Iterator[None]:
    """Appends all output of this process to a file while the block runs, C libraries and crashes included.

    An exception's traceback goes there, too. If the file cannot be written, the output is not redirected.
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


def escape_unencodable() -> None:
    r"""Makes standard output and error print characters that their encoding lacks as \uXXXX, without an error.

    JSON writes such characters so, and therefore stays valid on a terminal of any encoding. A byte of a file name that
    is not UTF-8 is printed as \udcXX: b"caf\xe9.wav" as caf\udce9.wav. ASCII streams become UTF-8, as in Python's UTF-8
    mode under LANG=C.
    """
    codecs.register_error(ESCAPES, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors=ESCAPES)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


class LastingOutput:
    """A text stream to which writing never fails; all other attributes are those of `stream`.

    Text that cannot be written is dropped. Once the reader is gone (a closed terminal gives EIO, a closed pipe EPIPE),
    the stream's descriptor leads to /dev/null, so that no other write and no flush at exit fails.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in PASSING:
                with suppress(OSError, ValueError):  # the stream has no descriptor
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, self._stream.fileno())
                    os.close(nowhere)


def say(line: str) -> None:
    """Writes a line with the time to standard error."""
    write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def write(text: str) -> None:
    """Writes text to standard error, unbuffered; a full disk is ignored, since training can continue."""
    with suppress(OSError):
        os.write(ERR, text.encode(errors="replace"))


def _turn(streams: dict[int, int]) -> None:
    """Redirects each stream (key) to a file descriptor (value)."""
    for own in (sys.stdout, sys.stderr):
        with suppress(OSError):
            own.flush()
    for stream, descriptor in streams.items():
        os.dup2(descriptor, stream)
