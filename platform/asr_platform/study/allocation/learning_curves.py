"""A model of a sweep's learning curves, and what it says a trial is worth.

The one idea: a free worker goes to what has the highest chance per second of becoming the best of the whole sweep, the
trials to come included. As in freeze-thaw optimisation (Swersky, Snoek and Adams, 2014, arXiv 1406.3896), trials wait
at several epochs, here called levels, and their curves are extrapolated from those of the trials that went on. The
chance per second is a Gittins index (Gittins, 1979, J. R. Stat. Soc. B 41): the highest ratio of chance to expected
cost among all rules for giving up on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

POINTS = 40  # of the grid of values at a level
RATES = 40  # of the grid of chances per unit of cost
HIGHEST_SHARE = 0.9  # worse values than those of this share of the trials count as equal: they can be without bound
LOWEST_SPREADS = 2.5  # from the lowest value at a level down to the end of its grid
SMALLEST_SPREAD = 0.01  # 1% of a value, since values are logarithms
SHRINKAGE = 0.3  # least spread at a level, as a share of that at the level before
UNSEEN_TRIALS = 3.0  # number of trials that the wide component of a transition counts as
UNSEEN_GAIN = 0.5  # spreads by which a value falls between two levels, where no trial has been seen to pass
UNSEEN_DEVIATION = 1.5  # spreads: standard deviation of the wide component
SLOPE_DEVIATION = 0.5  # of the slope of gain on value, before trials are seen
NEIGHBOURHOOD = 0.5  # spreads: standard deviation of the weights of trials whose values are near
SMOOTHING = 0.5  # standard deviation of a trial's own component, as a share of that of the residuals
NEW_SMOOTHING = 0.3  # spreads: the same for values of new trials at the first level
NOTHING = 1e-9  # chance of what has not been seen at all


class Grid(NamedTuple):
    """Values at a level, from the lowest to the highest, and the trials' spread there (standard deviation)."""

    lowest: float
    highest: float
    spread: float

    @property
    def values_G(self) -> np.ndarray:
        return np.linspace(self.lowest, self.highest, POINTS)

    @property
    def step(self) -> float:
        return (self.highest - self.lowest) / (POINTS - 1)


