"""Python interface of a model: the commands that use a model, as methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_platform.inference.evaluate import compare_methods, evaluate_model, write_submission
from asr_platform.inference.formats import Transcript, as_tree
from asr_platform.inference.parallel import load
from asr_platform.inference.recordings import Recording
from asr_platform.inference.transcribe import transcribe
from asr_platform.storage.paths import where_runs_live
from asr_platform.tracking.resolving import resolve_model
from search_spaces.rules import RuleSetName
from trainables.bounds import LONGEST_PIECE
from trainables.data.audio import mono
from trainables.data.features import SAMPLE_RATE
from trainables.errors import InputError
from trainables.inference.decoding_options import decoding_with
from trainables.inference.recognizer import Recognizer

Audio = str | Path | npt.NDArray[np.floating]
"""Path of a file that `platform transcribe` reads, or samples (N,) or (N, channels) in [-1, 1]."""


def load_model(model: str | Path, *, home: str | Path | None = None) -> LoadedModel:
    """Loads a recogniser.

    Args:
        model: a model directory, or a model in MLflow (`models:/NAME@champion` or `runs:/ID`).
        home: home whose MLflow stores are searched; default: $ASR_PLATFORM_HOME, or `mlruns` in the current folder.

    Raises:
        InputError: the model does not exist, or is not a recogniser.
    """
    folder = resolve_model(where_runs_live(home), str(model))
    return LoadedModel(folder, load(folder))


class LoadedModel:
    """A recogniser in memory, on the GPU if there is one.

    Args:
        folder: model directory of the recogniser.
    """

    def __init__(self, folder: Path, recognizer: Recognizer) -> None:
        self.folder = folder
        self.recognizer = recognizer

    def __repr__(self) -> str:
        return f"LoadedModel({str(self.folder)!r}, {self.recognizer.parameters:,} parameters)"

    def transcribe(
        self, audio: Audio | Sequence[Audio], sample_rate: int = SAMPLE_RATE, piece_seconds: float | None = None,
        **decoding: Any,
    ) -> list[str]:  # fmt: skip
        """Texts of one or several recordings of any length, in the order given.

        Args:
            sample_rate: sample rate of samples, in Hz.
            piece_seconds: longer recordings are cut at silences; default: the 90% quantile of the training
                utterances' durations, 30 s at most.
            decoding: decoding options that replace those of the model, such as method="joint", beam=10.

        Raises:
            InputError: a file cannot be read, or samples have a wrong type, shape or value; or the decoding options do
                not fit the model.
        """
        return [found.text for found in self._transcripts(audio, sample_rate, piece_seconds, False, decoding)]

    def transcripts(
        self, audio: Audio | Sequence[Audio], sample_rate: int = SAMPLE_RATE, piece_seconds: float | None = None,
        nbest: int = 0, **decoding: Any,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Transcripts of recordings with the times of words, as `platform transcribe --format json` prints them.

        Args:
            sample_rate: sample rate of samples, in Hz.
            piece_seconds: longer recordings are cut at silences (see `transcribe`).
            nbest: number of best hypotheses of each piece, for a beam search; 0: none.
            decoding: decoding options that replace those of the model.

        Raises:
            InputError: audio or decoding options cannot be used (see `transcribe`), the model was trained without CTC,
                or the search finds fewer hypotheses than `nbest`.
        """
        return [as_tree(found) for found in self._transcripts(audio, sample_rate, piece_seconds, True, decoding, nbest)]

    def evaluate(self, data: str | Path, split: str, **decoding: Any) -> dict[str, Any]:
        """CER and WER, as fractions, over a split of a corpus.

        Args:
            decoding: decoding options that replace those of the model.
        """
        return evaluate_model(self.folder, Path(data), split, decoding)

    def compare_methods(self, data: str | Path, split: str, **decoding: Any) -> list[dict[str, Any]]:
        """CER, WER and real-time factors of every decoding method, as `platform evaluate --compare`; a row for each.

        Args:
            decoding: decoding options that replace those of the model.
        """
        return compare_methods(self.folder, Path(data), split, decoding)

    def tune_decoding(
        self, data: str | Path, split: str | None = None, *, minutes: float = 5.0,
        language_model: str | Path | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Finds the decoding options with the lowest CER (as `platform tune-decoding`), and makes them the model's own.

        Args:
            split: default: the split that the model was validated on.
            minutes: longest time to search.
            language_model: directory of a language model for shallow fusion; default: the model's own, if any.

        Returns:
            The options, and the CERs of greedy search and of the options, with intervals; rates are fractions.
        """
        from asr_platform.inference.tune_decoding import tune_decoding

        given = None if language_model is None else Path(language_model)
        found = tune_decoding(self.folder, Path(data), split, minutes, given)
        config = self.recognizer.config.model_copy(update={"decoding": found.decoding})
        self.recognizer = replace(self.recognizer, config=config)
        return found.as_tree()

    def submit(self, data: str | Path, split: str, out: str | Path, **decoding: Any) -> int:
        """Writes a CSV file of `id,transcription` rows (as `platform submit`); returns the number of rows.

        Args:
            decoding: decoding options that replace those of the model.
        """
        return write_submission(self.folder, Path(data), split, Path(out), decoding)

    def check(
        self, rules: RuleSetName, data: str | Path | None = None, *, submission: str | Path | None = None,
        split: str = "test-clean",
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Verdicts of the rules of a competition, as `platform check --json` prints them; `holds` says which hold.

        Args:
            rules: "hw4p2" for those of CMU 11-785.
            data: the corpus that the model was trained on; None: it is not examined.
            submission: also check the format of this CSV file of transcripts.
            split: the split of `submission`, whose utterances are counted if there is `data`.

        Raises:
            InputError: there is no such corpus, split or file, or the model is damaged.
        """
        from asr_platform.inference.rule_check import check

        found = check(self.folder, rules, Path(data) if data else None, Path(submission) if submission else None, split)
        return [finding.as_tree() for finding in found]

    def export(self, out: str | Path, format: str = "onnx", **decoding: Any) -> None:
        """Writes the model for other programs into a new folder.

        Args:
            format: onnx: graphs for use without torch; transformers: a Speech2Text model, where the architecture
                allows it.
            decoding: decoding options that replace those of the model in the export.
        """
        from trainables.inference.export.formats import EXPORTERS

        if format not in EXPORTERS:
            raise InputError(f"format must be one of {', '.join(EXPORTERS)}, but got {format!r}", "Give one of them.")
        EXPORTERS[format].export(Recognizer.load(self.folder), Path(out), decoding)

    def _transcripts(
        self, audio: Audio | Sequence[Audio], sample_rate: int, piece_seconds: float | None, timed: bool,
        decoding: Mapping[str, Any], nbest: int = 0,
    ) -> Iterator[Transcript]:  # fmt: skip
        if piece_seconds is not None and not 1 <= piece_seconds <= LONGEST_PIECE:
            bound = f"{LONGEST_PIECE:g} or less" if piece_seconds > 1 else "1 or more"
            raise InputError(
                f"piece_seconds must be {bound}, but got {piece_seconds}", "Give such a number, or leave it out."
            )
        several = [audio] if isinstance(audio, str | Path | np.ndarray) else audio
        search = self.recognizer.search(decoding_with(self.recognizer.config, decoding))
        recordings = [recording(each, sample_rate) for each in several]
        return transcribe(self.recognizer, recordings, timed, piece_seconds, search, nbest)


def recording(audio: Audio, sample_rate: int) -> Recording:
    """A recording from a file, or from samples at `sample_rate` Hz.

    Raises:
        InputError: samples have a wrong type, shape or value.
    """
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
