"""Counts the hours and the disk space that a sweep has spent, and compares them with its spending limits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.run_record import SPENT
from asr_platform.study.spending import GB, caps, device_seconds
from asr_platform.tuning.callbacks.retention import Retention
from search_spaces.settings import Limits


class Meter(Callback):
    """Adds the spending of this run of a sweep to that of its earlier runs.

    Wall-clock time counts while a driver runs. Device time is the training and validation time of the recorded epochs,
    times the workers of a trial. Disk space is measured after each epoch and each end of a trial.

    Args:
        workers: number of workers of a trial.
        retention: frees disk space before that limit counts as reached.

    Attributes:
        disk_bytes: last measured size of the sweep's folder; 0 without a limit.
    """

    def __init__(self, ledger: Ledger, limits: Limits, workers: int, retention: Retention) -> None:
        self.ledger, self.limits, self.workers, self.retention = ledger, limits, workers, retention
        self.before, self.start = float(ledger.about.get(SPENT, 0.0)), time.monotonic()
        self.device_seconds = sum(device_seconds(trial.curve, workers) for trial in ledger.trials())
        self.disk_bytes = 0.0

    def on_sweep_start(self, trials: list[TrialRecord]) -> None:
        self.measure()

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self.measure()

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.measure()

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts a recorded epoch."""
        self.device_seconds += device_seconds([row], self.workers)
        self.note()

    def note(self) -> None:
        """Records the wall-clock time in the ledger."""
        self.ledger.note(SPENT, self.wall_seconds)

    @property
    def wall_seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def reached(self) -> str:
        """The limit that is reached, in words; empty if none is."""
        found = caps(self.limits.model_dump(), self.wall_seconds, self.device_seconds, self.disk_bytes)
        return next((f"{cap} are spent" for cap in found if cap.most and cap.spent >= cap.most), "")

    def measure(self) -> None:
        """Measures the sweep's folder if its size is limited; above the limit, applies retention and measures again."""
        cap = self.limits.disk_gb
        if cap is None:
            return
        if self.retention.size >= cap * GB:
            self.retention.apply()
        self.disk_bytes = self.retention.size
