"""Runs in MLflow agree with the ledger, also after a driver was killed between two writes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import records
import tiny
from mlflow.entities import Run as Entity
from mlflow.tracking import MlflowClient

from asr_platform.storage.home import Home
from asr_platform.study.ledger import TrialStatus
from asr_platform.tracking.metrics import METRICS, logged_metrics
from asr_platform.tracking.runs import Run, Tracker
from trainables.data.corpus import Corpus
from trainables.training.loop import Metrics, train

ENDS = [("complete", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name has characters with a meaning in URLs, such as `%` and `#`."""
    folder = tmp_path_factory.mktemp("home") / "50% of #1"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def tracker(home: Path) -> Tracker:
    return Tracker(Home.at(home).store({}), "tiny-0123")


def found(tracker: Tracker, run: Run) -> Entity:
    """The run as MLflow has it."""
    return tracker.client.get_run(run.id)


def of_another_driver(tracker: Tracker, run: Run) -> Run:
    """The run as it is read by a driver that goes on with it."""
    tracker.known.clear()
    again = tracker.run(run.id)
    assert again is not None
    return again


def history(tracker: Tracker, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in tracker.client.get_metric_history(run.id, metric)]


def test_the_store_is_one_file_and_runs_of_a_corpus_share_an_experiment(home: Path, tracker: Tracker) -> None:
    store = Home.at(home).store({})
    again, other = Tracker(replace(store, artifacts=home / "elsewhere"), "tiny-0123"), Tracker(store, "tiny-4567")
    assert again.experiment == tracker.experiment != other.experiment
    assert (home / "mlflow.db").is_file()
    assert mlflow.active_run() is None


def test_a_trial_is_nested_under_its_sweep(tracker: Tracker) -> None:
    parent = tracker.start("first", {"trials": 3, "reduction": 2.5}, {"kind": "sweep"})
    params = {"model.dropout": 0.1, "tokenizer.vocab_size": None, "optimizer.betas": [0.9, 0.98]}
    child = tracker.start("trial-0000", params, {"kind": "trial"}, parent.id)
    assert found(tracker, parent).data.params == {"trials": "3", "reduction": "2.5"}
    assert "mlflow.parentRunId" not in found(tracker, parent).data.tags
    shown = found(tracker, child)
    assert shown.data.params == {key: str(value) for key, value in params.items()}
    assert shown.data.tags == {"kind": "trial", "mlflow.parentRunId": parent.id, "mlflow.runName": "trial-0000"}
    assert (shown.info.run_name, shown.info.status) == ("trial-0000", "RUNNING")


def test_metrics_are_grouped_and_have_the_epoch_as_their_step(tracker: Tracker) -> None:
    run = tracker.start("trial-0000", {}, {})
    tracker.log(run, logged_metrics(records.curve([0.9, 0.5, 0.7])))
    row = records.row(3, 0.7)
    for name, key in {"train/loss": "train_loss", "val/loss": "val_loss", "train/audio_hours": "audio_hours",
                      "system/train_seconds": "train_seconds"}.items():  # fmt: skip
        assert history(tracker, run, name)[-1] == (3, row[key])
    assert history(tracker, run, "asr/cer_percent") == [(1, 90), (2, 50), (3, 70)]
    assert history(tracker, run, "asr/best_cer_percent") == [(1, 90), (2, 50), (3, 50)]
    logged = found(tracker, run).data.metrics
    assert [name for name in logged if re.search(r"(?<!ctc_)cer", name)] == ["asr/best_cer_percent", "asr/cer_percent"]
    groups = {name.partition("/")[0] for name in found(tracker, run).data.metrics}
    assert groups == {"train", "val", "system", "asr"}


LANGUAGE_MODEL = {"model.kind": "language_model", "training.update_tokens": 64}


@pytest.mark.parametrize(
    "leaves",
    [{}, {"training.average": 2}, LANGUAGE_MODEL, tiny.EDITING],
    ids=["plain", "averaged", "language", "editor"],
)
def test_every_metric_of_a_training_has_a_name(leaves: dict[str, Any], tiny_corpus: Corpus) -> None:
    rows: list[Metrics] = []
    train(tiny.config({**leaves, "training.epochs": 2}), tiny_corpus, lambda metrics, save: rows.append(metrics))
    assert set(rows[-1]) - {"epoch"} <= set(METRICS)
    figures = "lm" if leaves == LANGUAGE_MODEL else "asr"
    assert {name.partition("/")[0] for name, _, _ in logged_metrics(rows)} == {"train", "val", "system", figures}


@pytest.mark.parametrize(("state", "status"), ENDS)
def test_a_run_ends_as_its_trial_did(tracker: Tracker, state: TrialStatus, status: str) -> None:
    """The reason and further tags are logged, too: the rung of a pruned trial, the error of a failed one."""
    reason = "" if state == "complete" else "rung at epoch 2: [CER] 70.0%"
    run = tracker.start("trial-0000", {}, {"state": "running"})
    tracker.catch_up(run, records.trial(0, state, [0.9, 0.5, 0.7], reason=reason), lambda: {"interval": "40–60%"})
    shown = found(tracker, run)
    assert shown.info.status == status
    assert shown.info.end_time is not None
    tags = {key: value for key, value in shown.data.tags.items() if not key.startswith("mlflow.")}
    assert tags == {"state": state, "interval": "40–60%", **({"stopped": reason} if reason else {})}


def test_a_trial_that_failed_before_its_first_epoch_ends_too(tracker: Tracker) -> None:
    run = tracker.start("trial-0000", {}, {})
    tracker.catch_up(run, records.trial(0, "failed", reason="no"))
    assert found(tracker, run).info.status == "FAILED"
    assert found(tracker, run).data.metrics == {}


