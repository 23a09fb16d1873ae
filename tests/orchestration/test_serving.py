"""What is written around a model directory so that MLflow can serve it."""

from __future__ import annotations

import base64
from pathlib import Path

import babbler
import mlflow.pyfunc
import soundfile
from mlflow.models import Model

from asr_platform import load_model
from asr_platform.packaging import example_recording, parts, write_around
from trainables.data.corpus import Corpus
from trainables.model_directory import copy_model


def test_a_model_directory_becomes_one_that_mlflow_loads(tmp_path: Path) -> None:
    corpus: Corpus = babbler.write_corpus(tmp_path / "corpus")
    babbler.save_model(corpus, tmp_path / "small")
    (tmp_path / "a.wav").write_bytes(base64.b64decode(example_recording()))
    write_around(tmp_path / "small", tmp_path / "served", Model())
    for name, folder in parts(tmp_path / "small"):
        copy_model(folder, tmp_path / "served" / name)
    texts = mlflow.pyfunc.load_model(str(tmp_path / "served")).predict([(tmp_path / "a.wav").read_bytes()])
    assert texts == load_model(tmp_path / "small").transcribe([tmp_path / "a.wav"])


def test_the_example_is_a_recording(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(base64.b64decode(example_recording()))
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert (rate, len(samples)) == (16_000, 4_000)
