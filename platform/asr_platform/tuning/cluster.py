"""The resources of a Ray cluster, and how many workers and trials they are enough for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from trainables.errors import InputError

Address = tuple[str, int]
"""Host and port."""
UNITS = 10_000  # Ray counts resources in ten-thousandths, rounded to the nearest
TRIAL_CPUS = 0.01  # a trial's own process only waits for its workers, but Tune's bundle needs something above 0


@dataclass(frozen=True)
class Options:
    """How a sweep uses a cluster; none of it changes a trial's result. None leaves the choice to the cluster.

    Args:
        alone: one trial at a time, with all of the machine.
        tracking_uri: address of the MLflow server or database that the sweep is written to.
    """

    max_concurrent: int | None = None
    workers_per_trial: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None
    alone: bool = False
    tracking_uri: str | None = None


@dataclass(frozen=True)
class Workers:
    """The workers of one trial: their number, and the CPU threads and GPUs (or share of one) of each."""

    count: int
    threads: int
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """Ray resources of each worker, less its share of the CPUs of the trial's own process."""
        share = math.ceil(round(TRIAL_CPUS * UNITS) / self.count) / UNITS
        cpus = {"CPU": self.threads - share}
        return {**cpus, "GPU": self.gpus} if self.gpus else cpus


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster's resources, the address of its dashboard, and the folder of its logs.

    Args:
        parts: addresses of the processes that a driver cannot do without, by their names in words.
    """

    cpus: float
    gpus: float
    dashboard: str
    logs: str = ""
    parts: Mapping[str, Address] = field(default_factory=dict)

    def workers(self, options: Options) -> Workers:
        """The workers of each trial: by default one, with one GPU if there are GPUs, else with one CPU thread.

        A trial that runs alone has by default one worker on each GPU, and its workers share all CPUs.

        Raises:
            InputError: the cluster cannot hold one such trial.
        """
        gpus = float(bool(self.gpus)) if options.gpus_per_worker is None else options.gpus_per_worker
        if gpus > 1 and gpus != int(gpus):
            raise InputError(f"--gpus-per-worker {gpus:g}", "Give a whole number, or a share of one GPU below 1.")
        gpus = math.floor(gpus * UNITS + 1e-6) / UNITS
        most = min(self._workers_on_gpus(gpus), int(self.cpus)) if options.alone and gpus else 1
        count = options.workers_per_trial or max(1, most)
        threads = max(1, int(self.cpus // count)) if options.alone else 1
        workers = Workers(count, threads, gpus)
        if not self._trials(workers):
            raise InputError(
                f"a trial of {count} workers with {threads} CPUs and {gpus:g} GPUs each does not fit: "
                f"the cluster has {self.cpus:g} CPUs and {self.gpus:g} GPUs",
                "Lower --workers-per-trial (of train: --workers) or --gpus-per-worker.",
            )
        return workers

    def concurrency(self, workers: Workers, options: Options) -> int:
        """Number of trials that run at once. Without this limit, trials would wait for each other's workers forever."""
        if options.alone:
            return 1
        most = self._trials(workers)
        return min(most, options.max_concurrent or most)

    def _trials(self, workers: Workers) -> int:
        """Number of trials with such workers that the cluster can hold."""
        most = int(self.cpus // (workers.threads * workers.count))
        return min(most, self._workers_on_gpus(workers.gpus) // workers.count) if workers.gpus else most

    def _workers_on_gpus(self, gpus: float) -> int:
        """Number of workers that the GPUs can hold; the share of one worker lies on a single GPU."""
        return int(self.gpus // gpus) if gpus >= 1 else int(self.gpus) * (UNITS // round(gpus * UNITS))


@contextmanager
def resources(address: str | None) -> Iterator[Cluster]:
    """The cluster at `address`, or the one that would be started here, which is not started for this."""
    if address:
        from asr_platform.tuning.connection import connect

        with connect(address) as cluster:
            yield cluster
        return
    import torch

    from asr_platform.compat.ray import default_cpus

    yield Cluster(default_cpus(), float(torch.cuda.device_count()), "")
