"""The end of a run between two updates or in the validation of an epoch, on notice, and what is kept of the epoch.

The order of batches and the augmentation follow from (seed, epoch). What an update changes besides the weights, the
optimizer and the averages is an `EpochState`, with which a later run goes on as if there had been no interruption;
after the last update, it goes on with validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trainables.data.augmentation import generator

EXCHANGE_INTERVAL = 1.0  # seconds

Notice = Callable[[], bool]
"""Returns whether a run should end soon, such as when its machine is about to be taken away."""
RandomStates = dict[str, Tensor]
"""States of torch's random generators in one worker, by type of the device."""


class Interrupted(Exception):
    """Training has ended on notice: before an epoch, or after an update of one, the last included.

    Attributes:
        updates: number of updates of the unfinished epoch; 0 if the last checkpoint has everything.
        save: on the first worker, a function that writes a checkpoint with the unfinished epoch into a folder.
    """

    def __init__(self, updates: int = 0, save: Callable[[Path], None] | None = None) -> None:
        super().__init__("training was interrupted on notice")
        self.updates, self.save = updates, save


class WorkerState(NamedTuple):
    """State of one worker in an unfinished epoch: its sums in the order of `Task.SUMS`, and its random states."""

    sums: list[float]
    random: RandomStates


class EpochState(NamedTuple):
    """State of an unfinished epoch after an update.

    Attributes:
        updates: number of its updates so far.
        seconds: wall time of these updates.
        last: metrics of the last update.
        workers: state of each worker, in the order of ranks.
    """

    updates: int
    seconds: float
    last: dict[str, float]
    workers: list[WorkerState]

    @classmethod
    def gather(cls, updates: int, seconds: float, last: Mapping[str, Any], sums: Tensor, world: int) -> EpochState:
        """The state, given the sums of this worker; all workers must call it together."""
        own = WorkerState(sums.tolist(), random_states(sums.device))
        workers = [own] * world
        if world > 1:
            dist.all_gather_object(workers, own)
        return cls(updates, seconds, {name: float(value) for name, value in last.items()}, workers)

    def restore(self, sums: Tensor, key: tuple[int, int], rank: int, world: int) -> None:
        """Restores a worker's sums and random generators.

        With another number of workers or on another device, the first worker has the sums of all, and the generators
        are seeded anew.

        Args:
            sums: zeros, which become this worker's sums.
            key: seed of the run, and number of the epoch.
        """
        if len(self.workers) == world and self.workers[rank].random.keys() == random_states(sums.device).keys():
            values, random = self.workers[rank]
            torch.set_rng_state(random["cpu"])
            if "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], sums.device)
        else:
            values = [sum(parts) for parts in zip(*(worker.sums for worker in self.workers), strict=True)]
            values = values if rank == 0 else [0.0] * len(values)
            torch.manual_seed(generator(*key, rank, self.updates).initial_seed())
        sums += torch.tensor(values, dtype=sums.dtype, device=sums.device)


def random_states(device: torch.device) -> RandomStates:
    """Present states of torch's random generators for the CPU and, if it is a GPU, for the device."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


class Notices:
    """The notices of all workers of a run.

    Several workers exchange theirs only about once in `EXCHANGE_INTERVAL`, since a GPU has to wait for it.

    Args:
        own: this worker's notice; None: there are none. Either all workers have one, or none has.
        device: device on which workers exchange tensors.
    """

    def __init__(self, own: Notice | None, world: int, device: torch.device) -> None:
        self.own, self.world, self.device = own, world, device
        self.calls = self.interval = 0  # since the last exchange, and between exchanges
        self.exchanged = time.perf_counter()

    def given(self) -> bool:
        """Whether any worker has been given notice; all workers must call it together."""
        if self.own is None or self.world == 1:
            return self.own is not None and self.own()
        self.calls += 1
        if self.calls < self.interval:
            return False
        now = time.perf_counter()
        found = torch.tensor([float(self.own()), (now - self.exchanged) / self.calls], device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        told, seconds = found.tolist()  # of a call, where that takes longest
        # Doubled at most, since there may have been no update between two calls.
        interval = min(int(EXCHANGE_INTERVAL / seconds), 2 * self.calls)
        self.calls, self.interval, self.exchanged = 0, interval, now
        return bool(told)
