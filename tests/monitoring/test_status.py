"""How a sweep stands is told by its ledger and its lock, whatever was killed and whenever one looks."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import records
from rich.console import Console

from asr_platform.cli.tables.monitoring import print_status, print_statuses
from asr_platform.monitoring.status import State, all_statuses, state_of, status, training
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.run_record import RUN, SPENT, STOPPED, RunRecord


class Place:
    """A home with a sweep that this process drives, while it holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.home, self.ledger = Home.at(folder), records.ledger_in(folder, trials=4, limits={"hours": 2})
        self.stack = ExitStack()
        self.home.path.joinpath("sweeps").mkdir()

    def lock(self) -> None:
        self.stack.enter_context(self.home.lock("small"))

    def run(self) -> RunRecord:
        return RunRecord(self.ledger, 2, 1, "http://127.0.0.1:8265", "/tmp/ray/logs")

    def add(self, run: RunRecord, cers: list[float]) -> int:
        number = records.add(self.ledger, "running", cers)
        run.on_trial_start(self.ledger.trial(number))
        run.on_epoch_end(self.ledger.trial(number))
        return number

    @property
    def state(self) -> tuple[State, str]:
        found = status(self.home, "small")
        return found.state, found.reason


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_sweep_that_runs(place: Place) -> None:
    place.lock()
    place.ledger.note(SPENT, 60.0)
    run = place.run()
    place.add(run, [0.5, 0.25])
    waiting = place.add(run, [0.9])
    run.on_trial_paused(place.ledger.trial(waiting))
    ended = records.add(place.ledger, "pruned", [0.7], "rung at epoch 1")
    run.on_trial_start(place.ledger.trial(ended))
    run.on_trial_end(place.ledger.trial(ended))
    place.add(run, [])
    found = status(place.home, "small")
    assert (found.state, found.process, found.dashboard) == ("running", os.getpid(), "http://127.0.0.1:8265")
    assert found.counts == {
        "asked": 4, "begun": 4, "running": 2, "waiting": 1, "paused": 0, "complete": 0, "pruned": 1, "failed": 0,
    }  # fmt: skip
    assert [trial.number for trial in found.unfinished] == [0, 3, 1], "those in training first"
    assert found.best is not None and found.best.number == 0
    assert found.left is not None and 0 < found.left < 2 * 3600
    assert found.last_heartbeat == pytest.approx(time.time(), abs=60)
    assert [str(cap) for cap in found.caps if cap.most] == ["0.0167 of 2 hours (--max-hours)"]
    assert training(place.home, place.ledger) == {0, 3}
    place.ledger.finish(3, "failed", "gone")  # what is on record a moment before the run's own note
    assert status(place.home, "small").counts["waiting"] == 1
    place.stack.close()


def test_how_a_sweep_comes_to_rest(place: Place) -> None:
    place.lock()
    run = place.run()
    place.add(run, [0.5])
    run.end("stopped")
    assert place.state == ("running", ""), "its driver has yet to make the model and to close what is open"
    place.stack.close()
    assert place.state == ("stopped", "")
    assert status(place.home, "small").training == training(place.home, place.ledger) == frozenset()
    run.end("capped", "2 of 2 hours (--max-hours) are spent")
    assert place.state == ("capped", "2 of 2 hours (--max-hours) are spent")
    run.end("failed", "RuntimeError: gone")
    assert place.state == ("failed", "RuntimeError: gone")
    run.end("finished")
    assert place.state == ("finished", "")
    place.ledger.note("trials", 7)  # a resume that ended before its run began
    assert place.state == ("stopped", "3 more trials are asked for")


def test_a_driver_that_was_killed(place: Place) -> None:
    """It holds the lock no more, and what it last noted is that it is running; a doctor's look changes nothing."""
    code = (
        "import pathlib, signal, sys; sys.path[:0] = sys.argv[2:]; from test_status import Place\n"
        "from asr_platform.storage.home import Home; from asr_platform.study.run_record import RunRecord\n"
        "from asr_platform.study.ledger import Ledger\n"
        "home = Home.at(pathlib.Path(sys.argv[1]))\n"
        "with home.lock('small'):\n"
        "    RunRecord(Ledger.open(home.studies, 'small'), 1, 1, 'http://127.0.0.1:1', '')\n"
        "    print('running', flush=True); signal.pause()\n"
    )
    words = [sys.executable, "-c", code, str(place.home.path), str(Path(__file__).parent), *sys.path]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None and driver.stdout.readline() == "running\n"
    found = status(place.home, "small")
    assert (found.state, found.process) == ("running", driver.pid)
    driver.kill()
    driver.communicate()
    assert place.state[0] == "died"
    with place.home.lock("small", "doctor"):
        assert place.state[0] == "died"
    place.lock()  # another driver, which has not noted anything yet
    found = status(place.home, "small")
    assert (found.state, found.process, found.dashboard, found.left) == ("running", os.getpid(), "", None)
    place.stack.close()


