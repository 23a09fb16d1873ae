"""Tunes a recogniser's decoding options on a split, and makes the best ones the model directory's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr_platform.analysis.bootstrap import Difference, difference, error_interval
from asr_platform.analysis.kept_scores import is_test
from asr_platform.inference.calibration import calibrate
from asr_platform.inference.decoding_study import PROBED, OutOfTimeError, Searched, Study
from asr_platform.inference.evaluate import open_scored
from asr_platform.tracking.model_card import CARD, with_decoding
from trainables.bounds import LONGEST_STUDY
from trainables.config.data import Data
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus, Split
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.decoding_options import HeldOutComparison, Measured, OwnDecoding, Tuning
from trainables.inference.model_directory import read_info, write_decoding
from trainables.inference.model_files import CONFIDENCE
from trainables.inference.words import Confidence, write_confidence

MINUTES = 5.0  # default length of a study
MOST_COMPARED, COMPARING_SECONDS = 500, 20.0  # most utterances of a test split, and about the time for them


@dataclass(frozen=True)
class TunedDecoding:
    """The options with the lowest CER, and how they compare with greedy search on the same utterances.

    Args:
        confidence: calibration of the confidence of words with these options; None: there is none.
        difference: CER with the options minus CER of greedy search.
        seconds: wall time of the study, without the comparison on a test split.
        not_compared: why a comparison on a test split failed; None: it did not, or there is no such split.
    """

    decoding: Decoding
    tuning: Tuning
    confidence: Confidence | None
    difference: Difference
    seconds: float
    not_compared: str | None = None

    def as_tree(self) -> dict[str, Any]:
        """The result as a JSON object; rates are fractions."""
        return {
            "decoding": self.decoding.model_dump(mode="json"),
            **self.tuning.model_dump(mode="json"),
            "confidence": self.confidence and self.confidence.model_dump(mode="json"),
            "difference": {"cer": self.difference.value, "interval": list(self.difference.interval)},
            "seconds": round(self.seconds, 1),
            "not_compared": self.not_compared,
        }


def tune_decoding(
    model: Path, data: Path, split: str | None = None, minutes: float = MINUTES, language_model: Path | None = None,
    say: Callable[[str], None] = lambda line: None, stop: Callable[[], bool] = lambda: False,
) -> TunedDecoding:  # fmt: skip
    """Searches the decoding options of a recogniser for the lowest CER on a split, and stores them in its directory.

    With the options found, the confidence of words is calibrated on the same utterances. The split should be one that
    the model was not trained on. If the model has a card, the figures are added to it.

    Once all this is written, greedy search and the options found are compared on the corpus's test split, if it has
    one, and what was written is completed. If that fails or is interrupted, the options stay.

    Args:
        split: default: the validation split of the model's configuration.
        minutes: longest wall time of the study.
        language_model: directory of a language model that may join the search; default: the model's own, if any.
        say: is given a line for each search that is the best so far.
        stop: asked after each batch whether the study must end.

    Raises:
        InputError: model, corpus, split and language model do not fit together, or a file cannot be written.
    """
    if not 0 < minutes <= LONGEST_STUDY:
        raise InputError(f"minutes must be above 0, and {LONGEST_STUDY:g} at most, but got {minutes}", "Correct it.")
    begin, corpus = time.monotonic(), Corpus.open(data)
    if split is None:
        split = corpus.validation_name(read_info(model).config.data)
    recognizer, utterances = open_scored(model, data, split)
    own_model = recognizer.config.decoding.language_model
    if language_model is None and own_model is not None and recognizer.config.decoding.lm_weight:
        language_model = Path(own_model)
    study = Study(recognizer, utterances, language_model, say, stop)
    greedy, best = study.run(minutes)
    tuning = Tuning(
        corpus_hash=corpus.hash,
        split=split,
        utterances=study.utterances,
        of=len(utterances),
        searches=len(study.found),
        greedy=_measured(greedy.errors),
        tuned=_measured(best.errors),
    )
    own = OwnDecoding(decoding=best.decoding, tuning=tuning)
    write_decoding(model, own)
    (model / CONFIDENCE).unlink(missing_ok=True)  # it was fitted for other options
    confidence = calibrate(recognizer, study.batches, best.errors.hypotheses, corpus.hash, split)
    if confidence is not None:
        write_confidence(model, confidence)
    _add_to_card(model, own, confidence)
    seconds = time.monotonic() - begin
    test, not_compared = _compared(study, greedy, best, corpus)
    if test is not None:
        own = own.model_copy(update={"tuning": (tuning := tuning.model_copy(update={"test": test}))})
        write_decoding(model, own)
        _add_to_card(model, own, confidence)
    change = difference(best.errors, greedy.errors)
    return TunedDecoding(best.decoding, tuning, confidence, change, seconds, not_compared)


def _add_to_card(model: Path, own: OwnDecoding, confidence: Confidence | None) -> None:
    if (model / CARD).is_file():
        card = with_decoding((model / CARD).read_text(encoding="utf-8"), own, confidence)
        (model / CARD).write_text(card, encoding="utf-8")


def held_out_splits(corpus: Corpus, data: Data, tuned_on: Split) -> list[str]:
    """Names of the test splits of a corpus by which nothing of a model was chosen, those named test* first.

    Args:
        data: the model's section `data`; its training and validation splits are left out, whatever their names.
        tuned_on: split by which the decoding options were chosen. Of a fold, the whole split is left out.
    """
    used, undivided = {corpus.undivided(tuned_on).name}, data.model_copy(update={"folds": None})
    for name_of in (corpus.training_name, corpus.validation_name):
        with suppress(InputError):  # the model was trained on another corpus, and this one has no such split
            used.add(name_of(undivided))
    found = [name for name in corpus.splits if is_test(name) and name not in used]
    return sorted(found, key=lambda name: not name.lower().startswith("test"))  # rather than Common Voice's invalidated


def _compared(
    study: Study, greedy: Searched, best: Searched, corpus: Corpus
) -> tuple[HeldOutComparison | None, str | None]:
    """Compares greedy search and the best options on a test split with transcripts, by which nothing was chosen.

    Returns:
        The comparison, or None and why it failed; None twice: there is no such split.
    """
    try:
        names = held_out_splits(corpus, study.recognizer.config.data, study.split)
        split = next((found for name in names if (found := corpus.split(name)).texts and len(found)), None)
        return (None if split is None else _comparison(study, greedy, best, split)), None
    except (OutOfTimeError, InputError, OSError, RuntimeError, MemoryError) as error:  # RuntimeError: of torch
        return None, str(error) or type(error).__name__


def _comparison(study: Study, greedy: Searched, best: Searched, split: Split) -> HeldOutComparison:
    """Compares greedy search and the best options on a split.

    Searched are the first utterances of a seeded permutation, for which the time is enough at the speed of the study.

    Raises:
        OutOfTimeError: it takes three times as long as it should, or the study was stopped.
    """
    test = Study(study.recognizer, split, Path(study.folder) if study.folder else None, stop=study.stop)
    order = np.random.default_rng(0).permutation(len(split))[:MOST_COMPARED]
    rate = (study.encoding + greedy.seconds + best.seconds) / study.audio
    fitting = int((np.cumsum(split.seconds[order]) * rate <= COMPARING_SECONDS).sum())
    chosen = sorted(order[: max(PROBED, fitting)].tolist())
    before, after = test.compare(chosen, (greedy.decoding, best.decoding), 3 * COMPARING_SECONDS)
    return HeldOutComparison(
        split=split.name,
        utterances=test.utterances,
        of=len(split),
        greedy=_measured(before.errors),
        tuned=_measured(after.errors),
        difference=tuple(difference(after.errors, before.errors).interval),
    )


def _measured(errors: UtteranceErrors) -> Measured:
    return Measured(cer=errors.cer, interval=tuple(error_interval(errors)))
