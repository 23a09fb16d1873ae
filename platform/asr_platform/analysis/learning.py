"""Whether the models of a sweep have learned to recognise speech at all, and what to try where none has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EMPTY_TRANSCRIPT_CER = 1.0  # each character of the reference is a deletion
MOST_CER = 0.6  # above it, a text shares little with its reference but the frequent characters
# A decoder alone can guess texts of few words up to about this CER, while greedy CTC finds nothing in the audio.
MOST_CER_WITHOUT_CTC = 0.3

REMEDIES = (
    "begin with the weights of another model:  --init-from MODEL",
    "prepare more speech: from random weights, reading takes tens of hours, words from a short list one hour",
    "train longer: --epochs",
)
"""What to try where nothing was learned, one suggestion a line."""


def nothing_learned(metrics: Mapping[str, Any] | None) -> str:
    """Why a recogniser with these metrics of its best epoch has learned nothing, such as `val CER 97.20%`.

    Empty if it has learned something, or if `metrics` are None or of a language model. An encoder that reads by greedy
    CTC has learned something, even if the decoder, which learns later, has not.
    """
    cer = (metrics or {}).get("val_cer")
    if metrics is None or cer is None:
        return ""
    ctc = metrics.get("val_ctc_cer", EMPTY_TRANSCRIPT_CER)
    if ctc <= MOST_CER:
        return ""
    if cer >= EMPTY_TRANSCRIPT_CER:
        return f"val CER {cer:.2%}: no better than an empty transcript"
    if cer > MOST_CER:
        return f"val CER {cer:.2%}"
    if ctc >= EMPTY_TRANSCRIPT_CER and cer > MOST_CER_WITHOUT_CTC:
        return f"val CER {cer:.2%}, and greedy CTC {ctc:.2%}: texts are guessed, not heard"
    return ""
