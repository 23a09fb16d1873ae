"""Ports that servers listen on: which are free, and which answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from command import unused_port

from asr_platform.storage import ports
from asr_platform.storage.ports import accepts, free_port, listen
from trainables.errors import InputError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 on which a server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_free_port_is_given_back(taken: int) -> None:
    port = unused_port()
    assert free_port("127.0.0.1", port) == port


def test_without_a_wish_the_first_free_port_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "FIRST_PORT", taken)
    assert taken < free_port("127.0.0.1", None) < taken + ports.PORTS_TRIED


def test_a_port_that_is_taken_before_it_is_used_is_passed_over(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers that start together find the same port free; the second gets the next one."""
    monkeypatch.setattr(ports, "FIRST_PORT", taken)
    with listen("127.0.0.1", None, lambda port: socket.create_server(("127.0.0.1", port))) as server:
        assert taken < server.getsockname()[1] < taken + ports.PORTS_TRIED


def test_a_taken_port_is_refused(taken: int) -> None:
    with pytest.raises(InputError, match=f"port {taken} of 127.0.0.1: Address already in use") as error:
        free_port("127.0.0.1", taken)
    assert "--port" in error.value.remedy


def test_no_free_port_is_refused(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "FIRST_PORT", taken)
    monkeypatch.setattr(ports, "PORTS_TRIED", 1)
    with pytest.raises(InputError, match=f"no free port on 127.0.0.1 from {taken} on"):
        free_port("127.0.0.1", None)


def test_a_host_of_another_machine_is_refused() -> None:
    """192.0.2.0/24 is reserved for documentation: no machine has such an address."""
    with pytest.raises(InputError, match=r"port 5000 of 192\.0\.2\.1: Cannot assign requested address") as error:
        free_port("192.0.2.1", 5000)
    assert "--host" in error.value.remedy


def test_a_server_accepts_and_an_unused_port_does_not(taken: int) -> None:
    assert accepts("127.0.0.1", taken, 2.0)
    assert not accepts("127.0.0.1", unused_port(), 2.0)
    assert not accepts("host.invalid", taken, 2.0), "RFC 2606: no such name is ever registered"
