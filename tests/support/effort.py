"""What a piece of code costs in steps of Python and in memory, which do not depend on the machine as times do."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Effort:
    """Calls and returns of Python functions, those into C included, and the peak of allocated memory in bytes."""

    events: int = 0
    peak: int = 0


@contextmanager
def measured() -> Iterator[Effort]:
    """Counts in this thread and in those that begin within the block; the result is whole after it."""
    found = Effort()

    def count(*_: object) -> None:
        found.events += 1

    tracemalloc.start()
    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        _, found.peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
