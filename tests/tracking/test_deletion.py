"""A sweep is deleted with all that is its own, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import pytest
import records
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from asr_platform.storage.addresses import Addresses
from asr_platform.storage.database import make_database, make_tables
from asr_platform.storage.home import STUDIES, Home, RunningError, Store
from asr_platform.storage.stored_sweeps import OWNER
from asr_platform.study.ledger import Ledger
from asr_platform.tracking import deletion
from asr_platform.tracking.deletion import Deletion
from asr_platform.tracking.runs import Tracker
from asr_platform.tracking.store import open_client
from trainables.errors import InputError


def sweep(home: Home, name: str) -> Ledger:
    """A sweep of two trials, with runs, artifacts, a registered model, a model directory and checkpoints."""
    ledger = records.ledger_in(home.path, name, corpus="/corpus", options={})
    tracker = Tracker(Store(home.tracking, home.artifacts), "experiment")
    own = tracker.start(name, {"a": 1}, {"ledger": ledger.id})
    ledger.note("mlflow_run_id", own.id)
    for number in range(2):
        records.add(ledger, "complete", [0.5])
        run = tracker.start(f"trial-{number:04}", {"a": number}, {}, own.id)
        ledger.describe(number, "mlflow_run_id", run.id)
        tracker.log_files(run, "plots", lambda place: (place / "picture.png").write_bytes(b"x" * 1000) and None)
        (home.trial(name, number) / "checkpoint").mkdir(parents=True)
        (home.trial(name, number) / "checkpoint" / "weights").write_bytes(b"x" * 2_000_000)
    home.model(name).mkdir(parents=True)
    (home.model(name) / "weights").write_bytes(b"x")
    logged = tracker.client.create_logged_model(run_experiment(tracker), "model", own.id)
    weights = Path(unquote(urlsplit(logged.artifact_location).path)) / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"x" * 1000)
    tracker.client.create_registered_model(name)
    tracker.client.create_model_version(name, logged.artifact_location, own.id, {"ledger": ledger.id})
    return ledger


def run_experiment(tracker: Tracker) -> str:
    return str(tracker.experiment)


def left(home: Home) -> tuple[list[str], list[str], list[str], list[str]]:
    """Sweeps in the ledger, active MLflow runs, registered models and files that are still there."""
    client = MlflowClient(home.tracking)
    experiment = client.get_experiment_by_name("experiment").experiment_id
    runs = sorted(run.info.run_name for run in client.search_runs([experiment], run_view_type=ViewType.ACTIVE_ONLY))
    models = [model.name for model in client.search_registered_models()]
    files = sorted(
        str(path.relative_to(home.path)) for path in home.path.rglob("*") if path.is_file() and path.suffix != ".db"
    )
    return Ledger.names(home.studies), runs, models, files


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger and an MLflow store without a row; their tables take long to make."""
    folder = tmp_path_factory.mktemp("databases")
    make_tables(folder / STUDIES)
    make_database(Home(folder).tracking)
    open_client(Home(folder).tracking).search_experiments()
    return folder


@pytest.fixture
def home(databases: Path, tmp_path: Path) -> Home:
    for path in databases.glob("*.db"):
        shutil.copy(path, tmp_path)
    home = Home(tmp_path)
    sweep(home, "other")
    return home


def test_nothing_is_left_and_other_sweeps_stay(home: Home) -> None:
    before = left(home)
    sweep(home, "small")
    found = Deletion.of(home, "small")
    assert found.lines == [
        "2 trials in the ledger",
        f"checkpoints and logs: {home.sweep('small')} (4.0 MB)",
        f"model: {home.model('small')} (0.0 MB)",
        "3 MLflow runs",
        "files of MLflow: 3 folders (0.0 MB)",
        "1 versions of the registered model small",
    ]
    found.delete()
    assert left(home) == before
    with pytest.raises(InputError, match="no sweep named small"):
        Deletion.of(home, "small")


