"""What MLflow runs of a registered model: a recording becomes text; a text, for a language model, its perplexity.

A copy of this file lies in every registered model (MLflow's "models from code"), with the model directory and a copy of
`trainables` beside it, and MLflow runs that copy. So nothing is unpickled, and nothing else of the platform is needed.

Under `mlflow models serve`, requests have limits (`RequestLimits`), whose values are the model's `config` in its file
MLmodel; SERVING_MODEL_CONFIG='{"seconds": 3600}' in the server's environment changes them. What is too large is refused
with status 413 before it is read or decoded, what is beyond another limit with 400, what comes too slowly with 408.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from trainables.data.audio import Limits, read_audio
from trainables.errors import InputError
from trainables.inference.language_model import TextModel
from trainables.inference.long_form import CutRecording, cut, longest_piece, transcribe_cuts
from trainables.inference.model_directory import kind_of
from trainables.inference.serving import UNLIMITED, LateError, RequestLimits, SharedRecognizer, Turns

MODEL, LANGUAGE_MODEL = "model", "language_model"  # beside this file's copy (model_names.py)
SERVER = "mlflow.pyfunc.scoring_server.app"  # the module that loads the model where it is served (MLflow 3.17)
JSON = "application/json"
IDLE_SECONDS = 5.0  # between two parts of a request's body
SLOWEST = 32_000  # bytes a second of a body, once these seconds have passed: 16-bit speech at 16 kHz as it is spoken
DRAINED = 10**9  # bytes of a refused request that are still read, and forgotten

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class BadInput(MlflowException):
    """What was sent cannot be answered: status 400, with the reason.

    Without the input, which MLflow would repeat before the reason, as long as it is.
    """

    status = 400

    def __init__(self, reason: str) -> None:
        super().__init__(reason, INVALID_PARAMETER_VALUE)
        self.reason = reason

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.reason})

    def get_http_status_code(self) -> int:
        return self.status


class TooLarge(BadInput):
    status = 413


class TooSlow(BadInput):
    status = 408


class Unsupported(BadInput):
    status = 415


class Busy(BadInput):
    status = 503


class Served(PythonModel):
    """The model directory beside this file."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(__file__).with_name(MODEL)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        limits, self.seconds = UNLIMITED, math.inf
        if SERVER in sys.modules:
            limits = RequestLimits.of(dict(context.model_config or {}))
            self.seconds = float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
            guard_server(limits, self.seconds)
        self.answer: Callable[[list[Any], float], list[Any]]
        kind = Perplexities if kind_of(folder) == "language_model" else Texts
        self.answer = kind(folder, device, limits)

    def predict(self, model_input: pd.DataFrame) -> list[Any]:
        """An answer to each value of the first column, in order."""
        try:
            return self.answer(model_input.iloc[:, 0].tolist(), time.monotonic() + self.seconds)
        except LateError:
            raise Busy(f"not answered within {self.seconds:g} s") from None


class Texts:
    """A recogniser, with the search of its configuration. It hears what `platform transcribe` hears."""

    def __init__(self, folder: Path, device: str, limits: RequestLimits) -> None:
        language_model = folder.with_name(LANGUAGE_MODEL)
        registered = language_model if language_model.is_dir() else None
        self.recognizer = SharedRecognizer.load(folder, device, registered)
        self.search = self.recognizer.search()
        self.limits = limits

    def __call__(self, recordings: list[Any], deadline: float) -> list[str]:
        """The text of each recording: the bytes of an audio file, or these in base64.

        Raises:
            BadInput: one is something else, no audio that can be read, or beyond the limits.
            LateError: the deadline has passed.
        """
        cuts, seconds = [], 0.0
        for number, recording in enumerate(recordings):
            if time.monotonic() > deadline:
                raise LateError
            found = self.cut(recording, f"audio {number}")
            seconds += found.seconds
            if seconds > self.limits.seconds:
                raise BadInput(f"the recordings are together longer than {self.limits.seconds:g} s")
            cuts.append(found)
        recognizer = self.recognizer.for_request(seconds, deadline)
        return [found.text for found in transcribe_cuts(recognizer, cuts, search=self.search)]

    def cut(self, recording: Any, name: str) -> CutRecording:
        """Cuts an audio file, given as bytes or in base64."""
        content = recording if isinstance(recording, bytes) else decoded(recording, name, self.limits)
        audio = Limits(self.limits.seconds, self.limits.channels, self.limits.rate)
        try:
            samples = read_audio(io.BytesIO(content), limits=audio, name=name)
            return cut(samples, self.recognizer.recipe, longest_piece(self.recognizer), name)
        except InputError as error:
            raise BadInput(error.problem) from None


class Perplexities:
    """A language model."""

    def __init__(self, folder: Path, device: str, limits: RequestLimits) -> None:
        self.model = TextModel.load(folder, device)
        self.limits, self.turns = limits, Turns()

    def __call__(self, texts: list[Any], deadline: float) -> list[float]:
        """The perplexity a character of each text.

        Raises:
            BadInput: one is no text, has no character, or too many.
            LateError: the deadline has passed.
        """
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                raise BadInput(f"text {number}: {text!r} is no text")
            if len(text) > self.limits.characters:
                raise BadInput(f"text {number}: longer than {self.limits.characters:g} characters")
        found = []
        for text in texts:
            with self.turns.turn(sum(map(len, texts)), deadline):
                found.append(float(self.model.perplexities([text])["character_perplexity"]))
        return found


