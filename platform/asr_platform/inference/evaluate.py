"""Evaluation of a trained model on a split of a corpus, and submission files for CMU 11-785."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import torch

from asr_platform.analysis.error_breakdown import LengthGroup, NoiseGroup, by_length, by_noise, by_speaker, edits
from asr_platform.analysis.kept_scores import Score, keep_scores
from asr_platform.inference.parallel import Transcriber, Utterances, device, load, processes_for
from trainables.config.tree import Config, Decoding
from trainables.data.corpus import Corpus, Split
from trainables.data.features import FeatureRecipe
from trainables.data.inspection.signals import signal_to_noise
from trainables.decoding import Search
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.folders import written_whole
from trainables.inference.decoding_options import NO_LANGUAGE_MODEL, checked, decoding_with, in_words, of_method
from trainables.inference.language_model import TextModel
from trainables.inference.model_directory import read_info
from trainables.inference.model_files import CONFIG
from trainables.inference.recognizer import Recognizer

SUBMISSION_COLUMNS = ["id", "transcription"]
METHODS: tuple[str, ...] = get_args(Decoding.model_fields["method"].annotation)
FUSED = ("greedy", "beam", "joint")  # methods that a language model can join
COMPARED_STEPS = 3  # editing steps of a transcript editor that are compared, at least
WARM_UP = 4  # utterances transcribed before times are measured
ALONE, ROUNDS = 8, 3  # utterances that are also transcribed one by one, and how often; the shortest time counts


def evaluate_model(
    model: Path, data: Path, split: str, decoding: Mapping[str, Any] = MappingProxyType({}), jobs: int | None = 1
) -> dict[str, Any]:
    """CER and WER (fractions) of a recogniser on a split, or perplexities of a language model, and the split's size.

    `cer_interval` and `wer_interval` are 95% bootstrap intervals; `character_edits` and `word_edits` have the numbers
    of substitutions, deletions and insertions. `speakers` has the error rates by speaker, the worst first, where
    speakers are known, `lengths` by the number of characters in the reference, and `noise` by the signal-to-noise ratio
    in dB, estimated as the level of loud frames above that of quiet ones.

    References are normalised as the texts that the model was trained on. The rates are kept in the model directory,
    where the report of a sweep finds them.

    Args:
        decoding: decoding options that replace those of the model.
        jobs: number of processes that transcribe, with equal results; None: as the CPUs and the split's length suggest.

    Raises:
        InputError: the split has no texts, corpus and model have different feature recipes, or `decoding` does not fit
            the model.
    """
    if (model / CONFIG).is_file() and not read_info(model).config.model.is_recogniser:
        if jobs and jobs > 1:
            raise InputError(f"{model}: a language model is scored in one process", "Leave out --jobs.")
        return _perplexities(model, data, split, decoding)
    recognizer, utterances = open_scored(model, data, split)
    options = decoding_with(recognizer.config, decoding)
    transcriber = Transcriber(recognizer, recognizer.search(options), model)
    jobs = jobs or processes_for(float(utterances.seconds.sum()))
    (texts,) = transcriber.transcribe([Utterances(frames_of(utterances))], jobs)
    errors = _errors_in(recognizer, utterances, [found.text for found in texts])
    score = Score.of(errors, Corpus.open(data).hash, in_words(options))
    keep_scores(model, [score])
    return _scores(errors, score) | _breakdown(errors, utterances, recognizer.recipe)


def compare_methods(model: Path, data: Path, split: str, decoding: Mapping[str, Any]) -> list[dict[str, Any]]:
    """CER, WER and real-time factors of each search method on a split, one row (`method`, ...) per method.

    The rows of a transcript editor are its draft and 1 to 3 editing steps, or as many as it is asked for. With a
    language model of a weight above 0, methods that can use it are also run with it.

    `real_time_factor` is that of the whole split in batches, `real_time_factor_alone` that of a few utterances one by
    one. All are measured in this process, after a warm-up, on the same utterances.

    Raises:
        InputError: as `evaluate_model`.
    """
    recognizer, utterances = open_scored(model, data, split)
    ready = {name: recognizer.search(decoding) for name, decoding in _compared(recognizer, decoding).items()}
    for search in ready.values():
        recognizer.transcribe(frames_of(utterances)[:WARM_UP], search)
    alone, rows = _factors_alone(recognizer, utterances, ready), []
    for name, search in ready.items():
        start = time.perf_counter()
        errors = _errors(recognizer, utterances, search)
        factor = (time.perf_counter() - start) / float(utterances.seconds.sum())
        rates = {"cer": errors.cer, "wer": errors.wer}
        rows.append({"method": name, **rates, "real_time_factor": factor, "real_time_factor_alone": alone[name]})
    return rows


def _compared(recognizer: Recognizer, changes: Mapping[str, Any]) -> dict[str, Decoding]:
    """Searches that are compared, by the name of the row."""
    config = recognizer.config
    if config.model.kind == "transcript_editor":
        own = decoding_with(config, {**changes, "method": "greedy"})
        steps = range(1, max(COMPARED_STEPS, own.editing_steps) + 1)
        rows = {f"{count} step{'s' * (count > 1)}": {"editing_steps": count} for count in steps}
        return {"draft": _changed(config, own, {"method": "ctc", "editing_steps": 1})} | {
            name: _changed(config, own, change) for name, change in rows.items()
        }
    own = decoding_with(config, {**changes, "method": "beam"})
    searches = {method: _changed(config, own, {**of_method(method), **NO_LANGUAGE_MODEL}) for method in METHODS}
    if own.lm_weight:
        fused = {f"{method} + language model": _changed(config, own, of_method(method)) for method in FUSED}
        return searches | fused
    return searches


def _changed(config: Config, decoding: Decoding, changes: Mapping[str, Any]) -> Decoding:
    return checked(config, {**decoding.model_dump(), **changes})


def _factors_alone(recognizer: Recognizer, utterances: Split, searches: Mapping[str, Search]) -> dict[str, float]:
    """Real-time factor of each search at batch 1: `ALONE` utterances of all durations, one by one.

    The searches take turns at each utterance, so that whatever else the machine does slows all of them down.
    """
    frames, order = frames_of(utterances), np.argsort(utterances.frames, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(ALONE, len(order))).astype(int)]
    seconds = dict.fromkeys(searches, 0.0)
    for index in chosen:
        shortest = dict.fromkeys(searches, float("inf"))
        for _ in range(ROUNDS):
            for name, search in searches.items():
                start = time.perf_counter()
                recognizer.transcribe([frames[index]], search)
                shortest[name] = min(shortest[name], time.perf_counter() - start)
        seconds = {name: seconds[name] + shortest[name] for name in searches}
    return {name: each / float(utterances.seconds[chosen].sum()) for name, each in seconds.items()}


def utterance_errors(model: Path, data: Path, split: str) -> UtteranceErrors:
    """Errors of a recogniser in each utterance of a split, decoded with the model's own configuration.

    Raises:
        InputError: the model is a language model, or split and model do not fit together.
    """
    recognizer, utterances = open_scored(model, data, split)
    return _errors(recognizer, utterances)


def _errors(recognizer: Recognizer, utterances: Split, search: Search | None = None) -> UtteranceErrors:
    """Errors in each utterance of a split; `search` is None for the model's own."""
    return _errors_in(recognizer, utterances, recognizer.transcribe(frames_of(utterances), search))


