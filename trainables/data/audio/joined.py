"""Audio of an utterance of a corpus, which keeps the files that it was joined from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.data.audio.reading import read_audio
from trainables.data.features import SAMPLE_RATE, Samples
from trainables.data.utterance import Recording
from trainables.errors import InputError


def read_recordings(recordings: Sequence[Recording]) -> Samples:
    """Samples (N,) at 16 kHz of recordings joined in order.

    Args:
        recordings: as `Split.recordings` returns them; at least one.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    return np.concatenate([_samples(part) for part in recordings])


def _samples(part: Recording) -> Samples:
    if part.path is None:
        return np.zeros(round((part.duration or 0.0) * SAMPLE_RATE), np.float32)
    if not part.path.is_file():
        raise InputError(f"{part.path}: no such file", "Put the audio back, or prepare the corpus again.")
    return read_audio(part.path, part.offset, part.duration)
