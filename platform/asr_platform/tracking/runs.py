"""MLflow: a sweep is a parent run, each trial a nested child.

One process writes, the sweep's driver, from what the ledger has on record. `catch_up` makes a run tell what the ledger
tells, whatever a killed driver left unsaid.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no git on the machine is no reason to complain
# MLflow's own patience with a server that is away is minutes a request; ours is the ledger's (see MLflowCallback).
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # at once: for a connection that was closed meanwhile
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines into a live table for each run

import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as mlflow_db
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.version import VERSION as MLFLOW
from sqlalchemy.exc import SQLAlchemyError

from asr_platform.compat.environment import disable_mlflow_telemetry
from asr_platform.storage.database import make_database, make_folder_of
from asr_platform.storage.home import Store
from asr_platform.study.ledger import TrialRecord
from trainables.errors import InputError
from trainables.evaluation.metrics import objective, objective_value

if TYPE_CHECKING:
    from trainables.data.corpus import Corpus

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "RUNNING"}
LEFT = "KILLED"  # the status of an interrupted trial's run, until the trial goes on
# What a store that is away, full or locked raises.
FAILURES = (MlflowException, SQLAlchemyError, requests.RequestException, OSError)
ACTIVE = "active"  # a lifecycle stage: not deleted
DISCARDED = "discarded"  # the tag of a run that `discard` deleted: why
NOT_METRICS = ("epoch", "checkpoint")
LEDGER = "ledger"  # the tag of a sweep's own run: which ledger it shows
DESCRIPTION = "mlflow.note.content"  # the tag that MLflow's pages show as a run's description
KIND = "mlflow.experimentKind"
VIEW = "mlflow.sharedViewState."  # the tag of an experiment in which they look for a view of it
UPLOAD_TIMEOUT = 600  # seconds that a server may take to put a model away
EPOCHS_AT_ONCE = 25  # MLflow takes 1000 metrics in one call

NAMES = {
    "train_loss": "train/loss",
    "train_cross_entropy": "train/cross_entropy",
    "train_ctc": "train/ctc",
    "infeasible_ctc": "train/infeasible_ctc",
    "updates": "train/updates",
    "gradient_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
    "audio_hours": "train/audio_hours",
    "tokens": "train/tokens",
    "val_loss": "val/loss",
    "val_cer": "val/cer",
    "val_cer_single": "val/cer_single",
    "val_wer": "val/wer",
    "val_ctc_cer": "val/ctc_cer",
    "real_time_factor": "val/real_time_factor",
    "val_perplexity": "val/perplexity",
    "val_character_perplexity": "val/character_perplexity",
    "val_character_perplexity_single": "val/character_perplexity_single",
    "audio_seconds_per_second": "system/audio_seconds_per_second",
    "tokens_per_second": "system/tokens_per_second",
    "padding_share": "system/padding_share",
    "train_seconds": "system/train_seconds",
    "validation_seconds": "system/validation_seconds",
    "cpu_utilization": "system/cpu_utilization",
    "memory_gb": "system/memory_gb",
    "gpu_utilization": "system/gpu_utilization",
    "gpu_memory_gb": "system/gpu_memory_gb",
}
"""What MLflow calls the metrics of an epoch; it shows those of one group together."""


def _percent(rate: float) -> float:
    return round(100 * rate, 3)


FIGURES: Mapping[str, tuple[str, Callable[[float], float]]] = {
    "val_cer": ("asr/cer_percent", _percent),
    "val_wer": ("asr/wer_percent", _percent),
    "val_ctc_cer": ("asr/ctc_cer_percent", _percent),
    "real_time_factor": ("asr/real_time_factor", float),
    "val_character_perplexity": ("lm/character_perplexity", float),
}
"""Figures of a trial's best epoch so far: their names, and how they are shown. MLflow's tables show every digit that
there is and its charts three decimals: as fractions, CERs would be long in those and look alike in these."""

Entry = tuple[str, int, float]  # a metric's name, step and value


@dataclass(frozen=True)
class Run:
    """One run as the store knows it."""

    id: str
    name: str
    status: str


def entries(curve: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    """Everything that MLflow is told of a trial's epochs, with the epoch as step.

    Figures come before the rest: where runs are compared, MLflow's pages begin with the metric that was logged first.
    """
    best = float("inf")
    for row in curve:
        step = int(row["epoch"])
        if objective_value(row) <= best:
            best = objective_value(row)
            yield from ((name, step, figure(row[key])) for key, (name, figure) in FIGURES.items() if key in row)
        yield from ((NAMES.get(key, key), step, float(row[key])) for key in row if key not in NOT_METRICS)


def histories(curve: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The same by name: steps and values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in entries(curve):
        found.setdefault(name, []).append((step, value))
    return found


class Tracker:
    """Writes one sweep's runs into an MLflow store.

    Args:
        experiment: runs are comparable within one: it is named after the corpus.
    """

    def __init__(self, store: Store, experiment: str) -> None:
        if not store.is_server:
            make_database(store.uri)
        self.client = client_of(store.uri)
        location = None if store.is_server else store.artifacts.as_uri()
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            with contextlib.suppress(MlflowException):  # another sweep on this corpus was faster
                self.client.create_experiment(experiment, artifact_location=location)
            found = self.client.get_experiment_by_name(experiment)
        self.experiment = found.experiment_id
        if KIND not in found.tags and found.lifecycle_stage == ACTIVE:  # MLflow's pages would guess, and ask about it
            self.client.set_experiment_tag(self.experiment, KIND, "custom_model_development")

    def start(
        self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None,
        datasets: Sequence[DatasetInput] = (),
    ) -> str:  # fmt: skip
        """A new run, nested under `parent`, or the one that a driver began before it was killed; returns its id.

        What tells runs apart is the name under a parent, and the tag `ledger` of a sweep's own run. An experiment that
        somebody has deleted is restored, with its runs: MLflow keeps the name, and takes no run in it meanwhile.
        """
        self._restore()
        nesting = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        begun = self.children(parent, name) if parent else self._of_ledger(tags.get(LEDGER))
        if begun:
            run_id = begun[0].id
        else:
            run_id = self.client.create_run(
                self.experiment, run_name=name, tags={**readable(tags), **nesting}
            ).info.run_id
        if not self.client.get_run(run_id).data.params:
            if datasets:
                self.client.log_inputs(run_id, datasets=list(datasets))
            self.client.log_batch(run_id, params=[Param(key, value) for key, value in readable(params).items()])
        return run_id

    def _restore(self) -> None:
        """Restores the experiment where it is deleted; runs that `discard` has deleted stay so."""
        if self.client.get_experiment(self.experiment).lifecycle_stage == ACTIVE:
            return
        self.client.restore_experiment(self.experiment)
        for run in self._runs(f"tags.{DISCARDED} != ''"):
            self.client.delete_run(run.id)

    def children(self, parent: str, name: str | None = None) -> list[Run]:
        """The runs nested under a sweep's own, all or those of one name, the oldest first."""
        named = f" and attributes.run_name = '{name}'" if name else ""
        return self._runs(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'{named}")

    def run(self, run_id: str) -> Run | None:
        """The run of that id; None where the store has none."""
        return _plain(self.client.get_run(run_id)) if self.knows(run_id) else None

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """All that was logged of one metric: steps and values, in the order of steps."""
        return sorted((metric.step, metric.value) for metric in self.client.get_metric_history(run_id, name))

    def discard(self, run_id: str, reason: str) -> None:
        """Tags a run with the reason and deletes it, as MLflow deletes: it can be restored there."""
        self.client.set_tag(run_id, DISCARDED, reason)
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
            found += map(_plain, page)
            token = page.token or None
        return found

    def log(self, run_id: str, told: Iterable[Entry]) -> None:
        """Metrics, in one call."""
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, step, value in told])

    def catch_up(self, run_id: str, trial: TrialRecord, tags: Callable[[], Mapping[str, str]] = lambda: {}) -> None:
        """Logs the epochs that the ledger has and the run has not, then its end if it has ended.

        An early-stopped trial's run is KILLED. What ended a trial before its last epoch is in the tag `stopped`.

        Args:
            tags: what else is to be said of the trial as it is now; asked where there is anything new.
        """
        told = list(entries(trial.curve))
        ranking = NAMES[objective(trial.curve[0])] if trial.curve else ""
        logged = {step for step, _ in self.history(run_id, ranking)} if ranking else set()
        steps = sorted({step for _, step, _ in told} - logged)
        status = self.client.get_run(run_id).info.status
        if not steps and status == STATUS[trial.state]:
            return
        state = {"state": trial.state, **({"stopped": trial.reason} if trial.reason else {})}
        # Tags come first: a driver that is killed before the epochs are there finds that there is something new.
        self.tag(run_id, {**tags(), **state})
        for start in range(0, len(steps), EPOCHS_AT_ONCE):
            batch = set(steps[start : start + EPOCHS_AT_ONCE])
            self.log(run_id, [entry for entry in told if entry[1] in batch])
        if status == STATUS[trial.state]:
            return
        if trial.state == "running":
            self.reopen(run_id)
        else:
            self.client.set_terminated(run_id, STATUS[trial.state])

    def ended(self, run_id: str) -> bool:
        """Whether the run has been closed."""
        return bool(self.client.get_run(run_id).info.status != STATUS["running"])

    def keep(self, run_id: str, folder: str, write: Callable[[Path], None]) -> None:
        """Logs the files that `write` puts into a folder, as artifacts in a folder of that name."""
        with tempfile.TemporaryDirectory() as place:
            write(Path(place))
            self.client.log_artifacts(run_id, place, folder)

    def keep_table(self, run_id: str, name: str, columns: Mapping[str, list[Any]]) -> None:
        """Logs a table that MLflow's pages show; one of that name stays as it is: MLflow would append to it."""
        if not any(artifact.path == name for artifact in self.client.list_artifacts(run_id)):
            self.client.log_table(run_id, dict(columns), name)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in readable(tags).items()])

    def describe(self, run_id: str, text: str, former: str | None) -> None:
        """Sets a run's description, in Markdown, unless a person has changed the `former` one."""
        if self.client.get_run(run_id).data.tags.get(DESCRIPTION) in (None, former):
            self.client.set_tag(run_id, DESCRIPTION, text)

    def offer_view(self, key: str, view: Mapping[str, Any]) -> None:
        """Keeps a view of the experiment's runs, which MLflow's pages open by its key (see pages.py)."""
        self.client.set_experiment_tag(self.experiment, VIEW + key, json.dumps(view))

    def knows(self, run_id: str) -> bool:
        """Whether the store has this run: it may be another store than the one that it was written to."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == ACTIVE)
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

    def close(self, run_id: str, status: str) -> None:
        """Ends a run with a status of MLflow's."""
        self.client.set_terminated(run_id, status)

    def end_sweep(self, run_id: str, status: str, best: TrialRecord | None, reason: str = "") -> None:
        """Closes the parent run with the best trial's figures.

        A reason to end early is in the tag `stopped`.
        """
        if reason:
            self.tag(run_id, {"stopped": reason})
        elif "stopped" in self.client.get_run(run_id).data.tags:  # where the sweep ended the last time
            self.client.delete_tag(run_id, "stopped")
        if best and best.best:
            names = {name for name, _ in FIGURES.values()}
            self.log(run_id, [entry for entry in entries([best.best]) if entry[0] in names])
            self.client.set_tag(run_id, "best_trial", str(best.number))
        self.client.set_terminated(run_id, status)


