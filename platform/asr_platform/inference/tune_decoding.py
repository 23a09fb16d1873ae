"""Tunes a recogniser's decoding options on a split, and makes the best ones the model directory's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_platform.analysis.bootstrap import Difference, difference, error_interval
from asr_platform.inference.calibration import calibrate
from asr_platform.inference.decoding_study import Study
from asr_platform.inference.evaluate import open_scored
from asr_platform.tracking.model_card import CARD, with_decoding
from trainables.bounds import LONGEST_STUDY
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.decoding_options import Measured, OwnDecoding, Tuning
from trainables.inference.model_directory import read_info, write_decoding
from trainables.inference.model_files import CONFIDENCE
from trainables.inference.words import Confidence, write_confidence

MINUTES = 5.0  # default length of a study


@dataclass(frozen=True)
class TunedDecoding:
    """The options with the lowest CER, and how they compare with greedy search on the same utterances.

    Args:
        confidence: calibration of the confidence of words with these options; None: there is none.
        difference: CER with the options minus CER of greedy search.
        seconds: wall time of the study.
    """

    decoding: Decoding
    tuning: Tuning
    confidence: Confidence | None
    difference: Difference
    seconds: float

    def as_tree(self) -> dict[str, Any]:
        """The result as a JSON object; rates are fractions."""
        return {
            "decoding": self.decoding.model_dump(mode="json"),
            **self.tuning.model_dump(mode="json"),
            "confidence": self.confidence and self.confidence.model_dump(mode="json"),
            "difference": {"cer": self.difference.value, "interval": list(self.difference.interval)},
            "seconds": round(self.seconds, 1),
        }


def tune_decoding(
    model: Path, data: Path, split: str | None = None, minutes: float = MINUTES, language_model: Path | None = None,
    say: Callable[[str], None] = lambda line: None, stop: Callable[[], bool] = lambda: False,
) -> TunedDecoding:  # fmt: skip
    """Searches the decoding options of a recogniser for the lowest CER on a split, and stores them in its directory.

    With the options found, the confidence of words is calibrated on the same utterances. The split should be one that
    the model was not trained on. If the model has a card, the figures are added to it.

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
    if (model / CARD).is_file():
        card = with_decoding((model / CARD).read_text(encoding="utf-8"), own, confidence)
        (model / CARD).write_text(card, encoding="utf-8")
    seconds = time.monotonic() - begin
    return TunedDecoding(best.decoding, tuning, confidence, difference(best.errors, greedy.errors), seconds)


def _measured(errors: UtteranceErrors) -> Measured:
    return Measured(cer=errors.cer, interval=tuple(error_interval(errors)))
