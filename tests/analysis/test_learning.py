"""A sweep whose best model writes nothing of use is told apart from one that has learned something."""

from __future__ import annotations

from typing import Any

import pytest
import records

from asr_platform.analysis.learning import nothing_learned


def row(cer: float, ctc: float = 0.9) -> dict[str, Any]:
    return {**records.row(1, cer), "val_ctc_cer": ctc}


@pytest.mark.parametrize(("metrics", "why"), [
    (row(1.0), "val CER 100.00%: no better than an empty transcript"),
    (row(1.7), "val CER 170.00%: no better than an empty transcript"),
    (row(0.61), "val CER 61.00%"),
    (row(0.45, ctc=1.0), "val CER 45.00%, and greedy CTC 100.00%: texts are guessed, not heard"),
])  # fmt: skip
def test_nothing_was_learned(metrics: dict[str, Any], why: str) -> None:
    assert nothing_learned(metrics) == why


@pytest.mark.parametrize("metrics", [
    row(0.6), row(0.05, ctc=1.0), row(0.45, ctc=0.99), row(0.95, ctc=0.01), {"val_character_perplexity": 29.0}, None,
])  # fmt: skip
def test_something_was_learned_or_there_is_nothing_to_judge(metrics: dict[str, Any] | None) -> None:
    """One of decoder and CTC head that reads is enough; perplexities have no such bound."""
    assert nothing_learned(metrics) == ""
