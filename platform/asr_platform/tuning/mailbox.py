"""Reports on their way from a Train controller to the trial that started it, both on one machine.

They go through a socket of the system's into a queue without a limit, so neither side waits for the other.
"""

from __future__ import annotations

import secrets
import sys
import time
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from queue import SimpleQueue
from threading import Thread
from typing import Any

import ray.train
from ray.train import UserCallback

Report = dict[str, Any]


class Mailbox:
    """Receives reports from processes of this machine and puts them into a queue.

    Args:
        reports: the queue; what arrives is in it before the sender goes on.
    """

    def __init__(self, reports: SimpleQueue[Any]) -> None:
        self.reports, self.key, self.closed = reports, secrets.token_bytes(32), False
        # An abstract address leaves no file behind when the process is killed, as Ray ends trials. Only Linux has them.
        abstract = f"\0asr-{secrets.token_hex(16)}" if sys.platform == "linux" else None
        self.listener = Listener(abstract, "AF_UNIX", authkey=self.key)
        self.address = abstract or str(self.listener.address)
        self.receiver = Thread(target=self._receive, daemon=True)
        self.receiver.start()

    def sender(self) -> Sender:
        return Sender(self.address, self.key)

    def close(self) -> None:
        """Receives nothing more; what is sent from now on is an error of the sender's."""
        self.closed = True
        with suppress(OSError, AuthenticationError), Client(self.address, "AF_UNIX", self.key):
            pass  # wakes the receiver, which closing the socket would not
        self.receiver.join()
        self.listener.close()

    def _receive(self) -> None:
        while True:
            try:
                with self.listener.accept() as connection:
                    self.reports.put(connection.recv())
                    connection.send(None)
            except (EOFError, OSError, AuthenticationError):  # closed; or a sender was killed, or is none of ours
                if self.closed:
                    return
                time.sleep(0.1)  # what lasts, such as no free file descriptors, must not take a core


class Sender(UserCallback):
    """Sends the first worker's metrics of each report, with the path of its checkpoint, to a mailbox.

    It runs in the Train controller, once the checkpoint is in its place.
    """

    def __init__(self, address: str, key: bytes) -> None:
        self.address, self.key = address, key

    def after_report(self, run_context: Any, metrics: list[Report], checkpoint: ray.train.Checkpoint | None) -> None:
        with Client(self.address, "AF_UNIX", self.key) as connection:
            connection.send({**metrics[0], "checkpoint": checkpoint.path if checkpoint else None})
            connection.recv()
