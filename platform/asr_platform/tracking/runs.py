"""Runs in MLflow: a run for the sweep, and nested in it a run for each trial.

Only the sweep's driver writes, from the ledger, except for notes (`notes.py`). Data that was read or written is cached
and not read again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from asr_platform.compat.mlflow import DATASET_CONTEXT, EXPERIMENT_KIND, EXTERNAL
from asr_platform.storage.database import make_database
from asr_platform.storage.home import Store
from asr_platform.study.ledger import TrialRecord
from asr_platform.tracking.metrics import METRICS, LoggedMetric, best_metrics, logged_metrics, metric_histories
from asr_platform.tracking.store import as_texts, is_missing, open_client, paged
from trainables.evaluation.metrics import objective

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from trainables.data.corpus import Corpus

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "RUNNING"}
"""Status of a trial's run by the trial's state."""
INTERRUPTED = "KILLED"  # status of an interrupted trial's run, until the trial is resumed
ACTIVE = "active"  # lifecycle stage of what is not deleted
EPOCHS_AT_ONCE = 20  # MLflow takes 1000 metrics in one call

# Tags. MLflow documents those that begin with its name (https://mlflow.org/docs/latest/ml/tracking/).
PARENT = "mlflow.parentRunId"
DESCRIPTION = "mlflow.note.content"  # shown as the description of a run
LEDGER = "ledger"  # of a sweep's run: the ledger's id
DISCARDED = "discarded"  # of a run that `discard` has deleted: why
MODEL_ID = "model_id"  # of a trial's run: id of the trial's model


@dataclass
class Run:
    """A run as the store has it.

    Args:
        metrics: latest values of the metrics by name, as they were when the run was read.
        epochs: numbers of the logged epochs; None: not read yet.
    """

    id: str
    name: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]
    epochs: set[int] | None = None


class Tracker:
    """Writes a sweep's runs into an MLflow store.

    Args:
        experiment: name of the experiment; runs are compared within one.

    Attributes:
        known: cached runs by id; to be cleared after a failed write, whose data may have arrived.
    """

    def __init__(self, store: Store, experiment: str) -> None:
        if not store.is_server:
            make_database(store.uri)
        self.client = open_client(store.uri)
        self.known: dict[str, Run] = {}
        location = None if store.is_server else store.artifacts.as_uri()
        found = self.client.get_experiment_by_name(experiment)
        if found is None:
            with suppress(MlflowException):  # another sweep on this corpus was faster
                self.client.create_experiment(experiment, artifact_location=location)
            found = self.client.get_experiment_by_name(experiment)
        self.experiment = found.experiment_id
        if EXPERIMENT_KIND not in found.tags and found.lifecycle_stage == ACTIVE:
            self.client.set_experiment_tag(self.experiment, EXPERIMENT_KIND, "custom_model_development")

    # Reading

    def run(self, run_id: str | None) -> Run | None:
        """The run `run_id`, read at its first use; None if it is not in this store, or is deleted."""
        if run_id and run_id not in self.known:
            try:
                found = self.client.get_run(run_id)
            except MlflowException as error:
                if not is_missing(error):
                    raise
                return None
            if found.info.lifecycle_stage == ACTIVE:
                self.known[run_id] = _run(found)
        return self.known.get(run_id or "")

    def children(self, parent: str, name: str | None = None) -> list[Run]:
        """Runs nested in the run `parent`, the oldest first; with `name`, only runs of that name."""
        named = f" and attributes.run_name = '{name}'" if name else ""
        return self._search(f"tags.`{PARENT}` = '{parent}'{named}")

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """The values logged for a metric, as (step, value) pairs in the order of steps."""
        return sorted((metric.step, metric.value) for metric in self.client.get_metric_history(run_id, name))

    def model_lacks(self, run: Run, name: str) -> set[int]:
        """Epochs with a metric of a run that its model lacks: MLflow stores a run's metrics first, then its model's."""
        if not (model := self._model(run)):
            return set()
        known = {metric.step for metric in model.metrics or [] if metric.key == name}
        return {epoch for epoch, _ in self.history(run.id, name)} - known

    def _search(self, condition: str) -> list[Run]:
        order = ["attributes.start_time ASC"]
        return [_run(found) for found in paged(self.client.search_runs, [self.experiment], condition, order_by=order)]

    def lacking(self, parent: str, trials: Sequence[TrialRecord]) -> list[int]:
        """Numbers of the trials whose runs, nested in the run `parent`, are missing or lack something.

        All runs are read at once. Epochs are logged in their order: a run that has the metrics of the last one has all.
        """
        self.known.update((run.id, run) for run in self.children(parent))
        return [trial.number for trial in trials if not self._is_whole(trial)]

    def _is_whole(self, trial: TrialRecord) -> bool:
        run = self.known.get(trial.about.get("mlflow_run_id", ""))
        if run is None or run.status != STATUS[trial.state] or run.tags.get("state") != trial.state:
            return False
        rows = [trial.best, trial.curve[-1]] if trial.best else []
        return {name: value for name, _, value in logged_metrics(rows)}.items() <= run.metrics.items()

    # A run's life

    def start(
        self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None,
        datasets: Sequence[DatasetInput] = (),
    ) -> Run:  # fmt: skip
        """Creates a run, nested in the run `parent`, or finds the run that a killed driver has created.

        Trials' runs are found by parent and name, sweeps' runs by the tag `ledger`. A deleted experiment is restored,
        since MLflow does not allow a new experiment with its name.
        """
        self._restore_experiment()
        if parent:
            begun = self.children(parent, name)
        else:
            begun = self._search(f"tags.{LEDGER} = '{tags[LEDGER]}'") if LEDGER in tags else []
        if begun:
            run = begun[0]
            whole = bool(self.client.get_run(run.id).data.params)
        else:
            nesting = {PARENT: parent} if parent else {}
            run = _run(self.client.create_run(self.experiment, run_name=name, tags={**as_texts(tags), **nesting}))
            run.epochs, whole = set(), False
        self.known[run.id] = run
        if not whole:
            if datasets:
                self.client.log_inputs(run.id, datasets=list(datasets))
            self.client.log_batch(run.id, params=[Param(key, value) for key, value in as_texts(params).items()])
        return run

    def start_model(self, run: Run, params: Mapping[str, Any], kind: str) -> None:
        """Creates the model that a trial's run trains, or finds the one that a killed driver has created.

        MLflow's page of models compares them by their parameters and metrics, which are those of the run. Its files are
        outside MLflow, in the trial's folder.

        Args:
            params: values of the searched keys.
            kind: type of the model in MLflow.
        """
        found = self.client.search_logged_models([self.experiment], f"source_run_id='{run.id}' AND name='{run.name}'")
        made = next(iter(found), None) or self.client.create_logged_model(
            self.experiment, run.name, run.id, {EXTERNAL: "true"}, as_texts(params), model_type=kind
        )
        self.tag(run, {MODEL_ID: made.model_id})

    def end_model(self, run: Run, trial: TrialRecord) -> None:
        """Ends the model of a trial's run, if it has one, as trained up to the trial's best epoch, or as failed."""
        if not (model := self._model(run)):
            return
        self.client.finalize_logged_model(model.model_id, "READY" if trial.best else "FAILED")
        if trial.best:
            link_model(self.client, run.id, model.model_id, trial.best["epoch"])

    def _model(self, run: Run) -> LoggedModel | None:
        """The model of a trial's run; None if it has none, or somebody has removed it."""
        try:
            return self.client.get_logged_model(run.tags[MODEL_ID]) if MODEL_ID in run.tags else None
        except MlflowException as error:
            if not is_missing(error):
                raise
            return None

    def _restore_experiment(self) -> None:
        """Restores the experiment if it is deleted; runs that `discard` has deleted stay deleted."""
        if self.client.get_experiment(self.experiment).lifecycle_stage == ACTIVE:
            return
        self.client.restore_experiment(self.experiment)
        for run in self._search(f"tags.{DISCARDED} != ''"):
            self._delete(run.id)

    def set_status(self, run: Run, status: str) -> None:
        """Sets a run's status; RUNNING opens the run again, any other status ends it."""
        if status == "RUNNING":
            self.client.update_run(run.id, status=status)
        else:
            self.client.set_terminated(run.id, status)
        run.status = status

    def discard(self, run_id: str, reason: str) -> None:
        """Tags a run with the reason and deletes it and its models; MLflow can restore the run."""
        self.client.set_tag(run_id, DISCARDED, reason)
        self._delete(run_id)

    def _delete(self, run_id: str) -> None:
        """Deletes a run and its models."""
        for model in self.client.search_logged_models([self.experiment], f"source_run_id='{run_id}'"):
            self.client.delete_logged_model(model.model_id)
        self.client.delete_run(run_id)

    def catch_up(self, run: Run, trial: TrialRecord, tags: Callable[[], Mapping[str, str]] = lambda: {}) -> None:
        """Logs the epochs of a trial that its run lacks, then the trial's end.

        The tag `stopped` has the reason why a trial ended early.

        Args:
            tags: returns further tags; called only if there is something to log.
        """
        logged = self._logged_epochs(run, trial)
        missing = [epoch for epoch in trial.recorded if epoch not in logged]
        if not missing and run.status == STATUS[trial.state]:
            return
        # Tags come first: a driver that is killed before the epochs are logged finds that there is something to log.
        self.tag(run, {**tags(), "state": trial.state, **({"stopped": trial.reason} if trial.reason else {})})
        metrics = list(logged_metrics(*trial.since(missing[0]))) if missing else []
        for start in range(0, len(missing), EPOCHS_AT_ONCE):
            batch = missing[start : start + EPOCHS_AT_ONCE]
            self.log(run, [metric for metric in metrics if metric[1] in batch])
            logged.update(batch)
        if run.status != STATUS[trial.state]:
            if trial.state != "running":
                self.end_model(run, trial)
            self.set_status(run, STATUS[trial.state])

    def _logged_epochs(self, run: Run, trial: TrialRecord) -> set[int]:
        if run.epochs is None and trial.curve:
            ranking = METRICS[objective(trial.curve[0])].name
            run.epochs = {epoch for epoch, _ in self.history(run.id, ranking)}
            if lacking := self.model_lacks(run, ranking):
                self._complete_model(run, set(metric_histories(trial.curve)), lacking)
        return set() if run.epochs is None else run.epochs

    def _complete_model(self, run: Run, names: set[str], epochs: set[int]) -> None:
        """Logs metrics that a run has again, for its model; with the times that they have, the run keeps them once."""
        logged = [metric for name in names for metric in self.client.get_metric_history(run.id, name)]
        found = [Metric(one.key, one.value, one.timestamp, one.step, model_id=run.tags[MODEL_ID]) for one in logged]
        for epoch in sorted(epochs):
            self.client.log_batch(run.id, metrics=[metric for metric in found if metric.step == epoch])

    def end_sweep(self, run: Run, status: str, best: TrialRecord | None, reason: str = "") -> None:
        """Ends a sweep's run with the metrics of the best trial.

        Args:
            reason: why the sweep ended early, for the tag `stopped`.
        """
        if reason:
            self.tag(run, {"stopped": reason})
        elif run.tags.pop("stopped", ""):  # an earlier end of the sweep
            self.client.delete_tag(run.id, "stopped")
        if best and best.best:
            self.log(run, best_metrics(best.best, best.best["epoch"]))
            self.tag(run, {"best_trial": str(best.number)})
        self.set_status(run, status)

    # Logging

    def log(self, run: Run, metrics: Iterable[LoggedMetric]) -> None:
        """Logs metrics of a run, and of its model if it has one, in one call."""
        now, model = int(time.time() * 1000), run.tags.get(MODEL_ID)
        found = [Metric(name, value, now, step, model_id=model) for name, step, value in metrics]
        self.client.log_batch(run.id, metrics=found)

    def tag(self, run: Run, tags: Mapping[str, str]) -> None:
        """Sets a run's tags in one call; tags that the run is known to have are skipped."""
        changed = {key: value for key, value in as_texts(tags).items() if run.tags.get(key) != value}
        if changed:
            self.client.log_batch(run.id, tags=[RunTag(key, value) for key, value in changed.items()])
            run.tags.update(changed)

    def describe(self, run: Run, text: str, former: str | None) -> None:
        """Sets a run's description (Markdown), unless a user has changed the `former` description."""
        if run.tags.get(DESCRIPTION) in (None, former):
            self.tag(run, {DESCRIPTION: text})

    def log_files(self, run: Run, folder: str, write: Callable[[Path], None]) -> None:
        """Logs the files that `write` puts into a temporary folder, as artifacts below `folder`."""
        with tempfile.TemporaryDirectory() as place:
            write(Path(place))
            self.client.log_artifacts(run.id, place, folder)

    def log_table(self, run: Run, name: str, columns: Mapping[str, list[Any]]) -> None:
        """Logs a table, unless the run has a table `name`, to which MLflow would append the rows."""
        if not any(artifact.path == name for artifact in self.client.list_artifacts(run.id)):
            self.client.log_table(run.id, dict(columns), name)


