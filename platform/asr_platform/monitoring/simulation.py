"""A sweep played through with made-up qualities: what early stopping and concurrency make of the trials' costs."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """What a trial takes.

    Args:
        start: seconds besides its epochs.
        epochs: seconds of each epoch.
        device: seconds of each epoch's training and validation on all workers together.
        disk: bytes of the checkpoints that it holds until it ends.
    """

    start: float
    epochs: np.ndarray
    device: np.ndarray
    disk: int

    @classmethod
    def even(cls, epochs: int) -> Costs:
        """Of a trial of which only its length is known: a second an epoch."""
        return cls(0.0, np.ones(epochs), np.ones(epochs), 0)


@dataclass(frozen=True)
class Rules:
    """What stops a trial, and what holds it up.

    Args:
        rungs: epochs at which trials are compared.
        reduction: at each rung, one in so many goes on.
        spared: epochs before which a trial that has not learned to attend is not stopped.
        waiting: whether trials wait, with their checkpoints, until all others have begun.
    """

    rungs: Sequence[int]
    reduction: float
    spared: float = 0.0
    waiting: bool = False


@dataclass(frozen=True)
class Simulation:
    """What a sweep took, in seconds and bytes, and how many trials reached each rung and the end.

    Args:
        disk: the most that the trials' checkpoints held at one time.
    """

    wall: float
    device: float
    disk: int
    reached: list[int]


def simulate(trials: Sequence[Costs], rules: Rules, concurrency: int, random: np.random.Generator) -> Simulation:
    """Plays trials in their order, so many at once, under asynchronous successive halving (arXiv 1810.05934).

    Each trial has one quality, drawn by chance, which ranks it at every rung: it goes on if it is within the best
    1 / reduction of those that were there before it. So the first ones at a rung go on whatever they are, and more
    than 1 / reduction in all. When it learns to attend is drawn as well, evenly over the epochs in which such trials
    are spared: nothing is known of it before.
    """
    rungs = rules.rungs
    ends = [*rungs, len(trials[0].epochs)]
    at = [costs.start + np.cumsum(costs.epochs)[np.array(ends) - 1] for costs in trials]
    quality, attends = random.random(len(trials)), rules.spared * random.random(len(trials))
    seen: list[list[float]] = [[] for _ in rungs]
    reached = [0] * len(ends)
    begun = dict.fromkeys(range(min(concurrency, len(trials))), 0.0)
    held = disk = sum(trials[number].disk for number in begun)
    events = [(float(at[number][0]), number, 0) for number in begun]
    heapq.heapify(events)
    wall = device = 0.0
    while events:
        wall, number, place = heapq.heappop(events)
        reached[place] += 1
        if place < len(rungs):
            cutoff = np.quantile(seen[place], 1 / rules.reduction) if seen[place] else 1.0
            seen[place].append(quality[number])
            if quality[number] <= cutoff or attends[number] > rungs[place]:
                heapq.heappush(events, (begun[number] + float(at[number][place + 1]), number, place + 1))
                continue
        device += float(trials[number].device[: ends[place]].sum())
        held -= trials[number].disk
        if len(begun) < len(trials):
            following = len(begun)
            begun[following] = wall
            held += trials[following].disk
            disk = max(disk, held)
            heapq.heappush(events, (wall + float(at[following][0]), following, 0))
    return Simulation(wall, device, sum(costs.disk for costs in trials) if rules.waiting else disk, reached)
