"""MLflow's pages: a server for them, and what they show of a sweep before anybody has chosen columns.

MLflow keeps named views of an experiment's runs among the experiment's tags and lists them in its menu "Views". Each
sweep has one: its trials, best first, with what varied; and charts that compare the best ten. The form of a view is
that of MLflow 3.17's own pages.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from asr_platform.storage.database import database_file, make_database, sqlite_address
from asr_platform.storage.home import Home, Store
from asr_platform.study.ledger import Ledger
from asr_platform.tracking.runs import check_readable
from search_spaces.space import Space
from trainables.errors import InputError

FIRST_PORT, PORTS_TRIED = 5000, 100
VIEW = "mlflow_view"  # noted in the ledger: where in MLflow's pages the sweep is to be seen
MOST_AXES = 8  # of the parallel coordinates: more cannot be told apart
BEST, CURVES = "the best ten", "learning curves"  # sections of charts
ENDING, ENDING_SECONDS = (signal.SIGTERM, signal.SIGHUP), 10.0  # what ends the server, and how long it may take
HEIGHT = 380  # pixels of a chart


@dataclass(frozen=True)
class Shown:
    """The metrics that matter of a kind of model: what ranks trials, its course, and how much was heard or read."""

    ranking: str
    curve: str
    data: str


RECOGNISERS = Shown("asr/cer_percent", "val/cer", "train/audio_hours")
LANGUAGE_MODELS = Shown("lm/character_perplexity", "val/character_perplexity", "train/tokens")


def address_of_view(experiment: str, key: str, charts: bool = False) -> str:
    """Where a view is, after the server's address."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={quote(key)}{mode}&workflowType=machine_learning"


def view_of_sweep(name: str, parent: str, space: Space) -> dict[str, Any]:
    """The view of a sweep's trials, as MLflow keeps it.

    Args:
        parent: the sweep's own run.
    """
    ranking = _shown(space).ranking
    varied = [*space.vary, *_fitted(space)]
    widths = {
        _column("metrics", ranking): 130,
        _column("tags", "interval"): 110,
        _column("params", "parameters"): 90,
        _column("tags", "stopped"): 150,
        **{_column("params", key): max(90, 7 * len(key) + 30) for key in varied},
    }  # in pixels
    state = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": _column("metrics", ranking),
        "orderByAsc": True,
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "compareRunSections": [
            {"uuid": section, "name": section, "display": True, "columns": columns, "cardHeight": HEIGHT}
            for section, columns in ((BEST, 1), (CURVES, 2))
        ],
        "isAccordionReordered": True,  # else sections are sorted by their names
        "compareRunCharts": _charts(space),
    }
    now = int(time.time() * 1000)
    return {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}


def _charts(space: Space) -> list[dict[str, Any]]:
    """Parallel coordinates, the ranking against the size, and learning curves by epochs and by what was heard.

    What applies to some trials alone is no axis of the parallel coordinates: they would leave out the other trials.
    """
    shown = _shown(space)
    axes = [*(key for key, variable in space.vary.items() if not variable.when), *_fitted(space)]
    parallel = {"type": "PARALLEL", "selectedParams": axes[:MOST_AXES], "selectedMetrics": [shown.ranking]}
    scatter = {
        "type": "SCATTER", "xaxis": {"key": "parameters", "type": "PARAM"},
        "yaxis": {"key": shown.ranking, "type": "METRIC"},
    }  # fmt: skip
    curve = {
        "type": "LINE", "metricKey": shown.curve, "selectedMetricKeys": [shown.curve], "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False, "lineSmoothness": 0,  # else they end elsewhere than the trials did
    }  # fmt: skip
    by_epoch = {**curve, "xAxisKey": "step"}
    by_data = {**curve, "xAxisKey": "metric", "selectedXAxisMetricKey": shown.data}
    always = {"deleted": False, "isGenerated": False, "showAllRuns": False}
    return [
        {"uuid": uuid, "metricSectionId": section, "runsCountToCompare": count, **always, **chart}
        for uuid, section, count, chart in (
            ("parallel", BEST, 10, parallel),
            ("scatter", BEST, 100, scatter),
            ("epochs", CURVES, 10, by_epoch),
            ("data", CURVES, 10, by_data),
        )
    ]


def _fitted(space: Space) -> list[str]:
    return [space.fit.key] if space.fit else []


def _shown(space: Space) -> Shown:
    return LANGUAGE_MODELS if space.config({}).model.kind == "language_model" else RECOGNISERS


def _column(kind: str, key: str) -> str:
    return f"{kind}.`{key}`"


def open_pages(
    home: Home, name: str | None, uri: str | None, host: str, port: int | None, say: Callable[[str], None]
) -> int:
    """Shows MLflow's pages of the store of a sweep, by default the latest; returns an exit code.

    A store that is a server is told of; a database is served until Ctrl-C.

    Raises:
        InputError: no such sweep, MLflow cannot read the database, the port is taken, or none is free.
    """
    names = Ledger.names(home.studies)
    sweep = name or (names[-1] if names else None)
    about = Ledger.open(home.studies, sweep).about if sweep else {}
    store = home.store(about, uri)
    database = None if store.is_server else database_file(store.uri)
    if not store.is_server and (database is None or database.is_file()):  # MLflow's server makes an absent one
        check_readable(store.uri)
    port = 0 if store.is_server else free_port(host, port)
    address = store.uri.rstrip("/") if store.is_server else f"http://{host}:{port}"
    say(f"MLflow: {address}" + ("" if store.is_server else "   (Ctrl-C ends it)"))
    if VIEW in about and store == home.store(about):
        say(f"{sweep}: {address}{about[VIEW]}")
    return 0 if store.is_server else serve(store, host, port, say)


def serve(store: Store, host: str, port: int, say: Callable[[str], None]) -> int:
    """Serves MLflow's pages over a database until Ctrl-C, SIGTERM or SIGHUP; returns an exit code.

    The server is a group of processes, and none of them outlives this call.
    """
    # MLflow (3.17) would make a folder by an address's text as it stands: from inside the folder it needs no name.
    database = make_database(store.uri)
    uri, folder = (sqlite_address(Path(database.name)), database.parent) if database else (store.uri, None)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri,
        "--default-artifact-root", store.artifacts.as_uri(), "--host", host, "--port", str(port), "--workers", "1",
        "--uvicorn-opts", "--log-level critical",  # to some, Ctrl-C is an error
    ]  # fmt: skip
    # Jobs are for evaluating language models: several processes more, slow to start and loud when they end.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _ended_by(*ENDING):
        server = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
        try:
            code = server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)
    say(f"MLflow's server ended with exit code {code}")
    return code


@contextmanager
def _ended_by(*signals: signal.Signals) -> Iterator[None]:
    """Raises KeyboardInterrupt in the block for these signals, as Python does for Ctrl-C."""
    heard = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ends the server's group of processes: at its leisure, or after some seconds by force."""
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(server.pid, signal.SIGINT)
            server.wait(ENDING_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port(host: str, port: int | None) -> int:
    """`port` if it is free; else, where none is asked for, the first free one from 5000 on.

    Raises:
        InputError: the port is taken, or none of those tried is free, or there is no such host here.
    """
    reason = ""
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except OSError as error:
                reason = error.strerror or str(error)
    wanted = f"port {port} of {host}" if port else f"no free port on {host} from {FIRST_PORT} on"
    raise InputError(f"{wanted}: {reason}", "Say another --port, or --host 127.0.0.1.")
