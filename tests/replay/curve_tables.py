"""Tables of learning curves, from which searches are replayed.

A table is a `.jsonl` of `record_curves.py` beside the space that it was drawn from, or a `.npz` of the kind in
`shared/data/learning_curves`: `keys` (K,), `hyperparameters` (N, K), positive and drawn on a logarithmic scale, and
`validation_loss` (N, 1 + epochs), the first moment before training, not finite from where a run diverged.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from search_spaces.distributions import Float, Variable
from search_spaces.reader import parse_space
from search_spaces.settings import Settings
from search_spaces.space import Space
from trainables.errors import InputError

CURVES = Path(__file__).parents[1] / "assets" / "curves"
DIGITS = CURVES / "digits.jsonl"
PLAIN = ("base", "vary", "epochs")  # keys of a space that say nothing about how to search it
LARGEST_SUBSET = 200
SUBSET_SHARE = 2 / 3  # of a table's configurations: enough of them to differ, few enough for subsets to differ
BETAS = ("beta1", "beta2")  # Adam's, for which 1 - beta is what is drawn on a logarithmic scale


@dataclass(frozen=True)
class Curve:
    """One recorded training.

    Attributes:
        number: index of the configuration in its table.
        values: the configuration, by key of the space.
        epochs: metrics of each epoch, `val_cer` and `cpu_seconds` (the cost) among them; fewer than a full trial's if
            the training diverged.
    """

    number: int
    values: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]

    @cached_property
    def best(self) -> float:
        return min((row["val_cer"] for row in self.epochs), default=math.inf)


@dataclass(frozen=True)
class Table:
    """Learning curves of configurations drawn at random from a space.

    Attributes:
        space: the space, with the settings of one that says nothing but how many epochs and trials there are.
    """

    name: str
    space: Space
    curves: Sequence[Curve]

    @property
    def epochs(self) -> int:
        return self.space.settings.epochs

    @cached_property
    def best(self) -> float:
        return min(curve.best for curve in self.curves)

    @property
    def seconds(self) -> float:
        """Cost of training every configuration to its end."""
        return float(sum(row["cpu_seconds"] for curve in self.curves for row in curve.epochs))

    @property
    def epoch_seconds(self) -> float:
        """Mean cost of an epoch."""
        return self.seconds / sum(len(curve.epochs) for curve in self.curves)

    def without_best(self) -> Table:
        """The table without its best configuration, so that another one has to be found."""
        left = [curve for curve in self.curves if curve.best > self.best]
        return replace(self, name=f"{self.name} without its best", curves=left)

    def subset(self, seed: int, size: int | None = None) -> Table:
        """Configurations drawn at random, in the order in which they were drawn: the trials of one sweep.

        Args:
            size: number of configurations; default: two thirds of the table, at most 200.
        """
        size = size or min(LARGEST_SUBSET, int(SUBSET_SHARE * len(self.curves)))
        drawn = random.Random(f"subset {seed}").sample(self.curves, min(size, len(self.curves)))
        settings = self.space.settings.model_copy(update={"trials": len(drawn)})
        return replace(self, space=replace(self.space, settings=settings), curves=drawn)


def read_table(path: Path, epoch_seconds: float | None = None) -> Table:
    """Reads a table of either kind.

    Args:
        epoch_seconds: cost of an epoch in a `.npz`, which has none; default: the mean of the recorded digits, so that
            a start takes as large a share of a trial as it does in a small sweep of recognisers.

    Raises:
        InputError: the file is missing, or not a table.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table", "Give a .jsonl beside its .yaml, or a .npz.")
    try:
        if path.suffix == ".npz":
            return _of_arrays(path, read_table(DIGITS).epoch_seconds if epoch_seconds is None else epoch_seconds)
        return _of_lines(path)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not a table of learning curves: {error}", f"See {Path(__file__).name}.") from None


def _of_lines(path: Path) -> Table:
    """A table of `record_curves.py`; what its space says about the search is left out."""
    space_path = path.with_suffix(".yaml")
    if not space_path.is_file():
        raise InputError(f"{space_path}: no such space", f"Keep the space of {path.name} beside it.")
    tree = yaml.safe_load(space_path.read_text(encoding="utf-8"))
    space = parse_space(yaml.safe_dump({key: tree[key] for key in PLAIN if key in tree}), str(space_path))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["number"])
    return Table(path.stem, space, [Curve(line["number"], line["values"], line["curve"]) for line in lines])


def _of_arrays(path: Path, epoch_seconds: float) -> Table:
    """A table of losses, which stand for CERs as they are: a map to CERs chosen here could favour our thresholds."""
    with np.load(path, allow_pickle=False) as arrays:
        keys, values_NK = [str(key) for key in arrays["keys"]], np.array(arrays["hyperparameters"], float)
        losses_NE = np.array(arrays["validation_loss"], float)[:, 1:]
    for column, key in enumerate(keys):
        if key in BETAS:
            values_NK[:, column] = 1 - values_NK[:, column]
    if (values_NK <= 0).any() or losses_NE.shape[0] != values_NK.shape[0] or len(keys) != values_NK.shape[1]:
        raise ValueError("hyperparameters must be positive, with a row for each curve and a column for each key")
    ends = [(float(column.min()), float(column.max())) for column in values_NK.T]
    vary = {key: Variable(Float(*end, log=True)) for key, end in zip(keys, ends, strict=True) if end[0] < end[1]}
    curves = []
    for number, (row_K, loss_E) in enumerate(zip(values_NK.tolist(), losses_NE, strict=True)):
        finite = np.isfinite(loss_E)
        length = len(finite) if finite.all() else int(finite.argmin())
        epochs = [
            {"epoch": epoch, "val_cer": float(loss), "cpu_seconds": epoch_seconds}
            for epoch, loss in enumerate(loss_E[:length], start=1)
        ]
        curves.append(Curve(number, {key: row_K[keys.index(key)] for key in vary}, epochs))
    base = {"optimizer.warmup": 0.0}  # these trainings had none
    space = Space(str(path), "", base, vary, None, (), Settings(epochs=losses_NE.shape[1]))
    return Table(path.stem, space, curves)
