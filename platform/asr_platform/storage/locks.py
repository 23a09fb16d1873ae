"""Locks of sweeps: on a file of a home, and in the ledger's database for homes on other machines.

The system, or the database, frees a lock when its process ends, however that happens.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainables.errors import InputError

TRIES, INTERVAL = 10, 0.05  # seconds; a look at the holder of a lock holds it for a moment
CHECK_INTERVAL = 5.0  # seconds between looks at whether the database still holds a lock
NAMESPACE = "asr-platform sweep "  # before the name of a sweep, of which the number of its lock is made
HELD = """
SELECT activity.application_name FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = %s AND objid = %s
AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class RunningError(InputError):
    """Another process runs or audits the sweep."""

    def __init__(self, name: str, where: str = "") -> None:
        super().__init__(f"sweep {name} is running{where}", "Wait for it to end, or stop it with Ctrl-C.")


@contextmanager
def file_lock(file: Path, name: str, holder: str) -> Iterator[None]:
    """Holds the lock of the sweep `name` on a file, into which its holder is written.

    Raises:
        RunningError: another process holds it.
    """
    with file.open("a+") as opened:
        for left in reversed(range(TRIES)):
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not left:
                    raise RunningError(name) from None
                time.sleep(INTERVAL)
        opened.truncate(0)
        opened.write(f"{holder} {os.getpid()}")
        opened.flush()
        yield


def file_holder(file: Path, default: str) -> str:
    """Text that the holder of a file's lock has written into the file.

    Empty if nobody holds the lock; `default` if the holder has written nothing.
    """
    with suppress(FileNotFoundError), file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return opened.read() or default
    return ""


class DatabaseLock:
    """The lock of a sweep in a PostgreSQL database, as a context.

    A thread asks for the lock again where the connection was lost. If another driver has taken it meanwhile, this
    process ends at once, with exit code 1 and as if it were killed: two drivers must never write one sweep, and an
    orderly end would write.

    Raises:
        RunningError: another process holds it.
        LedgerError: the database cannot be reached.
    """

    def __init__(self, address: str, name: str, holder: str = "") -> None:
        from sqlalchemy import make_url

        self.name, self.url = name, make_url(address)
        self.label = f"{holder} {os.getpid()}@{socket.gethostname()}"[:63]
        digest = hashlib.sha256(f"{NAMESPACE}{name}".encode()).digest()
        self.number = int.from_bytes(digest[:8], "big", signed=True)
        self.halves = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self.connection = self._connect()
        if not self._taken():
            held = self._held()
            self.connection.close()
            raise RunningError(self.name, f" (process {' on '.join(held.split()[-1].split('@'))})" if held else "")
        threading.Thread(target=self._keep, name="ledger lock", daemon=True).start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        with suppress(Exception):  # a connection that is lost has freed the lock
            self.connection.close()

    def holder(self) -> str:
        """Purpose and process id of the holder, such as `sweep 4711`; empty if the lock is free."""
        self.connection = self._connect()
        try:
            return self._held().partition("@")[0]
        finally:
            self.connection.close()

    def _connect(self) -> Any:
        from asr_platform.storage.postgresql import connection

        return connection(self.url, application_name=self.label)

    def _taken(self) -> bool:
        return bool(self._ask("SELECT pg_try_advisory_lock(%s)", [self.number]))

    def _held(self) -> str:
        return str(self._ask(HELD, self.halves) or "")

    def _ask(self, query: str, values: Any) -> Any:
        from asr_platform.storage.postgresql import unreachable

        try:
            cursor = self.connection.cursor()
            cursor.execute(query, values)
            row = cursor.fetchone()
            self.connection.commit()
        except self.url.get_dialect().import_dbapi().Error as error:
            raise unreachable(self.url, error) from error
        return row and row[0]

    def _keep(self) -> None:
        owned = True
        while not self._ended.wait(CHECK_INTERVAL):
            try:
                if owned:
                    self._ask("SELECT 1", [])
                    continue
            except Exception:
                owned = False
            with suppress(Exception):  # the database is away: asked again
                self.connection = self._connect()
                owned = self._taken()
                # A server that was merely out of reach may still hold the lock for the lost connection.
                if not owned and self._held() not in ("", self.label):
                    told = f"sweep {self.name}: {self._held()} has taken it up meanwhile; this process ends"
                    print(told, file=sys.stderr, flush=True)
                    os._exit(1)
