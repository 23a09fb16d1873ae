"""Ray Tune scheduler that prunes trials by asynchronous successive halving, and ends them on request.

The decisions are in `study/allocation/rungs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from asr_platform.study.allocation.rungs import Rungs
from asr_platform.study.ledger import TrialRecord
from asr_platform.tuning.interrupts import NotPickled
from search_spaces.settings import Settings

METRICS = "metrics/"


class RungStopper(NotPickled, FIFOScheduler):
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
        self.controller: Any = None  # Ray Tune's, once it has a trial
        for trial in recorded:
            for row in trial.curve:
                self.rungs.record(trial.number, row)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self.controller = tune_controller

    def end(self, trials: Sequence[Trial], number: int) -> None:
        """Ends a trial for Ray Tune, as complete, if it is in training; its workers are ended within seconds.

        Must be called between two events of Ray Tune's loop.

        Args:
            trials: Ray Tune's trials.
            number: number of the trial in the ledger.
        """
        for trial in trials:
            if trial.config["number"] == number and not trial.is_finished():
                self.controller.stop_trial(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, warmup = trial.config["number"], trial.config["config"].optimizer.warmup
        # Tune passes a flattened copy of the report to schedulers.
        row = {key.removeprefix(METRICS): value for key, value in result.items() if key.startswith(METRICS)}
        reason = self.rungs.verdict(number, row, warmup)
        if reason is None:
            return TrialScheduler.CONTINUE
        self.stopped[number] = reason
        return TrialScheduler.STOP
