"""A sweep on three real nodes: one lacks the corpus, one joins and is killed, and every trial comes to its end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from command import OTHERS, PATIENCE, PLATFORM, Platform, wait_for
from ray_nodes import RAY, RealNodes, private_mounts
from test_sweep_interrupted import curves, paused

SPACE = (
    tiny.SPACE
    + """trials: 3
epochs: 8
asha: {grace: 8, promotion: null} # every trial to its end
"""
)
pytestmark = pytest.mark.timeout(2 * PATIENCE)
EPOCHS = list(range(1, 9))
NAME = "nodes"


@pytest.fixture(scope="module")
def nodes() -> Iterator[RealNodes]:
    """A cluster's head, to which no node has been joined yet."""
    with RealNodes() as started:
        yield started


def test_a_driver_without_the_token_is_told_its_mode(nodes: RealNodes, tmp_path: Path) -> None:
    tiny.write_corpus(tmp_path / "corpus", {"train": ["A"], "dev": ["A"]})
    (tmp_path / "space.yaml").write_text(SPACE)
    platform = Platform(tmp_path, {**nodes.variables, "RAY_AUTH_MODE": "disabled"})
    told = platform.run("sweep", "space.yaml", "--data", "corpus", "--address", nodes.address, code=2)
    assert "refuses this driver's token (RAY_AUTH_MODE is disabled here)" in told
    assert "RAY_AUTH_TOKEN" in told and "Traceback" not in told


def test_nodes_come_and_go_and_every_trial_is_whole(nodes: RealNodes, tmp_path: Path) -> None:
    """The node without the corpus is named and left out, so no trial is blamed for it."""
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": tiny.SENTENCES * 20, "dev": tiny.SENTENCES * 2})
    (tmp_path / "space.yaml").write_text(SPACE)
    platform = Platform(tmp_path, nodes.variables)
    nodes.join(2)
    # Some systems, such as most containers, let nobody mount a folder for one process alone.
    without = nodes.join(3, hidden=corpus.path) if private_mounts() else None
    words = ("space.yaml", "--data", corpus.path, "--name", NAME, "--address", nodes.address, "--no-tune-decoding")
    process = platform.start("sweep", *words)
    try:
        wait_for(lambda: any(curves(platform, NAME).values()), process)
        (first,) = curves(platform, NAME)
        with paused(platform, NAME, first):  # until another trial is on the other node
            late = nodes.join(4)
            wait_for(lambda: in_the_middle(platform, nodes, late) is not None, process)
            lost = in_the_middle(platform, nodes, late)
            before = curves(platform, NAME)
            nodes.kill(late)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        platform.stop()
    assert process.returncode == 0, out + err
    assert without is None or re.search(rf"node {without} .* is left out: it cannot read the corpus", out)
    assert f"joined by node {late} " in out and "2 trials at once now" in out
    assert re.search(rf"node {late} .* is lost .*; 1 trials at once now", out), out
    whole = curves(platform, NAME)
    assert {number: sorted(values) for number, values in whole.items()} == dict.fromkeys(range(3), EPOCHS)
    assert all(before[number].items() <= whole[number].items() for number in before), "nothing recorded has changed"
    assert [row["state"] for row in platform.leaderboard(NAME)] == ["complete"] * 3
    begun = re.findall(r"begins, after epoch (\d+)", log_of(platform, lost))
    assert len(begun) >= 2 and int(begun[-1]) >= max(before[lost]), "it went on from its checkpoint"


def test_a_sweep_runs_as_a_job_of_the_cluster(nodes: RealNodes, tmp_path: Path) -> None:
    """A job's driver is a process of the head, which has no CPU here; RAY_ADDRESS tells it the cluster."""
    nodes.join(5)
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": tiny.SENTENCES, "dev": tiny.SENTENCES})
    (tmp_path / "space.yaml").write_text(SPACE)
    platform = Platform(tmp_path, nodes.variables)
    words = ["sweep", tmp_path / "space.yaml", "--data", corpus.path, "--name", "job", "--trials", "1", "--epochs", "2"]
    command = [RAY, "job", "submit", "--address", f"http://{nodes.dashboard}", "--", PLATFORM, "--home", platform.home]
    done = run(nodes, *command, *words, "--no-tune-decoding")
    while "No available agent" in done.stderr:  # the head's has not begun
        done = run(nodes, *command, *words, "--no-tune-decoding")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Ray dashboard: http://{nodes.dashboard}" in done.stdout, "it has joined this cluster"
    assert [row["state"] for row in platform.leaderboard("job")] == ["complete"]


def run(nodes: RealNodes, *words: object) -> subprocess.CompletedProcess[str]:
    variables = {**OTHERS, **nodes.variables}
    return subprocess.run(
        [*map(str, words)], env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def in_the_middle(platform: Platform, nodes: RealNodes, name: str) -> int | None:
    """Number of a trial that is in the middle of its training on a node; None if there is none."""
    for number, values in curves(platform, NAME).items():
        workers = re.findall(r"process (\d+) on", log_of(platform, number))
        if workers and 2 <= len(values) < len(EPOCHS) - 2 and nodes.has(name, int(workers[-1])):
            return number
    return None


def log_of(platform: Platform, number: int | None) -> str:
    path = platform.home / "sweeps" / NAME / "trials" / f"trial-{number:04}" / "log.txt"
    return path.read_text() if path.is_file() else ""
