"""Stores with a deleted experiment, and databases of another version of MLflow."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import OTHERS, PLATFORM
from mlflow.exceptions import MlflowException
from test_doctor import NAME, Patient

from asr_platform.cli.main import cli
from asr_platform.study.recorded_space import recorded_space
from asr_platform.tracking.store import open_client
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.doctor import Doctor
from trainables.errors import InputError


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    return Patient(tmp_path_factory.mktemp("patient"))


def runs(patient: Patient) -> list[tuple[str, str]]:
    """Names and statuses of the runs that are not deleted."""
    found = patient.client.search_runs([patient.tracker().experiment])
    return sorted((run.info.run_name, run.info.status) for run in found)


def test_doctor_restores_a_deleted_experiment(patient: Patient) -> None:
    """All runs are restored except the ones that the doctor had deleted; an audit restores nothing."""
    extra = patient.client.create_run(patient.tracker().experiment, run_name="trial-0001",
                                      tags={"mlflow.parentRunId": patient.parent}).info.run_id  # fmt: skip
    patient.tracker().discard(extra, "a test")
    before = runs(patient)
    assert len(before) == 4
    patient.client.delete_experiment(patient.tracker().experiment)
    found = patient.findings()
    assert any("has no MLflow run" in str(finding) for finding in found)
    assert runs(patient) == []
    assert Doctor(patient.home, NAME).repair(found)
    assert patient.findings() == [] and runs(patient) == before


def test_a_sweep_goes_on_in_a_deleted_experiment(patient: Patient) -> None:
    """An experiment deleted while the driver runs is restored by the driver's next write."""
    said: list[str] = []
    mlflow_callback = MLflowCallback(
        patient.home, patient.ledger, recorded_space(patient.ledger.about), patient.corpus, said.append
    )
    mlflow_callback.log_all()
    patient.client.delete_experiment(patient.tracker().experiment)
    mlflow_callback.log_trials(0)
    mlflow_callback.end("FINISHED", patient.ledger.trial(0))
    assert said == []
    assert patient.findings() == []


EARLY, FUTURE = "451aebb31d03", "ffffffffffff"  # revisions of MLflow's tables


@pytest.mark.parametrize(("version", "words"), [
    (EARLY, "ui"), (FUTURE, "ui"), (EARLY, "evaluate models:/small@champion --data {corpus} --split dev"),
    (EARLY, "doctor small"),
])  # fmt: skip
def test_a_store_of_another_version_is_named_with_the_remedy(version: str, words: str, patient: Patient) -> None:
    """Every command that reads the store says so, without a traceback. MLflow caches stores, hence the processes."""
    database = patient.home.path / "mlflow.db"
    with set_version(database, version):
        ended = command(patient, *words.format(corpus=patient.corpus.path).split())
    assert ended.returncode in (1, 2) and "Traceback" not in ended.stderr
    said = ended.stderr if ended.returncode == 2 else ended.stdout
    assert f"mlflow db upgrade sqlite:///{database}" in said and "another version than MLflow" in said
    assert patient.findings() == []


@contextmanager
def set_version(database: Path, version: str) -> Iterator[None]:
    """MLflow's database, marked within the block as of another version."""
    with closing(sqlite3.connect(database)) as connection:
        (before,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        for current in (version, before):
            connection.execute("UPDATE alembic_version SET version_num = ?", (current,))
            connection.commit()
            if current != before:
                yield


def command(patient: Patient, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PLATFORM, "--home", patient.home.path, *words], capture_output=True, text=True, check=False, env=OTHERS
    )


def test_a_file_that_is_no_database_is_named(patient: Patient, tmp_path: Path) -> None:
    file = tmp_path / "m.db"
    file.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    ended = command(patient, "ui", "--tracking-uri", f"sqlite:///{file}")
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert ended.stderr.startswith(f"platform: sqlite:///{file}: cannot be read: ")


@pytest.mark.parametrize("words", [
    "note small 0 late", "ui small", "evaluate models:/small@champion --data {corpus} --split dev",
    "delete small --yes", "doctor small", "doctor small --repair",
])  # fmt: skip
def test_a_store_whose_folder_cannot_be_is_named_with_a_remedy(words: str, patient: Patient, tmp_path: Path) -> None:
    """MLflow itself repeats its attempts to connect for two minutes."""
    file = tmp_path / "file"
    file.touch()
    patient.ledger.note("options", {"tracking_uri": f"sqlite:///{file}/m.db"})
    arguments = words.format(corpus=patient.corpus.path).split()
    ended = CliRunner().invoke(cli, ["--home", str(patient.home.path), *arguments])
    patient.ledger.note("options", {})
    assert isinstance(ended.exception, InputError | SystemExit | None), ended.exception
    assert str(file) in f"{ended.output} {ended.exception}"


def test_a_store_whose_disk_is_not_mounted_is_not_begun_anew(patient: Patient, tmp_path: Path) -> None:
    for folder, lacking in ((tmp_path, "there is no such file"), (tmp_path / "disk", f"there is no folder {tmp_path}")):
        with pytest.raises(MlflowException, match=f"^{folder}/m.db: {lacking}.*; mount its disk or put it back$"):
            open_client(f"sqlite:///{folder}/m.db")
    assert not list(tmp_path.iterdir())
