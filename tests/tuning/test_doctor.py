"""The doctor finds damage of a sweep, repairs it from the ledger where it can, and changes nothing in a sound one."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import babbler
import pytest
import records
from click.testing import CliRunner, Result
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from asr_platform.cli.main import cli
from asr_platform.storage.home import Home
from asr_platform.study.recorded_space import recorded_space
from asr_platform.study.steering.notes import write_note
from asr_platform.tracking.metrics import LoggedMetric, logged_metrics
from asr_platform.tracking.runs import Tracker, experiment_of
from asr_platform.tuning.best_model import register_best_model
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.doctor import Doctor, Finding
from asr_platform.tuning.trial import trial_name
from trainables.errors import InputError
from trainables.inference.model_directory import copy_model

NAME = "small"


class Patient:
    """A finished sweep of three trials: complete, pruned, failed."""

    def __init__(self, folder: Path) -> None:
        self.home = Home.at(folder / "mlruns")
        self.corpus = corpus = babbler.write_corpus(folder / "corpus")
        about = {"corpus": str(corpus.path), "corpus_hash": corpus.hash, "trials": 3, "epochs": 2}
        self.ledger = records.ledger_in(self.home.path, NAME, **about)
        for number, (cers, state) in enumerate([([0.9, 0.5], "complete"), ([0.8], "pruned"), ([], "failed")]):
            self.ledger.propose(records.space(), records.parameters_of)
            for row in records.curve(cers):
                babbler.save_model(corpus, self.checkpoint(number, row["epoch"]))
                self.ledger.record(number, {**row, "checkpoint": str(self.checkpoint(number, row["epoch"]))})
            self.ledger.finish(number, state, f"it was {state}")
        Doctor(self.home, NAME).retention.apply()
        self.model = copy_model(self.checkpoint(0, 2), self.home.model(NAME))
        mlflow_callback = MLflowCallback(self.home, self.ledger, recorded_space(self.ledger.about), corpus, pytest.fail)
        mlflow_callback.log_all()
        mlflow_callback.end("FINISHED", self.ledger.trial(0))
        register_best_model(mlflow_callback, self.ledger, self.ledger.trial(0), self.model, pytest.fail)

    def checkpoint(self, number: int, epoch: int) -> Path:
        return self.home.sweep(NAME) / "trials" / trial_name(number) / f"checkpoint_{epoch}"

    def tracker(self) -> Tracker:
        return Tracker(self.home.store(self.ledger.about), experiment_of(self.corpus))

    @property
    def client(self) -> MlflowClient:
        return self.tracker().client

    def run(self, number: int) -> str:
        return str(self.ledger.trial(number).about["mlflow_run_id"])

    @property
    def parent(self) -> str:
        return str(self.ledger.about["mlflow_run_id"])

    def findings(self) -> list[Finding]:
        return Doctor(self.home, NAME).audit()

    def doctor(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ["--home", str(self.home.path), "doctor", NAME, *words])

    @contextmanager
    def changed(self, change: str, back: str) -> Iterator[None]:
        """The ledger's database changed by one SQL statement, and changed back by another after the block."""
        for statement in (change, back):
            with closing(sqlite3.connect(self.home.path / "studies.db")) as database:
                assert database.execute(statement).rowcount > 0
                database.commit()
            if statement == change:
                yield


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """A sweep for all tests, each of which leaves it sound."""
    return Patient(tmp_path_factory.mktemp("patient"))


def log(patient: Patient, number: int, metrics: Iterable[LoggedMetric]) -> None:
    tracker = patient.tracker()
    run = tracker.run(patient.run(number))
    assert run is not None
    tracker.log(run, metrics)


def an_epoch_twice(patient: Patient) -> None:
    log(patient, 0, logged_metrics(patient.ledger.trial(0).curve[1:]))


def an_epoch_of_its_own(patient: Patient) -> None:
    log(patient, 1, logged_metrics([records.row(7, 0.1)]))


