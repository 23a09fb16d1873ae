"""How the time and the price of a sweep change with the number of nodes, by simulated sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from asr_platform.monitoring.pricing import ready
from asr_platform.monitoring.simulation import Simulation
from asr_platform.study.spending import HOUR

DRIVER_SECONDS = 0.05  # of the driver for each epoch of a trial: the ledger, MLflow's queue and the next decision
LEAST_ROUNDS, ROUNDS_SECONDS = 1, 16.0  # of sweeps on every number of nodes; no more are begun after these seconds
USEFUL = 0.1  # share of the time that twice as many nodes must save


@dataclass(frozen=True)
class Scale:
    """A sweep on a number of nodes.

    Args:
        wall_hours: mean of simulated sweeps.
        node_hours: hours of all nodes together, for as long as the sweep lasts.
        price: price of the node-hours; None: the price of one is not known.
        driver_share: share of the trials' time (0 to 1) in which the driver acts on ends of epochs, of one trial after
            the other. Near 1 it is what limits the sweep.
    """

    nodes: int
    concurrency: int
    wall_hours: float
    node_hours: float
    price: float | None
    driver_share: float


def growth(
    nodes: int, price: float | None, trials: int, concurrency_of: Callable[[int], int],
    simulated: Callable[[int], Iterable[Simulation]], sweep_seconds: float,
) -> list[Scale]:  # fmt: skip
    """The sweep on 1, 2, 4, ... nodes up to `nodes`, but for those on which no trial fits.

    Args:
        price: price of a node for an hour.
        trials: number of trials of the sweep; room for more changes nothing.
        concurrency_of: number of trials at once on so many nodes.
        simulated: simulated sweeps with so many trials at once, equal ones in the same order for each number.
        sweep_seconds: time of a sweep outside of its trials.
    """
    counts = sorted({*(2**power for power in range(nodes.bit_length()) if 2**power < nodes), nodes})
    places = {count: concurrency for count in counts if (concurrency := concurrency_of(count))}  # others have no room
    if not places:
        return []
    used = sorted({min(trials, concurrency) for concurrency in places.values()})
    # One sweep on every number of nodes, then the next: so all numbers have been tried on the same sweeps.
    rounds = ready(zip(*map(simulated, used), strict=True), LEAST_ROUNDS, ROUNDS_SECONDS)
    figures = [[(one.wall, one.driver / one.wall) for one in sweeps] for sweeps in rounds]
    means = dict(zip(used, np.mean(figures, axis=0).tolist(), strict=True))
    found = list[Scale]()
    for count, concurrency in places.items():
        wall, driver_share = means[min(trials, concurrency)]
        hours = (sweep_seconds + wall) / HOUR
        cost = None if price is None else count * hours * price
        found.append(Scale(count, concurrency, hours, count * hours, cost, driver_share))
    return found


def enough_nodes(scales: Sequence[Scale]) -> int:
    """The smallest number of nodes of which twice as many would save less than a tenth of the time."""
    for one, twice in pairwise(scales):
        if twice.nodes == 2 * one.nodes and twice.wall_hours > (1 - USEFUL) * one.wall_hours:
            return one.nodes
    return scales[-1].nodes
