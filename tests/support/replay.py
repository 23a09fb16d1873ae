"""Replays a table of recorded learning curves: any way of proposing and stopping trials, in seconds and many orders.

The table stands in for the training: a proposal is answered by a configuration of the table that has not been tried yet
and is near, whose recorded epochs then pass, at their recorded cost, until the policy stops it.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asr_platform.study.halving import Promotions, Rungs
from search_spaces.distributions import Choice, Float
from search_spaces.settings import Settings
from search_spaces.space import Space

CURVES = Path(__file__).parents[1] / "assets" / "curves"
SPACE, TABLE = CURVES / "digits.yaml", CURVES / "digits.jsonl"
HANDFUL = 6


@dataclass(frozen=True)
class Curve:
    """One recorded training: `epochs` has a row each, `val_cer` and `cpu_seconds` (its cost) among its figures."""

    number: int
    values: dict[str, Any]
    epochs: list[dict[str, Any]]

    @property
    def best(self) -> float:
        return min((row["val_cer"] for row in self.epochs), default=math.inf)


class Policy(Protocol):
    """Proposes trials and decides about them."""

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        """The next trial: of those that have not been tried, or one that it has left off; None where there is none."""

    def goes_on(self, curve: Curve, epoch: int) -> bool:
        """Whether a trial that has just reported this epoch (from 1) is trained further now."""

    def ended(self, curve: Curve, epoch: int, stopped: bool) -> None:
        """Told each time that a trial's training ends or is left off, `stopped` before its last epoch."""


class RandomOrder:
    """Random search: every configuration to its last epoch."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        return self.random.choice(left) if left else None

    def goes_on(self, curve: Curve, epoch: int) -> bool:
        return True

    def ended(self, curve: Curve, epoch: int, stopped: bool) -> None:
        """Nothing to learn from."""


class Stopping(RandomOrder):
    """Random search, with the platform's promotions and rungs."""

    def __init__(self, seed: int, settings: Settings) -> None:
        super().__init__(seed)
        self.rungs, self.promotions = Rungs(settings), Promotions(settings)
        self.begun: dict[int, Curve] = {}
        self.last_lap = set[int]()  # they go on when no new trial is left, and wait no more

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        number = self.promotions.promoted()
        if number is None and left:
            curve = self.new(left)
            self.begun[curve.number] = curve
            return curve
        if number is None:
            number = self.promotions.best()
            if number is None:
                return None
            self.last_lap.add(number)
        del self.promotions.waiting[number]
        return self.begun[number]

    def new(self, left: Sequence[Curve]) -> Curve:
        """A trial of those that have not been tried."""
        return self.random.choice(left)

    def goes_on(self, curve: Curve, epoch: int) -> bool:
        row = curve.epochs[epoch - 1]
        self.promotions.record(curve.number, row)
        if self.rungs.verdict(curve.number, row, curve.values["optimizer.warmup"]) is not None:
            return False
        return curve.number in self.last_lap or not self.promotions.wait(curve.number, epoch)


def read_table(path: Path = TABLE) -> list[Curve]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return sorted((Curve(line["number"], line["values"], line["curve"]) for line in lines), key=lambda c: c.number)


def replay(table: Sequence[Curve], policy: Policy, workers: int = 1) -> list[tuple[float, float]]:
    """What a policy reaches on the table: (training seconds of all workers so far, lowest CER so far) after each epoch.

    Workers train side by side; whichever ends an epoch first reports first.
    """
    left, done = list(table), dict.fromkeys((curve.number for curve in table), 0)
    spent, best = 0.0, math.inf
    reached: list[tuple[float, float]] = []
    running: list[tuple[float, int, Curve, int]] = []  # when an epoch ends, a number to break ties, of what

    def begin(now: float) -> None:
        """Gives every free worker something to do."""
        while len(running) < workers and (curve := policy.propose(left)) is not None:
            if not done[curve.number]:
                left.remove(curve)
            train(now, curve, done[curve.number] + 1)

    def train(now: float, curve: Curve, epoch: int) -> None:
        cost = curve.epochs[epoch - 1]["cpu_seconds"]
        heapq.heappush(running, (now + cost, curve.number, curve, epoch))

    begin(0.0)
    while running:
        now, _, curve, epoch = heapq.heappop(running)
        row = curve.epochs[epoch - 1]
        spent, best = spent + row["cpu_seconds"], min(best, row["val_cer"])
        reached.append((spent, best))
        done[curve.number] = epoch
        last = epoch == len(curve.epochs)
        if not last and policy.goes_on(curve, epoch):
            train(now, curve, epoch + 1)
        else:
            policy.ended(curve, epoch, not last)
            begin(now)
    return reached


def seconds_to(reached: Sequence[tuple[float, float]], cer: float) -> float:
    """Training seconds until a CER is reached; infinite where it never is."""
    return next((spent for spent, best in reached if best <= cer), math.inf)


def best_after(reached: Sequence[tuple[float, float]], seconds: float) -> float:
    """The lowest CER that this much training has reached; infinite before the first epoch's end."""
    return min((best for spent, best in reached if spent <= seconds), default=math.inf)


class Nearest:
    """Finds a configuration of a table that is near a proposal: the nearest of a handful drawn by chance.

    The nearest of all would be the same few whatever is proposed, and come last where it has no neighbours: in so many
    dimensions most configurations are far from most proposals (hubness; Radovanovic et al., 2010, JMLR 11).
    Keys count alike: 1 where choices differ or one side lacks the key, else the share of the range between the values.
    """

    def __init__(self, space: Space, table: Sequence[Curve], seed: int) -> None:
        self.space, self.random = space, random.Random(seed)
        self.codes = {curve.number: self.code(curve.values) for curve in table}

    def code(self, values: dict[str, Any]) -> np.ndarray:
        """Coordinates in which the sum of absolute differences is the distance."""
        found: list[float] = []
        for key, variable in self.space.vary.items():
            how, value = variable.distribution, values.get(key)
            if isinstance(how, Choice):
                found += [0.5 * (value == choice) for choice in how.values] + [0.5 * (key not in values)]
                continue
            scale = math.log if isinstance(how, Float) and how.log else float
            low, high = scale(how.low), scale(how.high)
            found.append(-1.0 if value is None else (scale(value) - low) / (high - low))
        return np.array(found)

    def __call__(self, left: Sequence[Curve], values: dict[str, Any]) -> Curve:
        wanted, handful = self.code(values), self.random.sample(left, min(HANDFUL, len(left)))
        distances = [np.abs(self.codes[curve.number] - wanted).sum() for curve in handful]
        return handful[int(np.argmin(distances))]