def another_value(patient: Patient) -> None:
    patient.client.log_batch(patient.run(1), metrics=[Metric("asr/wer_percent", 12.3, 0, 1)])


def a_run_deleted(patient: Patient) -> None:
    patient.client.delete_run(patient.run(1))


def a_run_of_no_trial(patient: Patient) -> None:
    tags = {"mlflow.parentRunId": patient.parent}
    patient.client.create_run(patient.tracker().experiment, run_name="trial-0001", tags=tags)


def one_run_for_two(patient: Patient) -> None:
    patient.ledger.describe(1, "mlflow_run_id", patient.run(0))


def a_run_that_never_ended(patient: Patient) -> None:
    patient.client.update_run(patient.run(1), status="RUNNING")


def a_run_that_ended_otherwise(patient: Patient) -> None:
    patient.client.update_run(patient.run(2), status="FINISHED")


def the_sweeps_run_open(patient: Patient) -> None:
    patient.client.update_run(patient.parent, status="RUNNING")


def the_sweeps_run_deleted(patient: Patient) -> None:
    patient.client.delete_run(patient.parent)


def a_registry_without_the_model(patient: Patient) -> None:
    patient.client.delete_registered_model(NAME)


def a_model_that_is_no_champion(patient: Patient) -> None:
    patient.client.delete_registered_model_alias(NAME, "champion")


def a_model_without_its_last_epoch(patient: Patient) -> None:
    """A driver was killed between MLflow's two transactions, in which an epoch's metrics are stored."""
    with closing(sqlite3.connect(patient.home.path / "mlflow.db")) as database:
        where = f"run_id = '{patient.run(0)}' AND metric_step = 2"
        assert database.execute(f"DELETE FROM logged_model_metrics WHERE {where}").rowcount > 0
        database.commit()


def a_note_that_mlflow_lacks(patient: Patient) -> None:
    write_note(patient.home, patient.ledger, 2, "by hand")


def a_strange_folder(patient: Patient) -> None:
    (patient.home.sweep(NAME) / "trials" / "trial-0099" / "checkpoint_1").mkdir(parents=True)


def a_removal_half_done(patient: Patient) -> None:
    (patient.checkpoint(0, 2).parent / ".removed-checkpoint_1").mkdir()


def a_checkpoint_written_late(patient: Patient) -> None:
    patient.checkpoint(2, 1).mkdir(parents=True)


def a_worker_that_went_on(patient: Patient) -> None:
    """A stopped trial's later epoch has replaced the checkpoint that the ledger names."""
    patient.checkpoint(1, 1).rename(patient.checkpoint(1, 2))


def a_model_cut_short(patient: Patient) -> None:
    os.truncate(patient.model / "model.safetensors", 1000)


def a_model_gone(patient: Patient) -> None:
    shutil.rmtree(patient.model)


# Each round does what does not get into another one's way.
ROUNDS: list[dict[Callable[[Patient], None], str]] = [
    {
        an_epoch_twice: "trial 0: MLflow has asr/cer_percent of other epochs, or twice",
        a_run_deleted: "trial 1: no MLflow run",
        a_run_that_ended_otherwise: "trial 2: failed, but its MLflow run is FINISHED",
        a_registry_without_the_model: "MLflow's registry does not have its best model as small",
        a_strange_folder: "trial-0099: of no trial",
        a_removal_half_done: ".removed-checkpoint_1: of no trial, or half removed",
        a_checkpoint_written_late: "trial 2: checkpoint_1 is not its best checkpoint",
        a_model_cut_short: "the model cannot be loaded",
    },
    {
        an_epoch_of_its_own: "trial 1: MLflow has asr/cer_percent of other epochs, or twice",
        a_run_of_no_trial: "an MLflow run (trial-0001) that no trial has",
        the_sweeps_run_open: "the sweep's MLflow run is RUNNING",
        a_model_gone: "no model directory",
        a_worker_that_went_on: "trial 1: checkpoint_2 is not its best checkpoint",
    },
    {
        a_model_without_its_last_epoch: "trial 0: MLflow's model lacks 1 of its 2 epochs",
        a_note_that_mlflow_lacks: "trial 2: MLflow lacks its note",
        another_value: "trial 1: MLflow has asr/wer_percent of other epochs, or twice",
        the_sweeps_run_deleted: "has no MLflow run",
        a_model_that_is_no_champion: "MLflow's registry does not have its best model as small",
    },
    {one_run_for_two: "trial 0: its MLflow run is another trial's as well"},
]


