"""Which configuration of a table answers a proposal."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from curve_tables import Curve, Table

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
