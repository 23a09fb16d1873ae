"""Connects to a Ray cluster or starts one on this machine, and turns its resources into concurrency."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import requests
from ray._private import worker as ray_worker
from ray._private.utils import get_num_cpus
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_actors, list_placement_groups
from ray.util.state.exception import RayStateApiException

import asr_platform
import search_spaces
import trainables
from trainables.errors import InputError

HOST = "ASR_PLATFORM_DASHBOARD_HOST"  # a matter of the machine, not of a sweep
SECONDS_BETWEEN_LOOKS = 5.0
LOOKS_BEFORE_FREEING = 6
STATE_TIMEOUT = 5  # seconds
STATE_LIMIT = 10_000  # actors or placement groups that one look can see
UNITS = 10_000  # Ray counts resources in ten-thousandths, rounded to the nearest
TRIAL_CPUS = 0.01  # a trial's own process only waits for its workers, but Tune's bundle needs something above 0


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: none of it changes what a trial is. None leaves it to the cluster.

    Args:
        alone: one trial at a time, with all of the machine.
        tracking_uri: the MLflow server or database that is told of the sweep.
    """

    max_concurrent: int | None = None
    workers_per_trial: int | None = None
    gpus_per_worker: float | None = None
    address: str | None = None
    alone: bool = False
    tracking_uri: str | None = None


@dataclass(frozen=True)
class Workers:
    """What one trial trains on: a number of workers, each with so many CPU threads and so much of a GPU."""

    count: int
    threads: int
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """What each worker asks of Ray. Together the workers make room for the trial's own process."""
        share = math.ceil(round(TRIAL_CPUS * UNITS) / self.count) / UNITS
        cpus = {"CPU": self.threads - share}
        return {**cpus, "GPU": self.gpus} if self.gpus else cpus


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, where its dashboard is, and in which folder its own logs are."""

    cpus: float
    gpus: float
    dashboard: str
    logs: str = ""

    def workers(self, options: Options) -> Workers:
        """One worker a trial, with one GPU where there are any and one CPU thread where there are none.

        A trial that runs alone has a worker on each GPU, and its workers share all CPUs.

        Raises:
            InputError: the cluster cannot hold even one such trial.
        """
        gpus = float(bool(self.gpus)) if options.gpus_per_worker is None else options.gpus_per_worker
        if gpus > 1 and gpus != int(gpus):
            raise InputError(f"--gpus-per-worker {gpus:g}", "Give a whole number, or a share of one GPU below 1.")
        gpus = math.floor(gpus * UNITS + 1e-6) / UNITS
        most = min(self._slots(gpus), int(self.cpus)) if options.alone and gpus else 1
        count = options.workers_per_trial or max(1, most)
        threads = max(1, int(self.cpus // count)) if options.alone else 1
        workers = Workers(count, threads, gpus)
        if not self._room(workers):
            raise InputError(
                f"a trial of {count} workers with {threads} CPUs and {gpus:g} GPUs each does not fit: "
                f"the cluster has {self.cpus:g} CPUs and {self.gpus:g} GPUs",
                "Lower --workers-per-trial (of train: --workers) or --gpus-per-worker.",
            )
        return workers

    def concurrency(self, workers: Workers, options: Options) -> int:
        """How many such trials run at once. Without this cap, trials wait for each other's workers for ever."""
        if options.alone:
            return 1
        room = self._room(workers)
        return min(room, options.max_concurrent or room)

    def _room(self, workers: Workers) -> int:
        """How many such trials the cluster can hold."""
        room = int(self.cpus // (workers.threads * workers.count))
        return min(room, self._slots(workers.gpus) // workers.count) if workers.gpus else room

    def _slots(self, gpus: float) -> int:
        """How many workers the GPUs can hold; shares of one worker all lie on one GPU."""
        return int(self.gpus // gpus) if gpus >= 1 else int(self.gpus) * (UNITS // round(gpus * UNITS))


class Reaper:
    """Frees what the workers of a stopped trial held, if Ray has not.

    Ray Train leaves it to a helper process of each trial, which gives up at the first call that fails (2.60; seen on
    a busy machine: the next trial waits for ever). A placement group of this job that no living actor is in, at every
    look for half a minute, belongs to nobody.

    Args:
        dashboard: the address of this cluster's, which knows its actors; there may be other clusters on the machine.
    """

    def __init__(self, dashboard: str) -> None:
        self.dashboard = dashboard
        self.job = ray.get_runtime_context().get_job_id()
        self.idle: dict[str, int] = {}
        self.next_look = 0.0

    def look(self) -> None:
        """Looks around if the last time was long enough ago; called often."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
        try:
            groups = list_placement_groups(
                self.dashboard, filters=[("state", "=", "CREATED")], limit=STATE_LIMIT, timeout=STATE_TIMEOUT
            )
            actors = list_actors(
                self.dashboard, filters=[("state", "!=", "DEAD")], detail=True, limit=STATE_LIMIT, timeout=STATE_TIMEOUT
            )
        except (RayStateApiException, requests.RequestException, ConnectionError, RuntimeError, ValueError):
            return  # the dashboard is busy: next time, then
        used = {actor.placement_group_id for actor in actors}
        own = {group.placement_group_id for group in groups if group.creator_job_id == self.job}
        self.idle = {group: self.idle.get(group, 0) + 1 for group in own - used}
        for group, looks in self.idle.items():
            if looks >= LOOKS_BEFORE_FREEING:
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


@contextmanager
def resources(address: str | None) -> Iterator[Cluster]:
    """What the cluster at `address` has, or what one started here would have: nothing is started to know that."""
    if address:
        with connect(address) as cluster:
            yield cluster
        return
    import torch

    yield Cluster(float(get_num_cpus()), float(torch.cuda.device_count()), "")


@contextmanager
def connect(address: str | None) -> Iterator[Cluster]:
    """A connection to the cluster at `address`, or to one started here for as long as the connection lasts.

    Nothing of Ray's is printed: its logs are files, in the folder that the cluster names.

    The dashboard of a cluster started here listens on 127.0.0.1, unless the environment says otherwise. It always runs:
    without it, Ray never frees what a stopped trial's workers held (2.60).
    """
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray_worker._worker_logs_enabled = False  # else Ray prints that a worker has died here, whatever is asked below
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        options |= {"address": address, "runtime_env": {"py_modules": [asr_platform, search_spaces, trainables]}}
    else:
        options |= {"address": "local", "include_dashboard": True, "dashboard_host": os.environ.get(HOST, "127.0.0.1")}
    try:
        context = ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        raise InputError(
            f"no Ray cluster {where}: {error}", "Check --address, free ports and free disk space."
        ) from None
    try:
        resources = ray.cluster_resources()
        logs = str(Path(context.address_info["session_dir"]) / "logs")
        yield Cluster(resources.get("CPU", 0.0), resources.get("GPU", 0.0), f"http://{context.dashboard_url}", logs)
    finally:
        ray.shutdown()
