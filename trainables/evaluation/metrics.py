"""Error rates, alignments of texts, and the objective that ranks models.

An error rate is (substitutions + deletions + insertions) / reference length, summed over a whole split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import jiwer

from trainables.data.text.transcripts import normalized

OBJECTIVES = {"val_cer": "val CER", "val_character_perplexity": "val perplexity"}
"""Metrics that rank models, lower being better, with their display names: a recogniser's validation CER (a fraction),
or a language model's perplexity per character, which can be compared between tokenizers."""


def objective(metrics: Mapping[str, Any]) -> str:
    """Name of the metric in `OBJECTIVES` by which a model with these metrics of an epoch is ranked."""
    return next(key for key in OBJECTIVES if key in metrics)


def objective_value(metrics: Mapping[str, Any]) -> float:
    """Value of the objective in the metrics of an epoch; lower is better."""
    return float(metrics[objective(metrics)])


def objective_text(metrics: Mapping[str, Any]) -> str:
    """Value of the objective for display: a CER as `2.83%`, a perplexity as `4.127`."""
    value = objective_value(metrics)
    return f"{value:.2%}" if objective(metrics) == "val_cer" else f"{value:.3f}"


class AlignedPair(NamedTuple):
    """A character or word of the reference beside its counterpart in the hypothesis; "" where there is none."""

    reference: str
    hypothesis: str

    @property
    def operation(self) -> Literal["equal", "substitute", "insert", "delete"]:
        """Edit that turns the reference into the hypothesis here."""
        if self.reference == self.hypothesis:
            return "equal"
        if not self.reference:
            return "insert"
        return "substitute" if self.hypothesis else "delete"


Alignment = list[AlignedPair]


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """CER over all characters of the split, not the mean over utterances; may exceed 1."""
    return float(jiwer.cer(_normalized(references), _normalized(hypotheses)))


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """WER over all words of the split, not the mean over utterances; may exceed 1."""
    return float(jiwer.wer(_normalized(references), _normalized(hypotheses)))


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Character alignment of each utterance, as CER counts it: white space at both ends of a text is removed."""
    return _alignments(jiwer.process_characters(_normalized(references), _normalized(hypotheses)))


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Word alignment of each utterance, as WER counts it."""
    return _alignments(jiwer.process_words(_normalized(references), _normalized(hypotheses)))


class Counts(NamedTuple):
    """Errors in each utterance (substitutions + deletions + insertions), and length of its reference."""

    errors: list[int]
    lengths: list[int]


def count_characters(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Character errors of each utterance, as CER counts them."""
    return _counts(jiwer.process_characters(_normalized(references), _normalized(hypotheses)))


def count_words(alignments: Sequence[Alignment]) -> Counts:
    """Word errors of utterances that `align_words` has aligned, as WER counts them."""
    return Counts(
        [sum(pair.operation != "equal" for pair in alignment) for alignment in alignments],
        [sum(pair.operation != "insert" for pair in alignment) for alignment in alignments],
    )


def _counts(output: jiwer.CharacterOutput) -> Counts:
    errors = [
        sum(
            max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
            if chunk.type != "equal"
        )
        for chunks in output.alignments
    ]
    return Counts(errors, [len(reference) for reference in output.references])


def _normalized(texts: Sequence[str]) -> list[str]:
    """Texts in one Unicode normal form, so that letters that look alike count as equal."""
    return [normalized(text) for text in texts]


def _alignments(output: jiwer.CharacterOutput | jiwer.WordOutput) -> list[Alignment]:
    return [
        [
            AlignedPair(*pair)
            for chunk in chunks
            for pair in zip_longest(
                reference[chunk.ref_start_idx : chunk.ref_end_idx],
                hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx],
                fillvalue="",
            )
        ]
        for chunks, reference, hypothesis in zip(output.alignments, output.references, output.hypotheses, strict=True)
    ]
