"""Program that forks Ray's worker processes from one process that has done their imports.

A trial is four processes of Ray. Each would import Ray Train (2 s of CPU time), and the one that trains torch too, for
3 s. The fork server imports all of this once; its children share the memory, and begin at once.

Ray starts a worker through a program that sets up its runtime environment. On a cluster started here, `fork_client.py`
takes its place, and asks the fork server. If that cannot help (it was killed, or the worker needs another Python),
`fork_client.py` becomes Ray's own program. So nothing but time depends on the fork server.

Forking is safe because this process only imports modules: it computes nothing, never connects to Ray, and leaves CUDA
uninitialised, so the threads of its libraries are idle.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

MODULES = ("trainables.training.loop", "torch._dynamo", "pandas")  # torch._dynamo: for the first optimizer
MODULES_WITH_RAY = ("asr_platform.tuning.trial", "ray.train.v2._internal.execution.controller", "ray.train.torch")
CREDENTIALS = "3i"  # process, user, group: struct ucred of Linux
TIMEOUT = 10.0  # seconds in which a client has to send its request
LONGEST_REQUEST = 1 << 20  # bytes


@dataclass(frozen=True)
class Request:
    """Request of `fork_client.py` for a worker, which gets the arguments, environment and files of the client.

    Args:
        outputs: file descriptors of the standard output and error.
        folder: working directory.
        open_files: soft and hard limit on the number of open files.
        oom_score: how early the worker is killed when memory runs out.
    """

    arguments: list[str]
    environment: dict[str, str]
    outputs: list[int]
    folder: str
    open_files: tuple[int, int]
    oom_score: str


def main() -> None:
    """Imports what workers need, and forks one for each request, once the driver has written to the standard input.

    Ends when the driver closes the standard input.
    """
    if not sys.stdin.readline():
        return
    import_all(MODULES)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies, which Ray would take for living workers
    become_worker(serve(socket.socket(fileno=int(sys.argv[1]))))


def import_all(modules: tuple[str, ...]) -> None:
    for module in modules:
        with suppress(ImportError):  # a worker that needs it says so
            import_module(module)
    gc.collect()
    gc.freeze()  # else a child's first collection copies the memory that it shares


def serve(listener: socket.socket) -> Request:
    """Forks for each request; returns the request in the child. Exits when the driver has ended."""
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            sys.exit()
        with suppress(OSError, ValueError), listener.accept()[0] as client:  # a client may be killed at any time
            request = receive(client)
            process = fork() if is_own_user(client) and is_forkable(request) and not has_ended(client) else None
            if process == 0:
                listener.close()
                return request
            for output in request.outputs:
                os.close(output)
            if process:
                client.send(b"started")


def receive(client: socket.socket) -> Request:
    client.settimeout(TIMEOUT)
    message, outputs, _, _ = socket.recv_fds(client, LONGEST_REQUEST, 2)
    return Request(**json.loads(message), outputs=outputs)


def fork() -> int | None:
    """Forks this process: returns 0 in the child, the child's number in the parent, None if no process can be added."""
    with suppress(OSError):
        return os.fork()
    return None


def is_own_user(client: socket.socket) -> bool:
    """Whether the client's process is of this process's user; any user can connect to the socket."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(CREDENTIALS))
    return bool(struct.unpack(CREDENTIALS, credentials)[1] == os.getuid())


def has_ended(client: socket.socket) -> bool:
    """Whether a client has closed its side, since it was killed or has become Ray's own program."""
    return bool(select.select([client], [], [], 0)[0])


def is_forkable(request: Request) -> bool:
    """Whether a worker can be a fork of this process, which imports Ray with the environment of the first worker."""
    first = "ray" not in sys.modules
    if first:
        os.environ.update(request.environment)
    from asr_platform.compat.ray_workers import IDENTITY, unseeded_imports, worker_command

    if first:
        with unseeded_imports():
            import_all(MODULES_WITH_RAY)
    same = all(os.environ.get(name) == request.environment.get(name) for name in IDENTITY)
    return same and worker_command(request.arguments) is not None


def become_worker(request: Request) -> None:
    """Turns this process, a child of the fork server, into the worker of a request."""
    from asr_platform.compat.ray_workers import worker_command

    worker = worker_command(request.arguments)
    assert worker  # `is_forkable`
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # Ray ends a worker with its process group
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip([nothing, *request.outputs], range(3), strict=True):
        os.dup2(source, target)
        os.close(source)
    resource.setrlimit(resource.RLIMIT_NOFILE, request.open_files)
    Path("/proc/self/oom_score_adj").write_text(request.oom_score, encoding="ascii")
    os.environ.clear()
    os.environ.update({**request.environment, **worker.variables})
    os.chdir(request.folder)
    sys.argv, sys.path[0] = worker.arguments, str(Path(worker.arguments[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
