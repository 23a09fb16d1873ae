"""`map` over worker processes, in order, with a bounded number of items in flight."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

IN_FLIGHT_PER_JOB = 4  # enough to keep workers busy, few enough to stay small
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """`map` over worker processes: results in order, a bounded number in flight.

    Closing the iterator, an exception and Ctrl-C end the workers; so does this process's death.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    # Not forked from this process: its threads may hold locks.
    context = multiprocessing.get_context("spawn")
    with _one_thread_a_child(), ProcessPoolExecutor(jobs, context, _start_worker) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= jobs * IN_FLIGHT_PER_JOB:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_a_child() -> Iterator[None]:
    """Processes that start meanwhile compute with one thread each: there is one of them a CPU already.

    The numeric libraries read their number of threads once, when they are loaded, so a worker is
    too late to set it.
    """
    before = {name: os.environ.get(name) for name in THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle, and a worker ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def available_cpus() -> int:
    """CPUs that this process may use: fewer than the machine has in many containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
