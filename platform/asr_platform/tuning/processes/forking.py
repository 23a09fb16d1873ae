"""Starts the fork server of a cluster on this machine, and has Ray start its workers through it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asr_platform.compat.ray_workers import SETUP_WORKER, set_up_workers_with
from asr_platform.tuning.processes.fork_client import OWN_PROGRAM, SOCKET

LONGEST_QUEUE = 1024  # requests that wait for the fork server's imports; Ray's own program starts workers beyond them


@contextmanager
def fork_server() -> Iterator[Callable[[], None]]:
    """Forks the workers of a cluster that is started in the block; the fork server ends with the block.

    Yields a function that has the fork server do its imports, to be called once the cluster has started: on a busy
    machine, the imports (5 s of CPU time) would keep it from starting in time. Does nothing except on Linux: elsewhere,
    forks are not safe once libraries are loaded.
    """
    if sys.platform != "linux":
        yield lambda: None
        return
    name = f"asr-fork-server-{secrets.token_hex(16)}"  # abstract: no file is left behind
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen(LONGEST_QUEUE)
        server = subprocess.Popen(
            [sys.executable, "-m", "asr_platform.tuning.processes.fork_server", str(listener.fileno())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # closed when this process ends, however it does
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the driver alone
        )
    os.environ.update({SOCKET: name, OWN_PROGRAM: SETUP_WORKER})
    try:
        with set_up_workers_with(Path(__file__).with_name("fork_client.py")):
            yield lambda: _tell(server)
    finally:
        del os.environ[SOCKET], os.environ[OWN_PROGRAM]
        server.terminate()  # it may still import
        server.communicate()


def _tell(server: subprocess.Popen[bytes]) -> None:
    """Has the fork server begin; if it was killed, Ray's own program starts the workers."""
    assert server.stdin
    with suppress(BrokenPipeError):
        server.stdin.write(b"\n")
        server.stdin.flush()
