"""Record of a sweep's latest run in its ledger, for other processes to read.

A killed driver cannot record its end: whether the run goes on is known by the sweep's lock (`Home.holder`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Literal

from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import Ledger, TrialRecord

# Keys of the ledger's notes.
RUN = "run"  # the latest run, as a tree
SPENT = "wall_seconds"  # wall time of all runs, updated after every epoch
STOPPED = "stopped"  # the cap at which the latest run ended; empty if it did not end at one
MLFLOW_VIEW = "mlflow_view"  # path of the view of the trials below the address of the MLflow server

RunState = Literal["running", "finished", "stopped", "capped", "paused", "failed"]


class RunRecord(Callback):
    """Records the beginning, the end and the state of a run, and which trials are being trained.

    Args:
        concurrency: number of trials that run at once.
        workers: number of workers of a trial.
        dashboard: address of Ray's dashboard.
        logs: folder of Ray's own logs.
    """

    def __init__(self, ledger: Ledger, concurrency: int, workers: int, dashboard: str, logs: str) -> None:
        self.ledger = ledger
        now = time.time()
        self.run: dict[str, Any] = {
            "state": "running",
            "reason": "",
            "process": os.getpid(),
            "began": now,
            "last_heartbeat": now,
            "trials": ledger.about["trials"],
            "training": [],
            "ending": False,
            "concurrency": concurrency,
            "workers": workers,
            "dashboard": dashboard,
            "ray_logs": logs,
        }
        self._note()

    def on_trial_start(self, trial: TrialRecord) -> None:
        self._note(training=[*self.run["training"], trial.number])

    def on_epoch_end(self, trial: TrialRecord) -> None:
        self._note(last_heartbeat=time.time())

    def on_worker_lost(self, trial: TrialRecord, reason: str, retried: bool) -> None:
        self.on_trial_paused(trial)

    def on_trial_moved(self, trial: TrialRecord, how: str) -> None:
        self.on_trial_paused(trial)

    def on_trial_paused(self, trial: TrialRecord) -> None:
        self._note(training=[number for number in self.run["training"] if number != trial.number])

    def on_trial_end(self, trial: TrialRecord) -> None:
        self.on_trial_paused(trial)

    def ask_for(self, trials: int) -> None:
        """Records another number of trials of the finished sweep."""
        self._note(trials=trials)

    def follow(self, concurrency: int) -> None:
        """Records how many trials run at once from now on."""
        self._note(concurrency=concurrency)

    def begin_end(self) -> None:
        """Records that the run trains no more trials and acts on no more requests."""
        self._note(ending=True)

    def end(self, state: RunState, reason: str = "") -> None:
        """Records how the run ended, and why in words."""
        self._note(state=state, reason=reason, last_heartbeat=time.time(), training=[])

    def _note(self, **changes: Any) -> None:
        self.run |= changes
        self.ledger.note(RUN, self.run)


def last_heartbeat(run: Mapping[str, Any]) -> float | None:
    """Time of a run's latest recorded epoch or of its end, in seconds since 1970; None if unknown."""
    return run.get("last_heartbeat", run.get("heard"))  # `heard`: its former name
