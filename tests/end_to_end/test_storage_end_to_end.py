"""A sweep with PostgreSQL, S3 and an MLflow server: killed, it is taken up from another home by two addresses alone."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import servers
import tiny
from command import OTHERS, PATIENCE, Platform, ServerProcess, unused_port, wait_for
from mlflow.tracking import MlflowClient
from ray_nodes import RealNodes, private_mounts
from test_sweep_interrupted import log_of, paused

from asr_platform.storage.database import SharedLedger, open_storage
from asr_platform.study.ledger import Ledger, TrialRecord
from trainables.data.corpus import Corpus
from trainables.storage.remote import Remote

SPACE = (
    tiny.SPACE
    + """trials: 3
epochs: 6
keep: 1
asha: {grace: 6, promotion: null}
"""
)
pytestmark = pytest.mark.timeout(2 * PATIENCE)
STORAGE = f"s3://{servers.BUCKET}/research"


@dataclass
class Cluster:
    """Servers that every machine reaches, through proxies that can take them away, and machines with homes of theirs.

    Attributes:
        ledger, storage, tracking: the addresses.
        variables: what a machine's environment has: the addresses' credentials and the server's endpoint.
    """

    folder: Path
    database: servers.Postgres
    s3: servers.Proxy
    tracking: str
    storage: str = STORAGE

    @property
    def ledger(self) -> str:
        return self.database.address

    @property
    def addresses(self) -> list[str]:
        """Options with which another machine takes a sweep up."""
        return ["--storage", self.storage, "--ledger", self.ledger]

    @property
    def variables(self) -> dict[str, str]:
        return servers.environment(self.s3.port)

    def machine(self, name: str, **variables: str) -> Platform:
        """A machine that has neither a home nor a cache nor a corpus yet."""
        (self.folder / name).mkdir()
        (self.folder / name / "space.yaml").write_text(SPACE)
        own = {"ASR_PLATFORM_CACHE": str(self.folder / name / "cache")}
        return Platform(self.folder / name, {**self.variables, **own, **variables})

    def trials(self, machine: Platform, name: str) -> list[TrialRecord]:
        storage = opened(SharedLedger(self.ledger, machine.home))
        return Ledger.open(storage, name).trials() if name in Ledger.names(storage) else []


@functools.cache
def opened(ledger: SharedLedger) -> optuna.storages.BaseStorage:
    """Opening it ten times a second would leave the sweep half a core."""
    return open_storage(ledger)[0]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with servers.postgres() as database, servers.s3() as port:
        proxy, mlflow = servers.Proxy(port), unused_port()
        address = f"http://127.0.0.1:{mlflow}"
        words = [sys.executable, "-m", "mlflow", "server", "--port", str(mlflow), "--workers", "1"]
        stores = [
            "--backend-store-uri",
            database.create("mlflow"),
            "--artifacts-destination",
            f"s3://{servers.BUCKET}/mlflow",
        ]
        own = {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {**OTHERS, **servers.environment(port), **own}
        with ServerProcess([*words, *stores], f"{address}/health", env=environment, cwd=folder):
            yield Cluster(folder, database, proxy, address)
        proxy.close()


def test_a_killed_sweep_is_taken_up_from_another_home(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the cluster's nodes is lost with the driver, and another joins, while two trials are in the middle.

    Nodes see nothing of the driver's machine, where the system lets processes hide a folder (unshare).
    """
    hidden = cluster.folder if private_mounts() else None
    first = cluster.machine("first")
    corpus = tiny.write_corpus(first.folder / "corpus", {"train": tiny.SENTENCES * 20, "dev": tiny.SENTENCES * 2})
    with RealNodes(cluster.variables) as nodes:
        lost, stays = (nodes.join(number, hidden=hidden) for number in (6, 7))
        before = _killed(cluster, first, nodes)
        nodes.kill(lost)
        joined = nodes.join(8, hidden=hidden)
        second = cluster.machine("second", **nodes.variables)
        printed = second.run(*cluster.addresses, "sweep", "--resume", "moving", "--address", nodes.address)
        if hidden:  # else nodes find the driver's copy at its path
            fetched = [nodes.cache(name) / "corpora" / corpus.hash for name in (stays, joined)]
            assert [Corpus.open(folder).hash for folder in fetched] == [corpus.hash] * 2
    assert "in the registry" in printed, printed
    trials = cluster.trials(second, "moving")
    assert [(trial.state, trial.epochs) for trial in trials] == [("complete", 6)] * 3
    for number, curve in before:  # nothing was trained twice, and nothing that was known has changed
        known = [{**row, "checkpoint": None} for row in trials[number].curve]
        assert known[: len(curve)] == [{**row, "checkpoint": None} for row in curve]
    _check_home(second, corpus)
    _check_storage(cluster, corpus, monkeypatch)
    best = json.loads(second.run("leaderboard", "moving", "--json"))[0]  # the home keeps the addresses
    run = MlflowClient(cluster.tracking).get_run(best["mlflow_run_id"])
    assert run.info.status == "FINISHED" and run.data.tags["sweep"] == "moving"


