"""An MLflow server is away at first, vanishes and comes back: one message each time, and nothing is lost."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import babbler
import pytest
import records
import seen
from command import OTHERS, ServerProcess, unused_port
from mlflow.tracking import MlflowClient

from asr_platform.reporting import plots
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.provenance import write_record
from asr_platform.tracking.resolving import resolve_model
from asr_platform.tuning.best_model import register_best_model
from asr_platform.tuning.callbacks import mlflow as module
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.doctor import Doctor
from trainables.data.corpus import Corpus


class Server:
    """An MLflow server that stores artifacts, always on one port."""

    def __init__(self, folder: Path) -> None:
        self.port = unused_port()
        self.folder = folder
        self.process: ServerProcess | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination", str(self.folder / "kept"), "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        env = {**OTHERS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = ServerProcess(words, f"{self.address}/health", env=env)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


class Sweep:
    """A sweep of two trials that is logged to the server at an address."""

    def __init__(self, folder: Path, corpus: Corpus, address: str) -> None:
        self.home = Home.at(folder / "mlruns")
        self.said: list[str] = []
        about = {"corpus": str(corpus.path), "corpus_hash": corpus.hash, "trials": 2, "epochs": 3}
        self.ledger: Ledger = records.ledger_in(self.home.path, **about, options={"tracking_uri": address})
        write_record(self.home.sweep("small"), records.SPACE, folder / "no plan")
        self.mlflow_callback = MLflowCallback(self.home, self.ledger, records.space(), corpus, self.said.append)
        self.client = MlflowClient(address)

    def epoch(self, number: int, epoch: int, cer: float) -> None:
        """Records an epoch with a checkpoint, and calls the callback."""
        checkpoint = self.home.sweep("small") / "trials" / f"trial-{number:04}" / f"checkpoint_{epoch}"
        row = {**records.row(epoch, cer), "checkpoint": seen.checkpoint(checkpoint, epoch=epoch)}
        self.ledger.record(number, row)
        self.mlflow_callback.on_epoch_end(self.ledger.trial(number))

    def end(self, number: int) -> None:
        self.ledger.finish(number, "complete")
        self.mlflow_callback.on_trial_end(self.ledger.trial(number))

    def curve(self, number: int) -> list[tuple[int, float]]:
        run = self.ledger.trial(number).about["mlflow_run_id"]
        return [(metric.step, metric.value / 100) for metric in self.client.get_metric_history(run, "asr/cer_percent")]

    def artifacts(self, run: str, folder: str) -> set[str]:
        return {Path(artifact.path).name for artifact in self.client.list_artifacts(run, folder)}


def test_a_server_comes_goes_and_comes_back(server: Server, tmp_path: Path, tiny_corpus: Corpus) -> None:
    sweep = Sweep(tmp_path, tiny_corpus, server.address)
    first, second = records.add(sweep.ledger, "running"), records.add(sweep.ledger, "running")
    sweep.mlflow_callback.on_sweep_start(sweep.ledger.trials())
    sweep.epoch(first, 1, 0.9)
    assert len(sweep.said) == 1 and "Connection refused" in sweep.said[0] and "logged later" in sweep.said[0]

    server.start()
    sweep.epoch(second, 1, 0.8)
    assert sweep.curve(first) == [(1, 0.9)] and sweep.curve(second) == [(1, 0.8)], "both, whichever has news"
    parent = sweep.ledger.about["mlflow_run_id"]

    server.kill()
    for epoch, cer in ((2, 0.5), (3, 0.4)):
        sweep.epoch(first, epoch, cer)
    sweep.end(first)
    assert len(sweep.said) == 2, "told once more, and no more often"
    assert sweep.mlflow_callback.missed, "no checkpoint is removed before MLflow has its trial"

    server.start()
    sweep.epoch(second, 2, 0.7)
    assert sweep.curve(first) == [(1, 0.9), (2, 0.5), (3, 0.4)] and sweep.curve(second) == [(1, 0.8), (2, 0.7)]
    run = sweep.ledger.trial(first).about["mlflow_run_id"]
    assert sweep.client.get_run(run).info.status == "FINISHED"
    assert sweep.artifacts(run, "plots") == {
        plots.LEARNING_CURVES, plots.CROSS_ATTENTION, plots.SELF_ATTENTION, plots.PAGE, plots.TEXT,
    }  # fmt: skip
    assert not sweep.mlflow_callback.missed

    sweep.epoch(second, 3, 0.6)
    sweep.end(second)
    model = tmp_path / "model"
    babbler.save_model(tiny_corpus, model)
    best = sweep.ledger.trial(first)
    sweep.mlflow_callback.end("FINISHED", best)
    register_best_model(sweep.mlflow_callback, sweep.ledger, best, model, sweep.said.append)
    fetched = resolve_model(sweep.home.path, "models:/small@champion")
    assert {path.name for path in fetched.iterdir()} == {path.name for path in model.iterdir()}
    assert fetched.is_relative_to(sweep.home.path / "downloads")
    fetched.joinpath("seen").touch()
    assert resolve_model(sweep.home.path, f"runs:/{parent}").joinpath("seen").exists(), "it is fetched once"
    assert {"space.yaml", "packages.txt", "git.txt"} <= sweep.artifacts(parent, "record")
    assert sweep.client.get_run(parent).info.status == "FINISHED"
    assert len(sweep.said) == 2
    assert list((tmp_path / "kept").rglob("packages.txt")), "the server keeps them"
    assert not (sweep.home.path / "mlflow.db").exists() and not sweep.home.artifacts.exists()
    findings = Doctor(sweep.home, "small").audit()
    assert not [finding for finding in findings if finding.kind in ("mlflow", "discard", "ledger")]


def test_a_server_that_does_not_answer_is_left_alone_for_a_while(
    tmp_path: Path, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request to such a server holds the driver up until it times out."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    asked: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as deaf:

        def accept() -> None:
            while True:
                try:
                    asked.append(deaf.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        sweep = Sweep(tmp_path, tiny_corpus, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        number = records.add(sweep.ledger, "running")
        sweep.mlflow_callback.on_sweep_start(sweep.ledger.trials())
        first = len(asked)
        assert first > 0
        for epoch in (1, 2, 3):
            sweep.epoch(number, epoch, 1 / epoch)
        sweep.end(number)
        assert len(asked) == first and len(sweep.said) == 1
        sweep.mlflow_callback.end("FINISHED", sweep.ledger.trial(number))
        assert len(asked) > first, "it is asked once more before the driver ends"
        assert len(sweep.said) == 2 and "platform doctor small --repair" in sweep.said[1]
        deaf.shutdown(socket.SHUT_RDWR)
    for connection in asked:
        connection.close()


def test_a_store_that_fails_at_once_is_asked_again_at_once(
    tmp_path: Path, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW", 60)  # however busy the machine
    sweep = Sweep(tmp_path, tiny_corpus, f"http://127.0.0.1:{unused_port()}")
    sweep.mlflow_callback.on_sweep_start([])
    assert sweep.said and sweep.mlflow_callback.paused_until == 0.0
