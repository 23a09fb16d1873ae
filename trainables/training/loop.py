"""The training loop: epochs, updates, validation, checkpoints. Knows torch, and nothing of who started it.

`train` is called in a notebook, in a benchmark or in each Ray Train worker alike. Where torch.distributed is up, it
trains with all workers on the same global batches; else alone. What it finds it hands to `report` after each epoch.

Shapes: B batch, T frames, S subsampled frames, U tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainables.config import Config
from trainables.data.augmentation import generator
from trainables.data.batching import BatchPlan, worker_share
from trainables.data.corpus import Corpus
from trainables.errors import DivergedError
from trainables.evaluation.examples import Examples
from trainables.evaluation.metrics import objective
from trainables.inference.model_directory import TrainedModel
from trainables.models.losses import LossSums
from trainables.training.averaging import WeightAverages, single
from trainables.training.checkpoint import load_averages, resume, save_checkpoint
from trainables.training.optimizer import build_optimizer
from trainables.training.readings import Readings
from trainables.training.schedules import learning_rate
from trainables.training.stages import Phase, enter, members, phase_of, trained_names
from trainables.training.tasks import TASKS, Task

Metrics = dict[str, Any]
Save = Callable[[Path], None]
Report = Callable[[Metrics, Save | None], None]

UPDATES_BETWEEN_CHECKS = 100  # asking whether the loss is finite makes a GPU wait


def train(
    config: Config,
    corpus: Corpus,
    report: Report,
    *,
    checkpoint: Path | None = None,
    reported_epochs: int | None = None,
    until: int | None = None,
    device: torch.device | None = None,
) -> TrainedModel:
    """Trains to the configuration's last epoch.

    Args:
        report: called on every worker after each epoch with the metrics and, on the first worker, a function that
            writes a checkpoint into a folder.
        checkpoint: go on from there; from the latest whole one before it where it is damaged.
        reported_epochs: how many epochs the caller has on record: later ones alone are reported, those of the
            checkpoint among them. None: as many as the checkpoint has.
        until: an earlier epoch to leave off at; going on from its checkpoint is as if it had never been left off.

    Raises:
        InputError: data, configuration and checkpoint do not fit together.
        DivergedError: the loss is no longer a finite number.
    """
    trainer = Trainer(config, corpus, device or default_device())
    if checkpoint is not None:
        trainer.resume(checkpoint)
    known = len(trainer.history) if reported_epochs is None else reported_epochs
    for row in trainer.history[known:]:
        report(row, trainer.saver() if row is trainer.history[-1] else None)
    while len(trainer.history) < (until or config.training.epochs):
        metrics = trainer.epoch(len(trainer.history) + 1)
        trainer.history.append(metrics)
        if len(trainer.history) > known:
            report(metrics, trainer.saver())
    trainer.averages.settle(len(trainer.history))
    return trainer.task.trained


def default_device() -> torch.device:
    """This worker's GPU, by the rank that launchers put into `LOCAL_RANK`, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


