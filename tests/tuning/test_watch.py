"""Who watches the event loop notices what it cannot: a cluster that is gone, and silence."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import unused_port
from ray.tune.experiment import Trial

from asr_platform.tuning.callbacks.background import Background
from asr_platform.tuning.interrupts import Interrupt
from asr_platform.tuning.loop import watch as watches
from asr_platform.tuning.loop.watch import Watch
from asr_platform.tuning.nodes import groups


class Watched:
    """A watch over one server, with all that it says."""

    def __init__(self, folder: Path, port: int, silence: float = 600.0) -> None:
        self.interrupt, self.said = Interrupt(), list[str]()
        parts = {"Ray's head": ("127.0.0.1", port)}
        self.watch = Watch(folder, self.interrupt, Background(self.said.append), parts, self.said.append, silence)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "CHECK_INTERVAL", 0.02)
    monkeypatch.setattr(watches, "GONE_AFTER", 0.3)


def test_a_loop_that_ends_is_over(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        watched, done = Watched(tmp_path, server.getsockname()[1]), list[str]()
        watched.watch.run(lambda: done.append(threading.current_thread().name))
    assert done == ["event loop"] and not watched.interrupt.requested


def test_an_error_of_the_loop_is_raised(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        watched = Watched(tmp_path, server.getsockname()[1])
        with pytest.raises(ZeroDivisionError):
            watched.watch.run(lambda: print(1 / 0))


def test_a_loop_that_hangs_because_the_cluster_is_gone_is_left_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        watched = Watched(tmp_path, server.getsockname()[1])
        threading.Timer(0.2, server.close).start()
        watched.watch.run(threading.Event().wait)
    assert (watched.interrupt.state, watched.interrupt.reason) == ("failed", "Ray's head cannot be reached any more")
    assert watched.said == ["Ray's head cannot be reached any more: the sweep stops"]


def test_an_error_that_a_lost_cluster_causes_tells_of_the_cluster(tmp_path: Path) -> None:
    watched = Watched(tmp_path, unused_port())
    watched.watch.run(lambda: print(1 / 0))
    assert watched.interrupt.reason == "Ray's head cannot be reached any more"


def test_silence_is_said_with_what_everybody_waits_for(tmp_path: Path) -> None:
    """Once, and again after twice the time; an event ends it."""
    log = tmp_path / "trials/trial-0007/log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("epoch 3: val CER 50.00%\n")
    settings = {"workers": 2, "resources": {"CPU": 3.0, "GPU": 1.0}}
    pending, running = (Trial("trial", config={"number": number, **settings}, stub=True) for number in (8, 7))
    running.set_status(Trial.RUNNING)
    with socket.create_server(("127.0.0.1", 0)) as server:
        watched = Watched(tmp_path, server.getsockname()[1], silence=0.3)
        watched.watch.trials = [pending, running]

        def wait() -> None:
            while not watched.said:
                time.sleep(0.01)

        watched.watch.run(wait)
    assert watched.said[0].startswith("nothing has happened for ")
    assert watched.said[1:3] == [
        "  trial 8 waits for room: 2 workers of 3 CPU and 1 GPU",
        "  trial 7: in training; its log ends: epoch 3: val CER 50.00%",
    ]
    assert watched.said[3].startswith("  event loop: in wait (test_watch.py, line ")
    assert watched.said[4:] == ["  background: idle"]
    assert watched.watch.next_message == 0.6
    watched.watch.note_event(epoch_seconds=10)
    assert watched.watch.next_message == 30


def test_only_trials_whose_workers_have_not_begun_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of a worker on another machine may be there alone; then its flag tells."""
    settings = {"workers": 1, "resources": {"CPU": 1.0}}
    here, elsewhere, waiting = (Trial("trial", config={"number": number, **settings}, stub=True) for number in range(3))
    monkeypatch.setattr("asr_platform.tuning.loop.watch.has_begun", lambda run: run == elsewhere.trial_id)
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = Watched(tmp_path, server.getsockname()[1]).watch
    watch.trials = [here, elsewhere, waiting]
    for number in range(3):
        watch.note_start(number)
    log = tmp_path / "trials/trial-0000/log.txt"
    log.parent.mkdir(parents=True)
    log.touch()
    os.utime(log, (time.time() + 1,) * 2)  # the clock of files is coarse
    assert watch.waiting() == ["trial 2 waits for room: 1 worker of 1 CPU"]


def test_a_trial_that_waits_is_named_once_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, said, now = ["trial 2 waits for room"], list[str](), 0.0
    monkeypatch.setattr(groups.time, "monotonic", lambda: now)
    monkeypatch.setattr(groups.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "job"))
    keeper = groups.PlacementGroupKeeper("http://127.0.0.1:1", lambda: lines, said.append)
    for now, pending in ((0.0, ["a"]), (groups.PATIENCE, ["a"]), (groups.PATIENCE + 1, ["a"]), (99.0, ["a"])):
        keeper._tell_waiting(pending)
        assert said == lines * (now > groups.PATIENCE)
    keeper._tell_waiting([])
    keeper._tell_waiting(["b"])
    now += groups.PATIENCE + 1
    keeper._tell_waiting(["b"])
    assert said == lines * 2, "another time that it waits"
