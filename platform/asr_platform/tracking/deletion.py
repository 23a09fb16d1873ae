"""Deletes a sweep: its MLflow runs, registered and logged models, its files, and its ledger last.

The ledger says what belongs to the sweep. So a deletion that was killed is completed by repeating it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from mlflow.entities import ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from asr_platform.storage.database import database_file
from asr_platform.storage.home import STORE, Home
from asr_platform.storage.paths import folder_size
from asr_platform.storage.relocation import local_folder
from asr_platform.storage.stored_sweeps import owner
from asr_platform.study.ledger import Ledger
from asr_platform.tracking.runs import ACTIVE, PARENT
from asr_platform.tracking.store import FAILURES, is_missing, one_line, open_client, paged
from trainables.errors import InputError

HOLDER = "delete"  # purpose of the sweep's lock


@dataclass
class Deletion:
    """The runs, models and files of a sweep that a deletion removes, as they were when it was constructed.

    Args:
        id: the ledger's, then.
        runs: the sweep's and its trials' MLflow runs, deleted ones included.
        versions: versions of the registered model that are the sweep's.
        logged: ids of the logged models of the runs.
        artifacts: folders of runs and logged models on this machine.
    """

    home: Home
    ledger: Ledger
    client: MlflowClient | None
    id: str
    runs: list[Any] = field(default_factory=list)
    versions: list[ModelVersion] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, home: Home, name: str) -> Deletion:
        """The deletion of the sweep `name`, which nothing has been done for yet.

        Raises:
            InputError: there is no such sweep, or its MLflow store cannot be read.
        """
        ledger = Ledger.open(home.studies, name)
        store = home.store(ledger.about)
        found = cls(home, ledger, None, ledger.id)
        if store.uri == home.tracking and not (home.path / STORE).is_file():  # nothing logged, or deleted
            return found
        try:
            found.client = open_client(store.uri)
            found._find(found.client)
        except FAILURES as error:
            if "mlflow_run_id" not in ledger.about:  # no run was begun
                return cls(home, ledger, None, ledger.id)
            start = "Start its server, then try again."
            begin = f"If it is lost for good, platform doctor {name} begins an empty one."
            raise InputError(
                f"{store.uri}: MLflow cannot be read: {one_line(error)}", begin if database_file(store.uri) else start
            ) from None
        return found

    @property
    def lines(self) -> list[str]:
        """Everything that `delete` removes, one line for each kind of thing, with sizes of files."""
        name, trials = self.ledger.name, len(self.ledger.trials())
        active = sum(run.info.lifecycle_stage == ACTIVE for run in self.runs)
        lines = [
            f"{trials} trials in the ledger",
            *self._sized("checkpoints and logs", [self.home.sweep(name)]),
            *self._sized("model", [self.home.model(name)]),
            *([f"{active} MLflow runs"] if active else []),
            *self._sized("files of MLflow", self.artifacts),
        ]
        if self.versions:
            lines.append(f"{len(self.versions)} versions of the registered model {name}")
        return lines

    def delete(self) -> None:
        """Deletes all that belongs to the sweep now; the sweep's lock is held meanwhile.

        Raises:
            RunningError: the sweep is running.
            InputError: MLflow cannot be read or written, or another sweep has the name by now.
        """
        name = self.ledger.name
        with self.home.lock(name, HOLDER):
            now = Deletion.of(self.home, name)  # the sweep may have gone on since `self` was made
            if now.id != self.id:
                raise InputError(f"sweep {name} has been replaced by a new one", "Repeat the command to delete that.")
            now._delete()

    def _delete(self) -> None:
        name = self.ledger.name
        _remove(self.artifacts)  # before MLflow's rows, by which they are found
        try:
            self._delete_in_mlflow()
        except FAILURES as error:
            raise InputError(f"MLflow cannot be written: {one_line(error)}", "Repeat the command.") from None
        if self.home.storage and owner(self.home.storage, name) in (None, self.id):
            for folder in (f"sweeps/{name}", f"models/{name}"):
                self.home.storage.delete_folder(folder)
        _remove([self.home.model(name), self.home.sweep(name)])
        optuna.delete_study(study_name=name, storage=self.ledger.study._storage)

    def _sized(self, what: str, folders: list[Path]) -> list[str]:
        there = [folder for folder in folders if folder.is_dir()]
        size = sum(map(folder_size, there)) / 1e6
        where = there[0] if len(there) == 1 else f"{len(there)} folders"
        return [f"{what}: {where} ({size:,.1f} MB)"] if there else []

    def _find(self, client: MlflowClient) -> None:
        self.versions = [one for one in self._all_versions(client) if one.tags.get("ledger") == self.id]
        parent = self.ledger.about.get("mlflow_run_id")
        if parent is None:
            return
        try:
            own = client.get_run(parent)
        except MlflowException as error:
            if not is_missing(error):
                raise
            return
        experiment = own.info.experiment_id
        children = paged(client.search_runs, [experiment], f"tags.`{PARENT}` = '{parent}'", ViewType.ALL)
        self.runs = [*children, own]
        models = [
            model
            for run in self.runs
            for model in client.search_logged_models([experiment], f"source_run_id='{run.info.run_id}'")
        ]
        self.logged = [model.model_id for model in models]
        places = [run.info.artifact_uri for run in self.runs] + [model.artifact_location for model in models]
        self.artifacts = [folder for place in places if (folder := self._folder(place)) is not None]

    def _all_versions(self, client: MlflowClient) -> list[ModelVersion]:
        """All versions of the registered model with the sweep's name; other homes may have added some."""
        return list(client.search_model_versions(f"name='{self.ledger.name}'"))

    def _folder(self, place: str) -> Path | None:
        """Folder of an artifact location in the home; None if it is outside the home; the store removes it."""
        if urlsplit(place).scheme not in ("file", ""):
            return None
        folder = local_folder(place)
        run = folder.parent if folder.name == "artifacts" else folder
        return run if self.home.artifacts in run.parents and run.is_dir() else None

    def _delete_in_mlflow(self) -> None:
        if self.client is None:
            return
        name = self.ledger.name
        for version in self.versions:
            self.client.delete_model_version(name, str(version.version))
        if not self._all_versions(self.client) and self.client.search_registered_models(f"name='{name}'"):
            self.client.delete_registered_model(name)
        for model in self.logged:
            self.client.delete_logged_model(model)
        for run in self.runs:  # the sweep's own last: it leads to the others
            if run.info.lifecycle_stage == ACTIVE:
                self.client.delete_run(run.info.run_id)


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
