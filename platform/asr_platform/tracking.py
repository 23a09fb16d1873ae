"""MLflow: a sweep is a parent run, each trial a nested child. The only file that imports mlflow.

One process writes, the sweep's driver, from what the ledger has on record. `catch_up` makes a run tell what the ledger
tells, whatever a killed driver left unsaid.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no git on the machine is no reason to complain

import requests
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from asr_platform.study import TrialRecord
from trainables.errors import InputError
from trainables.metrics import objective, objective_value

if TYPE_CHECKING:
    from trainables.data.corpus import Corpus

PACKAGES = ("torch", "ray", "optuna", "mlflow", "sentencepiece", "jiwer", "pyarrow")
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "RUNNING"}
FIRST_PORT, PORTS_TRIED = 5000, 100
# What a store that is away, full or locked raises.
FAILURES = (MlflowException, SQLAlchemyError, requests.RequestException, OSError)
NOT_METRICS = ("epoch", "checkpoint")
LEDGER = "ledger"  # the tag of a sweep's own run: which ledger it shows


@dataclass(frozen=True)
class Run:
    """One run as the store knows it."""

    id: str
    name: str
    status: str


class Tracker:
    """Writes one sweep's runs into an MLflow store.

    Args:
        uri: the store, such as `sqlite:////path/mlflow.db`, or a server's address.
        artifacts: where a new experiment keeps its artifacts; None leaves it to the server.
        experiment: runs are comparable within one: it is named after the corpus.
    """

    def __init__(self, uri: str, artifacts: Path | None, experiment: str) -> None:
        _quiet()
        self.client = MlflowClient(tracking_uri=uri)
        location = artifacts.as_uri() if artifacts else None
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            with contextlib.suppress(MlflowException):  # another sweep on this corpus was faster
                self.client.create_experiment(experiment, artifact_location=location)
            found = self.client.get_experiment_by_name(experiment)
        self.experiment = found.experiment_id

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None) -> str:
        """A new run, nested under `parent`, or the one that a driver began before it was killed; returns its id.

        What tells runs apart is the name under a parent, and the tag `ledger` of a sweep's own run.
        """
        nesting = {"mlflow.parentRunId": parent} if parent else {}
        begun = self.children(parent, name) if parent else self._of_ledger(tags.get(LEDGER))
        if begun:
            run_id = begun[0].id
        else:
            run_id = self.client.create_run(self.experiment, run_name=name, tags={**tags, **nesting}).info.run_id
        if not self.client.get_run(run_id).data.params:
            self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        return run_id

    def children(self, parent: str, name: str | None = None) -> list[Run]:
        """The runs nested under a sweep's own, all or those of one name, the oldest first."""
        named = f" and attributes.run_name = '{name}'" if name else ""
        return self._runs(f"tags.`mlflow.parentRunId` = '{parent}'{named}")

    def run(self, run_id: str) -> Run | None:
        """The run of that id; None where the store has none."""
        if not self.knows(run_id):
            return None
        info = self.client.get_run(run_id).info
        return Run(run_id, info.run_name, info.status)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """All that was logged of one metric: steps and values, in the order of steps."""
        return sorted((metric.step, metric.value) for metric in self.client.get_metric_history(run_id, key))

    def discard(self, run_id: str, reason: str) -> None:
        """Tags a run with the reason and deletes it, as MLflow deletes: it can be restored there."""
        self.client.set_tag(run_id, "discarded", reason)
        self.client.delete_run(run_id)

    def _of_ledger(self, ledger: str | None) -> list[Run]:
        return self._runs(f"tags.{LEDGER} = '{ledger}'") if ledger else []

    def _runs(self, condition: str) -> list[Run]:
        found: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = self.client.search_runs(
                [self.experiment], condition, order_by=["attributes.start_time ASC"], page_token=token
            )
            found += [Run(run.info.run_id, run.info.run_name, run.info.status) for run in page]
            token = page.token or None
        return found

    def log_epoch(self, run_id: str, row: Mapping[str, Any]) -> None:
        """One epoch's metrics, with the epoch as step."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, int(row["epoch"])) for key, value in row.items() if key not in NOT_METRICS
        ]
        self.client.log_batch(run_id, metrics=metrics)

    def catch_up(self, run_id: str, trial: TrialRecord) -> None:
        """Logs the epochs that the ledger has and the run has not, then its end if it has ended."""
        key = objective(trial.curve[0]) if trial.curve else "val_cer"
        logged = {step for step, _ in self.history(run_id, key)}
        for row in trial.curve:
            if row["epoch"] not in logged:
                self.log_epoch(run_id, row)
        status = self.client.get_run(run_id).info.status
        if status != STATUS[trial.state]:
            self.end(run_id, trial)

    def end(self, run_id: str, trial: TrialRecord) -> None:
        """Closes a trial's run: early-stopped is KILLED, with the rung in the tag `stopped`."""
        tags = [RunTag("state", trial.state)]
        if trial.reason:
            tags.append(RunTag("stopped" if trial.state == "pruned" else "reason", trial.reason))
        metrics = []
        if trial.best:
            metrics = [Metric(*_best(trial.best), int(time.time() * 1000), trial.best["epoch"])]
        self.client.log_batch(run_id, metrics=metrics, tags=tags)
        if trial.state == "running":
            self.reopen(run_id)
        else:
            self.client.set_terminated(run_id, STATUS[trial.state])

    def ended(self, run_id: str) -> bool:
        """Whether the run has been closed."""
        return self.client.get_run(run_id).info.status != STATUS["running"]

    def keep(self, run_id: str, folder: str, write: Callable[[Path], None]) -> None:
        """Logs the files that `write` puts into a folder, as artifacts in a folder of that name."""
        with tempfile.TemporaryDirectory() as place:
            write(Path(place))
            self.client.log_artifacts(run_id, place, folder)

    def keep_table(self, run_id: str, name: str, columns: Mapping[str, list[Any]]) -> None:
        """Logs a table that MLflow's pages show; one of that name stays as it is: MLflow would append to it."""
        if not any(artifact.path == name for artifact in self.client.list_artifacts(run_id)):
            self.client.log_table(run_id, dict(columns), name)

    def knows(self, run_id: str) -> bool:
        """Whether the store has this run: it may be another store than the one that it was written to."""
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def reopen(self, run_id: str) -> bool:
        """Marks a run as running again, as its sweep goes on; False where there is none."""
        if not self.knows(run_id):
            return False
        self.client.update_run(run_id, status="RUNNING")
        return True

    def end_sweep(
        self, run_id: str, status: str, best: TrialRecord | None, model: Path | None, reason: str = ""
    ) -> None:
        """Closes the parent run with the best trial's figures and its model directory as artifact.

        A reason to end early is in the tag `stopped`.
        """
        if reason:
            self.client.set_tag(run_id, "stopped", reason)
        elif "stopped" in self.client.get_run(run_id).data.tags:  # where the sweep ended the last time
            self.client.delete_tag(run_id, "stopped")
        if best and best.best:
            self.client.log_metric(run_id, *_best(best.best))
            self.client.set_tag(run_id, "best_trial", str(best.number))
        if model:
            self.client.log_artifacts(run_id, str(model), "model")
        self.client.set_terminated(run_id, status)


