"""A recogniser in Python: `platform transcribe`, `evaluate`, `submit` and `export` of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_platform.inference.evaluate import evaluate_model, load, write_submission
from asr_platform.inference.formats import Transcript, as_tree
from asr_platform.inference.recordings import Recording
from asr_platform.inference.transcribe import transcribe
from asr_platform.storage.home import where_runs_live
from asr_platform.tracking.resolving import resolve_model
from trainables.bounds import LONGEST_PIECE
from trainables.data.audio import mono
from trainables.data.features import SAMPLE_RATE
from trainables.errors import InputError
from trainables.inference.recognizer import Recognizer

Audio = str | Path | npt.NDArray[np.floating]
"""A file that `platform transcribe` reads, or samples (N,) or (N, channels) in [-1, 1]."""


def load_model(model: str | Path, *, home: str | Path | None = None) -> LoadedModel:
    """The recogniser that MODEL means to every command: a model directory, `models:/NAME@champion`, `runs:/ID`.

    Args:
        home: whose MLflow store names are looked up in; default: $ASR_PLATFORM_HOME, or `mlruns` here.

    Raises:
        InputError: there is none, or it is no recogniser.
    """
    folder = resolve_model(where_runs_live(home), str(model))
    return LoadedModel(folder, load(folder))


class LoadedModel:
    """A recogniser in memory, on the GPU where there is one.

    Args:
        folder: its model directory.
    """

    def __init__(self, folder: Path, recognizer: Recognizer) -> None:
        self.folder = folder
        self.recognizer = recognizer

    def __repr__(self) -> str:
        return f"LoadedModel({str(self.folder)!r}, {self.recognizer.parameters:,} parameters)"

    def transcribe(
        self, audio: Audio | Sequence[Audio], sample_rate: int = SAMPLE_RATE, piece_seconds: float | None = None
    ) -> list[str]:
        """Texts of files or samples of any length, in the order given; of one, a list of one.

        Args:
            sample_rate: of samples, in Hz.
            piece_seconds: longer recordings are cut at silences; default: as the model was trained, 30 at most.

        Raises:
            InputError: a file cannot be read, or samples are not what they should be.
        """
        return [found.text for found in self._transcripts(audio, sample_rate, piece_seconds, timed=False)]

    def transcripts(
        self, audio: Audio | Sequence[Audio], sample_rate: int = SAMPLE_RATE, piece_seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """As `transcribe`, with the times of the words: what `platform transcribe --format json` prints.

        Raises:
            InputError: also where the model was trained without CTC.
        """
        return [as_tree(found) for found in self._transcripts(audio, sample_rate, piece_seconds, timed=True)]

    def evaluate(self, data: str | Path, split: str, **decoding: Any) -> dict[str, Any]:
        """CER and WER, as fractions, over a split of a corpus.

        Args:
            decoding: keys of the configuration's section `decoding`, such as method="joint"; default: the model's own.
        """
        return evaluate_model(self.folder, Path(data), split, decoding)

    def submit(self, data: str | Path, split: str, out: str | Path) -> int:
        """Writes the course's submission file for a split; returns its number of rows."""
        return write_submission(self.folder, Path(data), split, Path(out))

    def export(self, out: str | Path) -> None:
        """Writes the model as ONNX graphs into a new folder."""
        from trainables.inference.export import export

        export(Recognizer.load(self.folder), Path(out))

    def _transcripts(
        self, audio: Audio | Sequence[Audio], sample_rate: int, piece_seconds: float | None, timed: bool
    ) -> Iterator[Transcript]:
        if piece_seconds is not None and not 1 <= piece_seconds <= LONGEST_PIECE:
            bound = f"{LONGEST_PIECE:g} or less" if piece_seconds > 1 else "1 or more"
            raise InputError(
                f"piece_seconds must be {bound}, but got {piece_seconds}", "Give such a number, or leave it out."
            )
        several = [audio] if isinstance(audio, str | Path | np.ndarray) else audio
        return transcribe(self.recognizer, [recording(each, sample_rate) for each in several], timed, piece_seconds)


def recording(audio: Audio, sample_rate: int) -> Recording:
    """A file, or samples with their rate in Hz."""
    if isinstance(audio, str | Path):
        return Recording(str(audio), Path())
    samples = np.asarray(audio)
    floats = samples.dtype.kind == "f" and samples.ndim in (1, 2) and samples.size > 0
    if not (floats and np.isfinite(samples).all() and sample_rate > 0):
        raise InputError(
            f"samples of shape {samples.shape}, type {samples.dtype}, at {sample_rate} Hz",
            "Give finite floating-point numbers in [-1, 1], (N,) or (N, channels), and their rate.",
        )
    channels = (samples if samples.ndim == 2 else samples[:, None]).astype(np.float32)
    return Recording("samples", Path(), mono(channels, sample_rate))