@pytest.mark.parametrize(("state", "status"), [*ENDS, ("running", "RUNNING")])
@pytest.mark.parametrize("logged", [0, 1, 3])
def test_catching_up_tells_all_that_the_ledger_knows(
    tracker: Tracker, state: TrialStatus, status: str, logged: int
) -> None:
    """Missing epochs and a missing end are added; repeating it adds nothing."""
    trial = records.trial(0, state, [0.9, 0.5, 0.7], reason="why")
    run = tracker.start("trial-0000", {}, {"state": "running"})
    tracker.log(run, logged_metrics(trial.curve[:logged]))
    run = of_another_driver(tracker, run)
    tracker.catch_up(run, trial)
    first = found(tracker, run).to_dictionary()
    assert first["info"]["status"] == status
    assert first["data"]["tags"]["state"] == state
    for name, key in {"train/loss": "train_loss", "val/loss": "val_loss"}.items():
        assert history(tracker, run, name) == [(row["epoch"], row[key]) for row in trial.curve]
    assert history(tracker, run, "asr/best_cer_percent") == [(1, 90), (2, 50), (3, 50)]
    tracker.catch_up(run, trial, lambda: pytest.fail("there is nothing new to say"))
    assert found(tracker, run).to_dictionary() == first
    assert history(tracker, run, "asr/cer_percent") == [(1, 90), (2, 50), (3, 70)]


def test_what_is_in_mlflow_is_read_once(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver reads a run once when it resumes it, and never if it has made the run."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("read again")

    def without_reading(*epochs: int) -> None:
        with monkeypatch.context() as patch:
            for question in ("get_run", "get_metric_history", "search_runs"):
                patch.setattr(MlflowClient, question, refuse)
            for last in epochs:
                cers = [1 / epoch for epoch in range(1, last + 1)]
                tracker.catch_up(run, records.trial(0, "running", cers), lambda: {"interval": "40–60%"})

    run = tracker.start("trial-0000", {}, {"state": "running"})
    without_reading(0, 1, 2)
    run = of_another_driver(tracker, run)
    tracker.catch_up(run, records.trial(0, "running", [1.0, 0.5, 1 / 3]))
    without_reading(4, 5, 5)
    assert history(tracker, run, "asr/cer_percent") == [(epoch, round(100 / epoch, 3)) for epoch in range(1, 6)]


def test_a_long_trial_is_told_in_parts_that_mlflow_takes(tracker: Tracker) -> None:
    run = tracker.start("trial-0000", {}, {})
    trial = records.trial(0, "complete", [1 / epoch for epoch in range(1, 201)])
    tracker.catch_up(run, trial)
    assert history(tracker, run, "val/loss") == [(row["epoch"], row["val_loss"]) for row in trial.curve]


def test_a_run_killed_with_its_driver_goes_on(tracker: Tracker) -> None:
    """The ledger decides: its trial is running, although the run has ended."""
    run = tracker.start("trial-0000", {}, {"state": "running"})
    trial = records.trial(0, "running", [0.9])
    tracker.client.set_terminated(run.id, "KILLED")
    tracker.catch_up(of_another_driver(tracker, run), trial)
    assert found(tracker, run).info.status == "RUNNING"


def test_a_sweep_ends_is_opened_again_and_ends_anew(tracker: Tracker) -> None:
    parent = tracker.start("first", {}, {})
    tracker.end_sweep(parent, "KILLED", None, "5 of 5 hours are spent")
    assert found(tracker, parent).info.status == "KILLED"
    assert found(tracker, parent).data.tags["stopped"] == "5 of 5 hours are spent"
    tracker.set_status(parent, "RUNNING")
    assert found(tracker, parent).info.status == "RUNNING"
    tracker.end_sweep(parent, "FINISHED", records.trial(7, "complete", [0.9, 0.25]))
    shown = found(tracker, parent)
    assert shown.info.status == "FINISHED"
    assert shown.data.metrics == {
        "asr/best_cer_percent": 25, "asr/best_wer_percent": 50, "asr/best_ctc_cer_percent": 26,
    }  # fmt: skip
    assert shown.data.tags["best_trial"] == "7"
    assert "stopped" not in shown.data.tags


def test_names_that_are_not_utf8_are_escaped(tracker: Tracker) -> None:
    """In parameters, tags and reasons, because a database takes no lone surrogates."""
    run = tracker.start("odd", {"space": "caf\udce9.yaml"}, {"space": "caf\udce9.yaml"})
    tracker.tag(run, {"corpus": "caf\udce9"})
    tracker.end_sweep(run, "FAILED", None, "no such file: caf\udce9.wav")
    data = found(tracker, run).data
    assert data.params["space"] == data.tags["space"] == "caf\\udce9.yaml"
    assert (data.tags["corpus"], data.tags["stopped"]) == ("caf\\udce9", "no such file: caf\\udce9.wav")


def test_a_run_that_the_store_does_not_have_is_not_found(tracker: Tracker) -> None:
    """The run is deleted, or in another store."""
    run = tracker.start("trial-0000", {}, {})
    tracker.client.delete_run(run.id)
    tracker.known.clear()
    for unknown in (run.id, "0" * 32):
        assert tracker.run(unknown) is None


def test_another_client_reads_the_same_store(home: Path, tracker: Tracker) -> None:
    """MLflow's pages read the store with a client of their own."""
    run = tracker.start("trial-0042", {"a": 1}, {})
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    shown = client.search_runs([tracker.experiment], "attributes.run_name = 'trial-0042'")
    assert [entry.info.run_id for entry in shown] == [run.id]
