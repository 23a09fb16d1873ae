"""What a trial costs before it trains: nested (Tune starts Ray Train, as the platform does) against a bare function.

    python tests/benchmarks/trial_start.py [--trials 4]

Trials run one after another. A start is the time from Tune's decision to run a trial to the first report of its loop,
in the driver's callback. Both kinds run on the same Ray cluster, in one run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import ray.train
from ray import tune

from asr_platform.tuning.cluster import TRIAL_CPUS
from asr_platform.tuning.connection import connect
from asr_platform.tuning.interrupts import NotPickled
from asr_platform.tuning.trial import SweepTrial


def loop(settings: dict[str, Any]) -> None:
    """A training loop that has imported torch and reports at once."""
    import torch

    ray.train.report({"threads": torch.get_num_threads(), "objective": 0.0})


class Nested(SweepTrial):
    """The loop as the platform runs it: Tune starts Ray Train."""

    loop = staticmethod(loop)


def bare(settings: dict[str, Any]) -> None:
    """The same in a plain Tune function."""
    import torch

    tune.report({"threads": torch.get_num_threads()})


class Stopwatch(NotPickled, tune.Callback):
    """Seconds from each trial's start to its first result."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.seconds: list[float] = []

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.began[trial.trial_id] = time.perf_counter()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "threads" in result:  # the last step of a nested trial reports nothing
            self.seconds.append(time.perf_counter() - self.began[trial.trial_id])


def measure(function: Any, folder: str, trials: int) -> list[float]:
    """Starts of `trials` trials, one after another."""
    watch = Stopwatch()
    settings = {"folder": folder, "workers": 1, "checkpoints": 2, "threads": 1, "resources": {"CPU": 1 - TRIAL_CPUS}}
    tune.Tuner(
        tune.with_resources(function, {"CPU": TRIAL_CPUS}),
        param_space={**settings, "number": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="start", storage_path=folder, callbacks=[watch], verbose=0),
    ).fit()
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    trials = parser.parse_args().trials
    with connect(None):
        for name, function in (("bare", bare), ("nested", Nested)):
            with tempfile.TemporaryDirectory() as folder:
                seconds = measure(function, folder, trials)
            later = statistics.median(seconds[1:]) if len(seconds) > 1 else float("nan")
            print(f"{name:>7}: first {seconds[0]:.1f} s, later {later:.1f} s (median of {len(seconds) - 1})")


if __name__ == "__main__":
    main()
