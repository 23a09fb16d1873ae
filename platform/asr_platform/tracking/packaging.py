"""A model directory as an MLflow model: what serves it (serving.py), its signature, an example and its requirements."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, Schema

import trainables
from asr_platform.tracking.model_names import LANGUAGE_MODEL, MODEL
from trainables.config_parsing import parse_config
from trainables.data.features import SAMPLE_RATE
from trainables.errors import InputError
from trainables.inference.model_directory import CONFIG, kind_of, read_json
from trainables.inference.serving import RequestLimits

SERVING = Path(__file__).with_name("serving.py")  # never imported here: MLflow runs its copies
# What `serving.py` and what it takes from `trainables` import; the versions are those of the training.
PACKAGES = (
    "fastapi", "jiwer", "kaldi-native-fbank", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "PyYAML",
    "safetensors", "sentencepiece", "soundfile", "soxr", "torch",
)  # fmt: skip
# Without names, so that a list of recordings is as good as a table with one column.
SIGNATURES = {
    "encoder_decoder": ModelSignature(Schema([ColSpec("string")]), Schema([ColSpec("string")])),
    "language_model": ModelSignature(Schema([ColSpec("string")]), Schema([ColSpec("double")])),
}


def write_around(model: Path, folder: Path, about: Model) -> None:
    """Writes an MLflow model into a new folder: all of it but the directories of `parts`.

    Args:
        about: what MLflow knows of it already.
    """
    kind = kind_of(model)
    save_model(
        folder,
        python_model=str(SERVING),
        code_paths=[str(Path(trainables.__file__).parent)],
        signature=SIGNATURES[kind],
        input_example=[example_recording()] if kind == "encoder_decoder" else ["A TEXT"],
        pip_requirements=requirements(),
        model_config=asdict(RequestLimits()),
        mlflow_model=about,
    )
    files = (path for _, part in parts(model) for path in part.rglob("*") if path.is_file())
    about.model_size_bytes += sum(path.stat().st_size for path in files)
    about.save(str(folder / MLMODEL_FILE_NAME))


def parts(model: Path) -> Iterator[tuple[str, Path]]:
    """The directories that belong into it: of the model, and of the language model that its own search listens to.

    Raises:
        InputError: that one is gone.
    """
    yield MODEL, model
    decoding = parse_config(read_json(model / CONFIG, "config")["config"], str(model / CONFIG)).decoding
    if decoding.lm_weight and decoding.language_model:
        language_model = Path(decoding.language_model)
        if not language_model.is_dir():
            raise InputError(
                f"decoding.language_model: {language_model} is not there", "Put it back, or set lm_weight to 0."
            )
        yield LANGUAGE_MODEL, language_model


def requirements() -> list[str]:
    """As pip takes them; builds of torch for one kind of machine have no place in an index of packages."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES]


def example_recording() -> str:
    """A quarter of a second of a tone, as a WAV file in base64: how recordings are sent, and no speech."""
    times = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * times), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
