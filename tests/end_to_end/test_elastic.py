"""A training on real nodes that come and go: it has more and fewer workers, and loses no update."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from command import PATIENCE, Platform, wait_for
from ray_nodes import RealNodes
from test_sweep_interrupted import paused

from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from search_spaces.reader import load_space
from trainables.training.loop import Metrics, train

SPACE = tiny.SPACE.replace("conv_channels: 16", "conv_channels: 16, dropout: 0.0") + "trials: 1\nepochs: 300\n"
NAME = "elastic"


@pytest.fixture
def nodes() -> Iterator[RealNodes]:
    with RealNodes() as started:
        yield started


def workers(platform: Platform) -> list[int]:
    """Number of workers of each start of the trial that has ended an epoch."""
    path = platform.home / "sweeps" / NAME / "trials" / "trial-0000" / "log.txt"
    starts = re.split(r"begins, after epoch \d+", path.read_text() if path.is_file() else "")[1:]
    found = [(re.match(r", as one of (\d+) workers", start), "val CER" in start) for start in starts]
    return [int(several[1]) if several else 1 for several, trained in found if trained]


def printed_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Reads a process's output up to the first line that matches a pattern, and returns it; fails if none does."""
    assert process.stdout
    printed = ""
    for line in process.stdout:
        printed += line
        if re.search(pattern, line):
            return printed
    raise AssertionError(printed)


def test_a_training_shrinks_on_sigterm_to_its_node_and_grows_and_its_curve_is_that_of_one_worker(
    nodes: RealNodes, tmp_path: Path
) -> None:
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": tiny.SENTENCES * 20, "dev": tiny.SENTENCES * 2})
    (tmp_path / "space.yaml").write_text(SPACE)
    platform = Platform(tmp_path, nodes.variables)
    nodes.join(2)
    leaving = nodes.join(3)
    words = ("space.yaml", "--data", corpus.path, "--name", NAME, "--address", nodes.address, "--max-workers", "2")
    process = platform.start("train", *words)
    try:
        wait_for(lambda: workers(platform) == [2], process)
        with paused(platform, NAME, 0):  # a node with nothing to do would be gone before the driver has looked
            nodes.terminate(leaving)
            out = printed_until(process, rf"node {leaving} .* is about to be taken away")
        wait_for(lambda: workers(platform) == [2, 1], process)
        with paused(platform, NAME, 0):  # until it can grow: what it trained meanwhile would be trained below once more
            nodes.join(4)
            out += printed_until(process, "joined by node")
        wait_for(lambda: workers(platform) == [2, 1, 2], process)
        process.send_signal(signal.SIGUSR1)  # as Slurm does before the end of a job
        out += printed_until(process, "go on with: platform sweep --resume")
        process.wait(PATIENCE)
    finally:
        platform.stop()
    assert process.returncode == 130, out
    assert re.search(r"trial 0 is interrupted after epoch \d+, and goes on elsewhere", out), out
    assert re.search(r"trial 0 is interrupted after epoch \d+, and goes on with more workers", out), out
    assert re.search(r"trial 0 is interrupted after epoch \d+, and goes on with --resume", out), out
    (trial,) = Ledger.open(Home.existing(platform.home).studies, NAME).trials()
    assert {row["workers"] for row in trial.curve} == {1, 2}
    losses = [row["train_loss"] for row in trial.curve]
    alone: list[float] = []

    def report(metrics: Metrics, save: object) -> None:
        alone.append(metrics["train_loss"])

    train(load_space(tmp_path / "space.yaml").config({}), corpus, report, until=len(losses))
    assert losses == pytest.approx(alone, rel=1e-3)
