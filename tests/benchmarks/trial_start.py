"""Seconds and CPU time that a trial takes before it trains: new, promoted, and as a bare function of Ray Tune.

    python tests/benchmarks/trial_start.py [--trials 8]

A new trial is nested, as the platform runs it: Tune starts Ray Train. A promoted one is the same trial once more, which
goes on from its checkpoint. Trials run one after another, on the same Ray cluster. A start lasts from the end of the
trial before (of the first one: from the call of Tune) to the first report of its loop, both in the driver's callback.
CPU time is that of the driver and all processes below it, from the first trial to the end of the last one, divided by
the number of trials.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray.train
from ray import tune

from asr_platform.tuning.cluster import TRIAL_RESOURCES
from asr_platform.tuning.connection import connect
from asr_platform.tuning.interrupts import NotPickled
from asr_platform.tuning.trial import SweepTrial

SAMPLING_INTERVAL = 0.2  # seconds


def loop(settings: dict[str, Any]) -> None:
    """A training loop that has imported torch, loads its checkpoint, and reports at once with another one."""
    import torch

    if (latest := ray.train.get_checkpoint()) is not None:
        with latest.as_directory() as folder:
            torch.load(Path(folder) / "weights.pt")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(torch.zeros(1), Path(folder) / "weights.pt")
        ray.train.report({"began": latest is not None, "epoch": 1, "objective": 0.0}, ray.train.Checkpoint(folder))


class Nested(SweepTrial):
    """The loop as the platform runs it: Tune starts Ray Train."""

    loop = staticmethod(loop)


def bare(settings: dict[str, Any]) -> None:
    """A plain Tune function that has imported torch and reports at once."""
    import torch

    tune.report({"began": torch.is_grad_enabled()})


class Stopwatch(NotPickled, tune.Callback):
    """Seconds from the end of the trial before, or from the making of the stopwatch, to each trial's first result."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: list[float] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "began" in result:  # the last step of a nested trial reports nothing
            self.seconds.append(time.perf_counter() - self.began)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.began = time.perf_counter()


class ProcessorTime:
    """CPU seconds of this process and those below it within the block; a process is counted up to its last sample."""

    def __enter__(self) -> ProcessorTime:
        self.done, self.used = threading.Event(), dict[psutil.Process, float]()
        self._sample()
        self.before = sum(self.used.values())
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()
        self._sample()
        self.seconds = sum(self.used.values()) - self.before

    def _run(self) -> None:
        while not self.done.wait(SAMPLING_INTERVAL):
            self._sample()

    def _sample(self) -> None:
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                self.used[process] = times.user + times.system


def measure(function: Any, folder: str, trials: int) -> list[float]:
    """Starts of `trials` trials, one after another."""
    watch = Stopwatch()
    settings = {
        "folder": folder,
        "workers": 1,
        "checkpoints": 2,
        "threads": 1,
        "resources": {"CPU": 1},
        "nodes": None,
        "noticed": False,
    }
    tune.Tuner(
        tune.with_resources(function, tune.PlacementGroupFactory([TRIAL_RESOURCES])),
        param_space={**settings, "number": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(
            name="start",
            storage_path=folder,
            callbacks=[watch],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    return watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    trials = parser.parse_args().trials
    with connect(None), tempfile.TemporaryDirectory() as folder:
        for name, function in (("bare", bare), ("new", Nested), ("promoted", Nested)):
            with ProcessorTime() as used:
                seconds = measure(function, folder, trials)
            later = statistics.median(seconds[1:]) if len(seconds) > 1 else float("nan")
            print(
                f"{name:>8}: first {seconds[0]:.1f} s, later {later:.1f} s (median of {len(seconds) - 1}), "
                f"CPU {used.seconds / trials:.1f} s a trial"
            )


if __name__ == "__main__":
    main()
