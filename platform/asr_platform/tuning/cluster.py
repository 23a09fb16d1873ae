"""The resources of a Ray cluster's nodes, and the number of workers and trials that fit on them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from trainables.bounds import MOST_WORKERS
from trainables.errors import InputError

Address = tuple[str, int]
"""Host and port."""
RAY_ADDRESS = "RAY_ADDRESS"  # the variable in which Ray's own commands find a cluster's address
LOCAL = "local"  # the address that stands for a cluster on this machine
UNITS = 10_000  # Ray counts resources in ten-thousandths, rounded to the nearest
TRIAL_RESOURCES = {"memory": 1.0}
"""Resources of a trial's own process: Ray Tune wants something above 0, and it takes no CPU that a worker needs. One
byte, as Ray counts memory."""


@dataclass(frozen=True)
class Options:
    """How a sweep uses a cluster, without an influence on results; None: the default for the cluster.

    Args:
        min_workers: least number of workers of a trial, if it may change (the default of `max_workers`: no limit).
        max_workers: largest number of workers of a trial, if it may change (the default of `min_workers`: 1).
        alone: whether one trial at a time uses the whole machine.
        tracking_uri: address of the MLflow server or database to which the sweep is logged.
        tune_decoding: whether the decoding options of the best model are tuned at the end.
        accelerator_type: Ray's name of the accelerators (such as A100) of the nodes that are used.
    """

    max_concurrent: int | None = None
    workers_per_trial: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None
    alone: bool = False
    tracking_uri: str | None = None
    tune_decoding: bool = True
    accelerator_type: str | None = None
    min_workers: int | None = None
    max_workers: int | None = None

    @property
    def elastic(self) -> bool:
        """Whether the number of a trial's workers may change when it is started again."""
        return self.min_workers is not None or self.max_workers is not None

    @property
    def most_workers(self) -> int:
        """Largest number of workers of an elastic trial."""
        return self.max_workers or MOST_WORKERS

    def changed(self, address: str | None, tracking_uri: str | None, tune_decoding: bool) -> Options:
        """The options with what is given; None, and True for `tune_decoding`, leave them as they are.

        $RAY_ADDRESS is given as well: a sweep may be taken up on another cluster than it began on.
        """
        return replace(
            self,
            address=given_address(address) or self.address,
            tracking_uri=tracking_uri or self.tracking_uri,
            tune_decoding=self.tune_decoding and tune_decoding,
        )


@dataclass(frozen=True)
class Workers:
    """Workers of one trial: number of workers, and CPU threads and GPUs (or share of one) of each."""

    count: int
    threads: int
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """Ray resources of each worker."""
        cpus = {"CPU": float(self.threads)}
        return {**cpus, "GPU": self.gpus} if self.gpus else cpus

    def __str__(self) -> str:
        each = f"{self.threads} CPU{'s' * (self.threads > 1)}" + f" and {self.gpus:g} GPU" * (self.gpus > 0)
        return f"{self.count} worker{'s' * (self.count > 1)} of {each}"


class NoRoom(InputError):
    """No trial of the size asked for fits on the nodes that there are."""


