"""What trials of a space cost: operations are counted, a few trials are trained for seconds, others interpolated."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np
import torch

from asr_platform.monitoring.simulation import TrialCost
from asr_platform.study.failures import LONGEST_REASON
from asr_platform.tuning import cluster
from search_spaces.settings import Settings
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.training.profile import Profile, profile
from trainables.training.workload import Workload

# How many configurations have their operations counted, and the least where more would take longer than the seconds.
PRICED, LEAST_PRICED, PRICING_SECONDS = 32, 8, 4.0
PROFILING_SECONDS = 10.0  # of training in all profiles together; starts and validations come on top
# Time outside epochs is mostly processes that start and import, which a busy machine slows. So it is counted in starts
# of a profile's process: of a trial (17 s on an idle machine, reports and end included), and of a sweep (Ray, MLflow,
# the best model and its plots).
STARTS_OF_A_TRIAL, STARTS_OF_A_SWEEP = 3.5, 4.0
T = TypeVar("T")


def price(configs: Sequence[Config], workloads: Callable[[Config], Workload]) -> list[Workload]:
    """Workloads of the first `PRICED` configurations, or as many as are ready in time, in the order of operations."""
    found = ready(map(workloads, configs[:PRICED]), LEAST_PRICED, PRICING_SECONDS)
    return sorted(found, key=lambda workload: workload.flops)


def ends_of_kinds(workloads: Sequence[Workload]) -> list[Workload]:
    """The first and the last workload of each kind of model, in the order of `workloads`."""
    places = set()
    kinds = [workload.config.model.kind for workload in workloads]
    for kind in set(kinds):
        places |= {kinds.index(kind), len(kinds) - 1 - kinds[::-1].index(kind)}
    return [workloads[place] for place in sorted(places)]


def profile_each(
    workloads: Sequence[Workload], corpus: Corpus, workers: cluster.Workers, concurrency: int
) -> list[tuple[Workload, Profile]]:
    """Profiles each workload's configuration in a process of its own.

    Processes run one at a time, to need no more memory than one trial. Only if trials share a GPU, all run at once,
    because trials of the sweep will slow each other down in the same way.

    Raises:
        InputError: a configuration could not be trained.
    """
    gpu, seconds = workers.gpus > 0, PROFILING_SECONDS / len(workloads)
    if gpu and not torch.cuda.is_available():
        raise InputError(
            "the trials would train on GPUs, and this machine has none to profile on",
            "Run plan on a machine of the cluster, or leave the profile out: --no-profile.",
        )
    at_once = len(workloads) if gpu and workers.gpus < 1 and concurrency > 1 else 1
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=spawn, max_tasks_per_child=1) as pool:
        jobs = [
            pool.submit(
                profile, one.config, corpus.path.resolve(), workers.count, workers.threads, workers.gpus, seconds
            )
            for one in workloads
        ]
        try:
            return [(one, job.result()) for one, job in zip(workloads, jobs, strict=True)]
        except (BrokenProcessPool, RuntimeError) as error:  # out of memory, most of all
            raise InputError(
                f"a profile failed: {' '.join(str(error).split())[:LONGEST_REASON]}",
                "Lower training.pass_seconds or the budget; --no-profile leaves it out.",
            ) from None


def trial_cost(
    workload: Workload, profiles: Sequence[tuple[Workload, Profile]], settings: Settings, workers: int
) -> TrialCost:
    """Expected wall time of a trial, interpolated between profiles by the floating-point operations of an update.

    Between profiles of its own kind of model: a decoder writes token by token, and takes longer in validation.

    Args:
        profiles: profiled workloads, the one with the fewest operations first.
        workers: number of workers of a trial, which share training and validation.
    """

    kind = workload.config.model.kind
    alike = [(measured.flops, found) for measured, found in profiles if measured.config.model.kind == kind]

    def figure(name: str) -> float:
        known = [getattr(found, name) for _, found in alike]
        return float(np.interp(workload.flops, [flops for flops, _ in alike], known))

    epoch = workload.updates * figure("update") + figure("validation") / workers + figure("checkpoint")
    return TrialCost(
        STARTS_OF_A_TRIAL * figure("start"), np.full(settings.epochs, epoch), workload.config.optimizer.warmup
    )


def ready(items: Iterator[T], least: int, seconds: float) -> list[T]:
    """The first items: all that are ready within `seconds`, and at least `least`, if there are as many."""
    began, found = time.monotonic(), list[T]()
    for item in items:
        found.append(item)
        if len(found) >= least and time.monotonic() - began > seconds:
            break
    return found
