"""Words of a recogniser's texts: their times, and their confidence.

Times are those of the likeliest CTC alignment. The confidence of a word is the probability that it is right: a logistic
regression on its evidence (decoding/evidence.py), fitted on speech with known texts (Platt, 1999, "Probabilistic
outputs for support vector machines"), whose coefficients are in `confidence.json` of the model directory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from trainables.data.text.tokenizer import Tokenizer
from trainables.decoding import Word, ctc_align
from trainables.decoding.alignment import Span
from trainables.decoding.evidence import heads, word_evidence
from trainables.errors import DamagedError
from trainables.folders import written_whole
from trainables.inference.model_directory import read_json, validated
from trainables.inference.model_files import CONFIDENCE
from trainables.models.speech_transformer import Encoded, SpeechModel

if TYPE_CHECKING:
    from trainables.inference.recognizer import Recognizer


class Confidence(BaseModel):
    """Content of `confidence.json`.

    Attributes:
        intercept, coefficients: of the logistic regression, one coefficient for each head.
        corpus_hash: content hash of the corpus that it was fitted on.
        words, wrong: number of recognised words of the split, and how many of them were wrong.
        calibration_error: expected calibration error, over words that the regression was not fitted on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    intercept: float
    coefficients: list[float]
    corpus_hash: str
    split: str
    words: int = Field(ge=1)
    wrong: int = Field(ge=0)
    calibration_error: float = Field(ge=0, le=1)

    def of(self, evidence: Sequence[float]) -> float:
        """Probability that a word with this evidence is right."""
        total = self.intercept + sum(a * b for a, b in zip(self.coefficients, evidence, strict=True))
        return 1 / (1 + math.exp(-total))


def read_confidence(folder: Path) -> Confidence | None:
    """Content of `confidence.json` of a model directory; None if there is none.

    Raises:
        DamagedError: the file cannot be read, or has mistakes.
    """
    path = folder / CONFIDENCE
    return validated(read_json(path), Confidence, path) if path.is_file() else None


def confidence_of(folder: Path, model: SpeechModel) -> Confidence | None:
    """Calibration of a loaded model's word confidences; None if its directory has none.

    Raises:
        DamagedError: the file cannot be read, has mistakes, or is of a model with other heads.
    """
    found = read_confidence(folder)
    if found is not None and len(found.coefficients) != len(heads(model)):
        problem = f"{len(found.coefficients)} coefficients for the heads {', '.join(heads(model))}"
        raise DamagedError(f"{folder / CONFIDENCE}: {problem}", "Delete the file.")
    return found


def write_confidence(folder: Path, confidence: Confidence) -> None:
    """Makes a calibration that of a model directory, in place of an earlier one."""
    with written_whole(folder / CONFIDENCE) as file:
        file.write(confidence.model_dump_json(indent=2) + "\n")


class AlignedWords(NamedTuple):
    """The words of a text: the encoder states of each (first, and after the last), and its evidence.

    Evidence is empty if it was not asked for.
    """

    spans: list[Span]
    evidence: list[list[float]]


def words_of(recognizer: Recognizer, texts: Sequence[str], encoded: Encoded) -> list[list[Word]]:
    """Words of each text with their times in seconds and, if it is calibrated, their confidence.

    A model trained without CTC has no times: the words are then spread evenly over the utterance.

    Args:
        encoded: from `model.encode`.
    """
    seconds = recognizer.config.model.ctc_reduction * recognizer.recipe.hop_seconds  # of a state with CTC logits
    rows = [text.split() for text in texts]
    if not recognizer.has_times:
        _, lengths_B = recognizer.model.ctc_logits(encoded)
        return [_spread(row, length * seconds) for row, length in zip(rows, lengths_B.tolist(), strict=True)]
    calibrated, found = recognizer.confidence, []
    for row, aligned in zip(rows, aligned_words(recognizer, rows, encoded, calibrated is not None), strict=True):
        words = [Word(word, *(end * seconds for end in ends)) for word, ends in zip(row, aligned.spans, strict=True)]
        if calibrated is not None:
            sure = map(calibrated.of, aligned.evidence)
            words = [word._replace(confidence=confidence) for word, confidence in zip(words, sure, strict=True)]
        found.append(words)
    return found


def aligned_words(
    recognizer: Recognizer, rows: Sequence[list[str]], encoded: Encoded, with_evidence: bool
) -> list[AlignedWords]:
    """Encoder states of the words of each text on the likeliest CTC alignment.

    Args:
        rows: words of each text.
        encoded: from `model.encode`.
        with_evidence: whether to say how sure the model is of each word.
    """
    tokens, places = zip(*(_tokens(recognizer.tokenizer, row) for row in rows), strict=True)
    with recognizer.autocast():
        ctc_logits_BSV, state_lengths_B = recognizer.model.ctc_logits(encoded)
        spans = ctc_align(ctc_logits_BSV, state_lengths_B, tokens)
        evidence: list[list[list[float]]] = [[] for _ in rows]
        if with_evidence:
            evidence = word_evidence(recognizer.model, encoded, ctc_logits_BSV, tokens, spans, places)
    return [
        AlignedWords([(row[first][0], row[last][1]) for first, last in ends], found)
        for row, ends, found in zip(spans, places, evidence, strict=True)
    ]


def _tokens(tokenizer: Tokenizer, words: list[str]) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokens of a text, and indices of the first and the last token of each word."""
    between = tokenizer.encode([" "])[0] if tokenizer.kind == "char" else []
    tokens: list[int] = []
    places = []
    for word in tokenizer.encode(words):
        tokens += between if tokens else []
        places.append((len(tokens), len(tokens) + len(word) - 1))
        tokens += word
    return tokens, places


def _spread(words: list[str], seconds: float) -> list[Word]:
    """Times for words, spread evenly over `seconds`."""
    each = seconds / max(1, len(words))
    return [Word(word, number * each, (number + 1) * each) for number, word in enumerate(words)]
