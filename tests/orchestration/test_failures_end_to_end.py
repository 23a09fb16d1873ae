"""Real failures in a real sweep: what each of them tells whoever runs it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import tiny
from command import PATIENCE, Platform, wait_for

# The first is killed, the second wants more memory than a process can address, the third crashes: none ends by itself.
SPACE = """
base:
  model: {d_model: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feed_forward: 48, conv_channels: 16}
  training: {batch_seconds: 4.0}
vary:
  model.feed_forward: {choice: [48, 10000000000000]}
  optimizer.lr: {choice: [1.0e-3, 1.0e-2]}
start:
  - {model.feed_forward: 48, optimizer.lr: 1.0e-3}
  - {model.feed_forward: 10000000000000, optimizer.lr: 1.0e-3}
  - {model.feed_forward: 48, optimizer.lr: 1.0e-2}
budget: 1000000000000000000
trials: 3
epochs: 1000
asha: {grace: 1000}
"""
NAME = "failing"
CAUSES = {0: "killed or crashed", 1: "out of memory: that of the machine", 2: "killed or crashed"}


def log_of(platform: Platform, number: int) -> Path:
    return platform.home / "sweeps" / NAME / "trials" / f"trial-{number:04}" / "log.txt"


def has_an_epoch(platform: Platform, number: int) -> bool:
    log = log_of(platform, number)
    return log.is_file() and "epoch 1: val CER" in log.read_text()


@pytest.fixture(scope="module")
def printed(platform: Platform) -> str:
    """What the sweep printed, while a second process looked on and workers were killed."""
    corpus = tiny.write_corpus(platform.folder / "corpus", {"train": tiny.SENTENCES * 10, "dev": tiny.SENTENCES})
    (platform.folder / "space.yaml").write_text(SPACE)
    process = platform.start("sweep", "space.yaml", "--data", corpus.path, "--name", NAME, "--max-concurrent", 2)
    for number, how in ((0, signal.SIGKILL), (2, signal.SIGSEGV)):
        wait_for(lambda number=number: has_an_epoch(platform, number), process)
        worker = re.search(r"process (\d+) on", log_of(platform, number).read_text())
        assert worker is not None
        os.kill(int(worker.group(1)), how)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 1), out + err  # an epoch may not have gone on record before the kill
    assert err == ""
    return out


def test_each_failure_is_explained_where_it_happens(platform: Platform, printed: str) -> None:
    """With its cause, what to try, and the last lines of its log; of a cause that was met before, where to look."""
    lines = printed.splitlines()
    for number, words in CAUSES.items():
        (place,) = [place for place, line in enumerate(lines) if line.startswith(f"trial {number} failed: ")][:1]
        log = f"log:   {log_of(platform, number).relative_to(platform.folder)}"
        following = [line.strip() for line in lines[place + 1 : place + 9]]
        if number == 2:
            assert following[0] == log
            continue
        assert words in following[0] and following[1].startswith("try:   ")
        assert following[2] == f"{log}, which ends:" and following[3].startswith("| ")
    assert "(raylet)" not in printed, "Ray's own words are in its logs"
    assert "you tried to allocate" in printed


def test_the_leaderboard_says_what_to_try(platform: Platform, printed: str) -> None:
    for shown in (printed, platform.run("leaderboard", NAME)):
        assert "trial 0, 2 failed: a process of the trial was killed or crashed; try " in shown
        assert "trial 1 failed: out of memory: that of the machine; try a lower training.batch_seconds" in shown


def test_the_logs_tell_the_rest(platform: Platform, printed: str) -> None:
    """From another process: what was printed until the kill, tracebacks, and where a crash happened."""
    killed, full, crashed = (platform.run("logs", NAME, number) for number in range(3))
    assert "epoch 1: val CER" in killed and "Traceback" not in killed
    assert "Traceback (most recent call last)" in full and "\nRuntimeError: " in full
    assert "Fatal Python error: Segmentation fault" in crashed
    for number, text in enumerate((killed, full, crashed)):
        assert f"\ntrial {number} failed: " in text and f"cause: {CAUSES[number]}" in text.replace(
            "a process of the trial was ", ""
        )
        assert "Reporting training result" not in text, "Ray Train's own report of every epoch"


def test_the_status_counts_them(platform: Platform, printed: str) -> None:
    found = json.loads(platform.run("status", NAME, "--json"))
    assert (found["state"], found["trials"]["failed"], found["unfinished"]) == ("finished", 3, [])
