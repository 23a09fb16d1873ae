"""The platform's own command, run as a person would, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

PLATFORM = Path(sys.executable).parent / "platform"
OTHERS = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
PATIENCE = 900  # seconds after which a command hangs: a sweep of tiny models takes two minutes on an idle machine


@dataclass
class Platform:
    """The command `platform` with a home of its own.

    Args:
        variables: further environment variables.
    """

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "mlruns"

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Starts the command; it leads a process group, so that nothing of it outlives the test."""
        process = subprocess.Popen(
            [str(PLATFORM), *map(str, words)],
            cwd=self.folder,
            env={**OTHERS, "ASR_PLATFORM_HOME": str(self.home), **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *words: object, code: int = 0) -> str:
        """Runs the command to its end and returns what it printed; fails unless it ends with `code`."""
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed = "\n".join(process.communicate())
            pytest.fail(f"platform {words} has not ended after {PATIENCE} s\n{printed}")
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return out if code == 0 else out + err

    def leaderboard(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.run("leaderboard", name, "--json"))
        return rows

    def stop(self) -> None:
        """Ends what is still running."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def unused_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(address: str) -> bool:
    """Whether a server is there that finds nothing wrong."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=30):
        return True
    return False


class ServerProcess:
    """The process of a server, which leads a process group.

    What it prints goes to a file: a pipe that nobody reads is full after 64 KB, and then the server stands still.

    Args:
        words: the command.
        address: HTTP address that answers once the server is ready.
        options: further arguments of `subprocess.Popen`.
    """

    def __init__(self, words: Sequence[str | Path], address: str, **options: Any) -> None:
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `kill`
        self.process: subprocess.Popen[str] = subprocess.Popen(
            words, stdout=self.file, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
        )
        try:
            wait_for(lambda: answers(address), self.process, self.printed)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def printed(self) -> str:
        self.file.seek(0)
        return self.file.read()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.file.close()


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[str], printed: Callable[[], str] | None = None
) -> None:
    """Waits until the condition holds while the process runs; `printed` returns what it printed, if not to pipes."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, printed() if printed else "".join(process.communicate())
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
