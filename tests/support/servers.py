"""Servers that tests start on 127.0.0.1: S3 (moto), PostgreSQL, and a proxy that can take one of them away."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command import OTHERS, ServerProcess, unused_port

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
}  # fmt: skip
BUCKET = "speech"


@contextmanager
def s3() -> Iterator[int]:
    """An S3 server with the bucket `BUCKET`, which anybody's key opens; yields its port."""
    import boto3

    port = unused_port()
    address = f"http://127.0.0.1:{port}"
    words = [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with ServerProcess(words, f"{address}/moto-api/", env={**OTHERS, **CREDENTIALS}):
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
        yield port


def environment(port: int) -> dict[str, str]:
    """Variables with which AWS' tools and pyarrow find the S3 server on this port."""
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


class Postgres:
    """A PostgreSQL server. Its files are in `folder`, which belongs to its user: PostgreSQL refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        found = str(programs[-1]) if programs else shutil.which("initdb")
        if found is None:
            pytest.skip("PostgreSQL is not installed")
        self.programs, self.data, self.port = Path(found).parent, folder, unused_port()
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self._run("initdb", "--auth=trust", "--username=test", "--no-sync", "--encoding=UTF8", "--locale=C")
        self.start()

    @property
    def address(self) -> str:
        return self.address_at(self.port)

    def address_at(self, port: int) -> str:
        """Address of the database behind a proxy on this port."""
        return f"postgresql://test@127.0.0.1:{port}/postgres"

    def create(self, database: str, template: str = "template1") -> str:
        """Makes another database on the server, a copy of the database `template`; returns its address."""
        server = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "test"]
        subprocess.run([self.programs / "createdb", *server, "-T", template, database], check=True)
        return f"postgresql://test@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--silent", "-o", options, "-l", str(self.data / "log"))

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--silent", "-m", "immediate")

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self.programs / program, "-D", self.data, *words], user=self.user, check=True, cwd="/",
            env={**os.environ, "LC_ALL": "C"}, stdout=subprocess.DEVNULL,
        )  # fmt: skip


@contextmanager
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:  # pytest's own folders are closed to other users
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()


class Proxy:
    """Passes connections on to a port of this machine; `close` refuses new ones and cuts those that are open."""

    def __init__(self, port: int) -> None:
        self.target, self.port = port, unused_port()
        self.open: list[socket.socket] = []
        self.listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self.listener], daemon=True).start()

    def close(self) -> None:
        if self.listener is None:
            return
        listener, self.listener = self.listener, None
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here = listener.accept()[0]
                there = socket.create_connection(("127.0.0.1", self.target))
                self.open += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=_pass_on, args=[source, target], daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
