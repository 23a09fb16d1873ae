"""Connections to PostgreSQL that say when the database is silent, and are broken off when it stays so.

A server that hangs, or waits for a lock that somebody else holds, keeps its connections open and sends nothing. No
time limit of the driver or of TCP ends that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from functools import cache
from typing import Any

TELL_SECONDS = 20.0  # of silence, after which it is said
SILENT_SECONDS = 120.0  # of silence, after which the connection is given up


def connect(address: str, *words: Any, **options: Any) -> Any:
    """A connection of psycopg that gives up a database which stays silent.

    Args:
        address: of the database, for messages.
        words, options: as psycopg's `connect` takes them.
    """
    made = _attentive().connect(*words, **options)
    made.address = address
    return made


@cache
def _attentive() -> Any:
    import psycopg

    class Attentive(psycopg.Connection[Any]):
        """A connection whose every wait for the server (`wait`) is watched."""

        address = ""

        def wait(self, gen: Any, *words: Any, **options: Any) -> Any:
            return super().wait(self._watched(gen), *words, **options)

        def _watched(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """The generator `gen`, to which psycopg sends 0 where nothing has arrived for a tenth of a second.

            Raises:
                psycopg.OperationalError: nothing has arrived for SILENT_SECONDS; the connection is closed.
            """
            try:
                wanted, since, told = next(gen), time.monotonic(), False
                while True:
                    ready = yield wanted
                    silent = 0.0 if ready else time.monotonic() - since
                    if ready:
                        since = time.monotonic()
                    elif silent >= SILENT_SECONDS:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"no answer for {SILENT_SECONDS:.0f} s")
                    elif silent >= TELL_SECONDS and not told:
                        told = True
                        limit = f"waiting for up to {SILENT_SECONDS:.0f} s"
                        print(f"{self.address}: no answer yet; {limit}", file=sys.stderr, flush=True)
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return Attentive