class CurveModel:
    """Predicts the values of trials at later levels.

    Args:
        curves: for each trial the logarithms of its lowest value so far, at the levels that it has reached (at least
            one), from the first on.
        levels: number of levels; the last one is the end of a trial.
        ended: indices of the trials that will not go on, such as those that diverged.
    """

    def __init__(self, curves: Sequence[Sequence[float]], levels: int, ended: Iterable[int] = ()) -> None:
        lengths_N, self.last_N = np.array([len(curve) for curve in curves]), np.array([curve[-1] for curve in curves])
        values_NL = np.full((len(curves), levels), np.nan)
        values_NL[np.arange(levels) < lengths_N[:, None]] = [*chain.from_iterable(curves)]
        self.first_N, self.goes_on_N = values_NL[:, 0], lengths_N < levels
        self.goes_on_N[list(ended)] = False
        self.grids: list[Grid] = []
        lowest = math.inf
        for level in range(levels):
            values = values_NL[lengths_N > level, level]
            lowest = float(values.min(initial=lowest))  # trials that have come less far may bring it along
            self.grids.append(_grid(values, lowest, self.grids[-1] if self.grids else None))
        self.values = [grid.values_G for grid in self.grids]
        self.at_level = [(at := np.flatnonzero(lengths_N == level + 1), self.last_N[at]) for level in range(levels)]
        self.transitions = []
        for level, (before, after) in enumerate(pairwise(self.grids)):
            pairs_N2 = values_NL[lengths_N > level + 1, level : level + 2]
            self.transitions.append(_transition(before, after, pairs_N2.tobytes()))

    def expected_finals(self) -> np.ndarray:
        """Expected value of each trial (N,) at the last level, if it goes on."""
        return self._of_trials(self._expected(self.values[-1]))

    def _expected(self, last: np.ndarray) -> list[np.ndarray]:
        """Expectations by level and value there, (POINTS, ...), of what a value at the last level is worth (`last`)."""
        found = [last]
        for chances_GG in reversed(self.transitions):
            found.insert(0, chances_GG @ found[0])
        return found

    def _of_trials(self, by_level: Sequence[np.ndarray]) -> np.ndarray:
        """Entries (N,) of `by_level`, of shape (POINTS,) at each level, for the trials' levels and values there."""
        found_N = np.empty(len(self.last_N))
        for (numbers, values), points_G, entries_G in zip(self.at_level, self.values, by_level, strict=True):
            if len(numbers):
                found_N[numbers] = np.interp(values, points_G, entries_G)
        return found_N

    def chances_per_cost(self, costs: Sequence[float], new: float, best: float) -> tuple[np.ndarray, float]:
        """Chance of ending below `best`, per unit of cost: of each trial (N,), and of a new one.

        Args:
            costs: cost of going on from each level but the last to the next one.
            new: cost of a new trial up to the first level.
        """
        success_G = self._success(best)
        rates_R = np.geomspace(1e-5, 1, RATES) * success_G.max() / new
        worth_RG, indices = np.broadcast_to(success_G, (RATES, POINTS)), [np.zeros(POINTS)]
        for chances_GG, cost in zip(reversed(self.transitions), reversed(costs), strict=True):
            gain_RG = worth_RG @ chances_GG.T - rates_R[:, None] * cost
            indices.insert(0, _break_even(gain_RG, rates_R))
            worth_RG = np.maximum(gain_RG, 0.0)
        gain_R = worth_RG @ self._first_values() - rates_R * new
        return self._of_trials(indices), float(_break_even(gain_R[:, None], rates_R)[0])

    def chances(self) -> np.ndarray:
        """Chance (N,) of each trial to beat the best so far, if it goes on to its end."""
        return self._of_trials(self._expected(self._success(self.best)))

    @cached_property
    def best(self) -> float:
        """The lowest value that any trial has reached, or is expected to reach if it may go on."""
        expected = self.expected_finals()[self.goes_on_N]
        return min(float(self.last_N.min()), float(expected.min(initial=math.inf)))

    def lowest_to_come(self, left: int) -> float:
        """Median of the lowest value at the end of all trials and of `left` new ones; at most the `best`.

        What is below it has about the chance of 1/2 to be the best of the sweep. A trial that beats the best so far by
        little is not worth as much, while others may still beat both. It is no lower than the last level's grid, which
        ends `LOWEST_SPREADS` below the lowest value seen.
        """
        below_GG = self._expected(np.tri(POINTS).T)  # chances to end at each value of the last level, or below it
        below_NG = np.stack([self._of_trials(columns) for columns in zip(*(one.T for one in below_GG), strict=True)], 1)
        below_G = self._first_values() @ below_GG[0]
        none_below_G = (1 - below_NG[self.goes_on_N]).prod(axis=0) * (1 - below_G) ** left
        return min(self.best, float(np.interp(-0.5, -none_below_G, self.values[-1])))

    def _success(self, best: float) -> np.ndarray:
        """Chance (POINTS,) that a value at the last level beats the `best`, between 0 and 1 near it."""
        return np.asarray(1 / (1 + np.exp(np.clip(2 * (self.values[-1] - best) / self.grids[-1].step, -50, 50))))

    def _first_values(self) -> np.ndarray:
        """Chances (POINTS,) of a new trial's values at the first level."""
        first = self.grids[0]
        values_N = np.minimum(self.first_N, first.highest)
        width = max(NEW_SMOOTHING * first.spread, 0.7 * first.step)
        chances_G = _bell(self.values[0] - values_N[:, None], width, 1.0).sum(axis=0)
        return np.asarray(chances_G / chances_G.sum())


