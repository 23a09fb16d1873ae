"""Workers of a cluster that is started here are forks of one process, and do not depend on it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray

from asr_platform.tuning.connection import connect

FORK_SERVER = "asr_platform.tuning.processes.fork_server"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux alone")


@ray.remote(num_cpus=0)
class Worker:
    """A worker that tells about its process."""

    def about(self) -> dict[str, Any]:
        return {
            "process": os.getpid(),
            "parent": os.getppid(),
            "group": os.getpgid(0),
            "torch": "torch._dynamo" in sys.modules,
            "cuda": "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized(),
            "given": os.environ.get("GIVEN"),
            "folder": os.getcwd(),
            "open files": psutil.Process().rlimit(psutil.RLIMIT_NOFILE),
            "path": sys.path[0],
        }

    def object_of_a_thread(self) -> str:
        """ID of an object that a new thread stores; its first part is random."""
        ids = []
        thread = threading.Thread(target=lambda: ids.append(ray.put(0).hex()))
        thread.start()
        thread.join()
        return ids[0]


@pytest.fixture(scope="module")
def server() -> Iterator[psutil.Process]:
    """The fork server of a cluster."""
    with connect(None):
        yield next(one for one in psutil.Process().children() if FORK_SERVER in one.cmdline())
    assert not [one for one in psutil.Process().children() if FORK_SERVER in one.cmdline()]


def test_workers_are_forks_with_torch_imported(server: psutil.Process) -> None:
    about = ray.get(Worker.remote().about.remote())
    assert about["parent"] == server.pid and about["torch"] and not about["cuda"]
    assert about["group"] == about["process"]  # Ray ends the worker by its group


def test_forks_give_different_ids_to_their_objects(server: psutil.Process) -> None:
    workers = [Worker.remote() for _ in range(4)]
    assert len(set(ray.get([one.object_of_a_thread.remote() for one in workers]))) == 4


def test_variables_that_matter_to_imports_get_a_process_of_their_own(server: psutil.Process) -> None:
    worker = Worker.options(runtime_env={"env_vars": {"GIVEN": "here"}}).remote()
    fork, own = ray.get([Worker.remote().about.remote(), worker.about.remote()])
    assert (fork.pop("given"), own.pop("given")) == (None, "here")
    assert own["parent"] != server.pid and not own["torch"]
    for same in ("folder", "open files", "path"):
        assert fork[same] == own[same]


def test_an_ended_worker_leaves_no_process(server: psutil.Process) -> None:
    worker = Worker.remote()
    process = psutil.Process(ray.get(worker.about.remote())["process"])
    ray.kill(worker)
    process.wait(timeout=30)


def test_workers_start_and_go_on_without_the_fork_server(server: psutil.Process) -> None:
    before = Worker.remote()
    ray.get(before.about.remote())
    server.kill()
    server.wait(timeout=30)
    assert ray.get(Worker.remote().about.remote())["torch"] is False
    time.sleep(2)  # Ray's workers look every second whether their raylet is there
    assert ray.get(before.about.remote())["parent"] != server.pid
