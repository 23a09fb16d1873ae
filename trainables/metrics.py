"""Error rates over a whole split: (substitutions + deletions + insertions) / reference length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jiwer


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
    return float(jiwer.cer(list(references), list(hypotheses)))


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """WER over all words of the split, not a mean of per-utterance rates. May exceed 1."""
    return float(jiwer.wer(list(references), list(hypotheses)))


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Piece]]:
    """The alignment that CER counts, an utterance each: white space at a text's ends is no part of it."""
    return _pieces(jiwer.process_characters(list(references), list(hypotheses)))


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Piece]]:
    """The alignment that WER counts, an utterance each."""
    return _pieces(jiwer.process_words(list(references), list(hypotheses)))


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