@pytest.mark.parametrize("damages", ROUNDS, ids=["many", "strange", "changed", "shared"])
def test_damage_is_found_and_mended(patient: Patient, damages: dict[Callable[[Patient], None], str]) -> None:
    """Only the damage is found, and the trials in the ledger stay as they were."""
    before = [(trial.curve, trial.state, trial.params) for trial in patient.ledger.trials()]
    for damage in damages:
        damage(patient)
    found = patient.findings()
    for text in damages.values():
        assert any(text in str(finding) for finding in found), found
    if one_run_for_two not in damages:  # two trials, and the run that one of them had
        assert len(found) == len(damages), found
    assert Doctor(patient.home, NAME).repair(found)
    assert patient.findings() == []
    assert [(trial.curve, trial.state, trial.params) for trial in patient.ledger.trials()] == before
    statuses = [patient.client.get_run(patient.run(number)).info.status for number in range(3)]
    assert statuses == ["FINISHED", "KILLED", "FAILED"]
    assert patient.client.get_run(patient.parent).info.status == "FINISHED"


LEDGER = [
    ("UPDATE trial_values SET value = 0.25", "UPDATE trial_values SET value = 0.5", "trial 0: value [0.25]"),
    ("UPDATE trial_intermediate_values SET step = 3 WHERE step = 2",
     "UPDATE trial_intermediate_values SET step = 2 WHERE step = 3", "trial 0: epochs [1, 3]"),
    ("UPDATE trial_intermediate_values SET intermediate_value = 0.7 WHERE intermediate_value = 0.8",
     "UPDATE trial_intermediate_values SET intermediate_value = 0.8 WHERE intermediate_value = 0.7",
     "trial 1: metrics and values differ"),
]  # fmt: skip


def test_a_sound_sweep_is_found_sound(patient: Patient) -> None:
    assert patient.findings() == []


@pytest.mark.parametrize(("change", "back", "text"), LEDGER)
def test_what_the_ledger_has_wrong_is_told_and_stays(patient: Patient, change: str, back: str, text: str) -> None:
    with patient.changed(change, back):
        ledger = [finding for finding in patient.findings() if finding.kind == "ledger"]
        assert any(text in str(finding) for finding in ledger)
        assert Doctor(patient.home, NAME).repair(ledger) == []


def test_a_checkpoint_that_is_gone_is_told(patient: Patient) -> None:
    """The best trial's checkpoint is missed; a model that was removed on purpose is not."""
    best, aside = patient.checkpoint(0, 2), patient.home.path / "aside"
    best.rename(aside)
    assert [str(finding) for finding in patient.findings()] == [
        "trial 0: none of the checkpoints that the ledger names is there: it cannot be restored"
    ]
    aside.rename(best)
    weights = best / "model.safetensors"
    weights.rename(aside)
    assert [finding.kind for finding in patient.findings()] == ["checkpoint"]
    patient.ledger.describe(0, "model_removed", True)
    assert patient.findings() == []
    patient.ledger.describe(0, "model_removed", False)
    aside.rename(weights)


@contextmanager
def with_another_hash(file: Path, key: str) -> Iterator[None]:
    """The JSON file with another corpus's hash under `key`."""
    before = file.read_text(encoding="utf-8")
    file.write_text(json.dumps({**json.loads(before), key: "f" * 64}), encoding="utf-8")
    yield
    file.write_text(before, encoding="utf-8")


