"""The parts of training that depend on the kind of model: its data, its losses, its validation.

Everything else (epochs, updates, schedules, stages, averages, checkpoints) is the same for all kinds: see loop.py.

Shapes: N items of the training split, B batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.config.tree import Config, Loss
from trainables.data.batch_plan import BatchPlan, PassBatch
from trainables.data.corpus import Corpus
from trainables.evaluation.examples import Examples
from trainables.inference.model_directory import TrainedModel


class BatchLoss(NamedTuple):
    """Loss of a worker's share of a batch.

    Attributes:
        loss: to be divided by the target tokens of the update; of all workers, it is the sum.
        sums: sums over the batch, in the order of `Task.SUMS`, detached.
    """

    loss: Tensor
    sums: Tensor


class Task(ABC):
    """A kind of model in training.

    Attributes:
        SUMS: names of the sums over batches from which the metrics of an epoch are computed.
        trained: the model with its tokenizer and configuration.
        lengths: (N,) of the training items, in frames or tokens, unperturbed.
        speed: speed perturbation of the items, `data.speed_perturbation`.
        budget: padded length that a batch of all workers may hold.
        batches_per_update: number of batches that make an update.
        pass_budget: padded length that a worker's share of a pass may hold; None: to be found from the GPU's memory.
        target_tokens: (N,) with EOS, by which an update's loss is divided.
        amounts: (N,) of data in the items, in seconds of audio or tokens.
        validation_plan: the batches of the validation split.
        pretrained: names of the parameters that were initialised with another model.
        pretrained_share: share of the parameters that were initialised with `pretrained.model`, a fraction.
        examples: examples of the latest validation, on the first worker; None if there are none.
    """

    SUMS: ClassVar[tuple[str, ...]]

    trained: TrainedModel
    lengths: np.ndarray
    speed: float = 0.0
    budget: float
    batches_per_update: int
    pass_budget: float | None
    target_tokens: np.ndarray
    amounts: np.ndarray
    validation_plan: BatchPlan
    pretrained: Set[str] = frozenset()
    pretrained_share: float = 0.0
    examples: Examples | None = None

    def __init__(self, config: Config, corpus: Corpus, device: torch.device) -> None:
        self.config, self.device = config, device

    def start_epoch(  # noqa: B027 (a task may need none)
        self, epoch: int, history: Sequence[Mapping[str, Any]]
    ) -> None:
        """Prepares an epoch: draws its random augmentation.

        Args:
            history: metrics of each finished epoch.
        """

    @abstractmethod
    def losses(self, model: nn.Module, config: Loss, batch: PassBatch) -> BatchLoss:
        """The loss of this worker's share of a batch."""

    @abstractmethod
    def training_metrics(self, sums: Mapping[str, float]) -> dict[str, Any]:
        """Metrics of an epoch's sums by their names in `SUMS`, among them `train_loss`."""

    @abstractmethod
    def progress(self, amounts: Sequence[float], seconds: float) -> dict[str, Any]:
        """Metrics of the data seen so far and of throughput.

        Args:
            amounts: the sum of `amounts` in each epoch so far.
            seconds: duration of the last epoch.
        """

    @abstractmethod
    def validate(self, epoch: int, rank: int, world: int, heed: Callable[[], None]) -> dict[str, Any]:
        """Metrics of the whole validation split, among them `val_loss`; the workers share its batches.

        Args:
            heed: called before batches, equally often on each worker (`shared`); may raise `Interrupted`.
        """


def shared(
    batches: Sequence[tuple[np.ndarray, int]], rank: int, world: int, heed: Callable[[], None]
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the batches of one of `world` workers; before each of its own, calls `heed`, equally often on each worker.

    After the last batch, nothing is left to interrupt: the epoch's checkpoint follows.
    """
    for start in range(0, len(batches), world):
        heed()
        yield from batches[start + rank : start + rank + 1]


def gathered(totals: torch.Tensor, found: list[Any], world: int) -> list[Any]:
    """Sums `totals` over all workers in place, and returns the items `found` by all workers."""
    if world == 1:
        return found
    dist.all_reduce(totals)
    shares: list[Any] = [None] * world
    dist.all_gather_object(shares, found)
    return [item for share in shares for item in share]
