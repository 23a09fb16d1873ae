"""One Tune trial: starts Ray Train on the training loop and returns its reports, one for each step that Tune asks for.

The idea: reports wait in the trial's own process, in a queue without a limit. The Train controller, which always runs
on the same machine as the process that started it, hands each report over through a local socket. So no report can be
left behind, however long the driver is busy: neither side ever waits for the other. (Ray's own TuneReportCallback
passes reports through queues of one place, and deadlocks if the last one is still there as the trial's function
returns; 2.60.)

What a trial costs to start is the imports of the processes that Ray starts for it. So a single worker, which has nobody
to exchange gradients with, gets Ray's plain trainer: importing `ray.train.torch` takes each of them seconds more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray.train
from ray import tune
from ray.train import UserCallback

from asr_platform.storage.home import LOG, TRIALS, trial_name
from asr_platform.tuning.mailbox import Mailbox, Report
from trainables.training.checkpoint_files import TRAINING
from trainables.worker import train_worker

Settings = dict[str, Any]
# Ray keeps the latest besides. The second best is what the ledger knows as the best for as long as a report of the best
# is on its way, which a stop or a kill can make for ever.
KEPT = 2
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of a run's checkpoints
HALF_SNAPSHOT = f"half-{SNAPSHOT}"
CONTROLLER_FAILURES = 3  # starts of a worker group that may fail before the trial does; Ray's default is no limit
END: Report = {"done": True}  # the step after the last report; Tune ends the trial at it


class SweepTrial(tune.Trainable):
    """A trial as Ray Tune runs it: each step is the next epoch's report, the last one `END`.

    Raises:
        Exception: in the step after the last report, what ended the Train run.
    """

    loop: Callable[[Settings], None] = staticmethod(train_worker)

    def __repr__(self) -> str:
        """The name of the class, which is the sweep's (see `execution.execute`): Ray's dashboard shows it."""
        return type(self).__name__

    def setup(self, config: Settings) -> None:
        self.reports: SimpleQueue[Report | BaseException] = SimpleQueue()
        self.mailbox = Mailbox(self.reports)
        Thread(target=self._train, args=[config], daemon=True).start()

    def step(self) -> Report:
        report = self.reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def cleanup(self) -> None:
        self.mailbox.close()

    def _train(self, settings: Settings) -> None:
        try:
            train(settings, type(self).loop, [self.mailbox.sender()])
            self.reports.put(END)
        except BaseException as error:  # the step raises it, which is how Tune hears of it
            self.reports.put(error)


def train(settings: Settings, loop: Callable[[Settings], None], callbacks: list[UserCallback]) -> None:
    """Trains one configuration with Ray Train workers.

    The Train run carries the sweep's and the trial's names, which is where its checkpoints are found again after an
    interruption, and how it and its workers are known on Ray's dashboard.

    Args:
        settings: `number` of the trial, `folder` of the sweep, `workers`, their `threads` and `resources`, and what
            the training loop needs (see `trainables.worker.train_worker`).
        loop: what each worker runs.
        callbacks: told of each report.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # without it the dashboard lists no Train runs (2.60)
    sweep = Path(settings["folder"])
    own = sweep / TRIALS / trial_name(settings["number"])
    lost = mended(own)
    trainer = trainer_class(settings["workers"])(
        loop,
        train_loop_config={**settings, "lost_checkpoint": lost, "log": str(own / LOG)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings["workers"],
            use_gpu="GPU" in settings["resources"],
            resources_per_worker=settings["resources"],
        ),
        run_config=ray.train.RunConfig(
            name=str(own.relative_to(sweep.parent)),
            storage_path=str(sweep.parent),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=KEPT, checkpoint_score_attribute="objective", checkpoint_score_order="min"
            ),
            callbacks=callbacks,
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # of each epoch, a kilobyte in the log
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=CONTROLLER_FAILURES),
        ),
    )
    trainer.fit()


def mended(folder: Path) -> str | None:
    """Makes a trial's folder fit to go on from, and returns the latest checkpoint if Ray Train has lost sight of it.

    Ray Train writes its list of checkpoints in place (2.60): a kill or a full disk at that moment leaves half a list,
    with which it would not start again. The checkpoints themselves are whole. Half a list is kept under another name,
    which tells that the checkpoints are still to be used if this run is killed before it has written a list.
    """
    snapshot = folder / SNAPSHOT
    try:
        json.loads(snapshot.read_text(encoding="utf-8"))
        return None
    except FileNotFoundError:
        if not (folder / HALF_SNAPSHOT).exists():
            return None
    except ValueError:
        snapshot.replace(folder / HALF_SNAPSHOT)
    whole = sorted(path.parent for path in folder.glob(f"checkpoint_*/{TRAINING}"))
    return str(whole[-1]) if whole else None


def trainer_class(workers: int) -> Any:
    """The trainer that sets up a process group where there is more than one worker."""
    if workers > 1:
        from ray.train.torch import TorchTrainer

        return TorchTrainer
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return DataParallelTrainer
