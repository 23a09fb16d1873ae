"""What MLflow runs of a registered model: a recording becomes text; a text, for a language model, its perplexity.

A copy of this file lies in every registered model (MLflow's "models from code"), with the model directory and a copy of
`trainables` beside it, and MLflow runs that copy. So nothing is unpickled, and nothing else of the platform is needed.
"""

from __future__ import annotations

import base64
import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from trainables.data.audio import read_audio
from trainables.errors import InputError
from trainables.long_form import Cut, cut, longest_piece, transcribe_cuts
from trainables.model_directory import MODEL, kind_of
from trainables.recognizer import Recognizer
from trainables.text_model import TextModel


class BadInput(MlflowException):
    """What was sent cannot be answered: status 400, with the reason.

    Without the input, which MLflow would repeat before the reason, as long as it is.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, INVALID_PARAMETER_VALUE)
        self.reason = reason

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.reason})


class Served(PythonModel):
    """The model directory beside this file."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(__file__).with_name(MODEL)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.answer: Callable[[list[Any]], list[Any]]
        self.answer = Perplexities(folder, device) if kind_of(folder) == "language_model" else Texts(folder, device)
        self.turn = threading.Lock()

    def predict(self, model_input: pd.DataFrame) -> list[Any]:
        """An answer to each value of the first column, in order."""
        values = model_input.iloc[:, 0].tolist()
        with self.turn:  # one request after the other, each with all of the machine
            return self.answer(values)


class Texts:
    """A recogniser, with the search of its configuration. It hears what `platform transcribe` hears."""

    def __init__(self, folder: Path, device: str) -> None:
        self.recognizer = Recognizer.load(folder, device)
        self.search = self.recognizer.search()

    def __call__(self, recordings: list[Any]) -> list[str]:
        """The text of each recording: the bytes of an audio file, or these in base64.

        Raises:
            BadInput: one is something else, or no audio that can be read.
        """
        cuts = [self.cut(recording, f"audio {number}") for number, recording in enumerate(recordings)]
        return [text for text, _ in transcribe_cuts(self.recognizer, cuts, search=self.search)]

    def cut(self, recording: Any, name: str) -> Cut:
        content = recording if isinstance(recording, bytes) else decoded(recording, name)
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / name).write_bytes(content)
            try:
                samples = read_audio(Path(place) / name)
                return cut(samples, self.recognizer.recipe, longest_piece(self.recognizer), name)
            except InputError as error:
                raise BadInput(error.problem.replace(f"{place}/", "")) from None


class Perplexities:
    """A language model."""

    def __init__(self, folder: Path, device: str) -> None:
        self.model = TextModel.load(folder, device)

    def __call__(self, texts: list[Any]) -> list[float]:
        """The perplexity a character of each text.

        Raises:
            BadInput: one is no text, or has no character.
        """
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                raise BadInput(f"text {number}: {text!r} is no text")
        return [float(self.model.perplexities([text])["character_perplexity"]) for text in texts]


def decoded(recording: object, name: str) -> bytes:
    """The bytes that a text in base64 stands for; line breaks in it count for nothing.

    Raises:
        BadInput: it is none.
    """
    if not isinstance(recording, str):
        raise BadInput(f"{name}: not an audio file in base64, nor its bytes")
    try:
        return base64.b64decode("".join(recording.split()), validate=True)
    except ValueError as error:
        raise BadInput(f"{name}: not an audio file in base64: {error}") from None


set_model(Served())
