"""Passes reports from a Ray Train controller to the trial that started it, on the same machine, and its resources' id.

Reports go through a local socket into a queue without a limit, so neither side waits for the other.
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
    """Receives reports from other processes of this machine and puts them into a queue.

    Args:
        reports: queue for the reports; sending returns when the report is in the queue.

    Attributes:
        group: id of the placement group of the workers that were started last; empty before.
    """

    def __init__(self, reports: SimpleQueue[Any]) -> None:
        self.reports, self.key, self.closed = reports, secrets.token_bytes(32), False
        self.group = ""
        # An abstract address leaves no file behind when the process is killed, as Ray ends trials. Only Linux has them.
        abstract = f"\0asr-{secrets.token_hex(16)}" if sys.platform == "linux" else None
        self.listener = Listener(abstract, "AF_UNIX", authkey=self.key)
        self.address = abstract or str(self.listener.address)
        self.receiver = Thread(target=self._receive, daemon=True)
        self.receiver.start()

    def sender(self) -> Sender:
        return Sender(self.address, self.key)

    def close(self) -> None:
        """Stops receiving; sending a report from now on is an error."""
        self.closed = True
        with suppress(OSError, AuthenticationError), Client(self.address, "AF_UNIX", self.key):
            pass  # wakes the receiver; closing the socket does not
        self.receiver.join()
        self.listener.close()

    def _receive(self) -> None:
        while True:
            try:
                with self.listener.accept() as connection:
                    match connection.recv():
                        case str(group):
                            self.group = group
                        case report:
                            self.reports.put(report)
                    connection.send(None)
            except (EOFError, OSError, AuthenticationError):  # closed, a sender was killed, or has another key
                if self.closed:
                    return
                time.sleep(0.1)  # a lasting error, such as no free file descriptors, must not keep a core busy


class Sender(UserCallback):
    """Sends the first worker's metrics of each epoch to a mailbox, with the path of the checkpoint.

    Ray Train calls it in its controller, once the checkpoint is in its place.
    """

    def __init__(self, address: str, key: bytes) -> None:
        self.address, self.key = address, key

    def after_report(self, run_context: Any, metrics: list[Report], checkpoint: ray.train.Checkpoint | None) -> None:
        if "epoch" not in metrics[0]:
            return  # an unfinished epoch
        self._send({**metrics[0], "checkpoint": checkpoint.path if checkpoint else None})

    def tell_group(self, group: str) -> None:
        """Sends the id of the placement group of the workers that have been started."""
        self._send(group)

    def _send(self, message: Report | str) -> None:
        with Client(self.address, "AF_UNIX", self.key) as connection:
            connection.send(message)
            connection.recv()