def test_another_corpus_is_told(patient: Patient) -> None:
    """Another corpus in the place of the sweep's is the only finding, and prevents repairs."""
    corpus, begun = patient.corpus, patient.corpus.hash[:12]
    with with_another_hash(corpus.path / "corpus.json", "hash"):
        found = patient.findings()
        assert [(finding.kind, finding.sound, str(finding)) for finding in found] == [
            ("corpus", False, f"{corpus.path}: its hash is ffffffffffff, but the sweep began with corpus {begun}: "
             "put that one back, or begin a new sweep")
        ]  # fmt: skip
        a_run_that_never_ended(patient)
        assert Doctor(patient.home, NAME).repair(patient.findings()) == []
    patient.doctor("--repair")
    assert patient.findings() == []


def test_a_trial_that_was_trained_on_another_corpus_is_told(patient: Patient) -> None:
    with with_another_hash(patient.checkpoint(0, 2) / "config.json", "corpus_hash"):
        assert [str(finding) for finding in patient.findings()] == [
            f"trial 0: trained on corpus ffffffffffff, but the sweep began with corpus {patient.corpus.hash[:12]}: "
            "the ledger cannot be changed: leave the trial out"
        ]
    assert patient.findings() == []


def test_an_interrupted_sweep_is_sound(patient: Patient) -> None:
    """A sweep with trials to come needs --resume, and no repair."""
    patient.ledger.note("trials", 4)
    result = patient.doctor()
    assert (result.exit_code, result.output.splitlines()) == (
        0, ["3 of 4 trials begun: go on with --resume", "sweep small is sound"],
    )  # fmt: skip
    patient.ledger.note("trials", 3)


def test_the_command_tells_a_line_a_finding_and_mends(patient: Patient) -> None:
    assert patient.doctor("--json").output == "[]\n"
    a_run_that_never_ended(patient)
    found = patient.doctor()
    line = "trial 1: pruned, but its MLflow run is RUNNING: --repair logs what the ledger has"
    assert (found.exit_code, found.output) == (1, f"{line}\n")
    listed = patient.doctor("--json")
    assert listed.exit_code == 1
    assert json.loads(listed.output) == [{"kind": "mlflow", "trial": 1, "finding": line, "sound": False}]
    mended = patient.doctor("--repair")
    assert (mended.exit_code, mended.output.splitlines()) == (
        0, ["brought MLflow up to the ledger", "sweep small is sound"],
    )  # fmt: skip


def test_a_sweep_that_an_earlier_version_has_shown_is_shown_anew(patient: Patient) -> None:
    """Earlier versions logged metrics under the ledger's keys; they stay beside today's names."""
    trial, tracker = patient.ledger.trial(0), patient.tracker()
    patient.client.delete_run(patient.run(0))
    tags = {"mlflow.parentRunId": patient.parent}
    former = patient.client.create_run(tracker.experiment, run_name=trial_name(0), tags=tags).info.run_id
    metrics = [Metric(key, row[key], 0, row["epoch"]) for row in trial.curve for key in ("val_cer", "train_loss")]
    patient.client.log_batch(former, metrics=metrics)
    patient.client.set_terminated(former)
    patient.ledger.describe(0, "mlflow_run_id", former)
    assert [str(finding) for finding in patient.findings()] == [
        "trial 0: MLflow lacks 2 of its 2 epochs: --repair logs what the ledger has"
    ]
    patient.doctor("--repair")
    assert patient.findings() == [] and patient.run(0) == former
    for name, scale in (("val_cer", 1), ("asr/cer_percent", 100)):
        assert tracker.history(former, name) == [(1, 0.9 * scale), (2, 0.5 * scale)]


def test_a_running_sweep_is_left_alone(patient: Patient) -> None:
    with patient.home.lock(NAME):
        result = patient.doctor("--repair")
    assert isinstance(result.exception, InputError) and "sweep small is running" in result.exception.problem