def decoded(recording: object, name: str, limits: RequestLimits = UNLIMITED) -> bytes:
    """The bytes that a text in base64 stands for; line breaks in it count for nothing.

    Raises:
        BadInput: it is none, or stands for too many.
    """
    if not isinstance(recording, str):
        raise BadInput(f"{name}: not an audio file in base64, nor its bytes")
    text = "".join(recording.split())
    if 3 * len(text) > 4 * limits.bytes:
        raise TooLarge(f"{name}: larger than {limits.megabytes:g} MB")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise BadInput(f"{name}: not an audio file in base64: {error}") from None


# The server


def guard_server(limits: RequestLimits, seconds: float) -> None:
    """Puts a `Guard` before the application that MLflow's scoring server makes next.

    MLflow (3.17) reads a body whole and parses it before the model sees it, and has no setting for its size: so the
    class of its application is another one, once.
    """
    import fastapi

    original = fastapi.FastAPI

    class Guarded(original):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            fastapi.FastAPI = original  # type: ignore[misc]
            super().__init__(*arguments, **options)
            self.guard = Guard(super().__call__, limits, seconds)

        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            await self.guard(scope, receive, send)

    fastapi.FastAPI = Guarded  # type: ignore[misc]


class Guard:
    """An ASGI application before another one: it hands on POSTs of a limited size, and only so many at once.

    Args:
        seconds: how long a request may wait for room, and how long its body may take.
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
            async with self.held(self.announced(dict(scope["headers"]))):
                async with self.soon():
                    body = await self.body(steadily(receive))
                await self.app(scope, replay(body, receive), send)
        except BadInput as error:
            await self.refuse(error, receive, send)
        except ConnectionResetError:
            return

    def announced(self, headers: dict[bytes, bytes]) -> float:
        """The most bytes that a request's body can have.

        Raises:
            BadInput: it cannot be answered, by its headers alone.
        """
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
        if kind != JSON:  # a few bytes of Parquet or CSV can stand for gigabytes
            raise Unsupported(f"Content-Type {kind[:100]!r} is not {JSON}")
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return self.limits.bytes
        if int(length) > self.limits.bytes:
            raise self.too_large()
        return float(length)

    @asynccontextmanager
    async def soon(self) -> AsyncIterator[None]:
        """Raises Busy where the block has not ended in time."""
        try:
            async with asyncio.timeout(self.seconds):
                yield
        except TimeoutError:
            raise Busy(f"not taken up within {self.seconds:g} s") from None

    @asynccontextmanager
    async def held(self, size: float) -> AsyncIterator[None]:
        """Waits until there is room for so many bytes, and takes it for the time of the block."""
        async with self.soon(), self.changed:
            await self.changed.wait_for(lambda: size <= self.room)
            self.room -= size
        try:
            yield
        finally:
            async with self.changed:
                self.room += size
                self.changed.notify_all()

    async def body(self, receive: Receive) -> list[bytes]:
        """The body's parts.

        Raises:
            TooLarge: it has more bytes or values than the limits.
            TooSlow: it comes too slowly (`steadily`).
            ConnectionResetError: the client has gone away.
        """
        parts, size, values = [], 0, 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            part = message.get("body", b"")
            size, values = size + len(part), values + sum(map(part.count, (b",", b'"', b"{", b"[")))
            if size > self.limits.bytes:
                raise self.too_large()
            if values > self.limits.values:
                raise TooLarge(f"the request has more than {self.limits.values:g} values")
            parts.append(part)
            if not message.get("more_body"):
                return parts

    def too_large(self) -> TooLarge:
        return TooLarge(f"the request is larger than {self.limits.megabytes:g} MB")

    async def refuse(self, error: BadInput, receive: Receive, send: Send) -> None:
        """Answers, and reads on for a while: many clients look for an answer only when they have sent everything."""
        body = error.serialize_as_json().encode()
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


def steadily(receive: Receive) -> Receive:
    """Hands on a body's parts as long as they come fast enough, since an unfinished body keeps others waiting for room.

    What it returns raises TooSlow where no part comes for IDLE_SECONDS, or where all parts so far, but for those
    seconds, have come at less than SLOWEST bytes a second.
    """
    begun, size = time.monotonic(), 0

    async def next_part() -> Message:
        nonlocal size
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"nothing more of the request came for {IDLE_SECONDS:g} s") from None
        size += len(message.get("body", b""))
        if message.get("more_body") and size < SLOWEST * (time.monotonic() - begun - IDLE_SECONDS):
            raise TooSlow(f"the request comes at less than {SLOWEST // 1000} kB/s")
        return message

    return next_part


def replay(parts: list[bytes], receive: Receive) -> Receive:
    """An ASGI `receive` that first returns a body received before, as one message, and then later messages."""

    async def again() -> Message:
        if not parts:
            return await receive()
        whole = b"".join(parts)
        parts.clear()
        return {"type": "http.request", "body": whole, "more_body": False}

    return again


set_model(Served())