def _killed(cluster: Cluster, machine: Platform, nodes: RealNodes) -> list[tuple[int, list[dict[str, Any]]]]:
    """Starts a sweep, kills its driver in the middle, and removes its machine; returns the curves known by then."""
    storage = f"s3://{servers.BUCKET}//research/./x/.."  # another spelling of the address
    words = ["--storage", storage, "--ledger", cluster.ledger, "sweep", "space.yaml", "--data", "corpus"]
    words += ["--name", "moving", "--tracking-uri", cluster.tracking, "--address", nodes.address]
    driver = Platform(machine.folder, {**machine.variables, **nodes.variables})
    running = driver.start(*words)
    try:
        wait_for(lambda: cluster.trials(machine, "moving"), running)
        refused = cluster.machine("impatient").run(*cluster.addresses, "sweep", "--resume", "moving", code=2)
        assert "sweep moving is running (process" in refused
        wait_for(lambda: _in_the_middle(cluster, machine) != [], running)
        (first, *_) = _in_the_middle(cluster, machine)
        wait_for(lambda: log_of(driver, "moving", first).is_file(), running)
        with paused(driver, "moving", first):  # until the other node, which may begin much later, is as far
            wait_for(lambda: len(_in_the_middle(cluster, machine)) == 2, running)
    finally:
        driver.stop()
    before = [(trial.number, [*trial.curve]) for trial in cluster.trials(machine, "moving")]
    shutil.rmtree(machine.folder)
    return before


def _in_the_middle(cluster: Cluster, machine: Platform) -> list[int]:
    """Numbers of the trials that have a checkpoint and more epochs to come."""
    trials = cluster.trials(machine, "moving")
    return [trial.number for trial in trials if trial.state == "running" and 2 <= trial.epochs < 6]


def _check_home(machine: Platform, corpus: Corpus) -> None:
    """The cache of the machine has what commands read, and of weights only the best model's."""
    cached = machine.folder / "cache" / "corpora" / corpus.hash
    assert Corpus.open(cached).hash == corpus.hash
    assert (machine.home / "models" / "moving" / "model.safetensors").is_file()
    logs = sorted((machine.home / "sweeps" / "moving" / "trials").glob("trial-000?/log.txt"))
    assert len(logs) == 3 and "epoch 1:" in logs[0].read_text(), "the log of the other machine is here"
    assert len(list((machine.home / "sweeps" / "moving" / "errors").glob("*.json"))) == 3
    assert not (machine.home / "studies.db").exists()


def _check_storage(cluster: Cluster, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asserts that the storage keeps the errors of each ended trial's best checkpoint, and the weights of one trial."""
    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    files = Remote(cluster.storage).files()
    weights = [path for path in files if path.endswith("model.safetensors")]
    assert len([path for path in weights if path.startswith("sweeps/")]) == 1
    assert "models/moving/model.safetensors" in files and "sweeps/moving/record/space.yaml" in files
    assert f"corpora/{corpus.hash}/train.arrow" in files
    assert not [path for path in files if "optimizer" in path or "training.json" in path]
    assert len([path for path in files if path.endswith("/errors.json") and path.startswith("sweeps/")]) == 3


def test_a_sweep_outlasts_a_storage_and_a_ledger_that_are_away(cluster: Cluster) -> None:
    machine = cluster.machine("outage", ASR_PLATFORM_STORAGE=cluster.storage, ASR_PLATFORM_LEDGER=cluster.ledger)
    tiny.write_corpus(machine.folder / "corpus", {"train": tiny.SENTENCES * 20, "dev": tiny.SENTENCES * 2})
    words = ["space.yaml", "--data", "corpus", "--name", "outage", "--trials", "1", "--no-tune-decoding"]
    running = machine.start("sweep", *words)
    wait_for(lambda: any(trial.epochs >= 2 for trial in cluster.trials(machine, "outage")), running)
    cluster.s3.close()
    cluster.database.stop()
    for start in (cluster.s3.start, cluster.database.start):
        threading.Timer(10, start).start()
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, out + err
    assert "trying again for 120 s" in err
    assert [(trial.state, trial.epochs) for trial in cluster.trials(machine, "outage")] == [("complete", 6)]
