"""Program with which Ray starts a worker: has the fork server fork it, or else becomes Ray's own program for it.

Imports as little as possible, because every start of a worker waits for it.
"""

import json
import os
import resource
import socket
import sys

SOCKET = "ASR_PLATFORM_FORK_SERVER"  # variable with the name of the fork server's socket
OWN_PROGRAM = "ASR_PLATFORM_SETUP_WORKER"  # variable with the path of Ray's own program
TIMEOUT = 120.0  # seconds; Ray gives a worker 300 to start (`SYSTEM_CONFIG` of compat/ray_workers.py)


def forked() -> bool:
    """Whether the fork server has started the worker."""
    request = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score": oom_score(),
    }
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.settimeout(TIMEOUT)
            server.connect(f"\0{os.environ[SOCKET]}")
            socket.send_fds(server, [json.dumps(request).encode()], [1, 2])
            return server.recv(16) == b"started"
    except OSError:  # the fork server is gone or stuck, or the request is too long for one message
        return False


def oom_score() -> str:
    """How early this process is killed when memory runs out: Ray sets it, so that workers are killed first."""
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return file.read()


if __name__ == "__main__" and not forked():
    os.execv(sys.executable, [sys.executable, os.environ[OWN_PROGRAM], *sys.argv[1:]])
