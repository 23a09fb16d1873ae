"""Error rates of a whole split, (substitutions + deletions + insertions) / reference length, and what ranks models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jiwer

from trainables.data.text.transcripts import normalized

OBJECTIVES = {"val_cer": "val CER", "val_character_perplexity": "val perplexity"}
"""What an epoch's metrics may be ranked by, lower being better, with its name for people: a recogniser's validation CER
(a fraction), or a language model's perplexity a character, which tokenizers of any size share."""


def objective(metrics: Mapping[str, Any]) -> str:
    """The key of what an epoch's metrics are ranked by."""
    return next(key for key in OBJECTIVES if key in metrics)


def objective_value(metrics: Mapping[str, Any]) -> float:
    """By how much: lower is better."""
    return float(metrics[objective(metrics)])


def objective_text(metrics: Mapping[str, Any]) -> str:
    """The same for people: `2.83%`, or `4.127`."""
    value = objective_value(metrics)
    return f"{value:.2%}" if objective(metrics) == "val_cer" else f"{value:.3f}"


class Piece(NamedTuple):
    """A stretch of an alignment: characters or words of the reference beside those of the hypothesis.

    An insertion has none of the reference, a deletion none of the hypothesis, all others equally many of both.
    """

    kind: Literal["equal", "substitute", "insert", "delete"]
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]

    @property
    def errors(self) -> int:
        return 0 if self.kind == "equal" else max(len(self.reference), len(self.hypothesis))


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """CER over all characters of the split, not a mean of per-utterance rates. May exceed 1."""
    return float(jiwer.cer(_normalized(references), _normalized(hypotheses)))


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """WER over all words of the split, not a mean of per-utterance rates. May exceed 1."""
    return float(jiwer.wer(_normalized(references), _normalized(hypotheses)))


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Piece]]:
    """The alignment that CER counts, an utterance each: white space at a text's ends is no part of it."""
    return _pieces(jiwer.process_characters(_normalized(references), _normalized(hypotheses)))


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Piece]]:
    """The alignment that WER counts, an utterance each."""
    return _pieces(jiwer.process_words(_normalized(references), _normalized(hypotheses)))


def _normalized(texts: Sequence[str]) -> list[str]:
    """One normal form for both sides, so that letters that look the same count as the same."""
    return [normalized(text) for text in texts]


def _pieces(output: jiwer.CharacterOutput | jiwer.WordOutput) -> list[list[Piece]]:
    return [
        [
            Piece(
                chunk.type,
                tuple(reference[chunk.ref_start_idx : chunk.ref_end_idx]),
                tuple(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]),
            )
            for chunk in chunks
            if chunk.ref_end_idx > chunk.ref_start_idx or chunk.hyp_end_idx > chunk.hyp_start_idx
        ]
        for chunks, reference, hypothesis in zip(output.alignments, output.references, output.hypotheses, strict=True)
    ]
