"""Sounds and pictures as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io

import soundfile

from trainables.data.features import SAMPLE_RATE, Samples


def mp3(samples: Samples) -> str:
    """Samples (N,) at 16 kHz as MP3, about 4 kB a second."""
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format="MP3")
    return data_uri("audio/mpeg", content.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Content of a file of a MIME type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
