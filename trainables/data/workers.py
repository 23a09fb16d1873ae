"""`map` over worker processes, in order, with a bounded number of items in flight.

Each worker has a pipe, and this process has neither threads nor locks for them: whatever a signal interrupts here, all
that is left to do is to end the workers. Not `concurrent.futures`: an exception of a signal handler can leave one of
its locks taken, and its shutdown then waits for ever. Not joblib: with `return_as="generator"` it takes new items when
workers finish, not when results are consumed, so its memory is not bounded.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import count, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from trainables.errors import InputError

IN_FLIGHT_PER_JOB = 4  # enough to keep workers busy, few enough to stay small
AT_A_WORKER = 2  # items: one that it works at, and one that waits there

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Generator[Result]:
    """Results of `function` in the order of `items`, computed by `jobs` worker processes; 1: by this process.

    The workers end with the iterator, with an exception, with Ctrl-C and with this process.

    Raises:
        InputError: memory ran out, or the system killed a worker.
    """
    try:
        yield from map(function, items) if jobs == 1 else _map_by_workers(function, items, jobs)
    except _WorkerEndedError:
        raise InputError(
            f"a worker process was killed: with {jobs} of them, memory may have run out",
            f"Set fewer than --jobs {jobs}, or give more memory.",
        ) from None
    except MemoryError as error:
        raise InputError(
            f"out of memory with {jobs} worker processes: {error}",
            "Set fewer --jobs, give more memory, or cut long recordings.",
        ) from None


def available_cpus() -> int:
    """CPUs that this process may use: fewer than the machine has in many containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _WorkerEndedError(Exception):
    """A worker ended by itself."""


class _Outcome(NamedTuple):
    """Outcome of a function for one item: the value that it returned, or the error that it raised."""

    value: Any
    error: Exception | None = None


class _Worker(Generic[Item]):
    """A process that applies a function to the items that come through its pipe, in order."""

    def __init__(self, function: Callable[[Item], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork could copy locks that other threads hold
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(function, other), daemon=True)
        self.process.start()
        other.close()  # the worker has the only one, so that the pipe ends with the worker
        self.numbers: list[int] = []  # of the items that it has, in order

    def give(self, number: int, item: Item) -> None:
        """Sends an item; the worker reads while it works, so that this waits for its start, and for no other item."""
        try:
            self.connection.send(item)
        except OSError:
            raise _WorkerEndedError from None
        self.numbers.append(number)

    def take(self) -> tuple[int, _Outcome]:
        """The number of its first item and the outcome, once there is one."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            raise _WorkerEndedError from None
        return self.numbers.pop(0), outcome

    def end(self) -> None:
        """Ends the process, whatever it works at and whatever signals it ignores."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Workers(Generic[Item]):
    """Worker processes, as many as there have been items at once."""

    def __init__(self, function: Callable[[Item], Any], most: int) -> None:
        self.function, self.most, self.started = function, most, list[_Worker[Item]]()

    def items(self) -> int:
        """Number of items that the workers have."""
        return sum(len(worker.numbers) for worker in self.started)

    def give(self, numbered: Sequence[tuple[int, Item]]) -> None:
        """Gives each item, with its number, to the worker with the fewest."""
        while len(self.started) < min(self.most, self.items() + len(numbered)):  # all before one is waited for
            with _signals_blocked():  # an exception between its lines could leave the tracker's lock taken
                resource_tracker.ensure_running()  # else it starts with the first process, and unblocks signals
            with _signals_blocked():
                self.started.append(_Worker(self.function))
        for number, item in numbered:
            min(self.started, key=lambda worker: len(worker.numbers)).give(number, item)

    def take(self, timeout: float | None) -> Iterator[tuple[int, _Outcome]]:
        """Yields the number of an item and its outcome for each worker that has one ready.

        Args:
            timeout: seconds to wait for the first; None: without limit.
        """
        busy = [worker for worker in self.started if worker.numbers]
        ready = wait([worker.connection for worker in busy], timeout) if busy else []
        for worker in busy:
            if worker.connection in ready:
                yield worker.take()

    def end(self) -> None:
        for worker in self.started:
            worker.end()


def _map_by_workers(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    workers, remaining, outcomes = _Workers(function, jobs), enumerate(items), dict[int, _Outcome]()
    try:
        for due in count():
            while True:
                at_once = min(jobs * AT_A_WORKER, jobs * IN_FLIGHT_PER_JOB - len(outcomes))
                workers.give(list(islice(remaining, max(0, at_once - workers.items()))))
                # Taken even if the one that is due is there: workers wait to be rid of them.
                outcomes.update(workers.take(0.0 if due in outcomes else None))
                if due in outcomes:
                    break
                if not workers.items():
                    return
            outcome = outcomes.pop(due)
            if outcome.error is not None:
                raise outcome.error
            yield outcome.value
    finally:
        workers.end()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks signals that end this process: they wait, and processes started inside never see them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(function: Callable[[Any], Any], connection: Connection) -> None:
    """Sends what `function` makes of each item that comes, until the pipe ends."""
    items: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, items), daemon=True).start()
    while True:
        outcome = _outcome(function, items.get())
        try:
            connection.send(outcome)
        except OSError:
            return  # the other process has ended
        except Exception as error:  # it cannot be pickled
            connection.send(_Outcome(None, _sendable(error)))


def _read(connection: Connection, items: SimpleQueue[Any]) -> None:
    """Reads items while this worker works, and ends it with the pipe, which ends with the other process."""
    try:
        while True:
            items.put(connection.recv())
    except (EOFError, OSError):
        pass
    except Exception:  # an item that cannot be read
        traceback.print_exc()
    finally:
        os._exit(1)


def _outcome(function: Callable[[Item], Any], item: Item) -> _Outcome:
    try:
        return _Outcome(function(item))
    except Exception as error:
        sent = _sendable(error)
        sent.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return _Outcome(None, sent)


def _sendable(error: Exception) -> Exception:
    """The error, or one with its text if it cannot be pickled or built again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
