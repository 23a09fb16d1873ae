"""A served model refuses requests beyond its limits before reading or decoding them, and keeps answering others."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import babbler
import numpy as np
import pytest
import soundfile
from command import PATIENCE, ServerProcess, answers, unused_port
from found import Found

from trainables.inference.serving import RequestLimits

BINARIES = Path(sys.executable).parent
LIMITS = {"megabytes": 2, "seconds": 20, "channels": 2, "rate": 48_000, "megabytes_at_once": 4, "values": 1000}
MOST_MEMORY = 400e6  # bytes above that of an idle server, of all requests below


@dataclass(frozen=True)
class Server:
    port: int
    group: int

    def ask(self, body: bytes, kind: str = "application/json", chunked: bool = False) -> tuple[int, Any]:
        """Status and JSON of the answer to a POST; `chunked`: sent without Content-Length."""
        address = f"http://127.0.0.1:{self.port}/invocations"
        content: Any = iter([body[at : at + 65536] for at in range(0, len(body), 65536)]) if chunked else body
        request = urllib.request.Request(address, content, {"Content-Type": kind}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def peak(self) -> int:
        """Peak memory in bytes of the server's largest process."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(folder.name)) == self.group:
                    (line,) = (line for line in (folder / "status").read_text().splitlines() if "VmHWM" in line)
                    found.append(1024 * int(line.split()[1]))
        return max(found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose environment sets other limits than the defaults."""
    folder, port = tmp_path_factory.mktemp("limited"), unused_port()
    found = Found(folder / "mlruns", babbler.write_corpus(folder / "corpus"))
    found.trial(wrong=1)
    found.end()
    known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    about = {"MLFLOW_TRACKING_URI": found.home.tracking, "SERVING_MODEL_CONFIG": json.dumps(LIMITS)}
    words = [
        BINARIES / "mlflow", "models", "serve", "-m", "models:/small@champion", "--env-manager", "local",
        "--port", str(port),
    ]  # fmt: skip
    env = {**known, "PATH": f"{BINARIES}:{known['PATH']}", **about}
    with ServerProcess(words, f"http://127.0.0.1:{port}/ping", cwd=folder, env=env) as started:
        yield Server(port, started.process.pid)


def sound(seconds: float, rate: int = 16_000, channels: int = 1, format: str = "FLAC") -> bytes:
    """A file of constant samples, which compress well."""
    file = io.BytesIO()
    soundfile.write(file, np.full((round(seconds * rate), channels), 0.01, np.float32), rate, format=format)
    return file.getvalue()


def without_length(flac: bytes) -> bytes:
    """A FLAC file whose header says 0 samples (36 bits), as encoders write into a pipe."""
    field = int.from_bytes(flac[18:26], "big") >> 36 << 36
    return flac[:18] + field.to_bytes(8, "big") + flac[26:]


def asking(*contents: bytes) -> bytes:
    return json.dumps({"inputs": [base64.b64encode(content).decode() for content in contents]}).encode()


REFUSED = {
    "channels": (lambda: asking(sound(0.1, channels=3)), 400, "audio 0: 3 channels, above 2"),
    "rate": (lambda: asking(sound(0.1, rate=96_000)), 400, "audio 0: a sample rate of 96000 Hz, above 48000"),
    "seconds": (lambda: asking(sound(1), sound(3600)), 400, "audio 1: longer than 20 s"),
    "seconds, untold": (lambda: asking(without_length(sound(3600))), 400, "audio 0: longer than 20 s"),
    "together": (lambda: asking(sound(12), sound(12)), 400, "the recordings are together longer than 20 s"),
    "bytes": (lambda: b'{"inputs": ["' + b"A" * 60_000_000 + b'"]}', 413, "the request is larger than 2 MB"),
    "values": (lambda: b'{"inputs": [' + b"[]," * 600_000 + b"[]]}", 413, "the request has more than 1000 values"),
    "nesting": (lambda: b"[" * 1_900_000, 413, "the request has more than 1000 values"),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_too_much_is_refused_with_the_limit(name: str, chunked: bool, server: Server) -> None:
    """Refusing takes little memory: decoded, the hours of silence and the lists would take gigabytes."""
    make, status, message = REFUSED[name]
    assert server.ask(asking(sound(1)))[0] == 200
    before = server.peak()
    assert server.ask(make(), chunked=chunked) == (
        status, {"error_code": "INVALID_PARAMETER_VALUE", "message": message}
    )  # fmt: skip
    assert server.peak() - before < MOST_MEMORY
    assert server.ask(asking(sound(1)))[0] == 200, "it lives on"


@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet", "text/plain", ""])
def test_other_types_are_refused(kind: str, server: Server) -> None:
    """In some formats, a few bytes stand for gigabytes."""
    status, tree = server.ask(b"audio\nUklGRg==\n", kind)
    assert status == 415 and "application/json" in tree["message"]


def test_what_is_within_the_limits_is_answered(server: Server) -> None:
    for content in (sound(19), sound(2, 48_000, 2), without_length(sound(3)), sound(2, format="WAV")):
        assert server.ask(asking(content))[0] == 200


def test_more_at_once_than_there_is_room_for_wait(server: Server) -> None:
    """All are answered, although each body takes a third of the room or more."""
    body = asking(sound(18, 32_000, format="WAV"))
    assert body.__sizeof__() > 4e6 / 3
    with ThreadPoolExecutor(8) as pool:
        assert [status for status, _ in pool.map(server.ask, [body] * 8)] == [200] * 8


def begin(server: Server) -> socket.socket:
    """A connection with a request of nearly the largest size, of whose body one byte has been sent."""
    lines = ["POST /invocations HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 1900000"]
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall("\r\n".join([*lines, "", "{"]).encode())
    return connection


def test_a_client_that_never_sends_its_body_blocks_nobody(server: Server) -> None:
    with begin(server):
        assert server.ask(asking(sound(1)))[0] == 200
        assert answers(f"http://127.0.0.1:{server.port}/ping")


@pytest.mark.parametrize(
    ("trickle", "message"),
    [(b"", "nothing more of the request came for 5 s"), (b" ", "the request comes at less than 32 kB/s")],
    ids=["idle", "trickling"],
)
def test_clients_that_send_too_slowly_lose_their_room(trickle: bytes, message: str, server: Server) -> None:
    """Two of them hold all the room; a third waits, and so does a complete request, which is answered."""
    body = asking(sound(18, 32_000, format="WAV"))
    with contextlib.ExitStack() as open_ones, ThreadPoolExecutor(1) as pool:
        slow = [open_ones.enter_context(begin(server)) for _ in range(3)]
        honest = pool.submit(server.ask, body)
        waiting = set(slow)
        heads: dict[socket.socket, bytes] = dict.fromkeys(slow, b"")
        while waiting:
            for connection in select.select(waiting, [], [], 1)[0]:
                piece = connection.recv(4096)
                assert piece, heads
                heads[connection] += piece
                if message.encode() in heads[connection]:
                    waiting.remove(connection)
            for connection in waiting:
                connection.sendall(trickle)
        assert {head.split(b"\r\n")[0] for head in heads.values()} == {b"HTTP/1.1 408 Request Timeout"}
        assert honest.result()[0] == 200


def test_the_models_own_file_has_the_limits(tmp_path: Path) -> None:
    """Whoever serves the model can read and change the limits there."""
    import yaml

    found = Found(tmp_path / "mlruns", babbler.write_corpus(tmp_path / "corpus"))
    found.trial(wrong=1)
    found.end()
    (file,) = (tmp_path / "mlruns").rglob("MLmodel")
    config = yaml.safe_load(file.read_text())["flavors"]["python_function"]["config"]
    assert RequestLimits.of(config) == RequestLimits()
