"""Trials that are paused or stopped in the middle of an epoch: their workers end, and nothing known is lost."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import tiny
from command import PATIENCE, Platform, wait_for
from test_sweep_interrupted import curves

SPACE = (
    tiny.SPACE.replace("update_seconds: 4.0", "update_seconds: 1.0")  # many updates with few sentences
    + """trials: 1
epochs: 3
asha: {grace: 3, promotion: null}
"""
)
NO_MODEL = 1  # exit code
LONG = 6_000  # sentences: an epoch lasts a minute or more


def test_workers_end_in_the_middle_of_an_epoch(platform: Platform) -> None:
    (platform.folder / "space.yaml").write_text(SPACE)
    corpus = tiny.write_corpus(platform.folder / "long", {"train": tiny.SENTENCES * (LONG // 10), "dev": ["CAB"]})
    process = platform.start("sweep", "space.yaml", "--data", corpus.path, "--name", "steered", "--no-tune-decoding")
    wait_for(lambda: worker(log(platform)) is not None, process)
    first = worker(log(platform))
    platform.run("pause", "steered", 0)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == NO_MODEL and "Last result" not in out, out + err
    assert not psutil.pid_exists(first or 0) and curves(platform, "steered") == {0: {}}, "it was in its first epoch"

    platform.run("unpause", "steered", 0)
    process = platform.start("sweep", "--resume", "steered")
    wait_for(lambda: worker(log(platform)) not in (None, first), process)
    platform.run("stop", "steered", 0)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == NO_MODEL and "Traceback" not in out + err, out + err
    assert not psutil.pid_exists(worker(log(platform)) or 0)
    (row,) = platform.leaderboard("steered")
    assert row["state"] == "pruned" and curves(platform, "steered") == {0: {}}


def log(platform: Platform) -> Path:
    return platform.home / "sweeps" / "steered" / "trials" / "trial-0000" / "log.txt"


def worker(path: Path) -> int | None:
    """Process of the worker that trains now; None: it has not begun."""
    found = re.findall(r"process (\d+) on", path.read_text()) if path.is_file() else []
    return int(found[-1]) if found else None