@pytest.mark.parametrize("whose", ["own", "another", "of an earlier version"])
def test_on_a_storage_what_belongs_to_another_ledger_stays(home: Home, tmp_path: Path, whose: str) -> None:
    home = Home(home.path, Addresses(str(tmp_path / "shared")))
    ledger = sweep(home, "mine")
    for path in ("sweeps/mine/trials/trial-0000/log.txt", "models/mine/weights"):
        (tmp_path / "shared" / path).parent.mkdir(parents=True)
        (tmp_path / "shared" / path).touch()
    if whose != "of an earlier version":
        (tmp_path / "shared" / "sweeps" / "mine" / OWNER).write_text(ledger.id if whose == "own" else "another")
    Deletion.of(home, "mine").delete()
    assert (tmp_path / "shared" / "models" / "mine" / "weights").exists() == (whose == "another")
    assert (tmp_path / "shared" / "sweeps" / "mine").exists() == (whose == "another")
    assert Ledger.names(home.studies) == ["other"]


def test_versions_of_another_home_stay(home: Home) -> None:
    """Two homes may use one store, and their sweeps have the same name."""
    ours = sweep(home, "small").id
    MlflowClient(home.tracking).create_model_version("small", "/elsewhere", tags={"ledger": "another's"})
    Deletion.of(home, "small").delete()
    (kept,) = MlflowClient(home.tracking).search_model_versions("name='small'")
    assert kept.tags["ledger"] == "another's" != ours


def test_a_store_that_is_lost_keeps_a_sweep_only_if_it_has_runs_there(home: Home, tmp_path: Path) -> None:
    lost = {"tracking_uri": f"sqlite:///{tmp_path}/lost/m.db"}
    sweep(home, "small").note("options", lost)
    with pytest.raises(InputError, match=r"(?s)there is no folder.*lost for good, platform doctor small begins"):
        Deletion.of(home, "small")
    assert not (tmp_path / "lost").exists()
    records.ledger_in(home.path, "unlogged", corpus="/corpus", options=lost)
    Deletion.of(home, "unlogged").delete()
    assert "unlogged" not in Ledger.names(home.studies)


def test_a_sweep_that_runs_is_not_deleted(home: Home) -> None:
    before = left(home)
    with home.lock("other"), pytest.raises(RunningError, match="sweep other is running"):
        Deletion.of(home, "other").delete()
    assert left(home)[:3] == before[:3]


def test_versions_that_are_registered_after_the_question_stay_or_go_by_whose_they_are(home: Home) -> None:
    ours = sweep(home, "small").id
    found, client = Deletion.of(home, "small"), MlflowClient(home.tracking)
    client.create_model_version("small", "/late", tags={"ledger": ours})
    client.create_model_version("small", "/elsewhere", tags={"ledger": "another's"})
    found.delete()
    (kept,) = client.search_model_versions("name='small'")
    assert kept.tags["ledger"] == "another's"


def test_a_sweep_that_took_the_name_since_the_question_is_not_deleted(home: Home) -> None:
    sweep(home, "small")
    found = Deletion.of(home, "small")
    Deletion.of(home, "small").delete()
    new = records.ledger_in(home.path, "small", corpus="/corpus", options={})
    with pytest.raises(InputError, match="has been replaced by a new one"):
        found.delete()
    assert Ledger.open(home.studies, "small").id == new.id


def test_registered_versions_are_found_where_the_run_was_purged(home: Home) -> None:
    """As `mlflow gc` does with deleted runs."""
    before = left(home)[2]
    sweep(home, "small").note("mlflow_run_id", "0" * 32)
    Deletion.of(home, "small").delete()
    assert left(home)[2] == before


KILLED = ["delete_run", "delete_logged_model", "delete_registered_model", "rmtree", "delete_study"]


@pytest.mark.parametrize("step", KILLED)
def test_a_deletion_that_was_killed_is_repeated(step: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = left(home)
    sweep(home, "small")
    owner = {"rmtree": shutil, "delete_study": deletion.optuna}.get(step, mlflow.tracking.MlflowClient)
    function, calls = getattr(owner, step), []

    def killed(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) > 1 or step in ("delete_study", "delete_registered_model"):
            raise KeyboardInterrupt
        function(*arguments, **options)
        if step == "delete_logged_model":  # MLflow does not find it any more
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        with pytest.raises(KeyboardInterrupt):
            Deletion.of(home, "small").delete()
    Deletion.of(home, "small").delete()
    assert left(home) == before
