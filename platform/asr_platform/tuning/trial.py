"""One Tune trial: starts Ray Train on the training loop and returns its reports, one for each step that Tune asks for.

Reports wait in the trial's own process, in a queue without a limit (`mailbox.py`). So no report is lost, however long
the driver is busy. Ray's own TuneReportCallback (2.60) passes reports through queues of one place, and deadlocks if the
last one is still there when the trial's function returns.

The start of a trial costs mostly the imports of the processes that Ray starts for it, where they are not forked (see
`processes/`). So a single worker, which has no gradients to exchange, gets Ray's plain trainer: importing
`ray.train.torch` takes seconds more in each process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray
import ray.train
from ray import tune

from asr_platform.compat.environment import set_environment
from asr_platform.compat.ray import (
    CHECKPOINT_LIST,
    free_placement_group,
    group_teller,
    lean,
    single_worker_trainer,
)
from asr_platform.storage.home import LOG, TRIALS, trial_name
from asr_platform.tuning.cluster import TRIAL_RESOURCES
from asr_platform.tuning.mailbox import Mailbox, Report
from asr_platform.tuning.nodes.notices import watch
from trainables.storage.remote import Remote
from trainables.training.checkpoint_files import TRAINING
from trainables.worker import train_worker

Settings = dict[str, Any]
DAMAGED_LIST = f"half-{CHECKPOINT_LIST}"
CONTROLLER_FAILURES = 3  # starts of a worker group that may fail before the trial does; Ray's default is no limit
INTERRUPTED = "interrupted"  # key of the last step's report: whether the trial was interrupted on notice
END: Report = {"done": True}  # the step after the last report; Tune ends the trial at it


class SweepTrial(tune.Trainable):
    """A trial as Ray Tune runs it: each step returns the report of the next epoch, and the last step `END`.

    Raises:
        Exception: error that ended the Train run, raised in the step after the last report.
    """

    loop: Callable[[Settings], bool | None] = staticmethod(train_worker)

    def __repr__(self) -> str:
        """Sweep and trial, such as `digits-1/trial-0003`, by which Ray lists the trial's actor."""
        return f"{Path(self.config['folder']).name}/{trial_name(self.config['number'])}"

    @classmethod
    def default_resource_request(cls, config: Settings) -> tune.PlacementGroupFactory:
        """Resources of the trial's own process on a node that may be used; its workers ask for theirs."""
        nodes = {"bundle_label_selector": [config["nodes"]]} if config["nodes"] else {}
        return tune.PlacementGroupFactory([TRIAL_RESOURCES], **nodes)

    def setup(self, config: Settings) -> None:
        set_environment()  # of the trial's own process, for the processes that Ray Train starts from here
        self.reports: SimpleQueue[Report | BaseException] = SimpleQueue()
        self.mailbox = Mailbox(self.reports)
        Thread(target=self._train, args=[{**config, "run": self.trial_id}], daemon=True).start()

    def step(self) -> Report:
        report = self.reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def cleanup(self) -> None:
        """Frees what the workers have reserved, for the next trial: the controller, which would, ends with this one."""
        self.mailbox.close()
        if self.mailbox.group:
            free_placement_group(self.mailbox.group)

    def _train(self, settings: Settings) -> None:
        try:
            sender = self.mailbox.sender()
            interrupted = train(settings, type(self).loop, [sender, group_teller(sender.tell_group)])
            self.reports.put({**END, INTERRUPTED: interrupted})
        except BaseException as error:  # raised again by `step`
            self.reports.put(error)


def train(settings: Settings, loop: Callable[[Settings], bool | None], callbacks: list[Any]) -> bool:
    """Trains one configuration with Ray Train workers; returns whether they were interrupted on notice.

    The Train run is named after the sweep and the trial, by which Ray Train finds the checkpoints of an interrupted
    trial, and the dashboard shows the run.

    Args:
        settings: `number` of the trial, `folder` of the sweep, `storage` (the address of the checkpoints, or None),
            `workers`, their `threads` and `resources`, a label selector of the `nodes` that may be used (None: any),
            the number of best `checkpoints` to keep, whether notices are watched for (`noticed`) and the name of
            the `run` in them, and the settings of the training loop (see `trainables.worker.train_worker`).
        loop: the function that each worker runs.
        callbacks: Ray Train's, which it calls in its controller.
    """
    sweep = Path(settings["folder"])
    folder = sweep / TRIALS / trial_name(settings["number"])
    name = folder.relative_to(sweep.parent)
    storage = Remote(settings["storage"]) if settings.get("storage") else None
    lost = repair_checkpoint_list(Path(storage.path(f"sweeps/{name}")) if storage else folder)
    here = ray.get_runtime_context().get_node_id()
    trainer = trainer_class(settings["workers"])(
        loop,
        train_loop_config={
            **settings,
            "lost_checkpoint": lost,
            "log": str(folder / LOG),
            "watch": partial(watch, settings["run"], here) if settings["noticed"] else None,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings["workers"],
            use_gpu="GPU" in settings["resources"],
            resources_per_worker=settings["resources"],
            label_selector=settings["nodes"],
        ),
        run_config=ray.train.RunConfig(
            name=str(name),
            storage_path=storage.path("sweeps") if storage else str(sweep.parent),
            storage_filesystem=storage.filesystem if storage else None,
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=settings["checkpoints"],
                checkpoint_score_attribute="objective",
                checkpoint_score_order="min",
            ),
            callbacks=callbacks,
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # INFO is a kilobyte for each epoch
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=CONTROLLER_FAILURES),
        ),
    )
    return bool(trainer.fit().return_value)


def repair_checkpoint_list(folder: Path) -> str | None:
    """Renames a damaged list of checkpoints in a trial's folder; returns the latest checkpoint if there is no list.

    Ray Train (2.60) writes its list in place. A kill or a full disk at that moment leaves half a list, with which Ray
    Train cannot start. The damaged list is kept until Ray Train has written a new one; if this run is killed earlier,
    the next run returns the checkpoint again. S3 and GCS, whose paths are none of this machine, have no half files.
    """
    checkpoints = folder / CHECKPOINT_LIST
    try:
        json.loads(checkpoints.read_text(encoding="utf-8"))
        return None
    except FileNotFoundError:
        if not (folder / DAMAGED_LIST).exists():
            return None
    except ValueError:
        checkpoints.replace(folder / DAMAGED_LIST)
    whole = sorted(path.parent for path in folder.glob(f"checkpoint_*/{TRAINING}"))
    return str(whole[-1]) if whole else None


def trainer_class(workers: int) -> Any:
    """The Ray Train trainer for a number of workers; for more than one, it sets up a process group."""
    if workers > 1:
        from ray.train.torch import TorchTrainer

        return lean(TorchTrainer)
    return lean(single_worker_trainer())