def experiment_of(corpus: Corpus) -> str:
    """The experiment of all sweeps on a corpus, which alone can be compared."""
    return f"{corpus.source}-{corpus.hash[:8]}"


def datasets_of(corpus: Corpus, splits: Mapping[str, str]) -> list[DatasetInput]:
    """Splits of a corpus as MLflow lists what a run has used.

    Args:
        splits: their names by what they were used for, such as `train`.
    """
    source = json.dumps({"uri": str(corpus.path.resolve())})
    found = []
    for context, name in splits.items():
        summary = corpus.splits[name]
        profile = {
            "utterances": summary.utterances,
            "hours": round(summary.seconds / 3600, 3),
            "characters": summary.characters,
            "frames": summary.frames,
            "corpus_hash": corpus.hash,
        }
        digest = corpus.hash[:16]  # MLflow takes at most 36 characters
        dataset = Dataset(f"{corpus.source}/{name}", digest, "local", source, profile=json.dumps(profile))
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return found


def _plain(run: Any) -> Run:
    return Run(run.info.run_id, run.info.run_name, run.info.status)


def readable(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts that a database takes: bytes of file names that are not UTF-8 are written as \\udcXX."""
    return {key: str(value).encode(errors="backslashreplace").decode() for key, value in values.items()}


def client_of(uri: str) -> MlflowClient:
    """A client of a store; a database must be of this version of MLflow.

    Raises:
        MlflowException: it is of another one; the message says what to do.
    """
    quiet()
    try:
        return MlflowClient(uri)
    except MlflowException as error:
        if "mlflow db upgrade" not in str(error):
            raise
    raise MlflowException(
        f"the database is of another version than MLflow {MLFLOW}; back it up, then run: mlflow db upgrade {uri} "
        "(where that fails, it is of a newer MLflow: install that)"
    )


def check_readable(uri: str) -> None:
    """Asks a database for its experiments.

    Raises:
        InputError: MLflow cannot read it.
    """
    try:
        client_of(uri).search_experiments(max_results=1)
    except FAILURES as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{uri}: cannot be read: {reason[:400]}", "Mend the database, or name another.") from None


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Waits longer for a server's answers: long enough for it to put a model away."""
    usual = MLFLOW_HTTP_REQUEST_TIMEOUT.get()
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(max(usual, UPLOAD_TIMEOUT))
    try:
        yield
    finally:
        MLFLOW_HTTP_REQUEST_TIMEOUT.set(usual)


def quiet() -> None:
    """Before the first use of a store: no announcement of every migration of its tables, and no stray folders."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    disable_mlflow_telemetry()
    # MLflow (3.17) makes the folder of a SQLite file by the address's text: for `q%41` it would make `q%2541` besides.
    mlflow_db._make_parent_dirs_if_sqlite = make_folder_of
