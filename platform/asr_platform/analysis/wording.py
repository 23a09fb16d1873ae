"""How figures of trials are worded, the same in the terminal, in MLflow and in the report."""

from __future__ import annotations

from collections.abc import Sequence

from asr_platform.analysis.bootstrap import Interval
from asr_platform.study.ledger import TrialRecord
from trainables.evaluation.metrics import OBJECTIVES, objective


def heading_of(trials: list[TrialRecord]) -> str:
    """Of what the trials are ranked by."""
    return next((OBJECTIVES[objective(trial.best)] for trial in trials if trial.best), OBJECTIVES["val_cer"])


def interval_text(interval: Interval) -> str:
    """`2.31-3.40%`, with a dash."""
    return f"{100 * interval.low:.2f}–{interval.high:.2%}"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def trials_listed(numbers: Sequence[int]) -> str:
    """`trial 2`, or `trials 2, 3 and 7`."""
    return f"trial{'s' * (len(numbers) > 1)} {listed(list(map(str, numbers)))}"
