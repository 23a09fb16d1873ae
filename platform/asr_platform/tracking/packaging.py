"""A model directory as an MLflow model: the code that serves it (serving.py), signature, example and requirements."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

import trainables
from asr_platform.tracking.resolving import LANGUAGE_MODEL, MLMODEL, MODEL
from trainables.config.tree import Decoding
from trainables.data.features import SAMPLE_RATE
from trainables.errors import InputError
from trainables.inference.model_directory import read_info
from trainables.inference.serving import RequestLimits

SERVING = Path(__file__).with_name("serving.py")  # MLflow runs copies of it; nothing imports it
# Imported by serving.py and by the parts of `trainables` that it uses; the versions at training are required.
PACKAGES = (
    "av", "fastapi", "jiwer", "kaldi-native-fbank", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "PyYAML",
    "safetensors", "sentencepiece", "soundfile", "soxr", "torch",
)  # fmt: skip
PARAM_TYPES = {"integer": "long", "number": "double", "string": "string"}  # MLflow's names by JSON schema's


def decoding_params() -> ParamSchema:
    """Decoding options as `params` of requests to a served recogniser; null stands for the model's own option."""
    fields = Decoding.model_json_schema()["properties"]
    served = {name: field for name, field in fields.items() if name != "language_model"}  # it is a path
    return ParamSchema([ParamSpec(name, PARAM_TYPES[field["type"]], None) for name, field in served.items()])


# Columns have no names, so that requests may send a list instead of a table with one column.
RECORDINGS_TO_TEXTS = ModelSignature(Schema([ColSpec("string")]), Schema([ColSpec("string")]), decoding_params())
TEXTS_TO_PERPLEXITIES = ModelSignature(Schema([ColSpec("string")]), Schema([ColSpec("double")]))


def write_around(model: Path, folder: Path, about: Model) -> None:
    """Writes the files of an MLflow model into a new folder, except for the directories of `parts`.

    Args:
        model: model directory.
        about: MLflow's description of the logged model.
    """
    recogniser = read_info(model).config.model.is_recogniser
    save_model(
        folder,
        python_model=str(SERVING),
        code_paths=[str(Path(trainables.__file__).parent)],
        signature=RECORDINGS_TO_TEXTS if recogniser else TEXTS_TO_PERPLEXITIES,
        input_example=[example_recording()] if recogniser else ["A TEXT"],
        pip_requirements=requirements(),
        model_config=RequestLimits().model_dump(),
        mlflow_model=about,
    )
    files = (path for _, part in parts(model) for path in part.rglob("*") if path.is_file())
    about.model_size_bytes += sum(path.stat().st_size for path in files)
    about.save(str(folder / MLMODEL))


def parts(model: Path) -> Iterator[tuple[str, Path]]:
    """Yields (name, directory) of an MLflow model's parts: the model, and the language model that its search uses.

    Raises:
        InputError: the language model is missing.
    """
    yield MODEL, model
    decoding = read_info(model).config.decoding
    if decoding.lm_weight and decoding.language_model:
        language_model = Path(decoding.language_model)
        if not language_model.is_dir():
            raise InputError(
                f"decoding.language_model: {language_model} is not there", "Put it back, or set lm_weight to 0."
            )
        yield LANGUAGE_MODEL, language_model


def requirements() -> list[str]:
    """Requirements for pip, without local version labels such as `+cpu`: package indexes have no such builds."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES]


def example_recording() -> str:
    """An example of a request's recording: a tone of 0.25 s as a WAV file in base64."""
    times = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * times), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
