"""ASHA on what trials are ranked by: Ray Tune's, with rungs that survive a restart and decisions with their reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from asr_platform.study import TrialRecord
from trainables.metrics import OBJECTIVES, objective_text, objective_value


@dataclass(frozen=True)
class _Known:
    """What a rung needs of a trial: a name that is the same in every run of the sweep."""

    trial_id: str


class RungStopper(ASHAScheduler):
    """Asynchronous successive halving (Li et al., 2020, arXiv 1810.05934).

    Args:
        grace, reduction: epochs before the first rung, and the factor between rungs.
        epochs: a trial's full length.
        recorded: the sweep's trials so far, whose values fill the rungs again.
    """

    def __init__(self, grace: int, reduction: float, epochs: int, recorded: list[TrialRecord]) -> None:
        super().__init__("epoch", "objective", "min", epochs, min(grace, epochs), reduction)
        self.stopped: dict[int, str] = {}
        for trial in recorded:
            for row in trial.curve:
                self._brackets[0].on_result(_Known(str(trial.number)), row["epoch"], -objective_value(row))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Stops the trial where it ranks too low at a rung, and notes at which rung and why in `stopped`."""
        epoch, number = result["epoch"], trial.config["number"]
        if epoch >= self._max_t:
            return TrialScheduler.CONTINUE  # the training ends by itself
        bracket, known = self._brackets[0], _Known(str(number))
        # The rung that decides: the highest one reached of those that do not know the trial yet. The highest is first.
        reached = (rung for rung in bracket._rungs if rung[0] <= epoch and known.trial_id not in rung[1])
        milestone, recorded = next(reached, (0, {}))
        cutoff = bracket.cutoff(recorded)
        key, value = result["ranked_by"], result["objective"]
        action = bracket.on_result(known, epoch, -value)
        if action == TrialScheduler.STOP:
            self.stopped[number] = (
                f"rung at epoch {milestone:g}: {OBJECTIVES[key]} {objective_text({key: value})} "
                f"against a cutoff of {objective_text({key: -cutoff})}"
            )
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing: every result has been through `on_trial_result`."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing: what a rung has recorded stays."""
