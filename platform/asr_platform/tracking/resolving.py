"""From the name of a model in MLflow to its model directory on this machine.

Commands import this module to read their arguments, so MLflow, Optuna and torch are imported only where a name of
MLflow's is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from asr_platform.storage.home import STORE, Home
from asr_platform.storage.store_address import named_uri
from trainables.errors import InputError
from trainables.folders import replaced

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.tracking import MlflowClient

    from asr_platform.study.ledger import Ledger

IN_MLFLOW = ("models:/", "runs:/")
CHAMPION = "champion"  # alias of a registered model's best version
# In the folder of a registered model: MLflow's file, the model directory, and the language model of its search.
MLMODEL, MODEL, LANGUAGE_MODEL = "MLmodel", "model", "language_model"
GIVE_DIRECTORY = "Give the model's directory."


def resolve_model(home: Path, model: str) -> Path:
    """Model directory for the argument MODEL of a command; files on a server are downloaded once.

    Names are searched in the store of $MLFLOW_TRACKING_URI, then in the stores of the home's sweeps.

    Args:
        home: folder of the sweeps; downloads are kept in its folder `downloads`.
        model: a directory, which need not exist; `models:/NAME@champion`, `models:/NAME/3`; `runs:/ID` of a sweep or
            of a trial; `runs:/ID/PATH`.

    Raises:
        InputError: no store has such a model (the message lists the models of the first store), or no store is known
            or can be read.
    """
    if not model.startswith(IN_MLFLOW):
        return Path(model)
    named = named_uri()
    place = Home(home.resolve()) if named else Home.existing(home)
    if named and place.path.joinpath(STORE).exists():  # the home's own store may be the named one
        place.relocate()
    failures: list[InputError] = []
    for store in _stores(place, named, model):
        try:
            return _find(place, store, model)
        except InputError as error:
            failures.append(error)
    if not failures:
        raise InputError(f"{model}: no sweep has been begun in {place.path}", GIVE_DIRECTORY)
    raise failures[0]


def registered_language_model(model: Path) -> Path | None:
    """Directory of the language model that was registered together with the model directory `model`, if any."""
    language_model = model.with_name(LANGUAGE_MODEL)
    return language_model if model.with_name(MLMODEL).is_file() and language_model.is_dir() else None


def _stores(home: Home, named: str | None, model: str) -> Iterator[str]:
    """Addresses of MLflow stores to search, each once: `named`, the store of the sweep named in `model`, the others."""
    yield from [named] if named else []
    seen = {named}
    sweep = model.partition(":/")[2].strip("/").partition("/")[0].partition("@")[0]
    for ledger in _ledgers(home, sweep):
        store = home.store(ledger.about).uri
        if store not in seen:
            seen.add(store)
            yield store


def _ledgers(home: Home, first: str = "") -> Iterator[Ledger]:
    """Ledgers of a home: first the ledger of the sweep `first`, then the others from the latest to the oldest."""
    from asr_platform.study.ledger import Ledger

    if home.begun:
        for name in sorted(reversed(Ledger.names(home.studies)), key=lambda name: name != first):
            yield Ledger.open(home.studies, name)


def _find(home: Home, store: str, model: str) -> Path:
    """Finds a model in the MLflow store at the address `store`, and returns its directory on this machine.

    Args:
        model: `models:/...` or `runs:/...`, as `resolve_model` takes it.

    Raises:
        InputError: the store does not have the model or cannot be read, or the files are on another machine.
    """
    from asr_platform.tracking.store import FAILURES, one_line, open_client
    from trainables.inference.model_files import CONFIG

    try:
        client = open_client(store)
    except FAILURES as error:
        raise InputError(f"{model}: {one_line(error, 400)}", GIVE_DIRECTORY) from None
    try:
        find = _of_run if model.startswith("runs:/") else _of_version
        address, inner = find(client, home, model.partition(":/")[2].strip("/"))
        folder = _local(home, store, address) / inner
    except FAILURES as error:
        raise InputError(f"{model}: {one_line(error)}", _known(client)) from None
    if inner and not folder.exists():
        raise InputError(
            f"{model}: its files are in {folder}, which is not on this machine",
            "Ask a server that keeps them for others (mlflow server), or give the model's directory.",
        )
    if not (folder / CONFIG).is_file():
        raise InputError(f"{model}: there is no model directory of this platform in it", _known(client))
    return folder


def _of_version(client: MlflowClient, home: Home, name: str) -> tuple[str, str]:
    """Address of a registered model's artifacts, and the name of the model directory in them.

    Args:
        name: `NAME/VERSION`, `NAME@ALIAS` or the id of a logged model.
    """
    model, _, version = name.partition("/")
    if version == "latest":
        found = client.search_model_versions(f"name='{model}'")
        version = max((str(one.version) for one in found), key=int, default="0")
    elif not version and "@" in model:
        model, _, alias = model.rpartition("@")
        version = str(client.get_model_version_by_alias(model, alias).version)
    if not version:
        return _of_logged(client, home, client.get_logged_model(model))
    return str(client.get_model_version_download_uri(model, version)), MODEL


def _of_run(client: MlflowClient, home: Home, name: str) -> tuple[str, str]:
    """Address of the artifacts with a run's model, and the path of the model directory in them.

    The run's logged models are searched first, then its artifacts, then the folder of the trial.

    Args:
        name: `ID` of the run, or `ID/PATH`.
    """
    run_id, _, path = name.partition("/")
    run, name = client.get_run(run_id), path or MODEL
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id='{run_id}' AND name='{name}'")
    for one in models:  # the latest first
        if one.status == "READY":
            return _of_logged(client, home, one)
    if path or client.list_artifacts(run_id, name):
        return f"{run.info.artifact_uri}/{name}", ""
    return _of_trial(client, home, run), ""


def _of_logged(client: MlflowClient, home: Home, model: LoggedModel) -> tuple[str, str]:
    """Address of a logged model's artifacts, and the name of the model directory in them; of a trial's, its folder."""
    from asr_platform.compat.mlflow import EXTERNAL

    if EXTERNAL in model.tags and model.source_run_id:
        return _of_trial(client, home, client.get_run(model.source_run_id)), ""
    return str(model.artifact_location), MODEL


def _of_trial(client: MlflowClient, home: Home, run: Run) -> str:
    from asr_platform.tracking.runs import LEDGER, PARENT

    parent = run.data.tags.get(PARENT)
    ledger_id = client.get_run(parent).data.tags.get(LEDGER) if parent else None
    for ledger in _ledgers(home):
        if ledger.id == ledger_id:
            for trial in ledger.trials():
                if trial.about.get("mlflow_run_id") == run.info.run_id and trial.model:
                    return str(home.whole_model(trial.model))
    raise InputError(
        f"runs:/{run.info.run_id} ({run.info.run_name}): its model is not on disk",
        "Of each sweep the best models stay: platform leaderboard NAME --json lists them.",
    )


def _local(home: Home, store: str, address: str) -> Path:
    """Path of artifacts on this machine; artifacts on a server or in a bucket are downloaded."""
    from urllib.request import url2pathname  # with the client of HTTP

    from mlflow.artifacts import download_artifacts

    parts = urlparse(address)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if not parts.scheme:  # a path as it is: `%41` does not mean `A`
        return Path(address)
    downloaded = home.path / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:16]
    if not downloaded.is_dir():
        with replaced(downloaded) as partial:
            download_artifacts(artifact_uri=address, dst_path=str(partial), tracking_uri=store)
    return downloaded / Path(parts.path).name


def _known(client: MlflowClient) -> str:
    from asr_platform.tracking.store import FAILURES

    try:
        names = [
            f"models:/{one.name}@{CHAMPION}" if CHAMPION in one.aliases else f"models:/{one.name}/latest"
            for one in client.search_registered_models()
        ]
    except FAILURES:
        return GIVE_DIRECTORY
    return f"MLflow's models are: {', '.join(names) or 'none yet'}. platform leaderboard NAME --json lists runs."
