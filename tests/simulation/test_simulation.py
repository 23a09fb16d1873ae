"""A sweep survives its drivers: a thousand schedules of kills, full disks, signals, lost and late reports.

A ledger in SQLite and an MLflow store are slow, so most schedules have their ledger in Optuna's memory and an MLflow
store that is away; every 50th has its ledger in SQLite, with copies, and every 100th an MLflow store as well.
`SIMULATION_SCHEDULES` says how many there are, `SIMULATION_FIRST` with which seed they begin; one that fails is told
with the command that runs it again. `simulate.py --store mlflow` has all of them with everything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashes import RANDOM
from schedules import Schedule
from simulate import EVERY, ScheduleError, new_folder, simulate
from world import Templates, World

from asr_platform.tuning.callbacks.retention import Retention

FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))
SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "1000"))


@pytest.fixture(scope="module")
def templates() -> Iterator[Templates]:
    folder = new_folder()
    yield Templates(folder / "templates")
    shutil.rmtree(folder)


@pytest.fixture
def folder(templates: Templates) -> Iterator[Path]:
    """A new folder in the file system of the templates, to which schedules link."""
    folder = templates.folder.parent / "one-test"
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(1800)  # seconds, on a machine that does much else beside it
def test_whatever_befalls_the_driver_all_is_on_record_once(templates: Templates) -> None:
    """And no kind of fault is so rare that this would say little."""
    ends = simulate(range(FIRST, FIRST + SCHEDULES), templates, templates.folder.parent)
    print(ends)
    assert ends["finished"] == SCHEDULES
    if SCHEDULES >= 1000:
        assert min(ends.get(end, 0) for end in ("killed", "stopped", "failed", "capped")) >= SCHEDULES / 50


@pytest.mark.parametrize("store", ["memory", *EVERY])
def test_a_seed_is_one_schedule(store: str, templates: Templates, folder: Path) -> None:
    """What is printed and written is the same each time."""
    told = []
    for time in ("first", "second"):
        world = World(Schedule.of(5, store), templates, folder / time)  # type: ignore[arg-type]
        world.run()
        printed = RANDOM.sub("*", world.printed.getvalue().replace(str(world.folder), ""))
        told.append((printed, list(world.writes.latest)))
    assert told[0] == told[1]


def test_a_fault_is_told_with_its_seed(templates: Templates, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a checkpoint retention that removes nothing."""
    monkeypatch.setattr(Retention, "apply", lambda retention: None)
    with pytest.raises(ScheduleError, match=r"seed \d+(.|\n)*simulate.py --first \d+ --count 1"):
        simulate(range(1, 20), templates, folder)