@lru_cache(maxsize=256)  # an epoch of one trial changes few of them
def _transition(before: Grid, after: Grid, pairs: bytes) -> np.ndarray:
    """Chances (POINTS, POINTS) of the values at the next level, given each value at a level.

    Args:
        pairs: values (N, 2) at both levels of each trial that has reached the next one: the bytes, which can be hashed.
    """
    before_G, after_G, spread = before.values_G, after.values_G, before.spread
    pairs_N2 = np.frombuffer(pairs).reshape(-1, 2)
    x_N, y_N = np.minimum(pairs_N2[:, 0], before_G[-1]), np.minimum(pairs_N2[:, 1], after_G[-1])
    gain_N, wide = y_N - x_N, UNSEEN_DEVIATION * spread
    deviation, slope, expected_G = wide, 0.0, before_G - UNSEEN_GAIN * spread
    if pairs:
        centred_N = x_N - x_N.mean()
        slope = centred_N @ gain_N / (centred_N @ centred_N + (wide / SLOPE_DEVIATION) ** 2)
        residual_N = gain_N - gain_N.mean() - slope * centred_N
        squares = UNSEEN_TRIALS * wide**2 + residual_N @ residual_N
        deviation = math.sqrt(squares / (UNSEEN_TRIALS + len(pairs_N2)))
        expected_G = before_G + gain_N.mean() + slope * (before_G - x_N.mean())
    chances_GG = UNSEEN_TRIALS * _bell(after_G - expected_G[:, None], deviation, after.step)
    if pairs:
        distance_GN = before_G[:, None] - x_N
        weight_GN = _bell(distance_GN, NEIGHBOURHOOD * spread, NEIGHBOURHOOD * spread)
        own_GN = np.clip(y_N + (1 + slope) * distance_GN, after_G[0], after_G[-1])
        width = max(SMOOTHING * deviation, 0.7 * after.step)
        chances_GG += np.einsum("gn,gnf->gf", weight_GN, _bell(after_G - own_GN[..., None], width, after.step))
    chances_GG += NOTHING
    rises_GG = after_G > np.maximum(before_G[:, None], after_G[0]) + after.step  # the lowest value so far cannot
    chances_GG[rises_GG] = 0.0
    chances_GG /= chances_GG.sum(axis=1, keepdims=True)
    chances_GG.flags.writeable = False  # all who ask get the same one
    return chances_GG


def _grid(values: np.ndarray, lowest: float, before: Grid | None) -> Grid:
    """The grid of a level, from the trials' values there; of one that few have reached, from the level before.

    Args:
        lowest: lowest value at this level and those before.
    """
    if before is not None and len(values) < 3:
        low = min(before.lowest - before.spread, lowest - LOWEST_SPREADS * before.spread)
        return Grid(low, before.highest, before.spread)
    high = float(np.quantile(values, HIGHEST_SHARE)) + 1e-3
    least = SMALLEST_SPREAD if before is None else max(SHRINKAGE * before.spread, SMALLEST_SPREAD)
    spread = max(float(np.minimum(values, high).std()), least)
    high = max(high, float(values.min()) + spread)
    if before is not None and len(values) < 10:
        high = max(high, before.highest - before.spread)
    return Grid(lowest - LOWEST_SPREADS * spread, high, spread)


def _bell(distance: np.ndarray, deviation: float, scale: float) -> np.ndarray:
    """Normal densities, up to a factor that all densities have, times `scale`."""
    return np.asarray(np.exp(-0.5 * (distance / deviation) ** 2) * (scale / deviation))


def _break_even(gain_RG: np.ndarray, rates_R: np.ndarray) -> np.ndarray:
    """The rate (G,) at which a gain, which falls with the rate, becomes 0: between grid points on a log scale."""
    count_G = (gain_RG > 0).sum(axis=0)
    below_G = np.clip(count_G - 1, 0, len(rates_R) - 2)
    columns = np.arange(gain_RG.shape[1])
    at_G, next_G = gain_RG[below_G, columns], gain_RG[below_G + 1, columns]
    share_G = np.clip(at_G / np.maximum(at_G - next_G, 1e-300), 0, 1)
    step = rates_R[1] / rates_R[0]
    return np.asarray(np.where(count_G > 0, rates_R[below_G] * step**share_G, 0.0))
