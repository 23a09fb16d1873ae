"""What MLflow shows is what the ledger says, also after a driver died between the two."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
import ray
import records
import torch
from command import PATIENCE, PLATFORM, wait_for
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from asr_platform import tracking
from asr_platform.study import State
from asr_platform.tracking import Tracker, free_port, provenance
from trainables.errors import InputError

ENDS = [("complete", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name has characters with a meaning in URLs."""
    folder = tmp_path_factory.mktemp("home") / "50% of #1"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def tracker(home: Path) -> Tracker:
    return Tracker(f"sqlite:///{home}/mlflow.db", home / "artifacts", "tiny-0123")


def run(tracker: Tracker, run_id: str) -> Run:
    return tracker.client.get_run(run_id)


def history(tracker: Tracker, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in tracker.client.get_metric_history(run_id, metric)]


def test_the_store_is_one_file_and_runs_of_a_corpus_share_an_experiment(home: Path, tracker: Tracker) -> None:
    again = Tracker(f"sqlite:///{home}/mlflow.db", home / "elsewhere", "tiny-0123")
    other = Tracker(f"sqlite:///{home}/mlflow.db", home / "artifacts", "tiny-4567")
    assert again.experiment == tracker.experiment != other.experiment
    assert (home / "mlflow.db").is_file()
    assert mlflow.active_run() is None


def test_a_trial_is_nested_under_its_sweep(tracker: Tracker) -> None:
    parent = tracker.start("first", {"trials": 3, "reduction": 2.5}, {"kind": "sweep"})
    params = {"model.dropout": 0.1, "tokenizer.vocab_size": None, "optimizer.betas": [0.9, 0.98]}
    child = tracker.start("trial-0000", params, {"kind": "trial"}, parent)
    assert run(tracker, parent).data.params == {"trials": "3", "reduction": "2.5"}
    assert "mlflow.parentRunId" not in run(tracker, parent).data.tags
    found = run(tracker, child)
    assert found.data.params == {key: str(value) for key, value in params.items()}
    assert found.data.tags == {"kind": "trial", "mlflow.parentRunId": parent, "mlflow.runName": "trial-0000"}
    assert (found.info.run_name, found.info.status) == ("trial-0000", "RUNNING")


def test_metrics_have_the_epoch_as_their_step(tracker: Tracker) -> None:
    run_id = tracker.start("trial-0000", {}, {})
    for row in records.curve([0.9, 0.5, 0.7]):
        tracker.log_epoch(run_id, row)
    assert history(tracker, run_id, "val_cer") == [(1, 0.9), (2, 0.5), (3, 0.7)]
    expected = records.row(3, 0.7)
    assert run(tracker, run_id).data.metrics == {
        key: value for key, value in expected.items() if key not in ("epoch", "checkpoint")
    }


@pytest.mark.parametrize(("state", "status"), ENDS)
def test_a_run_ends_as_its_trial_did(tracker: Tracker, state: State, status: str) -> None:
    """An early-stopped trial says at which rung, a failed one why; each has its best CER, with the epoch as step."""
    reason = "" if state == "complete" else "rung at epoch 2: [CER] 70.0%"
    run_id = tracker.start("trial-0000", {}, {"state": "running"})
    tracker.end(run_id, records.trial(0, state, [0.9, 0.5, 0.7], reason=reason))
    found = run(tracker, run_id)
    assert found.info.status == status
    assert found.info.end_time is not None
    assert history(tracker, run_id, "best_val_cer") == [(2, 0.5)]
    tags = {key: value for key, value in found.data.tags.items() if not key.startswith("mlflow.")}
    expected = {"complete": {}, "pruned": {"stopped": reason}, "failed": {"reason": reason}}[state]
    assert tags == {"state": state, **expected}


def test_a_trial_that_failed_before_its_first_epoch_ends_too(tracker: Tracker) -> None:
    run_id = tracker.start("trial-0000", {}, {})
    tracker.end(run_id, records.trial(0, "failed", reason="no"))
    assert run(tracker, run_id).info.status == "FAILED"
    assert run(tracker, run_id).data.metrics == {}


@pytest.mark.parametrize(("state", "status"), [*ENDS, ("running", "RUNNING")])
@pytest.mark.parametrize("logged", [0, 1, 3])
def test_catching_up_tells_all_that_the_ledger_knows(tracker: Tracker, state: State, status: str, logged: int) -> None:
    """Missing epochs and a missing end are added; doing it again adds nothing."""
    trial = records.trial(0, state, [0.9, 0.5, 0.7], reason="why")
    run_id = tracker.start("trial-0000", {}, {"state": "running"})
    for row in trial.curve[:logged]:
        tracker.log_epoch(run_id, row)
    tracker.catch_up(run_id, trial)
    first = run(tracker, run_id).to_dictionary()
    assert first["info"]["status"] == status
    assert first["data"]["tags"]["state"] == state
    for metric in ("val_cer", "train_loss", "val_ctc_cer"):
        assert history(tracker, run_id, metric) == [(row["epoch"], row[metric]) for row in trial.curve]
    assert history(tracker, run_id, "best_val_cer") == ([] if state == "running" else [(2, 0.5)])
    tracker.catch_up(run_id, trial)
    assert run(tracker, run_id).to_dictionary() == first
    assert history(tracker, run_id, "val_cer") == [(1, 0.9), (2, 0.5), (3, 0.7)]


