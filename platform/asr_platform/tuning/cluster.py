"""Connects to a Ray cluster or starts one on this machine, and turns its resources into concurrency."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import requests
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.utils import get_num_cpus
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_actors, list_placement_groups
from ray.util.state.exception import RayStateApiException

from trainables.errors import InputError
from trainables.folders import has_ended, this_process

PACKAGES = ("asr_platform", "search_spaces", "trainables")  # what workers on other machines need
OWNER = "asr_platform.pid"  # in the folder of a cluster that a driver has started: the driver's process
SHUTDOWN_TIMEOUT = 30  # seconds
LOOPBACK = "127.0.0.1"
ADDRESS_TIMEOUT = 5  # seconds
Address = tuple[str, int]
"""Host and port."""
PATIENCE = 2.0  # seconds for a connection to be accepted
# What opens a connection to Ray's head (RFC 9113, section 3.4), and the type of the frame that it answers with. Ray
# itself would wait for minutes for a server of another kind.
HTTP2, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), b"\x04"
TLS = os.environ.get("RAY_USE_TLS", "0") != "0"  # then only Ray can ask
LONGEST_ERROR = 300  # characters of Ray's own message
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
    """The resources of a Ray cluster, the address of its dashboard, and the folder of its logs.

    Args:
        parts: host and port of each of its processes that a driver cannot do without, by names in words.
    """

    cpus: float
    gpus: float
    dashboard: str
    logs: str = ""
    parts: Mapping[str, Address] = field(default_factory=dict)

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

    @contextmanager
    def reaping(self) -> Iterator[None]:
        """Frees what nobody holds, in a thread, for as long as the block lasts."""
        done = threading.Event()

        def run() -> None:
            while not done.wait(SECONDS_BETWEEN_LOOKS):
                self.look()

        threading.Thread(target=run, name="reaper", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def look(self) -> None:
        """Frees the groups that nobody has been in for long enough."""
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
        options |= {"address": address, "runtime_env": {"py_modules": [import_module(name) for name in PACKAGES]}}
    else:
        # Everything of it listens on loopback alone.
        options |= {
            "address": "local",
            "include_dashboard": True,
            "dashboard_host": os.environ.get(HOST, LOOPBACK),
            "_node_ip_address": LOOPBACK,
        }
    with nullcontext() if address else loopback_only():
        remove_old_sessions()
        context = _init(address, options)
        if not address:
            (Path(context.address_info["session_dir"]) / OWNER).write_text(this_process())
        try:
            yield _described(context)
        finally:
            _shutdown()


@contextmanager
def loopback_only() -> Iterator[None]:
    """Lets all processes of a cluster that is started here listen on 127.0.0.1 alone.

    Ray (2.60) replaces that address by one that other machines can reach, unless it takes this system for one without
    clusters of several machines. It reads that from the environment when it is imported, and in each of its processes.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def remove_old_sessions() -> None:
    """Removes the folders of clusters that were started here by drivers that have ended: hundreds of megabytes each."""
    for owner in Path(get_default_ray_temp_dir()).glob(f"session_*/{OWNER}"):
        with suppress(OSError):
            if has_ended(owner.read_text()):
                shutil.rmtree(owner.parent, ignore_errors=True)


def _described(context: Any) -> Cluster:
    """Describes the cluster that this process is connected to."""
    here, resources = ray.get_runtime_context(), ray.cluster_resources()
    host, _, port = here.gcs_address.rpartition(":")
    own = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    dashboard = urlsplit(f"http://{context.dashboard_url}")
    parts = {
        "Ray's head": (host.strip("[]"), int(port)),
        "the raylet of this machine": (own["NodeManagerAddress"], own["NodeManagerPort"]),
    }
    # On another machine it may listen for that machine alone, and then nobody here can watch it.
    if dashboard.hostname and dashboard.port and accepts((dashboard.hostname, dashboard.port)):
        parts["Ray's dashboard"] = (dashboard.hostname, dashboard.port)
    logs = str(Path(context.address_info["session_dir"]) / "logs")
    return Cluster(resources.get("CPU", 0.0), resources.get("GPU", 0.0), dashboard.geturl(), logs, parts)


def _shutdown() -> None:
    """Leaves the cluster, and ends one that was started here. Ray may wait for ever for one that is gone already."""
    leaving = threading.Thread(target=ray.shutdown, name="shutdown", daemon=True)
    leaving.start()
    leaving.join(SHUTDOWN_TIMEOUT)


def _init(address: str | None, options: dict[str, Any]) -> Any:
    """Starts or joins a cluster; handlers of signals stay as they are, which ray.init would replace (SIGTERM; 2.60).

    Raises:
        InputError: that fails, or nobody is at the address.
    """
    if address:
        check_address(address)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return ray.init(**options)
    except Exception as error:  # a slow start is a bare Exception, a wrong address one of many kinds
        where = f"at {address}" if address else "on this machine"
        problem = " ".join(str(error).split())[:LONGEST_ERROR]
        raise InputError(
            f"no Ray cluster {where}: {type(error).__name__}: {problem}",
            "Try again on a machine that is less busy; check --address, free ports, memory and disk space.",
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)


def accepts(address: Address) -> bool:
    """Whether a connection to this host and port is accepted within `PATIENCE`."""
    try:
        socket.create_connection(address, timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def check_address(address: str) -> None:
    """Refuses the address of a cluster that this process cannot join, within seconds.

    Raises:
        InputError: it is a client's (ray://), is none, or nobody listens there.
    """
    if address == "auto":
        return
    if "://" in address:
        raise InputError(
            f"--address {address}: a sweep's driver runs within the cluster",
            "Give HOST:PORT of Ray's head, on one of its machines; or ray job submit -- platform ... --address auto",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--address {address}: not HOST:PORT", "For example: --address 10.0.0.1:6379, or auto.")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_TIMEOUT) as connection:
            connection.sendall(HTTP2)
            answer = b"" if TLS else connection.recv(4, socket.MSG_WAITALL)
    except OSError as error:
        raise InputError(
            f"--address {address}: nobody answers ({error})", "ray status, on the head, says whether it runs and where."
        ) from None
    if not TLS and answer[3:] != SETTINGS:
        raise InputError(f"--address {address}: not Ray's head", "ray status, on the head, says where that listens.")
