"""What trials' workers print, which lies in the trials' folders."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from asr_platform.storage.home import LOG

SECONDS_BETWEEN_LOOKS = 0.5
UTF8 = codecs.getreader("utf-8")  # a letter of which half is written is read once it is whole
TAIL = 8192  # bytes in which the last lines are looked for


def log_files(folder: Path) -> list[Path]:
    """The logs in a trial's folder, a worker each: `log.txt`, `log-1.txt` and so on."""
    stem, suffix = Path(LOG).stem, Path(LOG).suffix
    return sorted(folder.glob(f"{stem}*{suffix}"), key=lambda path: (len(path.name), path.name))


def last_lines(folder: Path, count: int) -> tuple[Path | None, list[str]]:
    """The log that was written last, and its last lines; None where there is none."""
    file = max(log_files(folder), key=lambda path: path.stat().st_mtime, default=None)
    if file is None:
        return None, []
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL))
        lines = opened.read().decode(errors="replace").splitlines()
    return file, [line for line in lines if line.strip()][-count:]


def printed(folder: Path, going_on: Callable[[], bool] = lambda: False) -> Iterator[str]:
    """All that a trial's workers have printed, and for as long as it goes on what they print next.

    Where there are several workers, a line says whose log follows.
    """
    opened: dict[Path, codecs.StreamReader] = {}
    current = None
    with ExitStack() as stack:
        more = True
        while more:
            more = going_on()  # asked before the files are read: what is printed last is not missed
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
                time.sleep(SECONDS_BETWEEN_LOOKS)
