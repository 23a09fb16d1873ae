"""Error rates over a whole split: (substitutions + deletions + insertions) / reference length."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """CER over all characters of the split, not a mean of per-utterance rates. May exceed 1."""
    return float(jiwer.cer(list(references), list(hypotheses)))


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """WER over all words of the split, not a mean of per-utterance rates. May exceed 1."""
    return float(jiwer.wer(list(references), list(hypotheses)))
