"""Evaluation of a trained model on a split of a corpus, and submission files for CMU 11-785."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from asr_platform.tracking.resolving import registered_language_model
from trainables.config import Decoding
from trainables.config_parsing import parse_config
from trainables.data.corpus import Corpus, Split
from trainables.decoding import Search
from trainables.errors import InputError
from trainables.evaluation.metrics import character_error_rate, word_error_rate
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.folders import written_whole
from trainables.inference.language_model import TextModel
from trainables.inference.model_directory import CONFIG, read_info
from trainables.inference.recognizer import Recognizer

NO_LANGUAGE_MODEL = {"language_model": None, "lm_weight": 0.0}
SUBMISSION_COLUMNS = ["id", "transcription"]
WARM_UP = 4  # utterances transcribed before times are measured


def load(model: Path) -> Recognizer:
    """Loads the recogniser of a model directory, on the GPU if there is one."""
    return Recognizer.load(model, _device(), registered_language_model(model))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def evaluate_model(
    model: Path, data: Path, split: str, decoding: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """CER and WER (fractions) of a recogniser on a split, or perplexities of a language model, and the split's size.

    Args:
        decoding: keys of the configuration's section `decoding` that replace those of the model.

    Raises:
        InputError: the split has no texts, corpus and model have different feature recipes, or `decoding` does not fit
            the model.
    """
    if (model / CONFIG).is_file() and not read_info(model).config.model.is_recogniser:
        return _perplexities(model, data, split, decoding)
    recognizer, utterances = _open_scored(model, data, split)
    return _scores(recognizer, utterances, recognizer.search(_decoding(recognizer, decoding)))


def compare_methods(
    model: Path, data: Path, split: str, decoding: Mapping[str, Any], methods: Sequence[str]
) -> list[dict[str, Any]]:
    """CER, WER and real-time factor of each search method on a split, one row (`method`, ...) per method.

    With a language model of a weight above 0, methods that can use it are also run with it.

    Raises:
        InputError: as `evaluate_model`.
    """
    recognizer, utterances = _open_scored(model, data, split)
    own = _decoding(recognizer, {**decoding, "method": "beam"})
    searches = {method: _changed(own, {"method": method, **NO_LANGUAGE_MODEL}) for method in methods}
    if own.lm_weight:
        for method in ("greedy", "beam", "joint"):
            searches[f"{method} + language model"] = _changed(own, {"method": method})
    rows = []
    ready = {name: recognizer.search(decoding) for name, decoding in searches.items()}
    recognizer.transcribe(_frames(utterances)[:WARM_UP], ready["greedy"])
    for name, search in ready.items():
        start = time.perf_counter()
        scores = _scores(recognizer, utterances, search)
        factor = (time.perf_counter() - start) / float(utterances.seconds.sum())
        rows.append({"method": name, "cer": scores["cer"], "wer": scores["wer"], "real_time_factor": factor})
    return rows


def utterance_errors(model: Path, data: Path, split: str) -> UtteranceErrors:
    """Errors of a recogniser in each utterance of a split, decoded with the model's own configuration.

    Raises:
        InputError: the model is a language model, or split and model do not fit together.
    """
    recognizer, utterances = _open_scored(model, data, split)
    hypotheses = recognizer.transcribe(_frames(utterances))
    return UtteranceErrors.of(split, None, utterances.ids, utterances.texts or [], hypotheses)


def _scores(recognizer: Recognizer, utterances: Split, search: Search) -> dict[str, Any]:
    texts = utterances.texts or []
    hypotheses = recognizer.transcribe(_frames(utterances), search)
    return {
        "cer": character_error_rate(texts, hypotheses),
        "wer": word_error_rate(texts, hypotheses),
        "utterances": len(hypotheses),
        "characters": sum(map(len, texts)),
    }


def _perplexities(model: Path, data: Path, split: str, decoding: Mapping[str, Any]) -> dict[str, Any]:
    if decoding:
        raise InputError(f"{model}: a language model, which searches nothing", f"Leave out {', '.join(decoding)}.")
    texts = Corpus.open(data).split(split).texts
    if texts is None:
        raise InputError(f"{data}: split {split} has no texts to score against", "Choose a split with transcripts.")
    found = TextModel.load(model, _device()).perplexities(texts)
    return {**found, "texts": len(texts), "characters": sum(map(len, texts))}


def _decoding(recognizer: Recognizer, changes: Mapping[str, Any]) -> Decoding:
    if changes.get("method") in ("ctc", "ctc_beam") and "lm_weight" not in changes:
        changes = {
            **changes,
            **NO_LANGUAGE_MODEL,
        }  # CTC alone cannot use a language model
    decoding = _changed(recognizer.config.decoding, changes)
    if changes.get("language_model") is not None and not decoding.lm_weight:
        raise InputError(
            f"--language-model {changes['language_model']} has no weight", "Give --lm-weight, such as 0.3."
        )
    return decoding


def _changed(decoding: Decoding, changes: Mapping[str, Any]) -> Decoding:
    return parse_config({"decoding": {**decoding.model_dump(), **changes}}, "this search").decoding


def write_submission(model: Path, data: Path, split: str, out: Path) -> int:
    """Writes a CSV file of `id,transcription` rows and returns their number.

    IDs count from 0 in the sorted order of the utterances' file names. The file appears only once it is complete.

    Raises:
        InputError: model, corpus and split do not fit together, or the file cannot be written.
    """
    recognizer, utterances = _open(model, data, split)
    order = sorted(range(len(utterances.ids)), key=lambda index: utterances.ids[index])
    with written_whole(out) as file:  # opened before the work of transcribing
        hypotheses = recognizer.transcribe(_frames(utterances))
        writer = csv.writer(file)
        writer.writerow(SUBMISSION_COLUMNS)
        writer.writerows([row, hypotheses[index]] for row, index in enumerate(order))
    return len(order)


def _open(model: Path, data: Path, split: str) -> tuple[Recognizer, Split]:
    recognizer, corpus = load(model), Corpus.open(data)
    if corpus.recipe != recognizer.recipe:
        raise InputError(
            f"{data}: features {corpus.recipe.name} with {corpus.recipe.bins} bins, but the model {model} "
            f"wants {recognizer.recipe.name} with {recognizer.recipe.bins}",
            f"Prepare the corpus with --features {recognizer.recipe.name}.",
        )
    return recognizer, corpus.split(split)


def _open_scored(model: Path, data: Path, split: str) -> tuple[Recognizer, Split]:
    recognizer, utterances = _open(model, data, split)
    if utterances.texts is None:
        raise InputError(f"{data}: split {split} has no texts to score against", "Use platform submit or transcribe.")
    return recognizer, utterances


def _frames(split: Split) -> list[np.ndarray | torch.Tensor]:
    spans = zip(split.offsets, split.frames, strict=True)
    return [split.features[offset : offset + frames] for offset, frames in spans]
