"""Uses of Ray (2.60) beyond its documented interface, each with the reason.

`tests/compat/test_ray.py` fails when one of these is gone. Ray's own documentation covers all other uses of it, and
the environment variables are in `environment.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants, services, state, worker
from ray._private.utils import get_num_cpus
from ray.experimental import internal_kv
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.util.placement_group import PlacementGroup, remove_placement_group

from asr_platform.compat.environment import LOOPBACK

CHECKPOINT_LIST = CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
"""Name of the file in a run's folder in which Ray Train lists the checkpoints. Ray Train writes it in place, so a kill
leaves half a list, which `tuning/trial.py` mends."""

LOOPBACK_OPTIONS = {"_node_ip_address": LOOPBACK}
"""Options of `ray.init` for a cluster that listens on this machine alone, within `loopback_only`."""

NODE_ID, ACCELERATOR_TYPE = "ray.io/node-id", "ray.io/accelerator-type"
"""Labels that Ray gives every node, and every node with accelerators."""

FLAGS = "asr-platform"
"""Namespace of `set_flag` in Ray's key-value store."""

INNER_ERRORS = ("cause", "controller_failure", "_base_exc", "health_check_failure")
"""Attributes in which the errors of Ray Tune, Ray Train's trainer, its controller and its workers hold their causes."""


def default_cpus() -> float:
    """Number of CPUs that a cluster started here has; respects a container's limit, unlike `os.cpu_count`."""
    return float(get_num_cpus())


def silent_progress() -> Any:
    """The callback by which Ray Tune prints of each trial, without printing.

    With `verbose=0` it still prints a line of a trial that is stopped in the middle of an epoch.
    """
    from ray.tune.progress_reporter import TrialProgressCallback

    class SilentProgress(TrialProgressCallback):
        def _print(self, msg: str) -> None:
            pass

    return SilentProgress()


def silence_workers() -> None:
    """Stops Ray from printing that a worker has died, which `log_to_driver=False` does not."""
    worker._worker_logs_enabled = False


@contextmanager
def loopback_only() -> Iterator[None]:
    """Makes all processes of a cluster that is started in the block listen on 127.0.0.1 alone.

    Ray uses an address that other machines can reach, except on systems where it does not support several machines. The
    variable for this exception is read when Ray is imported, and by each of its processes.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


def running_cluster() -> str | None:
    """The address that Ray takes for `auto`: $RAY_ADDRESS, or the cluster that was started on this machine last.

    Not whether it still runs: `ray.init` waits for most of a minute for one that does not.
    """
    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return None


def draining_nodes() -> Collection[str]:
    """Ids of the nodes that are about to be taken away, by a notice of their cloud or `ray drain-node`."""
    return set(state.state.get_draining_nodes())


def set_flag(name: str) -> None:
    """Sets a flag that every process of the cluster can read, in Ray's own key-value store."""
    internal_kv._internal_kv_put(name, b"", namespace=FLAGS)


def has_flag(name: str) -> bool:
    """Whether a flag is set."""
    return bool(internal_kv._internal_kv_exists(name, namespace=FLAGS))


def ask_autoscaler(workers: int, resources: Mapping[str, float], labels: Mapping[str, str]) -> None:
    """Asks the cluster's autoscaler, if it has one, for room for workers with these resources on nodes with labels.

    Through the actor by which Ray Train asks, since it forgets after `expire_after_s`. The documented
    `request_resources` is remembered for ever, even if the driver that asked is killed.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    get_or_create_autoscaling_coordinator().request_resources.remote(
        requester_id=f"asr-platform-{ray.get_runtime_context().get_job_id()}",
        resources=[{**resources}] * workers,
        label_selectors=[{**labels}] * workers,
        expire_after_s=180,
    )


def single_worker_trainer() -> type[Any]:
    """The Ray Train trainer without a process group, whose import takes seconds less than `ray.train.torch`."""
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return DataParallelTrainer


def lean(trainer: type[Any]) -> type[Any]:
    """A Ray Train trainer that starts two processes fewer for each run.

    `PlacementGroupCleaner` frees the run's placement group. All of them are on the head, which has room for 999, and
    each asks the dashboard once a second. A trial frees its group itself instead (`tuning/trial.py`), and the driver
    those of trials that were killed (`tuning/nodes/groups.py`). `DatasetManager` hands out data sets of Ray Data, of
    which a trial has none.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(trainer):
        def _create_default_callbacks(self) -> list[Any]:
            every = super()._create_default_callbacks()
            return [one for one in every if not isinstance(one, DatasetsCallback | PlacementGroupCleanerCallback)]

    return Trainer


def group_teller(tell: Callable[[str], None]) -> Any:
    """A callback of Ray Train's controller that tells the id of the placement group of each group of workers."""
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class Teller(WorkerGroupCallback):
        def after_worker_group_start(self, worker_group: Any) -> None:
            tell(worker_group.get_worker_group_state().placement_group_handle.placement_group.id.hex())

    return Teller()


def free_placement_group(group: str) -> None:
    """Frees what a placement group has reserved, by its id, and ends the processes in it; a freed one is no error."""
    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


def root_errors(error: BaseException) -> Sequence[BaseException]:
    """Errors inside Ray's wrapper exceptions: one, or one for each failed worker in the order of ranks."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return [root for rank in sorted(failures) for root in root_errors(failures[rank])]
    inner = next((found for name in INNER_ERRORS if (found := getattr(error, name, None)) is not None), None)
    return root_errors(inner) if isinstance(inner, BaseException) else [error]
