"""How the time and the price of a sweep change with the number of nodes, by simulated sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from asr_platform.monitoring.simulation import Simulation
from asr_platform.study.spending import HOUR

DRIVER_SECONDS = 0.05  # of the driver for each epoch of a trial: the ledger, MLflow's queue and the next decision
USEFUL = 0.1  # share of the time that twice as many nodes must save


@dataclass(frozen=True)
class Scale:
    """A sweep on a number of nodes.

    Args:
        wall_hours: mean of simulated sweeps.
        node_hours: hours of all nodes together, for as long as the sweep lasts.
        price: price of the node-hours; None: the price of one is not known.
    """

    nodes: int
    concurrency: int
    wall_hours: float
    node_hours: float
    price: float | None


def growth(
    nodes: int, price: float | None, concurrency_of: Callable[[int], int],
    simulated: Callable[[int], Sequence[Simulation]], sweep_seconds: float,
) -> list[Scale]:  # fmt: skip
    """The sweep on 1, 2, 4, ... nodes up to `nodes`, but for those on which no trial fits.

    Args:
        price: price of a node for an hour.
        concurrency_of: number of trials at once on so many nodes.
        simulated: simulated sweeps with so many trials at once.
        sweep_seconds: time of a sweep outside of its trials.
    """
    counts = sorted({*(2**power for power in range(nodes.bit_length()) if 2**power < nodes), nodes})
    found, known = list[Scale](), dict[int, float]()
    for count in counts:
        if not (concurrency := concurrency_of(count)):
            continue  # no trial fits on so few
        if concurrency not in known:
            known[concurrency] = float(np.mean([one.wall for one in simulated(concurrency)]))
        hours = (sweep_seconds + known[concurrency]) / HOUR
        found.append(Scale(count, concurrency, hours, count * hours, None if price is None else count * hours * price))
    return found


def enough_nodes(scales: Sequence[Scale]) -> int:
    """The smallest number of nodes of which twice as many would save less than a tenth of the time."""
    for one, twice in pairwise(scales):
        if twice.nodes == 2 * one.nodes and twice.wall_hours > (1 - USEFUL) * one.wall_hours:
            return one.nodes
    return scales[-1].nodes
