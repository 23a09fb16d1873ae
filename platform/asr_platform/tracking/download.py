"""From the name of a model in MLflow to its directory on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelStatus, Run
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from asr_platform.storage.database import database_file
from asr_platform.storage.home import STORE, Home, Store
from asr_platform.storage.store_address import named_uri
from asr_platform.study.ledger import Ledger
from asr_platform.tracking.model_names import MODEL
from asr_platform.tracking.registry import CHAMPION
from asr_platform.tracking.runs import FAILURES, LEDGER, client_of
from trainables.errors import InputError
from trainables.folders import replaced
from trainables.inference.model_directory import CONFIG


def fetch(home: Path, model: str) -> Path:
    """The directory of the model that MLflow knows by this name (see `model_names.located`).

    It is looked for in the store that $MLFLOW_TRACKING_URI names, then in those that the home's sweeps told of
    themselves. Where the artifacts are on this machine, it is there; else it is fetched once, into the home's folder
    `downloads`.

    Raises:
        InputError: there is no such model, or the store cannot be read; or nothing says where a store is.
    """
    named = named_uri()
    place = Home(home.resolve()) if named else Home.existing(home)
    if named and place.path.joinpath(STORE).exists():  # it may be the one that is named
        place.settle()
    failures: list[InputError] = []
    for store in _stores(place, named, _name(model)):
        try:
            return _fetched(place, store, model)
        except InputError as error:
            failures.append(error)
    if not failures:
        raise InputError(f"{model}: no sweep has been begun in {place.path}", "Give the model's directory.")
    raise failures[0]


def _stores(home: Home, named: str | None, sweep: str) -> Iterator[str]:
    """The addresses of the stores that may have it, each once: of the sweep of that name, then the latest first."""
    yield from [named] if named else []
    seen = {named}
    for ledger in _ledgers(home, sweep):
        store = home.store(ledger.about).uri
        if store not in seen:
            seen.add(store)
            yield store


def _ledgers(home: Home, first: str = "") -> Iterator[Ledger]:
    if home.begun:
        for name in sorted(reversed(Ledger.names(home.studies)), key=lambda name: name != first):
            yield Ledger.open(home.studies, name)


def _name(model: str) -> str:
    """NAME in `models:/NAME@champion` or `models:/NAME/3`."""
    return model.partition(":/")[2].strip("/").partition("/")[0].partition("@")[0]


def _fetched(home: Home, store: str, model: str) -> Path:
    """From one store."""
    database = None if Store(store, home.artifacts).is_server else database_file(store)
    if database is not None and not database.is_file():  # MLflow would make one
        raise InputError(f"{model}: {store}: there is no such file", "Give the model's directory, or MLflow's address.")
    try:
        client = client_of(store)
    except FAILURES as error:
        raise InputError(f"{model}: {' '.join(str(error).split())[:400]}", "Give the model's directory.") from None
    scheme, _, name = model.partition(":/")
    run_id, _, path = name.strip("/").partition("/")
    try:
        address, inner = _of_run(client, home, run_id, path) if scheme == "runs" else _of_version(client, model)
        folder = _here(home, store, address, inner)
    except FAILURES as error:
        raise InputError(f"{model}: {' '.join(str(error).split())[:200]}", _known(client)) from None
    if inner and not folder.exists():
        raise InputError(
            f"{model}: its files are in {folder}, which is not on this machine",
            "Ask a server that keeps them for others (mlflow server), or give the model's directory.",
        )
    if not (folder / CONFIG).is_file():
        raise InputError(f"{model}: there is no model directory of this platform in it", _known(client))
    return folder


def _of_version(client: MlflowClient, model: str) -> tuple[str, str]:
    """The address of what a version, an alias or the ID of one of MLflow's models means, and the directory in it."""
    found = get_model_name_and_version(client, model)
    if len(found) == 1:
        return str(client.get_logged_model(found[0]).artifact_location), MODEL
    return str(client.get_model_version_download_uri(*found)), MODEL


def _of_run(client: MlflowClient, home: Home, run_id: str, path: str) -> tuple[str, str]:
    """Where the model directory of a run is: among its models, its artifacts, or, of a trial, in the sweep's folder."""
    run, name = client.get_run(run_id), path or MODEL
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id='{run_id}' AND name='{name}'")
    latest = next((one for one in models if one.status == LoggedModelStatus.READY), None)
    if latest is not None:
        return str(latest.artifact_location), MODEL
    if path or client.list_artifacts(run_id, name):
        return f"{run.info.artifact_uri}/{name}", ""
    return _of_trial(client, home, run), ""


def _of_trial(client: MlflowClient, home: Home, run: Run) -> str:
    """The model directory of a trial's best epoch, as the ledger has it."""
    parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    ledger_id = client.get_run(parent).data.tags.get(LEDGER) if parent else None
    for ledger in _ledgers(home):
        if ledger.id == ledger_id:
            for trial in ledger.trials():
                if trial.about.get("mlflow_run_id") == run.info.run_id and trial.model:
                    return trial.model
    raise InputError(
        f"runs:/{run.info.run_id} ({run.info.run_name}): its model is not on disk",
        "Of each sweep the best models stay: platform leaderboard NAME --json lists them.",
    )


def _here(home: Home, store: str, address: str, inner: str) -> Path:
    """A folder in a folder of artifacts, with what is beside it, on this machine."""
    if urlparse(address).scheme == "file":
        return Path(local_file_uri_to_path(address)) / inner
    if not urlparse(address).scheme:  # a path, in which `%41` is no `A`
        return Path(address) / inner
    fetched = home.path / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:16]
    if not fetched.is_dir():
        with replaced(fetched) as partial:
            download_artifacts(artifact_uri=address, dst_path=str(partial), tracking_uri=store)
    return fetched / Path(urlparse(address).path).name / inner


def _known(client: MlflowClient) -> str:
    """The models that a person may have meant."""
    try:
        names = [
            f"models:/{one.name}@{CHAMPION}" if CHAMPION in one.aliases else f"models:/{one.name}/latest"
            for one in client.search_registered_models()
        ]
    except FAILURES:
        return "Give the model's directory."
    return f"MLflow's models are: {', '.join(names) or 'none yet'}. platform leaderboard NAME --json lists runs."
