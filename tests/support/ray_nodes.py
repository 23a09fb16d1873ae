"""Nodes of a Ray cluster on this machine, each with an address of its own (127.0.0.x)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Self

import psutil
from command import OTHERS, unused_port

TRIES = 5
NOTICE = 600  # seconds from SIGTERM until a node's processes are killed
RAY = Path(sys.executable).parent / "ray"


class RealNodes:
    """A cluster made with `ray start`: a head without CPUs, and the nodes that join it; all end with the block.

    Each node has a cache of its own, as each machine has.

    Args:
        variables: further environment variables of all nodes, such as a storage's keys.

    Attributes:
        variables: environment variables with which a driver can join.
        dashboard: address of Ray's dashboard, where jobs are submitted.
    """

    def __init__(self, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # paths of sockets must be short
        self.variables = {**variables, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
        self.variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = str(NOTICE)
        # A killed node refuses its health checks at once, five in a row; a slow one may answer as late as ever.
        self.variables["RAY_health_check_period_ms"] = "500"  # default 3000
        self.address, self.dashboard = (f"127.0.0.1:{unused_port()}" for _ in range(2))
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        port, dashboard_port = (address.rpartition(":")[2] for address in (self.address, self.dashboard))
        dashboard = ["--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard_port]
        # Jobs are given to the head's agent, whose usual port may be that of another cluster on this machine.
        dashboard += ["--dashboard-agent-listen-port", str(unused_port())]
        try:
            self._start("head", "--head", "--port", port, "--num-cpus", "0", "--temp-dir", self.folder, *dashboard)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for name in [*self.processes]:
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def join(self, number: int, hidden: Path | None = None) -> str:
        """Starts a node of one CPU at 127.0.0.NUMBER and returns its address, once it has joined.

        Args:
            hidden: folder that is empty on this node.
        """
        name = f"127.0.0.{number}"
        prefix: list[str | Path] = []
        if hidden is not None:
            hide = 'mount -t tmpfs none "$0" && exec "$@"'
            prefix = [*private_mounts(), "sh", "-c", hide, hidden]
        self._start(name, "--address", self.address, "--node-ip-address", name, "--num-cpus", "1", prefix=prefix)
        return name

    def cache(self, name: str) -> Path:
        """Folder in which a node keeps what it fetches from a storage."""
        return self.folder / f"{name}-cache"

    def has(self, name: str, process: int) -> bool:
        """Whether a process is one of the node's."""
        with suppress(psutil.NoSuchProcess):
            return any(parent.pid == self.processes[name].pid for parent in psutil.Process(process).parents())
        return False

    def terminate(self, name: str) -> None:
        """Sends SIGTERM to the first process of a node, as Kubernetes does to a pod's; Ray drains the node first."""
        self.processes[name].terminate()

    def kill(self, name: str) -> None:
        """Kills all processes of a node at once, as if its machine had lost power."""
        process = self.processes.pop(name)
        with suppress(psutil.NoSuchProcess):
            for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.wait()

    def _start(self, name: str, *words: str | Path, prefix: Sequence[str | Path] = ()) -> None:
        """Starts a node, again and again: a raylet crashes if its agent has not begun within 15 s (Ray 2.60)."""
        printed = self.folder / f"{name}.txt"
        memory, logs = ["--object-store-memory", "80000000"], ["--include-log-monitor", "false"]  # no driver reads them
        command = [*prefix, RAY, "start", *words, "--block", *memory, *logs]
        variables = {**OTHERS, **self.variables, "ASR_PLATFORM_CACHE": str(self.cache(name))}
        for _ in range(TRIES):
            with printed.open("w") as file:
                self.processes[name] = subprocess.Popen(
                    command, env=variables, stdout=file, stderr=file, text=True, start_new_session=True
                )
            while self.processes[name].poll() is None:
                if "Ray runtime started" in printed.read_text():
                    return
                time.sleep(0.1)
            self.kill(name)
        raise AssertionError(printed.read_text())


def private_mounts() -> list[str | Path]:
    """The command before a command that may mount folders for itself alone; empty where the system forbids that."""
    for words in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        with suppress(OSError):
            tried = subprocess.run([*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
            if tried.returncode == 0:
                return [*words]
    return []
