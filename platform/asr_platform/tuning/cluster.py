"""The resources of a Ray cluster, and the number of workers and trials that fit into it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from trainables.errors import InputError

Address = tuple[str, int]
"""Host and port."""
RAY_ADDRESS = "RAY_ADDRESS"  # the variable in which Ray's own commands find a cluster's address
LOCAL = "local"  # the address that stands for a cluster on this machine
UNITS = 10_000  # Ray counts resources in ten-thousandths, rounded to the nearest
TRIAL_CPUS = 0.01  # a trial's own process only waits for its workers, but Tune's bundle needs something above 0


@dataclass(frozen=True)
class Options:
    """How a sweep uses a cluster, without an influence on results; None: the default for the cluster.

    Args:
        alone: whether one trial at a time uses the whole machine.
        tracking_uri: address of the MLflow server or database to which the sweep is logged.
        tune_decoding: whether the decoding options of the best model are tuned at the end.
    """

    max_concurrent: int | None = None
    workers_per_trial: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None
    alone: bool = False
    tracking_uri: str | None = None
    tune_decoding: bool = True

    def changed(self, address: str | None, tracking_uri: str | None, tune_decoding: bool) -> Options:
        """The options with what is given; None, and True for `tune_decoding`, leave them as they are."""
        return replace(
            self,
            address=address or self.address,
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
        """Ray resources of each worker, minus its share of the CPUs of the trial's own process."""
        share = math.ceil(round(TRIAL_CPUS * UNITS) / self.count) / UNITS
        cpus = {"CPU": self.threads - share}
        return {**cpus, "GPU": self.gpus} if self.gpus else cpus


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster's resources, the address of its dashboard, and the folder of its logs.

    Args:
        parts: addresses of the processes on which a driver depends, by name.
    """

    cpus: float
    gpus: float
    dashboard: str
    logs: str = ""
    parts: Mapping[str, Address] = field(default_factory=dict)

    def workers(self, options: Options) -> Workers:
        """Workers of each trial: by default one, with a GPU if there are GPUs, else with one CPU thread.

        A trial that runs alone has by default one worker on each GPU, and its workers share all CPUs.

        Raises:
            InputError: the cluster is too small for one such trial.
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
        """Number of trials to run at once; with more, trials would wait for each other's workers forever."""
        if options.alone:
            return 1
        most = self._trials(workers)
        return min(most, options.max_concurrent or most)

    def _trials(self, workers: Workers) -> int:
        most = int(self.cpus // (workers.threads * workers.count))
        return min(most, self._workers_on_gpus(workers.gpus) // workers.count) if workers.gpus else most

    def _workers_on_gpus(self, gpus: float) -> int:
        """Number of workers that fit on the GPUs; a share of less than one GPU lies on a single GPU."""
        return int(self.gpus // gpus) if gpus >= 1 else int(self.gpus) * (UNITS // round(gpus * UNITS))


def chosen_address(address: str | None) -> str | None:
    """Address of the cluster to join: `address`, else $RAY_ADDRESS; None (for `local`): one is started here."""
    found = address or os.environ.get(RAY_ADDRESS) or LOCAL
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

    yield Cluster(default_cpus(), float(torch.cuda.device_count()), "")
