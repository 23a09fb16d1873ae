"""The code of a registered model, which transcribes recordings, or (language model) computes perplexities of texts.

Each registered model has a copy of this file (MLflow's "models from code") beside the model directory and a copy of
`trainables`, and MLflow runs that copy. Nothing is unpickled, and the platform need not be installed.

Under `mlflow models serve`, requests have limits (`RequestLimits`). Their values are the `config` in the model's file
MLmodel; SERVING_MODEL_CONFIG='{"seconds": 3600}' in the server's environment changes them.
"""

from __future__ import annotations

import base64
import io
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
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
from trainables.decoding import Search
from trainables.errors import InputError
from trainables.inference.decoding_options import decoding_with
from trainables.inference.language_model import TextModel
from trainables.inference.long_form import CutRecording, cut, longest_piece, transcribe_cuts
from trainables.inference.model_directory import read_info
from trainables.inference.request_guard import Guard, Message, Receive, Send
from trainables.inference.serving import UNLIMITED, LateError, RequestError, RequestLimits, SharedRecognizer, Turns

MODEL, LANGUAGE_MODEL = "model", "language_model"  # folders beside this file's copy (tracking/resolving.py)
SERVER = "mlflow.pyfunc.scoring_server.app"  # the module that loads the model where it is served (MLflow 3.17)


class RefusedError(MlflowException):
    """A RequestError in the form that MLflow's server answers with status and reason.

    MLflow's answer to other errors repeats the input.
    """

    def __init__(self, error: RequestError) -> None:
        super().__init__(error.reason, INVALID_PARAMETER_VALUE)
        self.reason, self.status = error.reason, error.status

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.reason})

    def get_http_status_code(self) -> int:
        return self.status


class Served(PythonModel):
    """The model in the model directory beside this file."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(__file__).with_name(MODEL)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        limits, self.seconds = UNLIMITED, math.inf
        if SERVER in sys.modules:
            limits = RequestLimits.of(dict(context.model_config or {}))
            self.seconds = float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
            guard_server(limits, self.seconds)
        self.answer: Callable[[list[Any], Mapping[str, Any], float], list[Any]]
        kind = Texts if read_info(folder).config.model.is_recogniser else Perplexities
        self.answer = kind(folder, device, limits)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[Any]:
        """Answers for the values of the first column, in order: texts of recordings, or perplexities of texts.

        Args:
            params: decoding options that replace those of the model; None: its own.
        """
        options = {key: value for key, value in (params or {}).items() if value is not None}
        try:
            return self.answer(model_input.iloc[:, 0].tolist(), options, time.monotonic() + self.seconds)
        except LateError:
            raise RefusedError(RequestError(f"not answered within {self.seconds:g} s", 503)) from None
        except RequestError as error:
            raise RefusedError(error) from None


class Texts:
    """A served recogniser: returns the text of each recording, as `platform transcribe` does."""

    def __init__(self, folder: Path, device: str, limits: RequestLimits) -> None:
        language_model = folder.with_name(LANGUAGE_MODEL)
        registered = language_model if language_model.is_dir() else None
        self.recognizer = SharedRecognizer.load(folder, device, registered)
        self.search = self.recognizer.search()
        self.limits = limits

    def __call__(self, recordings: list[Any], options: Mapping[str, Any], deadline: float) -> list[str]:
        """Text of each recording.

        Args:
            recordings: audio files, as bytes or in base64.
            options: decoding options that replace those of the model.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RequestError: a recording is not readable audio, an option does not fit the model, or one of them is beyond
                the limits.
            LateError: the deadline has passed.
        """
        search = self.search_with(options)
        cuts, seconds = [], 0.0
        for number, recording in enumerate(recordings):
            if time.monotonic() > deadline:
                raise LateError
            found = self.cut(recording, f"audio {number}")
            seconds += found.seconds
            if seconds > self.limits.seconds:
                raise RequestError(f"the recordings are together longer than {self.limits.seconds:g} s")
            cuts.append(found)
        recognizer = self.recognizer.for_request(seconds, deadline)
        return [found.text for found in transcribe_cuts(recognizer, cuts, search=search)]

    def search_with(self, options: Mapping[str, Any]) -> Search:
        """Search of the model's decoding options with changes; its language model is the registered one.

        Raises:
            RequestError: an option does not fit the model, or is beyond the limits.
        """
        for name in ("beam", "editing_steps"):
            if name in options and options[name] > getattr(self.limits, name):
                raise RequestError(f"{name}: {options[name]} is above the limit of {getattr(self.limits, name):g}")
        if len(options.get("hotwords", "")) > self.limits.hotwords:
            raise RequestError(f"hotwords: longer than the limit of {self.limits.hotwords:g} characters")
        try:
            decoding = decoding_with(self.recognizer.config, options)
            search = self.recognizer.search_with(decoding, self.search.language_model)
        except InputError as error:
            raise RequestError(error.problem) from None
        if decoding.lm_weight and self.search.language_model is None:
            raise RequestError("lm_weight: this model was registered without a language model")
        return search

    def cut(self, recording: Any, name: str) -> CutRecording:
        """Cuts an audio file, given as bytes or in base64, into pieces that are transcribed as utterances."""
        content = recording if isinstance(recording, bytes) else decoded(recording, name, self.limits)
        audio = Limits(self.limits.seconds, self.limits.channels, self.limits.rate)
        try:
            samples = read_audio(io.BytesIO(content), limits=audio, name=name)
            return cut(samples, self.recognizer.recipe, longest_piece(self.recognizer), name)
        except InputError as error:
            raise RequestError(error.problem) from None


class Perplexities:
    """A served language model: returns the perplexity per character of each text."""

    def __init__(self, folder: Path, device: str, limits: RequestLimits) -> None:
        self.model = TextModel.load(folder, device)
        self.limits, self.turns = limits, Turns()

    def __call__(self, texts: list[Any], options: Mapping[str, Any], deadline: float) -> list[float]:
        """Perplexity per character of each text.

        Args:
            options: must be empty: a language model searches nothing.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RequestError: a value is no text, or a text is empty or too long.
            LateError: the deadline has passed.
        """
        if options:
            raise RequestError(f"a language model, which has no {', '.join(options)}")
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                raise RequestError(f"text {number}: {text!r} is no text")
            if len(text) > self.limits.characters:
                raise RequestError(f"text {number}: longer than {self.limits.characters:g} characters")
        found = []
        for text in texts:
            with self.turns.turn(sum(map(len, texts)), deadline):
                found.append(float(self.model.perplexities([text])["character_perplexity"]))
        return found


def decoded(recording: object, name: str, limits: RequestLimits) -> bytes:
    """Bytes of an audio file that is given in base64, with or without line breaks.

    Raises:
        RequestError: the text is not base64, or the file is larger than the limits allow.
    """
    if not isinstance(recording, str):
        raise RequestError(f"{name}: not an audio file in base64, nor its bytes")
    text = "".join(recording.split())
    if 3 * len(text) > 4 * limits.bytes:
        raise RequestError(f"{name}: larger than {limits.megabytes:g} MB", 413)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RequestError(f"{name}: not an audio file in base64: {error}") from None


def guard_server(limits: RequestLimits, seconds: float) -> None:
    """Wraps the next application of MLflow's scoring server in a `Guard`.

    MLflow (3.17) parses a request's body before it calls the model, and has no setting for the largest size. So the
    class of its application is replaced once.
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


set_model(Served())
