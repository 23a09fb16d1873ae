"""The training loop: epochs, updates, validation, checkpoints.

`train` runs in a notebook, in a benchmark and in each Ray Train worker alike; it knows torch and nothing of its caller.
With torch.distributed initialised, all workers train on the same global batches. After each epoch it calls `report`.
On notice it ends between updates or in validation; a run that goes on from there gives an uninterrupted one's results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.config.tree import Config, Loss
from trainables.data.augmentation import drawn_lengths, generator, possible_lengths
from trainables.data.batch_plan import BatchPlan, PassBatch, placed
from trainables.data.corpus import Corpus
from trainables.data.device.placement import default_device
from trainables.errors import check_finite
from trainables.evaluation.metrics import objective
from trainables.inference.model_directory import TrainedModel
from trainables.output import say
from trainables.progress import Progress
from trainables.training.averaging import WeightAverages, single
from trainables.training.checkpoint import load_latest, save_checkpoint
from trainables.training.compilation import compile_layers, uncompiled, wants_compilation
from trainables.training.interruption import EpochState, Interrupted, Notice, Notices
from trainables.training.optimizer import added_to_gradients, build_optimizer, set_rate, synchronized
from trainables.training.resource_usage import ResourceUsage
from trainables.training.schedules import learning_rate
from trainables.training.stages import Phase, enter, phase_of, subset, trained_names
from trainables.training.tasks import TASKS, Task
from trainables.training.tasks.passes import fitting_budget, in_passes

Metrics = dict[str, Any]
Save = Callable[[Path], None]
Report = Callable[[Metrics, Save | None], None]

UPDATES_BETWEEN_CHECKS = 100  # reading whether the gradient is finite makes a GPU wait


def train(
    config: Config,
    corpus: Corpus,
    report: Report,
    *,
    checkpoint: Path | None = None,
    reported_epochs: int | None = None,
    until: int | None = None,
    device: torch.device | None = None,
    notice: Notice | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainedModel:
    """Trains to the configuration's last epoch and returns the model.

    Args:
        report: called on every worker after each epoch with the metrics and, on the first worker, a function that
            writes a checkpoint into a folder.
        checkpoint: folder of the checkpoint to resume from; if it is damaged, the latest whole one before is used.
        reported_epochs: number of epochs that the caller knows; later epochs of the checkpoint are reported again.
            None: all epochs of the checkpoint are known.
        until: epoch to stop after; resuming from its checkpoint gives the results of an uninterrupted run.
        device: default: this worker's GPU, or the CPU.
        notice: asked before epochs, after updates and before validation batches whether to end; of one worker or more.
        progress: called after each update.

    Raises:
        InputError: data, configuration and checkpoint do not fit together.
        DivergedError: the loss is no longer a finite number.
        Interrupted: `notice` was true.
    """
    trainer = Trainer(config, corpus, device or default_device(), notice)
    trainer.progress = progress or trainer.progress
    if checkpoint is not None:
        trainer.resume(checkpoint)
    trainer.fit(report, reported_epochs, until)
    return trainer.task.trained


class Trainer:
    """A training run: its state, and the steps that change it.

    Attributes:
        task: the model and its data.
        phases: settings of each epoch.
        plans: batch plan for each share of the training data (`Phase.data`), with all utterances at their own speed.
        history: metrics of each finished epoch.
        unfinished: state of the epoch after those of the history, until it is trained further or has been validated.
    """

    def __init__(self, config: Config, corpus: Corpus, device: torch.device, notice: Notice | None = None) -> None:
        self.config, self.device = config, device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # NCCL exchanges tensors on the current device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1

        self.task: Task = TASKS[config.model.kind](config, corpus, device)
        self.phases = [phase_of(config, epoch) for epoch in range(1, config.training.epochs + 1)]
        lengths, speed, seed = self.task.lengths, self.task.speed, config.training.seed
        shares = {share: subset(share, len(lengths), seed) for share in {phase.data for phase in self.phases}}
        self.plans = {
            share: BatchPlan(lengths, self.task.budget, seed, items, possible_lengths(lengths[items], speed))
            for share, items in shares.items()
        }
        self.amounts = {share: float(self.task.amounts[items].sum()) for share, items in shares.items()}

        names = [name for name, _ in self.model.named_parameters()]
        self.trained_names = {
            phase: trained_names(config, phase, names, self.task.pretrained) for phase in set(self.phases)
        }
        scales = dict.fromkeys(self.task.pretrained, config.pretrained.lr_scale)
        self.optimizer = build_optimizer(config.optimizer, self.model, scales)
        self.averages = WeightAverages(config.training, self.model)
        self.parallel: nn.Module = self.model
        self.compiled = False
        self.usage = ResourceUsage(device)
        self.history: list[Metrics] = []
        self.unfinished: EpochState | None = None
        self.notices = Notices(notice, self.world, device)
        self.progress: Callable[[Progress], None] = lambda progress: None

    @property
    def model(self) -> nn.Module:
        return self.task.trained.model

    def fit(self, report: Report, reported_epochs: int | None = None, until: int | None = None) -> None:
        """Trains from the first epoch that is not in `history`; see `train` for the arguments."""
        known = len(self.history) if reported_epochs is None else reported_epochs
        for row in self.history[known:]:
            report(row, None if self.unfinished or row is not self.history[-1] else self.saver())
        last = until or self.config.training.epochs
        if wants_compilation(self.config.training, self.device, last - len(self.history)):
            self.compile()
        for epoch in range(len(self.history) + 1, last + 1):
            if self.notices.given():
                raise Interrupted
            self.history.append(self.epoch(epoch))
            if epoch > known:
                report(self.history[-1], self.saver())
        self.averages.finish(len(self.history))

    def compile(self, backend: Any = "inductor") -> None:
        """Compiles the layers, which takes place in the first passes; `backend` is one of torch.compile."""
        compile_layers(self.model, backend)
        self.compiled = True

    def epoch(self, epoch: int) -> Metrics:
        """Trains through the training split once (epochs count from 1), validates, and returns all metrics."""
        torch.manual_seed(generator(self.config.training.seed, epoch, self.rank).initial_seed())
        phase = self.phases[epoch - 1]
        self.enter(phase)
        before = self.unfinished.seconds if self.unfinished else 0.0
        start, self.usage = time.perf_counter() - before, ResourceUsage(self.device)
        metrics = self.train_epoch(epoch)
        train_seconds = time.perf_counter() - start
        if self.task.pretrained_share:
            metrics["pretrained_share"] = self.task.pretrained_share
        metrics |= self.validate_averages(epoch)
        self.unfinished = None
        return {
            "epoch": epoch,
            **metrics,
            **self.task.progress([self.amounts[phase.data] for phase in self.phases[:epoch]], train_seconds),
            "padding_share": self.plan_of(epoch).padding_share(),
            "workers": self.world,
            "train_seconds": train_seconds,
            "validation_seconds": time.perf_counter() - start - train_seconds,
            **self.usage.metrics(),
        }

    def enter(self, phase: Phase) -> None:
        """Sets the model's dropout, active layers and frozen parameters for a phase; DDP is wrapped anew if needed."""
        changed = enter(phase, self.model, self.trained_names[phase])
        if changed:
            self.__dict__.pop("pass_budget", None)  # another model keeps other memory
        if self.world > 1 and (changed or self.parallel is self.model):
            self.parallel = self.model  # drops the old wrapper, with its hooks on the parameters, before the new one
            self.parallel = DistributedDataParallel(self.model)

    def train_epoch(self, epoch: int) -> Metrics:
        """Runs the updates that an epoch lacks and returns its training metrics; losses are means over tokens."""
        config, phase = self.config, self.phases[epoch - 1]
        first, total = sum(self.updates[: epoch - 1]), sum(self.updates)
        validation_losses = [row["val_loss"] for row in self.history]
        loss = config.loss.model_copy(update={"label_smoothing": phase.label_smoothing})
        self.parallel.train()
        self.task.start_epoch(epoch, self.history)
        done, seconds, sums, last = self.begin_updates(epoch)
        start, interrupted = time.perf_counter() - seconds, False
        for batches in islice(self.updates_of(epoch), done, None):
            done += 1
            rate = learning_rate(config.optimizer, first + done - 1, total, validation_losses)
            set_rate(self.optimizer, rate)
            if not self.fits(batches, loss, sums):
                self.unfinished = EpochState.gather(done - 1, time.perf_counter() - start, last, sums, self.world)
                return self.train_epoch(epoch)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.training.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.averages.update(first + done - 1)
            self.usage.sample()
            self.progress(Progress(epoch, done, self.updates[epoch - 1]))
            last = {"gradient_norm": norm, "learning_rate": rate}
            if done % UPDATES_BETWEEN_CHECKS == 0:
                check_finite("gradient norm", norm.item(), epoch)
            if interrupted := self.notices.given():
                break
        if self.notices.own:
            self.unfinished = EpochState.gather(done, time.perf_counter() - start, last, sums, self.world)
        if interrupted:
            raise Interrupted(done, self.saver())
        if self.world > 1:
            dist.all_reduce(sums)
        metrics = {
            **self.task.training_metrics(dict(zip(self.task.SUMS, sums.tolist(), strict=True))),
            "updates": first + self.updates[epoch - 1],
            **{name: float(value) for name, value in last.items()},
        }
        for name in ("train_loss", "gradient_norm"):
            check_finite(name, metrics[name], epoch)
        return metrics

    def begin_updates(self, epoch: int) -> tuple[int, float, Tensor, Metrics]:
        """Updates of an epoch so far, their seconds, this worker's sums over their batches, metrics of the last one."""
        state, self.unfinished = self.unfinished, None
        sums = torch.zeros(len(self.task.SUMS), device=self.device, dtype=torch.float64)
        if state is None:
            return 0, 0.0, sums, {}
        state.restore(sums, (self.config.training.seed, epoch), self.rank, self.world)
        return state.updates, state.seconds, sums, {**state.last}

    def plan_of(self, epoch: int) -> BatchPlan:
        """Batches of an epoch, whose utterances have the lengths of the speeds that are drawn for it."""
        plan, key = self.plans[self.phases[epoch - 1].data], (self.config.training.seed, epoch)
        if not self.task.speed:
            return plan
        return plan.at(drawn_lengths(self.task.lengths, self.task.speed, key))

    def updates_of(self, epoch: int) -> Iterator[list[PassBatch]]:
        """Yields the passes of each update of the epoch."""
        task, plan = self.task, self.plan_of(epoch)
        updates = in_passes(plan.epoch(epoch), task.batches_per_update, self.pass_budget, self.world)
        batches = iter(placed([*chain(*updates)], task.target_tokens, self.rank, self.world, self.device))
        for update in updates:
            yield list(islice(batches, len(update)))

    @cached_property
    def updates(self) -> list[int]:
        """Number of optimizer updates in each epoch."""
        epochs = range(1, len(self.phases) + 1)
        return [-(-self.plan_of(epoch).batches // self.task.batches_per_update) for epoch in epochs]

    @cached_property
    def pass_budget(self) -> float:
        """Padded length, in frames or tokens, that a worker's share of a pass may hold; needs a task in an epoch."""
        return self.task.pass_budget or fitting_budget(self.task, self.plan_of(1), self.world, self.optimizer)

    def fits(self, batches: list[PassBatch], loss: Loss, totals: Tensor) -> bool:
        """Accumulates the gradients of an update; false if memory is too small, and passes are halved from now on.

        Raises the error where the size of a pass is given or one utterance, or where other workers wait for this one.
        """
        sums = torch.zeros_like(totals)
        try:
            self.accumulate_gradients(batches, loss, sums)
        except torch.OutOfMemoryError:
            alone = all(len(batch.indices) == 1 for batch in batches)
            if self.config.training.pass_seconds != "auto" or alone or self.world > 1:
                raise
        else:
            totals += sums
            return True
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        self.pass_budget = max(len(batch.indices) * batch.edge for batch in batches) / 2
        say("the GPU's memory is too small for a pass: passes are half as large from now on")
        return False

    def accumulate_gradients(self, batches: list[PassBatch], loss_config: Loss, totals: Tensor) -> None:
        """Adds up the gradients of one update's mean loss per token.

        Args:
            batches: all passes of the update.
            totals: sums of the epoch in the order of `Task.SUMS`; this worker's sums are added.
        """
        tokens = sum(int(self.task.target_tokens[batch.indices].sum()) for batch in batches)
        for place, batch in enumerate(batches):
            with synchronized(self.parallel, place == len(batches) - 1):
                with uncompiled(self.compiled and len(batch.rows.indices) == 1):
                    loss, sums = self.task.losses(self.parallel, loss_config, batch)
                # DDP takes the mean over workers, the loss is a sum over them; and it adds up gradients itself.
                with added_to_gradients(() if self.world > 1 else list(self.model.parameters())):
                    loss.backward(torch.full_like(loss, self.world / tokens))
            totals += sums

    def validate_averages(self, epoch: int) -> Metrics:
        """Metrics of the averaged weights, or of the trained weights without averaging, on the validation split.

        After the last epoch of a run with `training.average`, the mean of the best epochs is validated; the objective
        of the last epoch itself is kept as `val_cer_single`.
        """
        with self.averages.applied():
            metrics = self.validate()
        value = metrics[name := objective(metrics)]
        if self.phases[epoch - 1].number is None:  # in a stage, layers may be missing
            self.averages.consider(epoch, value)
        if self.averages.ends_with_mean(epoch):
            with self.averages.applied(mean=True):
                metrics |= self.validate() | {single(name): value}
        return metrics

    def validate(self) -> Metrics:
        """Metrics of the model's current weights on the whole validation split; may raise `Interrupted`."""
        self.model.eval()
        epoch, notices = len(self.history) + 1, Notices(self.notices.own, self.world, self.device)

        def heed() -> None:
            if notices.given():
                raise Interrupted(self.unfinished.updates if self.unfinished else 0, self.saver())

        with uncompiled(self.compiled):
            metrics = self.task.validate(epoch, self.rank, self.world, heed)
        check_finite("validation loss", metrics["val_loss"], epoch)
        return metrics

    def saver(self) -> Save | None:
        """Function that writes a checkpoint of the current state into a folder; None on all workers but the first."""
        return self.save if self.rank == 0 else None

    def save(self, folder: Path) -> None:
        """Writes a checkpoint, whose model directory has the weights that were validated last."""
        with self.averages.applied(self.averages.ends_with_mean(len(self.history))) as trained:
            state = self.history, self.averages.tensors(trained), self.task.examples, self.unfinished
            save_checkpoint(folder, self.task.trained, self.optimizer, *state)

    def resume(self, folder: Path) -> None:
        """Restores the state from the checkpoint in `folder`; if it is damaged, from the latest whole one before."""
        latest = load_latest(folder, self.task.trained, self.optimizer)
        self.history, averages, self.task.examples, self.unfinished = latest
        self.averages.restore(averages, self.history)
