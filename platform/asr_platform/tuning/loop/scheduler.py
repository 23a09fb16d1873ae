"""Ray Tune scheduler for asynchronous successive halving; the decisions are in `study/halving.py`."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from asr_platform.study.halving import Rungs
from asr_platform.study.ledger import TrialRecord
from search_spaces.settings import Settings

METRICS = "metrics/"


class RungStopper(FIFOScheduler):
    """Prunes trials at the rungs of a space.

    Args:
        recorded: trials of the sweep so far, whose values are added to the rungs.

    Attributes:
        stopped: the reason for each stop, by number of the trial.
    """

    def __init__(self, settings: Settings, recorded: list[TrialRecord]) -> None:
        super().__init__()
        self.rungs = Rungs(settings)
        self.stopped: dict[int, str] = {}
        for trial in recorded:
            for row in trial.curve:
                self.rungs.record(trial.number, row)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, warmup = trial.config["number"], trial.config["config"].optimizer.warmup
        # Tune passes a flattened copy of the report to schedulers.
        row = {key.removeprefix(METRICS): value for key, value in result.items() if key.startswith(METRICS)}
        reason = self.rungs.verdict(number, row, warmup)
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped[number] = reason
        return TrialScheduler.STOP