def link_model(client: MlflowClient, run_id: str, model_id: str, epoch: int) -> None:
    """Shows a logged model on the page of a run as trained up to an epoch, unless it is there already."""
    outputs = client.get_run(run_id).outputs
    if model_id not in {one.model_id for one in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=epoch)])


def experiment_of(corpus: Corpus) -> str:
    """Name of the experiment for all sweeps on a corpus."""
    return f"{corpus.source}-{corpus.hash[:8]}"


def datasets_of(corpus: Corpus, splits: Mapping[str, str]) -> list[DatasetInput]:
    """Splits of a corpus as the datasets of a run.

    Args:
        splits: names of splits by their use, such as `train`.
    """
    source = json.dumps({"uri": str(corpus.path.resolve())})
    found = []
    for use, name in splits.items():
        summary = corpus.summary(name)
        profile = {
            "utterances": summary.utterances, "hours": round(summary.seconds / 3600, 3), "frames": summary.frames,
            "characters": summary.characters, "corpus_hash": corpus.hash,
        }  # fmt: skip
        digest = corpus.hash[:16]  # MLflow takes at most 36 characters
        dataset = Dataset(f"{corpus.source}/{name}", digest, "local", source, profile=json.dumps(profile))
        found.append(DatasetInput(dataset, [InputTag(DATASET_CONTEXT, use)]))
    return found


def _run(run: Any) -> Run:
    return Run(run.info.run_id, run.info.run_name, run.info.status, dict(run.data.tags), dict(run.data.metrics))
