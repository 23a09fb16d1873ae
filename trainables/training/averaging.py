"""Averages of weights: an exponential moving average over updates, and the mean of the best epochs' weights.

Validation and the saved model use the average; training continues from the weights without averaging.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config.tree import Training
from trainables.evaluation.metrics import objective, objective_value

Weights = dict[str, Tensor]
TRAINED, RUNNING, BEST = "trained.", "running.", "best."  # prefixes of tensor names in a checkpoint


class WeightAverages:
    """Averages of weights that a configuration asks for (`training.ema`, `training.average`), if any.

    Args:
        model: model in training; it holds the trained weights except in a block of `applied`.
    """

    def __init__(self, config: Training, model: nn.Module) -> None:
        self.decay, self.count, self.last_epoch = config.ema, config.average, config.epochs
        self.trained: dict[str, Tensor] = {
            name: tensor
            for name, tensor in (*model.named_parameters(), *model.named_buffers())  # such as BatchNorm's statistics
            if tensor.is_floating_point()
        }
        self.running = self._copy() if self.decay else {}
        self.best: dict[int, Weights] = {}  # by epoch; on the CPU, since there may be many
        self.scores: dict[int, float] = {}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Adds the weights after update `number`, counted from 0, to the moving average.

        The decay rises to its final value, as in TensorFlow's ExponentialMovingAverage, so that the average of a short
        run is not dominated by the initial weights.
        """
        if self.running:
            decay = min(self.decay, (1 + number) / (10 + number))
            torch._foreach_lerp_(list(self.running.values()), list(self.trained.values()), 1 - decay)

    def consider(self, epoch: int, score: float) -> None:
        """Keeps an epoch's validated weights if it is among the best `training.average`; a lower `score` is better."""
        if self.count == 1 or (len(self.best) == self.count and score > max(self.scores.values())):
            return
        weights = self.running or self.trained
        self.best[epoch] = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
        self.scores[epoch] = score
        ranking = sorted(self.best, key=lambda epoch: (self.scores[epoch], -epoch))
        for epoch in ranking[self.count :]:
            del self.best[epoch], self.scores[epoch]

    def ends_with_mean(self, epoch: int) -> bool:
        """Whether `epoch` is the last of the run, and the final weights are the mean of the best epochs."""
        return epoch >= self.last_epoch and bool(self.best)

    def averaged(self, mean: bool) -> Weights:
        """Averaged weights to validate and save; empty if the trained weights are to be used.

        Args:
            mean: whether to return the mean of the best epochs instead of the moving average.
        """
        if not mean:
            return self.running
        epochs = [self.best[epoch] for epoch in sorted(self.best)]
        return {name: torch.stack([weights[name] for weights in epochs]).mean(0) for name in self.trained}

    @contextlib.contextmanager
    def applied(self, mean: bool = False) -> Iterator[Weights]:
        """Puts the averaged weights into the model inside the block.

        Yields:
            A copy of the trained weights; empty if they stay in the model.
        """
        weights = self.averaged(mean)
        trained = self._copy() if weights else {}
        self._put(weights)
        try:
            yield trained
        finally:
            self._put(trained)

    def finish(self, epoch: int) -> None:
        """Puts the averaged weights into the model for good, after the last `epoch` of a run."""
        self._put(self.averaged(self.ends_with_mean(epoch)))

    def tensors(self, trained: Weights) -> Weights:
        """Tensors that a checkpoint needs beside its model directory, to restore the averages.

        Args:
            trained: trained weights if the model directory has averaged ones (yielded by `applied`); else empty.
        """
        parts = {TRAINED: trained, RUNNING: self.running}
        parts |= {f"{BEST}{epoch}.": weights for epoch, weights in self.best.items()}
        return {f"{part}{name}": weight for part, weights in parts.items() for name, weight in weights.items()}

    def restore(self, tensors: Mapping[str, Tensor], history: Sequence[Mapping[str, Any]]) -> None:
        """Restores the averages; the model must hold the weights of the checkpoint's model directory already.

        Args:
            tensors: tensors that `WeightAverages.tensors` returned for the checkpoint.
            history: metrics of each finished epoch.
        """
        self._put(_part(tensors, TRAINED))
        if self.decay:
            self.running = self._copy()
            self._put(_part(tensors, RUNNING), self.running)
        epochs = {int(key.split(".")[1]) for key in tensors if key.startswith(BEST)} if self.count > 1 else set()
        epochs = {epoch for epoch in epochs if epoch <= len(history)}  # another one was interrupted in its validation
        self.best = {epoch: _part(tensors, f"{BEST}{epoch}.") for epoch in epochs}
        rows = {epoch: history[epoch - 1] for epoch in epochs}
        self.scores = {epoch: row.get(single(objective(row)), objective_value(row)) for epoch, row in rows.items()}

    def _copy(self) -> Weights:
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor], place: Mapping[str, Tensor] | None = None) -> None:
        for name, weight in weights.items():
            (place or self.trained)[name].copy_(weight)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> Weights:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def single(name: str) -> str:
    """Key of a metric of the last epoch without averaging over epochs, such as `val_cer_single`."""
    return f"{name}_single"
