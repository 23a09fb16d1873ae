"""MLflow's model registry: what sweeps have found, under the sweeps' names.

A sweep has one registered model, with a version for each best model that a run of it ended with. Its alias `champion`
is on the best version; whoever prefers another one sets an alias of their own. A sweep of the same name in another home
may write to the same store: its model becomes a version as well, and takes the alias where the validation that both
went through ranks it first.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.tracking.model_card import CARD, HEAD
from asr_platform.tracking.model_names import MODEL
from asr_platform.tracking.packaging import parts, write_around
from asr_platform.tracking.runs import patience
from trainables.evaluation.metrics import objective, objective_value
from trainables.evaluation.utterance_errors import ERRORS, UtteranceErrors
from trainables.inference.model_directory import copy_model, kind_of

CHAMPION = "champion"
IDENTITY = ("ledger", "trial", "epoch")  # tags: no two models have the same
VALIDATION = ("corpus_hash", "split")  # tags: what a figure is of
VERSIONS = "mlflow.modelVersions"  # the tag by which MLflow's pages lead from a run's model to its versions
DESCRIPTION = 5000  # characters, the most that MLflow's tables take


@dataclass(frozen=True)
class Entry:
    """A sweep's best model, as the registry is to have it.

    Args:
        name: the sweep's.
        model: the model directory, with its card.
        tags: what it is (`IDENTITY`), and how good in which validation.
        params: its values of what the sweep varied.
    """

    name: str
    model: Path
    tags: Mapping[str, str]
    params: Mapping[str, Any]

    @classmethod
    def of(cls, ledger: Ledger, best: TrialRecord, model: Path) -> Entry:
        """That of a trial that has finished an epoch."""
        row = next((row for row in best.curve if row["checkpoint"] == best.model), best.best)
        assert row is not None
        errors = UtteranceErrors.load(model / ERRORS)
        tags = {
            "ledger": ledger.id,
            "trial": best.number,
            "epoch": row["epoch"],
            "corpus_hash": ledger.about["corpus_hash"],
            "split": errors.split if errors else "",
            "parameters": best.about.get("parameters"),
            objective(row): objective_value(row),
        }
        return cls(ledger.name, model, {key: str(value) for key, value in tags.items()}, best.params)


@dataclass(frozen=True)
class Registered:
    """Where a model is found.

    Args:
        kept: why another version is the champion, in words; empty where this one is.
    """

    name: str
    version: str
    kept: str = ""

    @property
    def uri(self) -> str:
        """What MODEL may be in every command."""
        return f"models:/{self.name}/{self.version}" if self.kept else f"models:/{self.name}@{CHAMPION}"


class Registry:
    """The registered models of a store."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client

    def register(self, entry: Entry, run_id: str) -> Registered:
        """Makes a version of the model, unless there is one, and puts the alias on it, unless that is on a better one.

        It may be killed at any moment and done again.

        Args:
            run_id: the sweep's own run.
        """
        if not self.client.search_registered_models(f"name='{entry.name}'"):
            self.client.create_registered_model(entry.name, description=f"What the sweep {entry.name} found.")
        found = next((one for one in self._versions(entry.name) if _is(entry, one.tags)), None)
        version = found or self._add(entry, run_id)
        self._describe(entry, version)
        champion = self._champion(entry.name, self._versions(entry.name))  # another home may have put it up meanwhile
        if champion and not _is(entry, champion.tags) and (kept := undefeated(champion.tags, entry.tags)):
            return Registered(entry.name, str(version.version), f"version {champion.version} stays, {kept}")
        self.client.set_registered_model_alias(entry.name, CHAMPION, str(version.version))
        return Registered(entry.name, str(version.version))

    def lacks(self, entry: Entry) -> bool:
        """Whether `register` would mend anything."""
        versions = self._versions(entry.name)
        champion = self._champion(entry.name, versions) if versions else None
        if champion is None or not (_is(entry, champion.tags) or undefeated(champion.tags, entry.tags)):
            return True
        own = champion.tags.get("ledger") == entry.tags["ledger"]  # then the sweep had a better one, now off the disk
        return not own and not any(_is(entry, one.tags) for one in versions)

    def _describe(self, entry: Entry, version: ModelVersion) -> None:
        """With the latest card, which tells of trials since; what a person has written stays."""
        card = entry.model / CARD
        if card.is_file() and (not version.description or version.description.startswith(HEAD.format(entry.name))):
            text = card.read_text(encoding="utf-8")[:DESCRIPTION]
            self.client.update_model_version(entry.name, str(version.version), description=text)

    def _versions(self, name: str) -> list[ModelVersion]:
        return list(self.client.search_model_versions(f"name='{name}'"))

    def _champion(self, name: str, versions: list[ModelVersion]) -> ModelVersion | None:
        number = self.client.get_registered_model(name).aliases.get(CHAMPION)
        return next((one for one in versions if str(one.version) == str(number)), None)

    def _add(self, entry: Entry, run_id: str) -> ModelVersion:
        logged = self._logged(entry, run_id)
        outputs = self.client.get_run(run_id).outputs
        if logged.model_id not in {one.model_id for one in (outputs.model_outputs if outputs else [])}:
            self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=int(entry.tags["epoch"]))])
        version = self.client.create_model_version(
            entry.name, logged.artifact_location, run_id, dict(entry.tags), model_id=logged.model_id
        )
        link = [{"name": entry.name, "version": version.version}]
        self.client.set_logged_model_tags(logged.model_id, {VERSIONS: json.dumps(link)})
        return version

    def _logged(self, entry: Entry, run_id: str) -> LoggedModel:
        """The model among those of the sweep's run, with its files."""
        experiment = self.client.get_run(run_id).info.experiment_id
        for found in self.client.search_logged_models([experiment], f"source_run_id='{run_id}'"):
            if found.status == LoggedModelStatus.READY and _is(entry, found.tags):
                return found
            if found.status == LoggedModelStatus.PENDING:  # the driver was killed, or the store went away
                self.client.delete_logged_model(found.model_id)
        params = {key: str(value) for key, value in entry.params.items()}
        logged = self.client.create_logged_model(
            experiment, MODEL, run_id, dict(entry.tags), params, model_type=kind_of(entry.model)
        )
        about = Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, model_id=logged.model_id, run_id=run_id
        )
        with tempfile.TemporaryDirectory() as place, patience():
            write_around(entry.model, Path(place) / MODEL, about)
            self.client.log_model_artifacts(logged.model_id, str(Path(place) / MODEL))
            for name, folder in parts(entry.model):
                if name != MODEL:  # it may be a checkpoint
                    folder = copy_model(folder, Path(place) / name)
                self.client.log_model_artifacts(logged.model_id, str(folder), name)
        return self.client.finalize_logged_model(logged.model_id, "READY")


def _is(entry: Entry, tags: Mapping[str, str]) -> bool:
    """Whether these are the tags of the same model."""
    return all(tags.get(key) == entry.tags[key] for key in IDENTITY)


def undefeated(champion: Mapping[str, str], tags: Mapping[str, str]) -> str:
    """Why a model does not take the champion's place, in words; empty where it does. Both are given by their tags."""
    key = objective(tags)
    if key not in champion or any(champion.get(name) != tags[name] for name in VALIDATION):
        return "which was validated on something else"
    if float(champion[key]) > float(tags[key]):
        return ""
    return "which is better" if float(champion[key]) < float(tags[key]) else "which is as good"
