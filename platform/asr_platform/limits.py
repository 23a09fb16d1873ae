"""What a sweep has spent, over all of its runs, and whether that reaches a cap."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from asr_platform.following import Follower
from asr_platform.home import used
from asr_platform.run_on_record import SPENT
from asr_platform.study import Ledger, TrialRecord
from search_spaces.settings import Limits

if TYPE_CHECKING:
    from asr_platform.thinning import Thinner

HOUR = 3600  # seconds
GB = 10**9  # bytes


class Cap(NamedTuple):
    """What has been spent of something, and how much may be; None where there is no cap."""

    name: str
    spent: float
    most: float | None

    def __str__(self) -> str:
        return f"{self.spent:.3g} of {self.most:g} {self.name}"


def caps(limits: Limits, wall_seconds: float, device_seconds: float, disk_bytes: float) -> list[Cap]:
    """All that may be capped, with the options that do it."""
    return [
        Cap("hours (--max-hours)", wall_seconds / HOUR, limits.hours),
        Cap("device-hours (--max-device-hours)", device_seconds / HOUR, limits.device_hours),
        Cap("GB on disk (--max-disk-gb)", disk_bytes / GB, limits.disk_gb),
    ]


def device_seconds(rows: Iterable[Mapping[str, Any]], workers: int) -> float:
    """What epochs on record took all workers of their trial to train and to validate."""
    return workers * sum(float(row["train_seconds"] + row["validation_seconds"]) for row in rows)


class Meter:
    """Counts one run of a sweep on top of those before it.

    Wall time counts while a driver runs. Device time is what trials took to train and validate the epochs on record,
    times their workers.

    Args:
        workers: of a trial.
        thinner: makes room on disk before that cap is said to be reached.

    Attributes:
        disk_bytes: of the sweep's folder, when it was last measured; 0 where there is no cap.
    """

    def __init__(self, ledger: Ledger, limits: Limits, workers: int, thinner: Thinner) -> None:
        self.ledger, self.limits, self.workers, self.thinner = ledger, limits, workers, thinner
        self.before, self.start = float(ledger.about.get(SPENT, 0.0)), time.monotonic()
        self.device_seconds = device_seconds((row for trial in ledger.trials() for row in trial.curve), workers)
        self.disk_bytes = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts an epoch that has gone on record."""
        self.device_seconds += device_seconds([row], self.workers)
        self.note()

    def note(self) -> None:
        """Writes the wall time down."""
        self.ledger.note(SPENT, self.wall_seconds)

    @property
    def wall_seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def reached(self) -> str:
        """The cap that has been reached, in words; empty where none has."""
        found = caps(self.limits, self.wall_seconds, self.device_seconds, self.disk_bytes)
        return next((f"{cap} are spent" for cap in found if cap.most and cap.spent >= cap.most), "")

    def measure(self) -> None:
        """Measures the sweep's folder where there is a cap, once what can go is gone. That takes a while."""
        cap = self.limits.disk_gb
        if cap is None:
            return
        size = used(self.thinner.folder)
        if size >= cap * GB:
            self.thinner.thin()
            size = used(self.thinner.folder)
        self.disk_bytes = size


class DiskMeter(Follower):
    """Measures the disk whenever a trial has written to it or left it."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def progressed(self, trial: TrialRecord) -> None:
        self.meter.measure()

    def ended(self, trial: TrialRecord) -> None:
        self.meter.measure()
