"""A server for MLflow's UI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asr_platform.compat.mlflow import ENVIRONMENT
from asr_platform.storage.database import make_database, sqlite_address
from asr_platform.storage.home import STORE, Home, Store
from asr_platform.storage.ports import accepts, free_port
from asr_platform.study.ledger import Ledger
from asr_platform.study.run_record import MLFLOW_VIEW
from asr_platform.tracking.notes import read_notes
from asr_platform.tracking.store import check_readable
from trainables.errors import InputError

STOPPING_SECONDS = 10.0  # until the server is killed
POLLING_SECONDS = 0.2  # between looks whether the server accepts connections
LAST_LINES = 20  # of what a server that failed has printed


def open_pages(
    home: Home, name: str | None, uri: str | None, host: str, port: int | None, say: Callable[[str], None]
) -> int:
    """Prints the addresses of a sweep's trials (default: the latest sweep) and of MLflow's UI; returns an exit code.

    If the store is a database, the UI is served until Ctrl-C; then notes that users have written there come into the
    ledger.

    Raises:
        InputError: there is no such sweep, MLflow cannot read the database, or no port is free.
    """
    names = Ledger.names(home.studies)
    sweep = name or (names[-1] if names else None)
    about = Ledger.open(home.studies, sweep).about if sweep else {}
    store = home.store(about, uri)
    if store.is_server:
        chosen, address, ending = 0, store.uri.rstrip("/"), ""
    else:
        if store.uri != home.tracking or (home.path / STORE).is_file():  # only the home's own is made if it is missing
            check_readable(store.uri)
        chosen = free_port(host, port)
        address, ending = f"http://{host}:{chosen}", "   (Ctrl-C ends it)"
    view = [f"{sweep}: {address}{about[MLFLOW_VIEW]}"] if about.get(MLFLOW_VIEW) and store == home.store(about) else []
    first, *others = [*view, f"MLflow: {address}"]
    lines = [first + ending, *others]
    if store.is_server:
        say("\n".join(lines))
        return 0
    say("MLflow's server starts ...")
    code = serve(store, host, chosen, say, "\n".join(lines))
    for each in Ledger.names(home.studies):
        with suppress(InputError):  # the sweep has just been deleted
            ledger = Ledger.open(home.studies, each)
            if home.store(ledger.about) == store:
                read_notes(home, ledger, say)
    return code


def serve(store: Store, host: str, port: int, say: Callable[[str], None], ready: str) -> int:
    """Serves MLflow's UI for a database until Ctrl-C, SIGTERM or SIGHUP; returns an exit code.

    The server's processes have ended when this returns. What they print is said only if they fail.

    Args:
        ready: said once the server accepts connections.
    """
    # MLflow makes the folder of a SQLite file by the text of its address (compat/mlflow.py): a file in the working
    # directory needs none.
    database = make_database(store.uri)
    uri, folder = (sqlite_address(Path(database.name)), database.parent) if database else (store.uri, None)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri,
        "--default-artifact-root", store.artifacts.as_uri(), "--host", host, "--port", str(port), "--workers", "1",
        "--uvicorn-opts", "--log-level critical",  # uvicorn logs Ctrl-C as an error
    ]  # fmt: skip
    # Jobs evaluate language models: several more processes, slow to start, which print as they end.
    environment = {**ENVIRONMENT, **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with tempfile.TemporaryFile() as printed, interrupted_by():
        server = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            while server.poll() is None and not accepts(host, port, POLLING_SECONDS):
                time.sleep(POLLING_SECONDS)
            if server.poll() is None:
                say(ready)
            code = server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(server)
        printed.seek(0)
        lines = printed.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    say("\n".join([*lines, f"MLflow's server ended with exit code {code}"]))
    return code


@contextmanager
def interrupted_by() -> Iterator[None]:
    """Raises KeyboardInterrupt within the block when SIGTERM or SIGHUP arrives, as Python does for Ctrl-C."""
    signals = signal.SIGTERM, signal.SIGHUP
    handled = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, signal.default_int_handler) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stops the server's process group, by SIGINT and after STOPPING_SECONDS by SIGKILL."""
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(server.pid, signal.SIGINT)
            server.wait(STOPPING_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
