"""How much of its present epoch a training has done: a small file beside its log, for whoever watches from outside."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROGRESS = "progress.json"
SECONDS_BETWEEN_WRITES = 1.0


class Progress(NamedTuple):
    """Updates that are done of those that the present epoch (counted from 1) has."""

    epoch: int
    done: int
    total: int

    @property
    def share(self) -> float:
        """Share of the epoch's updates that is done, from 0 to 1."""
        return self.done / self.total if self.total else 0.0


class ProgressFile:
    """Writes progress into a file, at an epoch's beginning and end, and between them every `SECONDS_BETWEEN_WRITES`.

    A file that is there is of a process that has ended, whose unfinished epoch may begin anew: it is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.epoch, self.written = path, 0, 0.0
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def __call__(self, progress: Progress) -> None:
        """Takes progress after each update; a file that cannot be written is not worth an error."""
        now, is_over = time.monotonic(), progress.done == progress.total
        if progress.epoch == self.epoch and not is_over and now - self.written < SECONDS_BETWEEN_WRITES:
            return
        self.epoch, self.written = progress.epoch, now
        with suppress(OSError):
            self.path.write_text(json.dumps(progress._asdict()), encoding="utf-8")


def read_progress(path: Path) -> Progress | None:
    """The progress in a file; None where there is no file, or it is being written at this moment."""
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
