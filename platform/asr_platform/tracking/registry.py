"""MLflow's model registry: the best models of sweeps, under the sweeps' names.

A sweep has one registered model. Each run of the sweep that ends with a new best model adds a version, and the alias
`champion` names the best version. A sweep with the same name in another home adds versions to the same registered
model if it uses the same store; its version becomes champion if it is better in the same validation.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from asr_platform.analysis.learning import nothing_learned
from asr_platform.compat.mlflow import MODEL_VERSIONS
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.tracking.model_card import CARD, HEAD
from asr_platform.tracking.packaging import parts, write_around
from asr_platform.tracking.resolving import CHAMPION, MODEL
from asr_platform.tracking.runs import link_model
from asr_platform.tracking.store import is_deleted, is_missing, upload_timeout
from trainables.evaluation.metrics import objective, objective_value
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_directory import copy_model, read_info
from trainables.inference.model_files import ERRORS

IDENTITY = ("ledger", "trial", "epoch")  # tags that identify a model
VALIDATION = ("corpus_hash", "split")  # tags that must be equal for CERs to be compared
MOST_CHARACTERS = 5000  # length of a description that MLflow's database takes


@dataclass(frozen=True)
class BestModel:
    """A sweep's best model, to be registered.

    Args:
        name: name of the sweep.
        folder: model directory, with the model card.
        tags: the tags IDENTITY and VALIDATION, the number of parameters and the objective's value.
        params: values of the searched keys.
        unlearned: why the model has learned nothing, and is no champion; empty if it has learned something.
        trial_run: id of the trial's run in MLflow; None: it has none.
    """

    name: str
    folder: Path
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    unlearned: str = ""
    trial_run: str | None = None

    @classmethod
    def of(cls, ledger: Ledger, best: TrialRecord, folder: Path) -> BestModel:
        """Best model of a sweep.

        Args:
            best: trial that trained the model; it must have a finished epoch.
            folder: model directory.
        """
        row = next((row for row in best.curve if row["checkpoint"] == best.model), best.best)
        assert row is not None
        errors = UtteranceErrors.load(folder / ERRORS)
        tags = {
            "ledger": ledger.id,
            "trial": best.number,
            "epoch": row["epoch"],
            "corpus_hash": ledger.about["corpus_hash"],
            "split": errors.split if errors else "",
            "parameters": best.about.get("parameters"),
            objective(row): objective_value(row),
        }
        texts = {key: str(value) for key, value in tags.items()}
        run = ledger.trial(best.number).about.get("mlflow_run_id")  # noted since `best` was read
        return cls(ledger.name, folder, texts, best.params, nothing_learned(row), run)

    def has(self, tags: Mapping[str, str]) -> bool:
        """Whether `tags` of an MLflow model version or logged model identify it as this model."""
        return all(tags.get(key) == self.tags[key] for key in IDENTITY)


@dataclass(frozen=True)
class Registered:
    """A registered model's version.

    Args:
        kept: reason why this version is not the champion; empty if it is.
    """

    name: str
    version: str
    kept: str = ""

    @property
    def uri(self) -> str:
        """Address of the version for the argument MODEL of commands."""
        return f"models:/{self.name}/{self.version}" if self.kept else f"models:/{self.name}@{CHAMPION}"


class Registry:
    """The model registry of a store."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client

    def register(self, model: BestModel, run_id: str) -> Registered:
        """Registers the model as a version, and gives it the alias `champion` if no version is better.

        A model that has learned nothing gets no alias.

        Registering a model again is safe, and completes what a killed process has begun.

        Args:
            run_id: id of the sweep's run.
        """
        if not self.client.search_registered_models(f"name='{model.name}'"):
            self.client.create_registered_model(model.name, description=f"Best models of the sweep {model.name}.")
        found = next((one for one in self._versions(model.name) if model.has(one.tags)), None)
        version = found or self._add(model, run_id)
        self._describe(model, version)
        if model.unlearned:
            return Registered(model.name, str(version.version), f"nothing learned ({model.unlearned})")
        champion = self._champion(model.name, self._versions(model.name))  # may be of another home
        if champion and not model.has(champion.tags) and (kept := undefeated(champion.tags, model.tags)):
            return Registered(model.name, str(version.version), f"version {champion.version} stays, {kept}")
        self.client.set_registered_model_alias(model.name, CHAMPION, str(version.version))
        return Registered(model.name, str(version.version))

    def lacks(self, model: BestModel) -> bool:
        """Whether `register` would change the version or the alias."""
        versions = self._versions(model.name)
        if model.unlearned:
            return not any(model.has(one.tags) for one in versions)
        champion = self._champion(model.name, versions) if versions else None
        if champion is None or not (model.has(champion.tags) or undefeated(champion.tags, model.tags)):
            return True
        own = champion.tags.get("ledger") == model.tags["ledger"]  # a better model of the sweep, no longer on disk
        return not own and not any(model.has(one.tags) for one in versions)

    def _describe(self, model: BestModel, version: ModelVersion) -> None:
        """Updates a version's description with the model card, unless a user has edited the description."""
        card = model.folder / CARD
        if card.is_file() and (not version.description or version.description.startswith(HEAD.format(model.name))):
            text = card.read_text(encoding="utf-8")[:MOST_CHARACTERS]
            self.client.update_model_version(model.name, str(version.version), description=text)

    def _versions(self, name: str) -> list[ModelVersion]:
        return list(self.client.search_model_versions(f"name='{name}'"))

    def _champion(self, name: str, versions: list[ModelVersion]) -> ModelVersion | None:
        number = self.client.get_registered_model(name).aliases.get(CHAMPION)
        return next((one for one in versions if str(one.version) == str(number)), None)

    def _add(self, model: BestModel, run_id: str) -> ModelVersion:
        logged = self._logged(model, run_id)
        epoch = int(model.tags["epoch"])
        link_model(self.client, run_id, logged.model_id, epoch)
        if model.trial_run:
            try:
                link_model(self.client, model.trial_run, logged.model_id, epoch)
            except MlflowException as error:
                if not (is_deleted(error) or is_missing(error)):  # a page that somebody has deleted needs no model
                    raise
        version = self.client.create_model_version(
            model.name, logged.artifact_location, run_id, dict(model.tags), model_id=logged.model_id
        )
        link = [{"name": model.name, "version": version.version}]
        self.client.set_logged_model_tags(logged.model_id, {MODEL_VERSIONS: json.dumps(link)})
        return version

    def _logged(self, model: BestModel, run_id: str) -> LoggedModel:
        """Logged model of the sweep's run for this model; uploads the model if it is missing."""
        experiment = self.client.get_run(run_id).info.experiment_id
        for found in self.client.search_logged_models([experiment], f"source_run_id='{run_id}'"):
            if found.status == LoggedModelStatus.READY and model.has(found.tags):
                return found
            if found.status == LoggedModelStatus.PENDING:  # an upload that was cut short
                self.client.delete_logged_model(found.model_id)
        params = {key: str(value) for key, value in model.params.items()}
        logged = self.client.create_logged_model(
            experiment, MODEL, run_id, dict(model.tags), params, model_type=read_info(model.folder).config.model.kind
        )
        about = Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, model_id=logged.model_id, run_id=run_id
        )
        with tempfile.TemporaryDirectory() as place, upload_timeout():
            write_around(model.folder, Path(place) / MODEL, about)
            self.client.log_model_artifacts(logged.model_id, str(Path(place) / MODEL))
            for name, folder in parts(model.folder):
                if name != MODEL:  # may be a checkpoint, with files that only training needs
                    folder = copy_model(folder, Path(place) / name)
                self.client.log_model_artifacts(logged.model_id, str(folder), name)
        return self.client.finalize_logged_model(logged.model_id, "READY")


def undefeated(champion: Mapping[str, str], tags: Mapping[str, str]) -> str:
    """Reason why a champion stays instead of a new model; empty if the new model replaces it.

    Args:
        champion, tags: tags of the champion and of the new model.
    """
    key = objective(tags)
    if key not in champion or any(champion.get(name) != tags[name] for name in VALIDATION):
        return "which was validated on something else"
    if float(champion[key]) > float(tags[key]):
        return ""
    return "which is better" if float(champion[key]) < float(tags[key]) else "which is as good"
