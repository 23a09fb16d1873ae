"""Which configuration of a table answers a proposal."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from curve_tables import Curve, Table
from sklearn.ensemble import RandomForestRegressor

from search_spaces.distributions import Choice, Float
from search_spaces.space import Space


class Answers:
    """Finds the configuration of a table that is nearest to a proposal, of those that have not been tried.

    Every policy gets its trials this way, random search included: some configurations are nearest to more proposals
    than others (hubness; Radovanovic et al., 2010, JMLR 11), so that a draw from the table would not be comparable. All
    that have not been tried can answer. With a choice among a handful drawn by chance, a sampler that knows where the
    best are meets them nearly as late as one that does not.

    Keys count alike: 1 where choices differ or one side lacks the key, else the share of the range between the values.
    """

    def __init__(self, table: Table) -> None:
        self.space = table.space
        self.codes = {curve.number: code(self.space, curve.values) for curve in table.curves}

    def __call__(self, left: Sequence[Curve], values: Mapping[str, Any]) -> Curve:
        """The configuration among `left` that answers a proposal."""
        codes_ND = np.array([self.codes[curve.number] for curve in left])
        distances_N = np.abs(codes_ND - code(self.space, values)).sum(axis=1)
        return left[int(distances_N.argmin())]


class Forest(Answers):
    """Answers every proposal exactly as it is, with the curve that a random forest predicts for it.

    Nothing is rounded to a configuration of the table, but curves are averages: smoother than recorded ones, without
    divergence, and the best are less good. So it is a second opinion on samplers, and not on stopping.

    Attributes:
        table: the table with predicted curves, whose best is what there is to find.
    """

    def __init__(self, table: Table, trees: int = 50) -> None:
        super().__init__(table)
        cers_NE = np.full((len(table.curves), table.epochs), np.nan)
        for row_E, curve in zip(cers_NE, table.curves, strict=True):
            row_E[: len(curve.epochs)] = [row["val_cer"] for row in curve.epochs]
        cers_NE = np.where(np.isnan(cers_NE), np.nanmax(cers_NE), cers_NE)  # diverged: as bad as the worst
        self.epoch_seconds = table.epoch_seconds
        self.forest = RandomForestRegressor(trees, random_state=0)
        self.forest.fit(np.array([self.codes[curve.number] for curve in table.curves]), np.log(cers_NE))
        self.table = replace(
            table,
            name=f"{table.name}, forest",
            curves=[self.predicted(curve, curve.values) for curve in table.curves],
        )

    def predicted(self, curve: Curve, values: Mapping[str, Any]) -> Curve:
        """`curve` with other values and the curve that is predicted for them."""
        code_1D = code(self.space, values)[None].astype(np.float32)
        log_cers_E = np.mean([tree.tree_.predict(code_1D)[0, :, 0] for tree in self.forest.estimators_], axis=0)
        epochs = [
            {"epoch": epoch, "val_cer": float(cer), "cpu_seconds": self.epoch_seconds}
            for epoch, cer in enumerate(np.exp(log_cers_E), start=1)
        ]
        return Curve(curve.number, dict(values), epochs)

    def __call__(self, left: Sequence[Curve], values: Mapping[str, Any]) -> Curve:
        return self.predicted(left[0], values)


def code(space: Space, values: Mapping[str, Any]) -> np.ndarray:
    """Coordinates (D,) in which the sum of absolute differences is the distance."""
    found: list[float] = []
    for key, variable in space.vary.items():
        how, value = variable.distribution, values.get(key)
        if isinstance(how, Choice):
            found += [0.5 * (value == choice) for choice in how.values] + [0.5 * (key not in values)]
            continue
        scale = math.log if isinstance(how, Float) and how.log else float
        low, high = scale(how.low), scale(how.high)
        found.append(-1.0 if value is None else (scale(value) - low) / (high - low))
    return np.array(found)


class RandomDraw:
    """Draws values at random, with the methods of an Optuna trial."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        return self.random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            return low + step * self.random.randint(0, round((high - low) / step))
        return math.exp(self.random.uniform(math.log(low), math.log(high))) if log else self.random.uniform(low, high)