def _errors_in(recognizer: Recognizer, utterances: Split, hypotheses: list[str]) -> UtteranceErrors:
    references = references_of(recognizer, utterances)
    return UtteranceErrors.of(utterances.name, None, utterances.ids, references, hypotheses, utterances.speakers)


def _scores(errors: UtteranceErrors, score: Score) -> dict[str, Any]:
    return {
        "cer": errors.cer,
        "cer_interval": list(score.cer_interval),
        "character_edits": asdict(edits(errors)),
        "wer": errors.wer,
        "wer_interval": list(score.wer_interval),
        "word_edits": asdict(edits(errors, words=True)),
        "utterances": len(errors.ids),
        "characters": sum(map(len, errors.references)),
        "words": sum(errors.words),
    }


def _breakdown(errors: UtteranceErrors, utterances: Split, recipe: FeatureRecipe) -> dict[str, Any]:
    """Error rates by speaker, where speakers are known, by length, and by estimated signal-to-noise ratio."""
    speakers = [asdict(group) for group in by_speaker(errors)]
    groups: dict[str, Sequence[LengthGroup | NoiseGroup]] = {
        "lengths": by_length(errors),
        "noise": by_noise(errors, signal_to_noise(utterances, recipe)),
    }
    rows = {key: [{**asdict(one), "interval": list(one.interval)} for one in found] for key, found in groups.items()}
    return {**({"speakers": speakers} if speakers else {}), **rows}


def _perplexities(model: Path, data: Path, split: str, decoding: Mapping[str, Any]) -> dict[str, Any]:
    if decoding:
        raise InputError(f"{model}: a language model, which searches nothing", f"Leave out {', '.join(decoding)}.")
    texts = Corpus.open(data).split(split).texts
    if texts is None:
        raise InputError(f"{data}: split {split} has no texts to score against", "Choose a split with transcripts.")
    text_model = TextModel.load(model, device())
    texts = text_model.text.apply(texts)
    found = text_model.perplexities(texts)
    return {**found, "texts": len(texts), "characters": sum(map(len, texts))}


def write_submission(
    model: Path, data: Path, split: str, out: Path, decoding: Mapping[str, Any] = MappingProxyType({})
) -> int:
    """Writes a CSV file of `id,transcription` rows and returns their number.

    IDs count from 0 in the sorted order of the utterances' file names. The file appears only once it is complete.

    Args:
        decoding: decoding options that replace those of the model.

    Raises:
        InputError: model, corpus, split and decoding options do not fit together, or the file cannot be written.
    """
    recognizer, utterances = _open(model, data, split)
    search = recognizer.search(decoding_with(recognizer.config, decoding))
    order = sorted(range(len(utterances.ids)), key=lambda index: utterances.ids[index])
    with written_whole(out) as file:  # opened before the work of transcribing
        hypotheses = recognizer.transcribe(frames_of(utterances), search)
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


def open_scored(model: Path, data: Path, split: str) -> tuple[Recognizer, Split]:
    """Loads a recogniser and a split with texts.

    Raises:
        InputError: there is no such recogniser or split, the split has no texts, or corpus and model have different
            feature recipes.
    """
    recognizer, utterances = _open(model, data, split)
    if utterances.texts is None:
        raise InputError(f"{data}: split {split} has no texts to score against", "Use platform submit or transcribe.")
    return recognizer, utterances


def references_of(recognizer: Recognizer, utterances: Split) -> list[str]:
    """Texts of a split, normalised as those that the model was trained on."""
    return recognizer.text.apply(utterances.texts or [])


def frames_of(split: Split) -> list[np.ndarray | torch.Tensor]:
    """Features (T, F) of each utterance of a split."""
    spans = zip(split.offsets, split.frames, strict=True)
    return [split.features[offset : offset + frames] for offset, frames in spans]
