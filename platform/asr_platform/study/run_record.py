"""What is known of a sweep's latest run, in its ledger, for whoever looks on from another process.

Whether that run is still going on is not for the ledger to say: its driver may have been killed. The sweep's lock tells
(`Home.holder`).
"""

from __future__ import annotations

import os
import time
from typing import Any, Literal

from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import Ledger, TrialRecord

# What the ledger notes of a sweep's runs.
RUN = "run"  # the latest one
SPENT = "wall_seconds"  # of all of them, with every epoch: a kill loses less than one
STOPPED = "stopped"  # the cap at which the latest one ended; empty where it did not end at one

RunState = Literal["running", "finished", "stopped", "capped", "failed"]


class RunRecord(Callback):
    """Notes when the run began and ended and how, and which trials are being trained; each time in one write.

    Args:
        concurrency: trials at once.
        workers: of a trial.
        dashboard: the address of Ray's.
        logs: the folder of Ray's own logs.
    """

    def __init__(self, ledger: Ledger, concurrency: int, workers: int, dashboard: str, logs: str) -> None:
        self.ledger, self.concurrency = ledger, concurrency
        now = time.time()
        self.told: dict[str, Any] = {
            "state": "running",
            "reason": "",
            "process": os.getpid(),
            "began": now,
            "heard": now,  # when the latest epoch went on record, or when the run ended
            "trials": ledger.about["trials"],
            "training": [],
            "concurrency": concurrency,
            "workers": workers,
            "dashboard": dashboard,
            "ray_logs": logs,
        }
        self._note()

    def on_trial_start(self, trial: TrialRecord) -> None:
        self._note(training=[*self.told["training"], trial.number])

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self._note(heard=time.time())

    def on_worker_lost(self, trial: TrialRecord, reason: str, retried: bool) -> None:
        self.on_trial_paused(trial)

    def on_trial_paused(self, trial: TrialRecord) -> None:
        self._note(training=[number for number in self.told["training"] if number != trial.number])

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.on_trial_paused(trial)

    def end(self, state: RunState, reason: str = "") -> None:
        self._note(state=state, reason=reason, heard=time.time(), training=[])

    def _note(self, **changes: Any) -> None:
        self.told |= changes
        self.ledger.note(RUN, self.told)
