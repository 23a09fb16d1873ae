"""Connects to the ledger's database where that is PostgreSQL, and waits for one that is away or has no room."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from asr_platform.storage.database import LedgerError
from asr_platform.storage.silence import connect

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.engine import Engine, ExceptionContext

Result = TypeVar("Result")
WAIT_SECONDS = 120.0  # for a database that has answered before
TIMEOUT = 10  # seconds for a connection
INTERVAL = 1.0  # seconds between attempts
# The database frees what a machine that is gone has locked after a minute, and a client gives a silent one up.
SERVER_OPTIONS = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
CLIENT_OPTIONS = {
    "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000,
}  # fmt: skip
FULL = "53100"
# https://www.postgresql.org/docs/current/errcodes-appendix.html: connections, resources, deadlocks, a server that ends
TEMPORARY = ("08", "53", "40001", "40P01", "57P")


class TemporaryLedgerError(LedgerError):
    """The database has broken off a transaction, which may be made again: it is away, or has no room at present."""


def connection(url: URL, **options: Any) -> Any:
    """A new connection of the address's driver.

    Raises:
        TemporaryLedgerError: there is none.
    """
    dialect = url.get_dialect()
    driver = dialect.import_dbapi()
    words, named = dialect().create_connect_args(url)
    known = {"connect_timeout": TIMEOUT, "options": SERVER_OPTIONS, **CLIENT_OPTIONS}
    try:
        return connect(url.render_as_string(hide_password=True), *words, **{**known, **named, **options})
    except driver.Error as error:
        raise unreachable(url, error) from error


class Patience:
    """Repeats what a database breaks off, for WAIT_SECONDS, and says so once.

    Nothing is waited for until the database has answered this process: a wrong address is told at once.
    """

    _answered: ClassVar[set[URL]] = set()

    def __init__(self, url: URL) -> None:
        self.url = url
        self._outer = threading.local()  # `again` of this thread's outermost call

    def __call__(self, attempt: Callable[[bool], Result]) -> Result:
        """Result of `attempt`, whose argument says whether an earlier attempt may have reached the database.

        Only the outermost of nested calls repeats.

        Raises:
            TemporaryLedgerError: the database has broken off each attempt.
        """
        if hasattr(self._outer, "again"):
            return attempt(self._outer.again)
        deadline, attempts = 0.0, 0
        while True:
            self._outer.again = attempts > 0
            try:
                return attempt(self._outer.again)
            except TemporaryLedgerError as error:
                deadline = deadline or time.monotonic() + WAIT_SECONDS
                attempts += 1
                if self.url not in self._answered or time.monotonic() >= deadline:
                    raise
                if attempts == 2:  # a connection that was lost alone is made again at once, without a word
                    print(f"{error.problem}; trying again for {WAIT_SECONDS:.0f} s", file=sys.stderr, flush=True)
            finally:
                del self._outer.again
            if attempts > 1:
                time.sleep(INTERVAL)

    def connect(self) -> Any:
        """A new connection; a database that is away is waited for."""
        made = self(lambda again: connection(self.url))
        self._answered.add(self.url)
        return made


def explain_errors(engine: Engine, url: URL) -> None:
    """Makes an engine raise LedgerError where the database fails, and TemporaryLedgerError where that may pass."""
    from sqlalchemy import event

    operational = url.get_dialect().import_dbapi().OperationalError

    def explained(context: ExceptionContext) -> LedgerError | None:
        error, failed = context.original_exception, isinstance(context.original_exception, operational)
        return unreachable(url, error) if (failed or context.is_disconnect) and not context.is_pre_ping else None

    event.listen(engine, "handle_error", explained)


def unreachable(url: URL, error: BaseException) -> LedgerError:
    """The error for a database that cannot be reached, broke a connection, or has no room."""
    address, text = url.render_as_string(hide_password=True), " ".join(str(error).split())
    code = getattr(error, "sqlstate", None) or ""  # empty: there is no connection
    if code == FULL:
        return TemporaryLedgerError(
            f"{address}: the database's disk is full, free space on it: {text}",
            "A sweep goes on with --resume, once the database has room.",
        )
    kind = TemporaryLedgerError if not code or code.startswith(TEMPORARY) else LedgerError
    return kind(
        f"{address}: {text}",
        "Check --ledger and that PostgreSQL runs; passwords belong in ~/.pgpass. A sweep goes on with --resume.",
    )
