"""A sweep that is killed, loses a store, or is stopped with Ctrl-C loses nothing and runs nothing twice."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
import tiny
from command import OTHERS, PATIENCE, Platform, wait_for
from mlflow.tracking import MlflowClient
from soak import SPACE as SOAKED
from soak import Soak
from webhook import Webhook

from asr_platform.study.ledger import Ledger
from trainables.data.corpus import Corpus
from trainables.progress import PROGRESS

SPACE = (
    tiny.SPACE
    + """trials: 2
epochs: 12
asha: {grace: 12, promotion: null} # one trial after the other, each to its end
"""
)
EPOCHS = list(range(1, 13))
SEED = 0


@pytest.fixture(scope="module")
def corpus(platform: Platform) -> Corpus:
    (platform.folder / "space.yaml").write_text(SPACE)
    return tiny.write_corpus(platform.folder / "corpus", {"train": tiny.SENTENCES * 20, "dev": tiny.SENTENCES * 2})


def recorded(platform: Platform, name: str) -> list[optuna.trial.FrozenTrial]:
    """The trials in the ledger, which another process is writing; none before it has made the study.

    Optuna would make tables that are not there yet, in a race with the other process: so it is asked last.
    """
    path = platform.home / "studies.db"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            begun = database.execute("SELECT 1 FROM studies WHERE study_name = ?", [name]).fetchone()
    except sqlite3.OperationalError:
        return []
    return list(opened(path, name).trials) if begun else []


@functools.cache
def opened(path: Path, name: str) -> optuna.Study:
    """Opening it ten times a second would leave the sweep half a core."""
    return optuna.load_study(storage=f"sqlite:///{path}", study_name=name)


def in_the_middle_of_the_second(trials: list[optuna.trial.FrozenTrial]) -> bool:
    return {trial.state.is_finished() for trial in trials if len(trial.intermediate_values) > 3} == {True, False}


def curves(platform: Platform, name: str) -> dict[int, dict[int, float]]:
    return {trial.number: trial.intermediate_values for trial in recorded(platform, name)}


def check_all_stores(platform: Platform, name: str, before: dict[int, dict[int, float]]) -> None:
    """Every trial complete, no epoch missing or doubled, nothing that was recorded changed, MLflow the same."""
    rows = {row["trial"]: row for row in platform.leaderboard(name)}
    assert sorted(rows) == [0, 1]
    client = MlflowClient(f"sqlite:///{platform.home}/mlflow.db")
    for number, values in curves(platform, name).items():
        assert sorted(values) == EPOCHS
        assert before.get(number, {}).items() <= values.items()
        assert rows[number]["state"] == "complete"
        history: list[Any] = client.get_metric_history(rows[number]["mlflow_run_id"], "asr/cer_percent")
        expected = [(epoch, round(100 * value, 3)) for epoch, value in sorted(values.items())]
        assert sorted((metric.step, metric.value) for metric in history) == expected
        assert client.get_run(rows[number]["mlflow_run_id"]).info.status == "FINISHED"


# What Ray's own client is told by the dashboard; it knows the cluster's token.
ASK = """
import json, sys
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(sys.argv[1])
print(json.dumps([client._do_request("GET", path).json() for path in sys.argv[2:]]))
"""


def check_dashboard(platform: Platform, name: str, trial: int) -> None:
    """Ray's dashboard, which the sweep's MLflow run leads to, knows trials, Train runs and workers by their names."""
    about = Ledger.open(f"sqlite:///{platform.home}/studies.db", name).about
    address = (
        MlflowClient(f"sqlite:///{platform.home}/mlflow.db").get_run(about["mlflow_run_id"]).data.tags["ray_dashboard"]
    )
    assert address.startswith("http://127.0.0.1:")
    paths = ["/api/v0/actors?detail=1", "/api/v0/jobs?detail=1", "/api/train/v2/runs/v1"]
    asked = subprocess.run(
        [sys.executable, "-c", ASK, address, *paths],
        env={**OTHERS, "RAY_AUTH_MODE": "token"}, capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    *states, train = json.loads(asked.stdout.splitlines()[-1])
    actors, jobs = (state["data"]["result"]["result"] for state in states)
    assert any(f"--name {name}" in job["entrypoint"] for job in jobs)
    assert f"{name}/trial-{trial:04}" in {actor["repr_name"] for actor in actors}
    run = next(run for run in train["train_runs"] if run["name"] == f"{name}/trials/trial-{trial:04}")
    workers = {worker["actor_id"] for attempt in run["attempts"] for worker in attempt["workers"]}
    assert workers and workers <= {actor["actor_id"] for actor in actors}


def test_interrupt_and_resume(platform: Platform, corpus: Corpus, webhook: Webhook) -> None:
    tell = ["--notify", webhook.url]
    process = platform.start(
        "sweep", "space.yaml", "--data", corpus.path, "--name", "stopped", "--max-concurrent", 1, "--no-tune-decoding",
        *tell,
    )  # fmt: skip
    wait_for(lambda: in_the_middle_of_the_second(recorded(platform, "stopped")), process)
    (going,) = (trial.number for trial in recorded(platform, "stopped") if not trial.state.is_finished())
    callback = platform.start("logs", "stopped", going, "--follow")
    with paused(platform, "stopped", going):
        check_while_it_runs(platform, process.pid, going)
        check_dashboard(platform, "stopped", going)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, out + err
    assert "platform sweep --resume stopped" in out
    assert "Traceback" not in out + err
    before = curves(platform, "stopped")
    followed, _ = callback.communicate(timeout=PATIENCE)
    assert all(f" epoch {epoch}: val CER " in followed for epoch in before[going])
    check_cap(platform, platform.run("sweep", "--resume", "stopped", "--max-device-hours", 1e-9, *tell))
    assert curves(platform, "stopped") == before, "no epoch is trained beyond a cap"
    platform.run("sweep", "--resume", "stopped", "--max-device-hours", 1, *tell)
    check_all_stores(platform, "stopped", before)
    check_what_was_told(platform, webhook)
    assert platform.run("logs", "stopped", going).count(" begins, after epoch ") >= 2, "one log for all of its runs"


def log_of(platform: Platform, name: str, trial: int) -> Path:
    return platform.home / "sweeps" / name / "trials" / f"trial-{trial:04}" / "log.txt"


@contextmanager
def paused(platform: Platform, name: str, trial: int) -> Iterator[None]:
    """The trial's worker stands still: it ends no epoch while others look on."""
    worker = int(re.findall(r"process (\d+) on", log_of(platform, name, trial).read_text())[-1])
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def check_while_it_runs(platform: Platform, driver: int, going: int) -> None:
    """A second process sees the trial that is trained, and how long it will take."""
    found = json.loads(platform.run("status", "stopped", "--json"))
    assert (found["state"], found["process"], found["trials"]["begun"]) == ("running", driver, 2)
    assert found["dashboard"].startswith("http://127.0.0.1:") and found["seconds_left"] >= 0
    (row,) = found["unfinished"]
    assert (row["trial"], row["state"]) == (going, "running") and row["epoch"] > 3
    assert (platform.home / "sweeps" / "stopped" / "trials" / f"trial-{going:04}" / PROGRESS).is_file()
    assert "running" in platform.run("status")