def test_a_ledger_with_the_heartbeat_under_its_former_name(place: Place) -> None:
    records.add(place.ledger, "running", [0.5])
    place.ledger.note(RUN, {"state": "stopped", "reason": "", "trials": 4, "training": [], "heard": 1000.0})
    assert status(place.home, "small").last_heartbeat == 1000


def noted(state: str = "running", trials: int = 4, **about: Any) -> dict[str, Any]:
    return {"trials": 4, **about, RUN: {"state": state, "reason": "", "trials": trials}}


@pytest.mark.parametrize(
    ("about", "done", "held", "modelled", "state"),
    [
        (noted(), False, True, False, "running"),
        (noted(), False, False, False, "died"),
        (noted(), True, False, False, "died"),  # after its last trial, and before its model
        (noted(), True, False, True, "finished"),  # the same, mended by a doctor
        (noted("finished"), False, False, True, "finished"),  # a small grid is done
        ({"trials": 4}, True, False, True, "finished"),  # of an older platform, which noted nothing
        ({"trials": 4}, False, False, False, "stopped"),
        ({"trials": 4, STOPPED: "5 of 5 hours"}, False, False, True, "capped"),
        ({"trials": 4}, False, True, False, "running"),
    ],
)
def test_every_state(about: dict[str, Any], done: bool, held: bool, modelled: bool, state: State) -> None:
    assert state_of(about, done, held, modelled)[0] == state


def test_looking_keeps_no_driver_off(place: Place) -> None:
    """Whoever asks has the lock for a moment, in which a driver may want it."""
    looker = subprocess.Popen(
        [sys.executable, "-c", "import pathlib, sys; from asr_platform.storage.home import Home\n"
         "home = Home.at(pathlib.Path(sys.argv[1])); print(home.holder('small'), flush=True)\n"
         "while True: home.holder('small')", str(place.home.path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    place.lock()
    place.stack.close()
    assert looker.stdout is not None and looker.stdout.readline() in ("\n", f"sweep {os.getpid()}\n")
    try:
        for _ in range(50):
            place.lock()
            place.stack.close()
    finally:
        looker.kill()
        looker.communicate()


# What a person sees


def shown(found: Any, width: int = 80) -> str:
    target = Console(width=width, file=io.StringIO(), color_system=None, _environ={})
    (print_statuses if isinstance(found, list) else print_status)(target, found, "platform")
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_the_table_of_all_sweeps(place: Place) -> None:
    records.ledger_in(place.home.path, "older")
    place.lock()
    place.add(place.run(), [0.5])
    found = all_statuses(place.home)
    assert [(one.name, one.state) for one in found] == [("small", "running"), ("older", "stopped")]
    lines = shown(found).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if line.split()[:1] == ["small"]]
    assert row[:6] == ["small", "running", "0", "of", "4", "50.00%"] and row[6] in ("about", "less")
    place.stack.close()
    text = " ".join(shown(all_statuses(place.home)).split())
    assert "small died" in text and "go on with: platform sweep --resume small" in text


def test_one_sweep_in_full(place: Place) -> None:
    place.lock()
    run = place.run()
    place.add(run, [0.5])
    text = shown(status(place.home, "small"))
    for line in ("state: running", "trials: 1 of 4 begun: 1 running", "best: trial 0, val CER 50.00%", "time left: ",
                 "dashboard: http://127.0.0.1:8265", f"driver: process {os.getpid()}",
                 "what trial 0 prints: platform logs small 0"):  # fmt: skip
        assert line in " ".join(text.split()), text
    place.stack.close()
    text = " ".join(shown(status(place.home, "small")).split())
    assert "state: died" in text and "last heartbeat: " in text and "platform sweep --resume small" in text


def test_for_machines(place: Place) -> None:
    place.lock()
    place.add(place.run(), [0.5])
    tree = json.loads(json.dumps(status(place.home, "small").as_tree()))
    assert (tree["sweep"], tree["state"], tree["best"]) == ("small", "running", {"trial": 0, "val_cer": 0.5})
    assert tree["heard"] == tree["last_heartbeat"] == pytest.approx(time.time(), abs=60)
    assert tree["caps"]["hours"] == {"spent": 0.0, "most": 2}
    (row,) = tree["unfinished"]
    assert {key: row[key] for key in ("trial", "state", "epoch", "val_cer")} == {
        "trial": 0, "state": "running", "epoch": 1, "val_cer": 0.5,
    }  # fmt: skip
    place.stack.close()
    assert Ledger.names(place.home.studies) == ["small"]
