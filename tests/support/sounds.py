"""Sounds as the content of audio files, for tests."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import soundfile

from trainables.data.audio import Limits, read_audio
from trainables.data.features import SAMPLE_RATE, Samples

# Format, subtype, and by how many seconds an encoder may make it longer.
KINDS = {
    "wav": ("WAV", "PCM_16", 0.0),
    "flac": ("FLAC", "PCM_16", 0.0),
    "ogg": ("OGG", "VORBIS", 0.0),
    "opus": ("OGG", "OPUS", 0.001),
    "mp3": ("MP3", "MPEG_LAYER_III", 0.0),
}


def noise(samples: int, seed: int = 0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def tone(hertz: float, seconds: float, rate: int = SAMPLE_RATE) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: npt.NDArray[np.floating], kind: str, rate: int = SAMPLE_RATE) -> bytes:
    format, subtype, _ = KINDS[kind]
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=format, subtype=subtype)
    return content.getvalue()


def read(content: bytes, offset: float = 0.0, duration: float | None = None, limits: Limits | None = None) -> Samples:
    return read_audio(io.BytesIO(content), offset, duration, limits or Limits(), name="sent")