class Trainer:
    """The state of one training run, and its steps: an epoch of updates, a validation."""

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.config, self.device = config, device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL puts what it exchanges
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.task: Task = TASKS[config.model.kind](config, corpus, device)
        self.phases = [phase_of(config, epoch) for epoch in range(1, config.training.epochs + 1)]
        seed, items = config.training.seed, len(self.task.lengths)
        shares = {phase.data: members(phase.data, items, seed) for phase in self.phases}
        lengths, budget = self.task.lengths, self.task.budget
        self.plans = {share: BatchPlan(lengths, budget, seed, numbers) for share, numbers in shares.items()}
        self.amounts = {share: self.task.amount(numbers) for share, numbers in shares.items()}
        names = [name for name, _ in self.model.named_parameters()]
        self.trained = {phase: trained_names(config, phase, names, self.task.moved) for phase in set(self.phases)}
        scales = dict.fromkeys(self.task.moved, config.pretrained.lr_scale)
        self.optimizer = build_optimizer(config.optimizer, self.model, scales)
        self.averages = WeightAverages(config.training, self.model)
        self.parallel: nn.Module = self.model
        self.history: list[Metrics] = []
        self.readings = Readings(device)

    @property
    def model(self) -> nn.Module:
        return self.task.trained.model

    def saver(self) -> Save | None:
        """A function that writes this moment's checkpoint; None on all workers but the first."""
        if self.rank != 0:
            return None
        return self.save

    def save(self, folder: Path) -> None:
        """Writes a checkpoint, whose model directory holds the weights that were validated last."""
        with self.averages.applied(self.averages.averages_epochs(len(self.history))) as trained:
            averages = self.averages.tensors(trained)
            examples = self.task.examples
            save_checkpoint(folder, self.task.trained, self.optimizer, self.history, averages, examples)

    def resume(self, folder: Path) -> None:
        """Goes back to where a checkpoint was written, or the latest whole one before it."""
        found, self.history = resume(folder, self.task.trained, self.optimizer)
        self.averages.restore(load_averages(found), self.history)
        self.task.examples = Examples.load(found)

    def enter(self, phase: Phase) -> None:
        """Puts the model into a phase; DDP has to know which parameters take part."""
        changed = enter(phase, self.model, self.trained[phase])
        if self.world > 1 and (changed or self.parallel is self.model):
            self.parallel = self.model  # the former's hooks on the parameters end with it
            self.parallel = DistributedDataParallel(self.model)

    def epoch(self, epoch: int) -> Metrics:
        """Trains through the split once (epochs count from 1), validates, and returns the metrics of both."""
        torch.manual_seed(generator(self.config.training.seed, epoch, self.rank).initial_seed())
        phase = self.phases[epoch - 1]
        self.enter(phase)
        start, self.readings = time.perf_counter(), Readings(self.device)
        metrics = self.train_epoch(epoch)
        trained = time.perf_counter()
        with self.averages.applied():
            metrics |= self.validate()
        name = objective(metrics)
        if phase.stage is None:  # in a stage, layers may be missing
            self.averages.consider(epoch, metrics[name])
        if self.averages.averages_epochs(epoch):
            own = metrics[name]
            with self.averages.applied(mean=True):
                metrics |= self.validate() | {single(name): own}
        return {
            "epoch": epoch,
            **metrics,
            **self.task.progress([self.amounts[phase.data] for phase in self.phases[:epoch]], trained - start),
            "padding_share": self.plans[phase.data].padding_share(),
            "train_seconds": trained - start,
            "validation_seconds": time.perf_counter() - trained,
            **self.readings.metrics(),
        }

    def train_epoch(self, epoch: int) -> Metrics:
        """One pass of updates; losses are means over the epoch's tokens."""
        self.parallel.train()
        config, phase = self.config, self.phases[epoch - 1]
        loss_config = config.loss.model_copy(update={"label_smoothing": phase.label_smoothing})
        before, total = (sum(map(self.updates_in, phases)) for phases in (self.phases[: epoch - 1], self.phases))
        losses = [row["val_loss"] for row in self.history]
        self.task.begin(epoch)
        totals = torch.zeros(4, device=self.device, dtype=torch.float64)
        norm = torch.zeros((), device=self.device)
        for number, update in enumerate(self.updates_of(epoch)):
            rate = learning_rate(config.optimizer, before + number, total, losses)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            tokens = sum(self.task.tokens(indices) for indices, _ in update)
            for place, (indices, edge) in enumerate(update):
                share, weights = worker_share(indices, self.rank, self.world)
                with self.synchronize(place == len(update) - 1):
                    sums = self.task.losses(self.parallel, loss_config, share, edge, weights)
                    loss = sums.cross_entropy + config.loss.ctc_weight * sums.ctc
                    # DDP takes the mean over workers of what has to be a sum over them.
                    (loss * (self.world / tokens)).backward()
                totals += torch.stack([sums.cross_entropy, sums.ctc, sums.tokens, sums.infeasible]).detach()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.training.clip_norm)
            self.optimizer.step()
            self.averages.update(before + number)
            self.optimizer.zero_grad(set_to_none=True)
            self.readings.look()
            if (number + 1) % UPDATES_BETWEEN_CHECKS == 0:
                check_finite("gradient norm", norm.item(), epoch)
        if self.world > 1:
            dist.all_reduce(totals)
        sums = LossSums(*totals.cpu())
        metrics = {
            **self.task.training_metrics(sums),
            "updates": before + self.updates_in(phase),
            "gradient_norm": norm.item(),
            "learning_rate": rate,
        }
        for name in ("train_loss", "gradient_norm"):
            check_finite(name, metrics[name], epoch)
        return metrics

    def updates_of(self, epoch: int) -> Iterator[list[tuple[np.ndarray, int]]]:
        """The epoch's batches, in groups of as many as one update accumulates."""
        batches = self.plans[self.phases[epoch - 1].data].epoch(epoch)
        size = self.config.training.accumulation
        for start in range(0, len(batches), size):
            yield batches[start : start + size]

    def updates_in(self, phase: Phase) -> int:
        """Updates of one epoch of a phase."""
        return math.ceil(self.plans[phase.data].batches / self.config.training.accumulation)

    def validate(self) -> Metrics:
        """The task's figures over the whole validation split."""
        self.model.eval()
        metrics = self.task.validate(len(self.history) + 1, self.rank, self.world)
        check_finite("validation loss", metrics["val_loss"], len(self.history) + 1)
        return metrics

    def synchronize(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Workers exchange gradients at an update's last batch alone."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.parallel.no_sync()


def check_finite(name: str, value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"the {name} became {value} in epoch {epoch}: try a lower optimizer.lr, a longer optimizer.warmup "
            "or a smaller training.clip_norm"
        )
