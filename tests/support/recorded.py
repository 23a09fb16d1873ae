"""Recordings of noise and tones: to each the babbler says something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from trainables.data.features import Samples

RATE = 16_000


def tone(seconds: float, rate: int = RATE, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    pitch = random.uniform(100, 2000)
    times = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.01 * random.normal(size=len(times))
    return wave.astype(np.float32)


def tones(count: int, seconds: float = 1.0, pause: float = 0.4) -> Samples:
    """Tones of different pitch with silences between."""
    silence = np.zeros(round(pause * RATE), np.float32)
    return np.concatenate([part for seed in range(count) for part in (silence, tone(seconds, seed=seed))] + [silence])


def write_audio(path: Path, seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
    return write_samples(path, tone(seconds, rate, seed), rate, channels)


def write_samples(path: Path, samples: Samples, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([samples] * channels, axis=1), rate)
    return path