def check_what_was_told(platform: Platform, webhook: Webhook) -> None:
    """Each run's end, with the best trial and at last its model; and whoever asks hears the same."""
    told = [json.loads(body) for _, body in webhook.posts]
    assert [one["state"] for one in told] == ["stopped", "capped", "finished"]
    best = platform.leaderboard("stopped")[0]
    for key in ("val_cer", "val_cer_interval"):
        assert told[-1][key] == best[key]
    assert (told[-1]["best_trial"], told[0]["model"]) == (best["trial"], None)
    assert told[-1]["model"] == str(platform.home / "models" / "stopped")
    assert 0 < told[0]["minutes"] <= told[-1]["minutes"]
    found = json.loads(platform.run("status", "stopped", "--json"))
    assert (found["state"], found["unfinished"], found["process"]) == ("finished", [], None)


def check_cap(platform: Platform, printed: str) -> None:
    """A sweep at its cap has a model, and says why it has stopped."""
    assert "device-hours (--max-device-hours) are spent; with more of them, go on: platform sweep --resume stopped" in (
        printed
    )
    assert (platform.home / "models" / "stopped" / "model.safetensors").is_file()
    about = Ledger.open(f"sqlite:///{platform.home}/studies.db", "stopped").about
    assert about["limits"]["device_hours"] == 1e-9 and about["wall_seconds"] > 0
    parent = MlflowClient(f"sqlite:///{platform.home}/mlflow.db").get_run(about["mlflow_run_id"])
    assert (parent.info.status, parent.data.tags["stopped"]) == ("KILLED", about["stopped"])


def test_six_moments(platform: Platform) -> None:
    """A process dies, the store goes away, the driver is stopped and stands still; the audits are the soak's."""
    kinds = ["driver", "worker", "head", "pause", "store", "terminate"]
    trials = Soak(platform, Random(SEED), 2, SOAKED, print).run(kinds)
    assert len(trials) == 2 and all(trial.state != "running" for trial in trials)
    assert sum(trial.epochs for trial in trials) > 10, "the sweep had something to lose"