def experiment_of(corpus: Corpus) -> str:
    """The experiment of all sweeps on a corpus, which alone can be compared."""
    return f"{corpus.source}-{corpus.hash[:8]}"


@cache
def provenance() -> dict[str, str]:
    """The git revision of the working tree, where there is one, and package versions, as tags."""
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or no repository
        revision = "unknown"
    return {"git_revision": revision, **{f"version.{name}": version(name) for name in PACKAGES}}


def serve(uri: str, artifacts: Path, host: str, port: int | None, say: Callable[[str], None]) -> int:
    """Serves MLflow's pages over the store until it is interrupted; returns the server's exit code.

    Raises:
        InputError: the port is taken, or none is free.
    """
    port = free_port(host, port)
    say(f"MLflow: http://{host}:{port}   (Ctrl-C ends it)")
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri,
        "--default-artifact-root", artifacts.as_uri(), "--host", host, "--port", str(port), "--workers", "1",
        "--uvicorn-opts", "--log-level critical",  # to some, Ctrl-C is an error
    ]  # fmt: skip
    # Jobs are for evaluating language models: several processes more, slow to start and loud when they end.
    server = subprocess.Popen(command, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    try:
        code = server.wait()
    except KeyboardInterrupt:  # which the server has seen as well
        server.wait()
        return 0
    say(f"MLflow's server ended with exit code {code}")
    return code


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


def _best(row: Mapping[str, Any]) -> tuple[str, float]:
    """Name and value of the metric that a run is ranked by: `best_val_cer`, of one epoch."""
    return f"best_{objective(row)}", objective_value(row)


def _quiet() -> None:
    """The first use of a store announces every migration of its tables: not on our terminal."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
