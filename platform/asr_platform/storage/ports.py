"""Addresses that processes listen on: whether one accepts connections, and ports that are free."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from trainables.errors import InputError

T = TypeVar("T")
FIRST_PORT, PORTS_TRIED = 5000, 100


def accepts(host: str, port: int, seconds: float) -> bool:
    """Whether a connection is accepted within so many seconds; 0.0.0.0 and :: are all addresses of this machine."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def free_port(host: str, port: int | None) -> int:
    """A free port: `port`, or if that is None, the first free one from FIRST_PORT on.

    Another process may take it before it is used; see `listen`.

    Raises:
        InputError: as for `listen`.
    """
    return listen(host, port, partial(_probe, host))


def listen(host: str, port: int | None, bind: Callable[[int], T]) -> T:
    """Calls `bind` with `port`, or if that is None with one port after the other until one is free; returns its result.

    Args:
        bind: raises OSError if it cannot listen on the port.

    Raises:
        InputError: the port is taken, no port of PORTS_TRIED from FIRST_PORT on is free, or `host` is no address of
            this machine.
    """
    reason = ""
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        try:
            return bind(candidate)
        except OSError as error:
            reason = error.strerror or str(error)
    wanted = f"port {port} of {host}" if port else f"no free port on {host} from {FIRST_PORT} on"
    raise InputError(f"{wanted}: {reason}", "Say another --port, or --host 127.0.0.1.")


def _probe(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    return port
