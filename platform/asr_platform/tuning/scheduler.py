"""Asynchronous successive halving in the form that Ray Tune asks for; `study/halving.py` decides."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from asr_platform.study.halving import Rungs
from asr_platform.study.ledger import TrialRecord
from search_spaces.settings import Settings

METRICS = "metrics/"


class RungStopper(FIFOScheduler):
    """Stops trials at the rungs of a space.

    Args:
        recorded: the sweep's trials so far, whose values fill the rungs.

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
        # Tune gives schedulers, and nobody else, a flat copy of the report.
        row = {key.removeprefix(METRICS): value for key, value in result.items() if key.startswith(METRICS)}
        reason = self.rungs.verdict(number, row, warmup)
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped[number] = reason
        return TrialScheduler.STOP
