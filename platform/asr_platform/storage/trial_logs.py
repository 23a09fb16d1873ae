"""Logs of trials' workers, in the trials' folders."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from asr_platform.storage.home import LOG

POLL_SECONDS = 0.5
UTF8 = codecs.getreader("utf-8")  # a character of several bytes is read once all are written
TAIL = 8192  # bytes from the end of a log in which last lines are searched


def log_files(folder: Path) -> list[Path]:
    """Logs in a trial's folder, one for each worker: `log.txt`, `log-1.txt` and so on."""
    stem, suffix = Path(LOG).stem, Path(LOG).suffix
    return sorted(folder.glob(f"{stem}*{suffix}"), key=lambda path: (len(path.name), path.name))


def last_lines(folder: Path, count: int) -> tuple[Path | None, list[str]]:
    """Path of a trial's most recently written log, and its last `count` lines; None and [] if there is no log."""
    file = max(log_files(folder), key=lambda path: path.stat().st_mtime, default=None)
    if file is None:
        return None, []
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL))
        lines = opened.read().decode(errors="replace").splitlines()
    return file, [line for line in lines if line.strip()][-count:]


def printed(folder: Path, going_on: Callable[[], bool] = lambda: False) -> Iterator[str]:
    """Yields the text of all logs in a trial's folder, and new text for as long as `going_on` returns true.

    With several workers, a line with the name of the log precedes its text.
    """
    opened: dict[Path, codecs.StreamReader] = {}
    current = None
    with ExitStack() as stack:
        more = True
        while more:
            more = going_on()  # asked before the files are read, so that no text is missed
            files = log_files(folder)
            for path in files:
                if path not in opened:
                    opened[path] = UTF8(stack.enter_context(path.open("rb")), "replace")
                text = opened[path].read()
                if text and path != current and len(files) > 1:
                    yield f"==> {path.name} <==\n"
                if text:
                    current = path
                    yield text
            if more:
                time.sleep(POLL_SECONDS)
