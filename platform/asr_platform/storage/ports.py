"""Addresses that processes listen on: whether one accepts connections, and ports that are free."""

from __future__ import annotations

import socket

from trainables.errors import InputError

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

    Raises:
        InputError: the port is taken, no port of PORTS_TRIED is free, or `host` is no address of this machine.
    """
    reason = ""
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except OSError as error:
                reason = error.strerror or str(error)
    wanted = f"port {port} of {host}" if port else f"no free port on {host} from {FIRST_PORT} on"
    raise InputError(f"{wanted}: {reason}", "Say another --port, or --host 127.0.0.1.")
