"""A trial as the ledger tells of it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, overload

from asr_platform.study.spending import epoch_seconds
from trainables.evaluation.metrics import objective_value

TrialStatus = Literal["running", "complete", "pruned", "failed"]
CHECKPOINT = "checkpoint"  # key of a path in an epoch's metrics
REMOVED = "model_removed"  # fact about a trial whose model was removed by checkpoint retention
PAUSED = "paused"  # fact about an unfinished trial: whether it is paused on request


class Curve(Sequence[dict[str, Any]]):
    """Metrics of a trial's epochs in order, read and decoded when used: of thousands of trials, most never are.

    Args:
        values: the objective of each epoch.
        read: returns the metrics of epochs in JSON.
        located: returns the absolute path for a recorded path of a checkpoint.
    """

    def __init__(
        self, values: Mapping[int, float], read: Callable[[Sequence[int]], list[str]], located: Callable[[str], str]
    ) -> None:
        self.epochs = sorted(values)
        self.values = [values[epoch] for epoch in self.epochs]
        self.read, self.located = read, located
        self._rows: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.epochs)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return self._decoded(self.epochs[index])
        epoch = self.epochs[index]
        if epoch not in self._rows:
            self._rows[epoch] = self._decoded([epoch])[0]
        return self._rows[epoch]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The metrics of all epochs; they are not kept, since of thousands of trials they would fill the memory."""
        return iter(self._decoded(self.epochs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))

    def _decoded(self, epochs: Sequence[int]) -> list[dict[str, Any]]:
        texts = zip(epochs, self.read(epochs), strict=True)
        return [self._rows.get(epoch) or self._row(text) for epoch, text in texts]

    def _row(self, text: str) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(text)
        if row.get(CHECKPOINT):
            row[CHECKPOINT] = self.located(row[CHECKPOINT])
        return row

    @cached_property
    def seconds(self) -> float:
        """Wall time in seconds of training and validation in all epochs."""
        return sum(map(epoch_seconds, map(json.loads, self.read(self.epochs))))

    @cached_property
    def best_place(self) -> int:
        """Place of the epoch with the lowest objective, of equal ones the last; there must be an epoch."""
        return _best_place(self.values)


@dataclass(frozen=True)
class TrialRecord:
    """A trial in the ledger.

    Args:
        number: number in the sweep, from 0.
        params: values of the searched keys, and the width that fills the budget.
        curve: metrics of each epoch in order; `checkpoint` is the path of the epoch's checkpoint.
        about: facts by key: `parameters`, `mlflow_run_id`, `model_removed`.
        reason: reason why the trial ended.
    """

    number: int
    state: TrialStatus
    params: dict[str, Any]
    curve: Sequence[dict[str, Any]]
    about: dict[str, Any]
    reason: str

    @property
    def best(self) -> dict[str, Any] | None:
        """Metrics of the best epoch (of equal ones the last, as in Ray Train); None before the first epoch."""
        return self.curve[self._best_place] if self.curve else None

    @cached_property
    def lowest(self) -> float:
        """The objective of the best epoch, by which trials are ranked; infinite before the first epoch."""
        return self._values[self._best_place] if self.curve else math.inf

    @property
    def recorded(self) -> Sequence[int]:
        """Numbers of the epochs in order."""
        return self.curve.epochs if isinstance(self.curve, Curve) else [row["epoch"] for row in self.curve]

    def since(self, epoch: int) -> tuple[Sequence[dict[str, Any]], dict[str, Any] | None]:
        """Metrics of the epochs from `epoch` on, and of the best one before them (None: there is none)."""
        place = self.recorded.index(epoch)
        return self.curve[place:], self.curve[_best_place(self._values[:place])] if place else None

    @property
    def best_first(self) -> Iterator[dict[str, Any]]:
        """Metrics of the epochs, those of the best epoch first (of equal ones the last)."""
        values = self._values
        return (self.curve[place] for place in sorted(range(len(values) - 1, -1, -1), key=values.__getitem__))

    @property
    def checkpoint(self) -> str | None:
        """Path of the best checkpoint that exists on disk; None if there is none."""
        return next((row[CHECKPOINT] for row in self.best_first if _exists(row[CHECKPOINT])), None)

    @property
    def model(self) -> str | None:
        """Path of the trial's model directory (its best checkpoint); None if there is none or it was removed."""
        return None if self.about.get(REMOVED) else self.checkpoint

    @property
    def epochs(self) -> int:
        return len(self.curve)

    @property
    def seconds(self) -> float:
        """Wall time in seconds of training and validation in all epochs."""
        return self.curve.seconds if isinstance(self.curve, Curve) else sum(map(epoch_seconds, self.curve))

    @property
    def paused(self) -> bool:
        """Whether the trial is unfinished, and is not trained until somebody asks for it."""
        return self.state == "running" and bool(self.about.get(PAUSED))

    def shown_state(self, trained: bool = True) -> str:
        """State for users: that in which the trial ended, or `paused`, `running` or `waiting`.

        Args:
            trained: whether a worker trains the trial now, if it is unfinished.
        """
        return "paused" if self.paused else "waiting" if self.state == "running" and not trained else self.state

    @property
    def _values(self) -> Sequence[float]:
        """The objective of each epoch."""
        return self.curve.values if isinstance(self.curve, Curve) else [objective_value(row) for row in self.curve]

    @property
    def _best_place(self) -> int:
        return self.curve.best_place if isinstance(self.curve, Curve) else _best_place(self._values)


def _best_place(values: Sequence[float]) -> int:
    return min(range(len(values) - 1, -1, -1), key=values.__getitem__)


def best_epoch(values: Mapping[int, float]) -> int | None:
    """The epoch with the lowest objective, of equal ones the last; None before the first epoch."""
    epochs = sorted(values)
    return epochs[_best_place([values[epoch] for epoch in epochs])] if epochs else None


def _exists(checkpoint: str | None) -> bool:
    """Whether a checkpoint exists; True for checkpoints on remote storage."""
    return checkpoint is not None and ("://" in checkpoint or os.path.isdir(checkpoint))
