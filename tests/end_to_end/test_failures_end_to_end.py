"""Real failures in a real sweep: what each of them tells whoever runs it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import tiny
from command import PATIENCE, Platform, wait_for

# The first is killed once, the second diverges, the third crashes again and again.
SPACE = """
base:
  model: {d_model: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feed_forward: 48, conv_channels: 16}
  training: {update_seconds: 4.0}
vary:
  optimizer.lr: {choice: [1.0e-3, 1.0e+30, 1.0e-2]}
start:
  - {optimizer.lr: 1.0e-3}
  - {optimizer.lr: 1.0e+30}
  - {optimizer.lr: 1.0e-2}
trials: 3
epochs: 30
asha: {grace: 30, promotion: null}
"""
NAME = "failing"
ATTEMPTS = 3  # what a trial that loses its processes is given in one run of a sweep


def log_of(platform: Platform, number: int) -> Path:
    return platform.home / "sweeps" / NAME / "trials" / f"trial-{number:04}" / "log.txt"


def worker_of(platform: Platform, number: int, attempt: int) -> int | None:
    """The process of a trial's worker, once it has begun so often and trained three epochs since: one is on record."""
    log = log_of(platform, number)
    starts = log.read_text().split("process ")[1:] if log.is_file() else []
    trained = len(starts) == attempt and starts[-1].count(": val CER") >= 3
    return int(starts[-1].split()[0]) if trained else None


@pytest.fixture(scope="module")
def printed(platform: Platform) -> str:
    """What the sweep printed while workers were killed."""
    corpus = tiny.write_corpus(platform.folder / "corpus", {"train": tiny.SENTENCES * 10, "dev": tiny.SENTENCES})
    (platform.folder / "space.yaml").write_text(SPACE)
    process = platform.start("sweep", "space.yaml", "--data", corpus.path, "--name", NAME, "--max-concurrent", 2)
    losses = [(0, 1, signal.SIGKILL), *((2, attempt, signal.SIGSEGV) for attempt in range(1, ATTEMPTS + 1))]
    for number, attempt, how in losses:
        wait_for(lambda number=number, attempt=attempt: worker_of(platform, number, attempt) is not None, process)
        os.kill(worker_of(platform, number, attempt) or 0, how)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, out + err
    assert err == ""
    return out


def test_what_the_machine_took_goes_on_and_what_the_configuration_did_fails(printed: str) -> None:
    lines = printed.splitlines()
    losses = [line for line in lines if " lost a process after epoch " in line]
    assert [line.split(" lost ")[0] for line in losses] == ["trial 0", *["trial 2"] * ATTEMPTS]
    assert all("goes on from its checkpoint: " in line for line in losses[:-1])
    assert "lost too often, it waits for --resume: " in losses[-1]
    assert "trial 0 complete" in lines
    again = [line for line in lines if line.startswith("trial 0 goes on after epoch ")]
    assert len(again) == 1, "from its checkpoint, not anew"
    assert "stopped: trials that lost their processes again and again: 2" in lines
    assert lines[-1] == f"go on with: platform sweep --resume {NAME}"
    assert "(raylet)" not in printed, "Ray's own words are in its logs"


def test_a_failure_is_explained_where_it_happens(platform: Platform, printed: str) -> None:
    """With its cause, what to try, and the last lines of its log."""
    lines = printed.splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.startswith("trial 1 failed: ")][:1]
    following = [line.strip() for line in lines[place + 1 : place + 9]]
    assert "diverged: the loss is no longer a number" in following[0] and following[1].startswith("try:   ")
    log = log_of(platform, 1).relative_to(platform.folder)
    assert following[2] == f"log:   {log}, which ends:" and following[3].startswith("| ")
    assert "DivergedError: the " in printed


def test_the_leaderboard_says_what_to_try(platform: Platform, printed: str) -> None:
    for shown in (printed, platform.run("leaderboard", NAME)):
        assert "trial 1 failed: diverged: the loss is no longer a number; try a lower optimizer.lr" in shown


def test_the_logs_tell_the_rest(platform: Platform, printed: str) -> None:
    """From another process: every attempt, tracebacks, and where a crash happened."""
    killed, full, crashed = (platform.run("logs", NAME, number) for number in range(3))
    assert killed.count(" begins, after epoch ") == 2 and "Traceback" not in killed
    assert "Traceback (most recent call last)" in full and "DivergedError: " in full
    assert "\ntrial 1 failed: " in full and "cause: diverged: the loss is no longer a number" in full
    assert crashed.count("Fatal Python error: Segmentation fault") == ATTEMPTS
    assert "Reporting training result" not in killed, "Ray Train's own report of every epoch"


def test_a_resumed_sweep_goes_on_with_what_was_lost(platform: Platform, printed: str) -> None:
    status = json.loads(platform.run("status", NAME, "--json"))
    assert status["state"] == "failed" and [row["trial"] for row in status["unfinished"]] == [2]
    platform.run("sweep", "--resume", NAME, "--no-tune-decoding")
    rows = {row["trial"]: row for row in platform.leaderboard(NAME)}
    assert {number: row["state"] for number, row in rows.items()} == {0: "complete", 1: "failed", 2: "complete"}
    found = json.loads(platform.run("status", NAME, "--json"))
    assert (found["state"], found["trials"]["failed"], found["unfinished"]) == ("finished", 1, [])
