"""However long the driver is busy, every report of every trial arrives, and every trial ends."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import ray.cloudpickle
import ray.train
from ray import tune
from ray.tune.experiment import Trial
from ray.util.state import list_actors

from asr_platform.tuning.connection import connect
from asr_platform.tuning.interrupts import NotPickled
from asr_platform.tuning.trial import SweepTrial

EPOCHS = 3
STALL = 2.0  # seconds, in which a trial reports all of its epochs and its function returns


def loop(settings: dict[str, Any]) -> None:
    for epoch in range(1, EPOCHS + 1):
        ray.train.report({"epoch": epoch, "objective": 1.0, "metrics": {}})


class Quick(SweepTrial):
    loop = staticmethod(loop)


class Busy(NotPickled, tune.Callback):
    """Holds up Tune's event loop at every report."""

    def __init__(self, dashboard: str) -> None:
        self.dashboard = dashboard
        self.epochs: defaultdict[int, list[int]] = defaultdict(list)
        self.ended: list[int] = []
        self.names: set[tuple[str, str]] = set()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        time.sleep(STALL)
        self.names |= {(actor.class_name, actor.repr_name) for actor in list_actors(self.dashboard, detail=True)}
        if "metrics" in result:
            self.epochs[trial.config["number"]].append(result["epoch"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.ended.append(trial.config["number"])


def test_two_trials_end_together_while_the_driver_is_busy(tmp_path: Path) -> None:
    """Ray's own callback (2.60) loses the last report in a queue of one place, and its trial never ends."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes do not find this file
    settings = {
        "folder": str(tmp_path / "sweep"),
        "workers": 1,
        "checkpoints": 2,
        "resources": {"CPU": 0.4},
        "nodes": None,
        "noticed": False,
    }
    with connect(None) as cluster:
        busy = Busy(cluster.dashboard)
        tune.Tuner(
            Quick,
            param_space={**settings, "number": tune.grid_search([0, 1])},
            tune_config=tune.TuneConfig(max_concurrent_trials=2),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(tmp_path), callbacks=[busy], verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()  # fmt: skip
    assert dict(busy.epochs) == {0: [1, 2, 3], 1: [1, 2, 3]}
    assert sorted(busy.ended) == [0, 1]
    assert {("Quick", f"sweep/trial-000{number}") for number in (0, 1)} <= busy.names, "as Ray lists the actors"
