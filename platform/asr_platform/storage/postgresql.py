"""Connects to the ledger's database where that is PostgreSQL, and waits for one that is away."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asr_platform.storage.database import LedgerError

if TYPE_CHECKING:
    from sqlalchemy import URL

WAIT_SECONDS = 120.0  # for a database that has answered before
TIMEOUT = 10  # seconds for a connection
INTERVAL = 1.0  # seconds between attempts


def connection(url: URL, **options: Any) -> Any:
    """A new connection of the address's driver.

    Raises:
        LedgerError: there is none.
    """
    dialect = url.get_dialect()
    driver = dialect.import_dbapi()
    words, named = dialect().create_connect_args(url)
    try:
        return driver.connect(*words, **{"connect_timeout": TIMEOUT, **named, **options})
    except driver.Error as error:
        raise unreachable(url, error) from error


def patient_connections(url: URL) -> Callable[[], Any]:
    """A function that makes connections; after the first, it waits for a database that is away, and says so once."""
    answered = False

    def connect() -> Any:
        nonlocal answered
        deadline, told = time.monotonic() + (WAIT_SECONDS if answered else 0), False
        while True:
            try:
                made = connection(url)
            except LedgerError as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    print(f"{error.problem}; trying again for {WAIT_SECONDS:.0f} s", file=sys.stderr, flush=True)
                told = True
                time.sleep(INTERVAL)
            else:
                answered = True
                return made

    return connect


def unreachable(url: URL, error: BaseException) -> LedgerError:
    """The error for a database that cannot be reached, or broke a connection."""
    return LedgerError(
        f"{url.render_as_string(hide_password=True)}: {' '.join(str(error).split())}",
        "Check --ledger and that PostgreSQL runs; passwords belong in ~/.pgpass. A sweep goes on with --resume.",
    )
