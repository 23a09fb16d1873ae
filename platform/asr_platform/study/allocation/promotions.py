"""Promotions: which waiting trial continues, and when a new one begins instead.

Trials wait at the epochs of `Settings.promotions`. What goes next is what has the highest chance per second of becoming
the best of the sweep (`learning_curves.py`), after the first few trials, which begin before any goes on. After a
restart, promotions are rebuilt from the recorded epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from asr_platform.study.allocation.learning_curves import CurveModel
from asr_platform.study.allocation.rungs import ranking_value
from search_spaces.settings import Settings

LOWEST_VALUE = 1e-4  # lower ones count as equal: the logarithm of a CER of 0 is infinite
NEGLIGIBLE = 0.01  # chance to beat the best, for the time of a full trial and its starts
# Reach the first epoch of promotion before any goes on, if as many are left: a few say little of what others reach.
FIRST_TRIALS = 8
START = 0.2  # epochs that a trial's start takes as long as, before any has been measured


class Promotions:
    """Decides which trials continue first, from their lowest values up to each epoch of promotion.

    Unlike pruned trials, waiting ones lose nothing but time.

    Args:
        start: time of a trial's start, as a multiple of an epoch's.

    Attributes:
        levels: the epochs of promotion, and the last epoch.
        curves: logarithm of the lowest value of each trial up to each of these, by number and epoch.
        waiting: number of epochs of each waiting trial, by number of the trial.
        given_up: chance to beat the best of each trial that `next` has given up; whoever ends the trial removes it.
        ended: numbers of the trials that ended before their last epoch, such as those that were pruned or diverged.
    """

    def __init__(self, settings: Settings, start: float = START) -> None:
        self.asha, self.start = settings.asha, start
        self.levels = [*settings.promotions, settings.epochs]
        self.lowest: dict[int, float] = {}
        self.epochs: dict[int, int] = {}  # number of epochs recorded of each trial
        self.curves: dict[int, dict[int, float]] = {}
        self.waiting: dict[int, int] = {}
        self.given_up: dict[int, float] = {}
        self.ended = frozenset[int]()
        self._known: tuple[CurveModel, frozenset[int]] | None = None  # the model of `curves` and `ended`

    def next_epoch(self, epochs: int) -> int | None:
        """Next epoch after which a trial with `epochs` epochs waits; None if there is no further one."""
        return next((level for level in self.levels[:-1] if level > epochs), None)

    def record(self, number: int, row: Mapping[str, Any]) -> None:
        """Adds the metrics `row` of an epoch of trial `number`; a trial's epochs must be added in order.

        Epochs that have been added are left as they were, so that a trial's whole record can be given again.
        """
        if row["epoch"] <= self.epochs.get(number, 0):
            return
        self.epochs[number] = row["epoch"]
        lowest = min(ranking_value(self.asha, row), self.lowest.get(number, math.inf))
        self.lowest[number] = lowest
        if row["epoch"] in self.levels:
            self.curves.setdefault(number, {})[row["epoch"]] = math.log(max(lowest, LOWEST_VALUE))
            self._known = None

    def wait(self, number: int, epochs: int) -> bool:
        """Marks a trial as waiting if `epochs` is an epoch of promotion; returns whether it waits."""
        if waits := epochs in self.levels[:-1]:
            self.waiting[number] = epochs
        return waits

    def next(self, begin: Callable[[], int | None], left: int) -> int | None:
        """Number of the trial that goes next, and waits no longer; None if there is none.

        Args:
            begin: begins a new trial and returns its number; None if no new trial is left. Then trials are given up.
            left: number of new trials that are left.
        """
        number = self.promoted(left)
        if number is None:
            number = begin()
        if number is None:
            self.given_up |= self.give_up()
            number = self.most_promising()
        if number is not None:
            self.waiting.pop(number, None)
        return number

    def promoted(self, left: int) -> int | None:
        """Number of the waiting trial with the highest chance per second, unless a new trial has a higher one.

        None as well while fewer than `FIRST_TRIALS` have reached the first epoch of promotion, and as many are left.

        Args:
            left: number of new trials that are left.
        """
        if len(self.curves) < FIRST_TRIALS <= left:
            return None
        number, is_ahead = self._ahead(left)
        return number if is_ahead else None

    def most_promising(self) -> int | None:
        """Number of the waiting trial with the highest chance per second, where no new trial is left.

        None if no trial waits.
        """
        number, _ = self._ahead(0)
        return number

    def _ahead(self, left: int) -> tuple[int | None, bool]:
        """Number of the waiting trial with the highest chance per second, and whether a new trial has none higher."""
        if not self.waiting:
            return None, False
        chances, new = self._chances_per_epoch(self._model()[1].lowest_to_come(left))
        number = max(chances, key=lambda one: chances[one])
        return number, chances[number][0] >= new

    def give_up(self) -> dict[int, float]:
        """Gives up the waiting trials whose chances are negligible: the chance to beat the best of each, by number."""
        if not self.waiting:
            return {}
        numbers, model = self._model()
        chances = dict(zip(numbers, model.chances().tolist(), strict=True))
        rates, _ = self._chances_per_epoch(model.best)
        full = self.start * len(self.levels) + self.levels[-1]  # epochs: a start at each level
        hopeless = [number for number, (rate, *_) in rates.items() if rate * full < NEGLIGIBLE]
        for number in hopeless:
            del self.waiting[number]
        return {number: chances[number] for number in hopeless}

    def _chances_per_epoch(self, best: float) -> tuple[dict[int, tuple[float, int, float]], float]:
        """Chance to end below `best`, per time of an epoch, of each waiting trial, and of a new one.

        Each comes with what decides between equal ones: the number of epochs, then the lowest value.
        """
        numbers, model = self._model()
        costs = [self.start + (later - earlier) for earlier, later in pairwise(self.levels)]
        chances_N, new = model.chances_per_cost(costs, self.start + self.levels[0], best)
        found = {
            number: (float(chance), self.waiting[number], -self.lowest[number])
            for number, chance in zip(numbers, chances_N, strict=True)
            if number in self.waiting
        }
        return found, new

    def _model(self) -> tuple[list[int], CurveModel]:
        """The trials that have reached an epoch of promotion, by number, and the model of their curves."""
        numbers = sorted(self.curves)
        if self._known is None or self._known[1] != self.ended:
            curves = [[*self.curves[number].values()] for number in numbers]  # recorded in order
            ended = [index for index, number in enumerate(numbers) if number in self.ended]
            self._known = CurveModel(curves, len(self.levels), ended), self.ended
        return numbers, self._known[0]
