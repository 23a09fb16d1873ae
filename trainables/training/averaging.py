"""Averages of weights: a running one over updates, and the mean of the best epochs'.

What is validated and saved as the model may then differ from what is trained, which goes on as if there were no
average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import Training
from trainables.evaluation.metrics import objective, objective_value

Weights = dict[str, Tensor]
TRAINED, RUNNING, BEST = "trained", "running", "best"  # what a checkpoint's names begin with


class WeightAverages:
    """The averages that the configuration asks for; without any, the model is what is trained.

    Args:
        model: whose weights are the ones that are trained, except inside `applied`.
    """

    def __init__(self, config: Training, model: nn.Module) -> None:
        self.decay, self.count, self.last_epoch = config.ema, config.average, config.epochs
        self.trained: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.running = self._copy() if self.decay else {}
        self.best: dict[int, Weights] = {}  # by epoch; on the CPU, for these may be many
        self.scores: dict[int, float] = {}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Takes in the weights after update `number`, counted from 0.

        The decay rises to its final value, as TensorFlow's ExponentialMovingAverage has it: else a short run would end
        with an average of its initial weights.
        """
        if self.running:
            decay = min(self.decay, (1 + number) / (10 + number))
            torch._foreach_lerp_(list(self.running.values()), list(self.trained.values()), 1 - decay)

    def consider(self, epoch: int, score: float) -> None:
        """Keeps what was validated in an epoch, where it is among the best; `score`: lower is better."""
        if self.count == 1 or (len(self.best) == self.count and score > max(self.scores.values())):
            return
        weights = self.running or self.trained
        self.best[epoch] = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
        self.scores[epoch] = score
        ranking = sorted(self.best, key=lambda epoch: (self.scores[epoch], -epoch))
        for epoch in ranking[self.count :]:
            del self.best[epoch], self.scores[epoch]

    def averages_epochs(self, epoch: int) -> bool:
        """Whether the model of this epoch is the mean of the best ones."""
        return epoch >= self.last_epoch and bool(self.best)

    def validated(self, mean: bool) -> Weights:
        """The weights that stand for the model; empty where these are the ones that are trained.

        Args:
            mean: of the best epochs, in place of the running average.
        """
        if not mean:
            return self.running
        epochs = [self.best[epoch] for epoch in sorted(self.best)]
        return {name: torch.stack([weights[name] for weights in epochs]).mean(0) for name in self.trained}

    @contextlib.contextmanager
    def applied(self, mean: bool = False) -> Iterator[Weights]:
        """The model has the validated weights inside; gives those that are trained, where they differ."""
        weights = self.validated(mean)
        trained = self._copy() if weights else {}
        self._put(weights)
        try:
            yield trained
        finally:
            self._put(trained)

    def settle(self, epoch: int) -> None:
        """Ends training: the model keeps the validated weights."""
        self._put(self.validated(self.averages_epochs(epoch)))

    def tensors(self, trained: Weights) -> Weights:
        """What a checkpoint needs beside the model's directory; `trained` is what `applied` gives."""
        parts = {TRAINED: trained, RUNNING: self.running}
        parts |= {f"{BEST}.{epoch}": weights for epoch, weights in self.best.items()}
        return {f"{part}.{name}": weight for part, weights in parts.items() for name, weight in weights.items()}

    def restore(self, tensors: Mapping[str, Tensor], history: Sequence[Mapping[str, Any]]) -> None:
        """Takes back what `tensors` gave, after the model directory's weights were put into the model."""
        self.best, self.scores = {}, {}
        running: Weights = {}
        trained: Weights = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            if part == TRAINED:
                trained[name] = tensor
            elif part == RUNNING:
                running[name] = tensor
            elif self.count > 1:
                number, _, name = name.partition(".")
                self.best.setdefault(int(number), {})[name] = tensor
        self._put(trained)
        if self.decay:
            self.running = self._copy()
            self._put(running, self.running)
        for epoch in self.best:
            metrics = history[epoch - 1]
            self.scores[epoch] = metrics.get(single(objective(metrics)), objective_value(metrics))

    def _copy(self) -> Weights:
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor], place: Mapping[str, Tensor] | None = None) -> None:
        """Into the model, or another place."""
        for name, weight in weights.items():
            (place or self.trained)[name].copy_(weight)


def single(name: str) -> str:
    """The key of a metric of the last epoch's own weights, beside that of the average: `val_cer_single`."""
    return f"{name}_single"
