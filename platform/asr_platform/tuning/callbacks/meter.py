"""Counts what a run of a sweep spends, and measures its disk, against the caps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from asr_platform.storage.home import used
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.run_record import SPENT
from asr_platform.study.spending import GB, caps, device_seconds
from asr_platform.tuning.callbacks.retention import Retention
from search_spaces.settings import Limits


class Meter:
    """Counts one run of a sweep on top of those before it.

    Wall time counts while a driver runs. Device time is what trials took to train and validate the epochs on record,
    times their workers.

    Args:
        workers: of a trial.
        retention: makes room on disk before that cap is said to be reached.

    Attributes:
        disk_bytes: of the sweep's folder, when it was last measured; 0 where there is no cap.
    """

    def __init__(self, ledger: Ledger, limits: Limits, workers: int, retention: Retention) -> None:
        self.ledger, self.limits, self.workers, self.retention = ledger, limits, workers, retention
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
        size = used(self.retention.folder)
        if size >= cap * GB:
            self.retention.apply()
            size = used(self.retention.folder)
        self.disk_bytes = size


class DiskMeter(Callback):
    """Measures the disk whenever a trial has written to it or left it."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self.meter.measure()

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.meter.measure()
