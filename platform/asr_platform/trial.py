"""One Tune trial: starts Ray Train on the training loop and passes its reports on."""

from __future__ import annotations

from typing import Any

import ray.train
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from trainables.worker import train_worker

Settings = dict[str, Any]


def run_trial(settings: Settings) -> None:
    """Trains one configuration with Ray Train workers.

    The Train run carries the trial's name, which is where its checkpoints are found again after an interruption. The
    latest and the best are kept.

    Args:
        settings: `number` of the trial, `folder` of the sweep, `workers`, their `threads` and `resources`, and what
            the training loop needs (see `trainables.worker.train_worker`).
    """
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings["workers"],
            use_gpu="GPU" in settings["resources"],
            resources_per_worker=settings["resources"],
        ),
        run_config=ray.train.RunConfig(
            name=trial_name(settings["number"]),
            storage_path=f"{settings['folder']}/trials",
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="val_cer", checkpoint_score_order="min"
            ),
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def trial_name(number: int) -> str:
    """The name of a trial's folder, run and row: `trial-0007`."""
    return f"trial-{number:04d}"
