"""What a sweep has spent, over all of its runs, and whether that reaches a cap."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from asr_platform.study import Ledger
from asr_platform.thinning import Thinner, used
from search_spaces.settings import Limits

HOUR = 3600  # seconds
GB = 10**9  # bytes
SPENT = "wall_seconds"  # noted in the ledger with every epoch: a kill loses less than one
STOPPED = "stopped"  # the cap at which the latest run of the sweep ended; empty where it did not end at one


class Meter:
    """Counts one run of a sweep on top of those before it.

    Wall time counts while a driver runs. Device time is what trials took to train and validate the epochs on record,
    times their workers.

    Args:
        workers: of a trial.
        thinner: makes room on disk before that cap is said to be reached.
    """

    def __init__(self, ledger: Ledger, limits: Limits, workers: int, thinner: Thinner) -> None:
        self.ledger, self.limits, self.workers, self.thinner = ledger, limits, workers, thinner
        self.before, self.start = float(ledger.about.get(SPENT, 0.0)), time.monotonic()
        self.device_seconds = sum(self._seconds(row) for trial in ledger.trials() for row in trial.curve)

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts an epoch that has gone on record."""
        self.device_seconds += self._seconds(row)
        self.note()

    def note(self) -> None:
        """Writes the wall time down."""
        self.ledger.note(SPENT, self.wall_seconds)

    @property
    def wall_seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def reached(self) -> str:
        """The cap that has been reached, in words; empty where none has."""
        spent = [
            ("hours (--max-hours)", self.wall_seconds / HOUR, self.limits.hours),
            ("device-hours (--max-device-hours)", self.device_seconds / HOUR, self.limits.device_hours),
            ("GB on disk (--max-disk-gb)", self._disk(), self.limits.disk_gb),
        ]
        found = (f"{amount:.3g} of {cap:g} {name} are spent" for name, amount, cap in spent if cap and amount >= cap)
        return next(found, "")

    def _disk(self) -> float:
        """10^9 bytes of the sweep's folder, once what can go is gone; 0 where there is no cap: it takes a while."""
        cap = self.limits.disk_gb
        if cap is None:
            return 0.0
        size = used(self.thinner.folder)
        if size >= cap * GB:
            self.thinner.thin()
            size = used(self.thinner.folder)
        return size / GB

    def _seconds(self, row: Mapping[str, Any]) -> float:
        return self.workers * float(row["train_seconds"] + row["validation_seconds"])