@dataclass(frozen=True)
class Node:
    """A node of a Ray cluster.

    Args:
        accelerator: Ray's name of its accelerators, such as A100; empty without.
        name: its address and host, for people.
        gone: why no trial may begin on it any more, as a predicate; empty if one may.
    """

    cpus: float
    gpus: float = 0.0
    accelerator: str = ""
    id: str = ""
    name: str = ""
    gone: str = ""

    def room(self, threads: int, gpus: float) -> int:
        """Number of workers that fit, each with CPU threads and GPUs; a share below 1 lies on a single GPU."""
        most = int(self.cpus // threads)
        if gpus >= 1:
            return min(most, int(self.gpus // gpus))
        return min(most, int(self.gpus) * (UNITS // round(gpus * UNITS))) if gpus else most


@dataclass(frozen=True)
class Cluster:
    """The nodes of a Ray cluster, the address of its dashboard, and the folder of its logs.

    A worker lies on one node, and the workers of a trial may lie on several.

    Args:
        parts: addresses of the processes on which a driver depends, by name.
        joined: whether the cluster was running before, and may have nodes on other machines.
    """

    nodes: Sequence[Node]
    dashboard: str = ""
    logs: str = ""
    parts: Mapping[str, Address] = field(default_factory=dict)
    joined: bool = False

    @property
    def cpus(self) -> float:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    def of_type(self, accelerator: str | None) -> Cluster:
        """The cluster with the nodes alone that have accelerators of this type (Ray's name); None: with all."""
        return replace(self, nodes=[node for node in self.nodes if accelerator in (None, node.accelerator)])

    def with_nodes(self, count: int) -> Cluster:
        """A cluster of so many nodes like the largest one."""
        largest = max(self.nodes, key=lambda node: (node.gpus, node.cpus), default=None)
        return replace(self, nodes=[largest] * count if largest else [])

    def workers(self, options: Options) -> Workers:
        """Workers of each trial: by default one, with a GPU if there are GPUs, else with one CPU thread.

        A trial that runs alone has by default one worker on each GPU, and as many threads as all workers can have. An
        elastic trial has its least workers here (`sized` has more).

        Raises:
            NoRoom: no such trial fits on the nodes.
            InputError: a share of several GPUs is asked for.
        """
        gpus = float(bool(self.gpus)) if options.gpus_per_worker is None else options.gpus_per_worker
        if gpus > 1 and gpus != int(gpus):
            raise InputError(f"--gpus-per-worker {gpus:g}", "Give a whole number, or a share of one GPU below 1.")
        gpus = math.floor(gpus * UNITS + 1e-6) / UNITS
        most = self._room(1, gpus) if options.alone and gpus else 1
        count = options.workers_per_trial or (options.min_workers or 1 if options.elastic else max(1, most))
        threads = self._threads(count, gpus) if options.alone and not options.elastic else 1
        workers = Workers(count, threads, gpus)
        if not self.room(workers):
            raise NoRoom(
                f"a trial of {workers} does not fit on the cluster: {self._described(options.accelerator_type)}",
                "Lower --workers-per-trial (of train: --workers), --min-workers or --gpus-per-worker.",
            )
        return workers

    def sized(
        self, least: Workers, options: Options, training: Sequence[int], beginning: Callable[[], int]
    ) -> Workers | None:
        """Workers of one more trial; None if there is no room for them now.

        An elastic trial gets its share of the room that is left, and at most an equal share of all.

        Args:
            least: least workers of a trial (`workers`).
            training: number of workers of each trial in training.
            beginning: returns the number of trials that could begin now, this one included.
        """
        if not self._has_room(least, options, training):
            return None
        if not options.elastic:
            return least
        count = max(self._share(least, options, training, beginning()), least.count)
        return Workers(count, self._threads(count, least.gpus) if options.alone else 1, least.gpus)

    def grown(
        self, least: Workers, options: Options, others: Sequence[int], own: int, beginning: Callable[[], int]
    ) -> int:
        """Number of workers with which an elastic trial in training that has `own` would go on, at least `own`.

        Where another trial could begin, this one stays as it is.

        Args:
            least: least workers of a trial (`workers`).
            others: number of workers of each other trial in training.
            beginning: returns the number of trials that wait to begin or go on.
        """
        is_full = sum(others) + own >= self._room(least.threads, least.gpus)
        if is_full or not self._has_room(least, options, others):  # a new start would find no place
            return own
        waiting = beginning()
        if waiting and self._has_room(least, options, [*others, own]):
            return own
        return max(own, self._share(least, options, others, waiting + 1))

    def _has_room(self, least: Workers, options: Options, training: Sequence[int]) -> bool:
        """Whether one more trial may begin beside those in training."""
        free = self._room(least.threads, least.gpus) - sum(training)
        return len(training) < self.concurrency(least, options) and free >= least.count

    def _share(self, least: Workers, options: Options, training: Sequence[int], beginning: int) -> int:
        """Number of workers of an elastic trial that begins now, as one of `beginning`; may be below the least."""
        slots, running = self._room(least.threads, least.gpus), len(training)
        trials = max(running + 1, min(self.concurrency(least, options), running + beginning))
        return min((slots - sum(training)) // (trials - running), math.ceil(slots / trials), options.most_workers)

    def room(self, workers: Workers) -> int:
        """Number of trials with such workers that fit on the nodes."""
        return self._room(workers.threads, workers.gpus) // workers.count

    def concurrency(self, workers: Workers, options: Options) -> int:
        """Number of trials to run at once: with more, trials would wait for each other's workers."""
        most = self.room(workers)
        return min(most, 1 if options.alone else options.max_concurrent or most)

    def _room(self, threads: int, gpus: float) -> int:
        return sum(node.room(threads, gpus) for node in self.nodes)

    def _threads(self, count: int, gpus: float) -> int:
        """The most threads that each of `count` workers can have; 1 if the workers do not fit."""
        most = int(max((node.cpus for node in self.nodes), default=1))
        return next((threads for threads in range(most, 1, -1) if self._room(threads, gpus) >= count), 1)

    def _described(self, accelerator: str | None) -> str:
        """The nodes by their resources, such as `3 nodes of 1 CPU and 0 GPUs`."""
        kinds: dict[tuple[float, float], int] = {}
        for node in self.nodes:
            kinds[node.cpus, node.gpus] = kinds.get((node.cpus, node.gpus), 0) + 1
        found = [
            f"{number} node{'s' * (number > 1)} of {cpus:g} CPUs and {gpus:g} GPUs"
            for (cpus, gpus), number in sorted(kinds.items())
        ]
        with_these = f" with {accelerator}" if accelerator else ""
        return (", ".join(found) or "no nodes") + with_these


def given_address(address: str | None) -> str | None:
    """`address`, else $RAY_ADDRESS, else None."""
    return address or os.environ.get(RAY_ADDRESS) or None


def chosen_address(address: str | None) -> str | None:
    """Address of the cluster to join: `given_address`; None (for `local`, too): one is started here."""
    found = given_address(address)
    return None if found == LOCAL else found


@contextmanager
def resources(address: str | None) -> Iterator[Cluster]:
    """The cluster that `connect` would join (`chosen_address`), or the one that it would start on this machine."""
    if chosen_address(address):
        from asr_platform.tuning.connection import connect

        with connect(address) as cluster:
            yield cluster
        return
    import torch

    from asr_platform.compat.ray import default_cpus

    yield Cluster([Node(default_cpus(), float(torch.cuda.device_count()))])
