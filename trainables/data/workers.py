"""`map` over worker processes, in order, with a bounded number of items in flight.

Not joblib: with `return_as="generator"` it takes new items when workers finish, not when results are consumed, so its
memory is not bounded.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from trainables.errors import InputError

IN_FLIGHT_PER_JOB = 4  # enough to keep workers busy, few enough to stay small

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """Results of `function` in the order of `items`, computed by `jobs` worker processes; 1: by this process.

    The workers end with the iterator, with an exception, with Ctrl-C and with this process.

    Raises:
        InputError: memory ran out, or the system killed a worker.
    """
    try:
        yield from map(function, items) if jobs == 1 else _pool_map(function, items, jobs)
    except BrokenProcessPool:
        raise InputError(
            f"a worker process was killed: with {jobs} of them, memory may have run out",
            f"Set fewer than --jobs {jobs}, or give more memory.",
        ) from None
    except MemoryError as error:
        raise InputError(
            f"out of memory with {jobs} worker processes: {error}",
            "Set fewer --jobs, give more memory, or cut long recordings.",
        ) from None


def _pool_map(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")  # a fork could copy locks that other threads hold
    with _interrupts_blocked():  # multiprocessing's resource tracker starts here
        pool = ProcessPoolExecutor(jobs, context, _start_worker)
    with pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                with _interrupts_blocked():  # the pool starts its workers as work comes in
                    waiting.append(pool.submit(function, item))
                if len(waiting) >= jobs * IN_FLIGHT_PER_JOB:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks SIGINT and SIGHUP: processes started inside inherit this, so that only this process handles them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Waits until the parent process has ended, then ends this worker."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def available_cpus() -> int:
    """CPUs that this process may use: fewer than the machine has in many containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
