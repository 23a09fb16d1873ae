"""A proxy that makes PostgreSQL slow, or cuts connections to it within transactions."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

CHUNK = 2**20  # bytes; longer than any message of the tests
READY = (b"Z\0\0\0\5I", b"Z\0\0\0\5T", b"Z\0\0\0\5E")  # how answers end: PostgreSQL waits for the next message
LATE = 0.25  # seconds after which a COMMIT reaches the server whose sender was cut off
Lost = Literal["message", "answer to COMMIT", "late COMMIT", "nothing"]


class FaultyProxy:
    """Passes messages on to PostgreSQL, late or not at all; TLS must be off.

    Attributes:
        lost: where connections are cut: at any `message`, which is lost; after a COMMIT that the server has carried
            out; or at a COMMIT that reaches the server after its sender has been cut off.
        delay: seconds before each answer.
        passed: messages of this kind that pass before the next cut. Each cut adds one: who tries again gets further.
        cuts: how many connections have been cut.
    """

    def __init__(self, port: int, lost: Lost, delay: float = 0.0) -> None:
        self.target, self.lost, self.delay = port, lost, delay
        self.passed, self.left, self.cuts = 0, -1, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def cutting(self) -> bool:
        return self.left >= 0

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Context in which connections are cut: at the first message, then at the second, and so on."""
        self.passed = self.left = 0
        try:
            yield
        finally:
            self.left = -1

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self.listener.accept()[0]], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server, suppress(OSError):
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begun = False  # the message that opens a connection is passed on
            while message := client.recv(CHUNK):
                if begun and (self.lost == "message" or b"COMMIT" in message):
                    if self.left == 0:
                        return self._cut(client, server, message)
                    self.left -= self.cutting
                answer = _answer(server, message)
                threading.Event().wait(self.delay)
                client.sendall(answer)
                begun = True

    def _cut(self, client: socket.socket, server: socket.socket, message: bytes) -> None:
        self.passed += 1
        self.left, self.cuts = self.passed, self.cuts + 1
        if self.lost == "late COMMIT":
            client.shutdown(socket.SHUT_RDWR)
            threading.Event().wait(LATE)
        if self.lost != "message":
            _answer(server, message)


def _answer(server: socket.socket, message: bytes) -> bytes:
    """The server's answer to a message, up to where it waits for the next one, or closes the connection."""
    server.sendall(message)
    answer = b""
    while not answer.endswith(READY) and (part := server.recv(CHUNK)):
        answer += part
    return answer
