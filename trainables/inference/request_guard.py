"""An ASGI application in front of a model's server: it limits the size, number and duration of requests.

ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from trainables.inference.serving import RequestError, RequestLimits

JSON = "application/json"
IDLE_SECONDS = 5.0  # most time between two parts of a request's body
SLOWEST = 32_000  # bytes a second of a body, beyond IDLE_SECONDS: the rate of 16-bit speech at 16 kHz
DRAINED = 10**9  # bytes of a refused request that are still read

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """Hands POST requests on to `app` once their bodies have arrived within the limits.

    Requests whose bodies would together exceed `megabytes_at_once` wait. A refused request is answered with the status
    and reason of a RequestError.

    Args:
        seconds: longest wait for other requests, and longest time in which a body may arrive.
    """

    def __init__(self, app: App, limits: RequestLimits, seconds: float) -> None:
        self.app, self.limits, self.seconds = app, limits, seconds
        self.room = max(limits.megabytes_at_once, limits.megabytes) * 1e6  # bytes
        self.changed = asyncio.Condition()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            async with self._reserved(self._announced_bytes(dict(scope["headers"]))):
                async with self._in_time():
                    body = await self._read_body(_steady(receive))
                await self.app(scope, _replayed(body, receive), send)
        except RequestError as error:
            await self._refuse(error, receive, send)
        except ConnectionResetError:
            return

    def _announced_bytes(self, headers: dict[bytes, bytes]) -> float:
        """Body length in bytes according to Content-Length; the largest allowed length if that is missing.

        Raises:
            RequestError: the content is not JSON, or too long.
        """
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
        if kind != JSON:  # a few bytes of Parquet or CSV can stand for gigabytes
            raise RequestError(f"Content-Type {kind[:100]!r} is not {JSON}", 415)
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return self.limits.bytes
        self._check_size(int(length))
        return float(length)

    def _check_size(self, size: int) -> None:
        if size > self.limits.bytes:
            raise RequestError(f"the request is larger than {self.limits.megabytes:g} MB", 413)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Context that raises RequestError (503) if the block takes longer than `self.seconds`."""
        try:
            async with asyncio.timeout(self.seconds):
                yield
        except TimeoutError:
            raise RequestError(f"not taken up within {self.seconds:g} s", 503) from None

    @asynccontextmanager
    async def _reserved(self, size: float) -> AsyncIterator[None]:
        """Context that reserves `size` bytes of `megabytes_at_once`; waits until so many are free."""
        async with self._in_time(), self.changed:
            await self.changed.wait_for(lambda: size <= self.room)
            self.room -= size
        try:
            yield
        finally:
            async with self.changed:
                self.room += size
                self.changed.notify_all()

    async def _read_body(self, receive: Receive) -> list[bytes]:
        """Parts of a request's body.

        Raises:
            RequestError: the body has more bytes or JSON values than the limits, or arrives too slowly (`_steady`).
            ConnectionResetError: the client has disconnected.
        """
        parts, size, values = [], 0, 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            part = message.get("body", b"")
            size, values = size + len(part), values + sum(map(part.count, (b",", b'"', b"{", b"[")))
            self._check_size(size)
            if values > self.limits.values:
                raise RequestError(f"the request has more than {self.limits.values:g} values", 413)
            parts.append(part)
            if not message.get("more_body"):
                return parts

    async def _refuse(self, error: RequestError, receive: Receive, send: Send) -> None:
        """Sends the error, and reads the rest of the request: many clients read an answer only after sending all."""
        body = json.dumps({"error_code": error.code, "message": error.reason}).encode()
        headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        size, more = 0, True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                while more and size <= DRAINED:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more = message["type"] == "http.request" and message.get("more_body", False)
        await send({"type": "http.response.body", "body": b""})


def _steady(receive: Receive) -> Receive:
    """Wraps `receive` so that it raises RequestError (408) for a body that arrives too slowly.

    A body is too slow if no part arrives for IDLE_SECONDS, or if its rate, not counting IDLE_SECONDS, is below SLOWEST.
    """
    begun, size = time.monotonic(), 0

    async def next_part() -> Message:
        nonlocal size
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await receive()
        except TimeoutError:
            raise RequestError(f"nothing more of the request came for {IDLE_SECONDS:g} s", 408) from None
        size += len(message.get("body", b""))
        if message.get("more_body") and size < SLOWEST * (time.monotonic() - begun - IDLE_SECONDS):
            raise RequestError(f"the request comes at less than {SLOWEST // 1000} kB/s", 408)
        return message

    return next_part


def _replayed(parts: list[bytes], receive: Receive) -> Receive:
    """Wraps `receive` so that it first returns the `parts` of a body as one message, and then later messages."""

    async def again() -> Message:
        if not parts:
            return await receive()
        whole = b"".join(parts)
        parts.clear()
        return {"type": "http.request", "body": whole, "more_body": False}

    return again