def test_a_run_killed_with_its_driver_goes_on(tracker: Tracker) -> None:
    """What MLflow holds for ended, the ledger may know to be running: the ledger is right."""
    run_id = tracker.start("trial-0000", {}, {"state": "running"})
    trial = records.trial(0, "running", [0.9])
    tracker.client.set_terminated(run_id, "KILLED")
    tracker.catch_up(run_id, trial)
    assert run(tracker, run_id).info.status == "RUNNING"


def test_a_sweep_ends_is_opened_again_and_ends_anew(tracker: Tracker, home: Path, tmp_path: Path) -> None:
    parent = tracker.start("first", {}, {})
    tracker.end_sweep(parent, "KILLED", None, None, "5 of 5 hours are spent")
    assert run(tracker, parent).info.status == "KILLED"
    assert run(tracker, parent).data.tags["stopped"] == "5 of 5 hours are spent"
    assert tracker.reopen(parent)
    assert run(tracker, parent).info.status == "RUNNING"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    tracker.end_sweep(parent, "FINISHED", records.trial(7, "complete", [0.9, 0.25]), tmp_path)
    found = run(tracker, parent)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"best_val_cer": 0.25}
    assert found.data.tags["best_trial"] == "7"
    assert "stopped" not in found.data.tags
    listed = tracker.client.list_artifacts(parent, "model")
    assert [artifact.path for artifact in listed] == ["model/config.json", "model/model.safetensors"]
    kept = list((home / "artifacts").rglob("model.safetensors"))
    assert [path.read_bytes() for path in kept] == [b"weights"]


def test_a_run_that_the_store_does_not_have_is_not_reopened(tracker: Tracker) -> None:
    """It was deleted, or written to another store."""
    run_id = tracker.start("trial-0000", {}, {})
    assert tracker.knows(run_id)
    tracker.client.delete_run(run_id)
    for unknown in (run_id, "0" * 32):
        assert not tracker.knows(unknown)
        assert not tracker.reopen(unknown)


def test_another_client_reads_the_same_store(home: Path, tracker: Tracker) -> None:
    """As MLflow's own pages do."""
    run_id = tracker.start("trial-0042", {"a": 1}, {})
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    found = client.search_runs([tracker.experiment], "attributes.run_name = 'trial-0042'")
    assert [entry.info.run_id for entry in found] == [run_id]


def test_provenance_has_the_revision_and_the_versions() -> None:
    found = provenance()
    versions = {"torch": torch, "ray": ray, "optuna": optuna, "mlflow": mlflow}
    for name, module in versions.items():
        assert found[f"version.{name}"] == module.__version__
    assert all(isinstance(value, str) and value for value in found.values())
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    expected = head.stdout.strip() or "unknown"
    assert found["git_revision"].removesuffix("-dirty") == expected


def test_without_git_the_revision_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed from a wheel, or on a machine without the program."""
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "tracking.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.__wrapped__()["git_revision"] == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.__wrapped__()["git_revision"] == "unknown"


# Pages and ports


def test_the_pages_are_served_until_ctrl_c(home: Path, tracker: Tracker) -> None:
    """And nothing of the server outlives it."""
    records.ledger_in(home)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [str(PLATFORM), "--home", str(home), "ui", "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"MLflow: http://127.0.0.1:{port}   (Ctrl-C ends it)\n"
        wait_for(lambda: page(port) is not None, process)
        assert "MLflow" in (page(port) or "")
        os.killpg(process.pid, signal.SIGINT)
        out = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 0, out
        assert "Traceback" not in out
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def page(port: int) -> str | None:
    """The first page, once the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_free_port_is_given_back(taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert free_port("127.0.0.1", port) == port


def test_without_a_wish_the_first_free_port_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FIRST_PORT", taken)
    assert taken < free_port("127.0.0.1", None) < taken + tracking.PORTS_TRIED


def test_a_taken_port_is_refused(taken: int) -> None:
    with pytest.raises(InputError, match=f"port {taken} of 127.0.0.1: Address already in use") as error:
        free_port("127.0.0.1", taken)
    assert "--port" in error.value.remedy


def test_no_free_port_is_refused(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FIRST_PORT", taken)
    monkeypatch.setattr(tracking, "PORTS_TRIED", 1)
    with pytest.raises(InputError, match=f"no free port on 127.0.0.1 from {taken} on"):
        free_port("127.0.0.1", None)


def test_a_host_of_another_machine_is_refused() -> None:
    """192.0.2.0/24 is kept for documentation: no machine has such an address."""
    with pytest.raises(InputError, match=r"port 5000 of 192\.0\.2\.1: Cannot assign requested address") as error:
        free_port("192.0.2.1", 5000)
    assert "--host" in error.value.remedy
