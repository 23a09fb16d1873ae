"""How long a sweep will still take, from what its trials have taken so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asr_platform.study.ledger import TrialRecord
from asr_platform.study.run_record import RUN, SPENT
from asr_platform.study.spending import HOUR

MINUTE, DAY = 60, 24 * HOUR  # seconds
UNKNOWN = "not known before the first epoch"


def time_left(about: Mapping[str, Any], trials: Sequence[TrialRecord], epochs: int, now: float) -> float | None:
    """Wall time in seconds to the end of a sweep that is running, or to its cap of hours; None before any epoch.

    Args:
        about: what the sweep's ledger notes.
        epochs: a full trial's.
        now: seconds since 1970.
    """
    run = about.get(RUN)
    if run is None:
        return None
    elapsed = float(about.get(SPENT, 0.0))
    left = seconds_left(trials, about["trials"], epochs, run["concurrency"], elapsed)
    cap = (about.get("limits") or {}).get("hours")
    if left is not None and cap:
        left = min(left, cap * HOUR - elapsed)
    return None if left is None else max(0.0, left - (now - run["heard"]))


def seconds_left(
    trials: Sequence[TrialRecord], asked: int, epochs: int, concurrency: int, elapsed: float
) -> float | None:
    """Wall time to the sweep's end, as of the moment at which the latest epoch went on record; None before any.

    An unfinished trial, and each that has not begun, is expected to last as the trials so far have lasted: by the
    Kaplan-Meier estimate, in which those that are still running count for the epochs that they have. So long as none
    has been stopped early, all are expected to reach their last epoch.

    What it took besides the seconds of epochs (processes that start, most of all) is shared out among the trials that
    have begun; each that has not, or that waits, is expected to take as much.

    Args:
        asked: the number of trials that the sweep is to have.
        epochs: a full trial's.
        concurrency: trials at once.
        elapsed: wall time of all of the sweep's runs, in seconds.
    """
    pace = {trial.number: np.mean([_seconds(row) for row in trial.curve]) for trial in trials if trial.curve}
    if not pace:
        return None
    usual = float(np.mean(list(pace.values())))
    survival = surviving(trials, epochs)
    unfinished = [trial for trial in trials if trial.state == "running"]
    left = [
        float(pace.get(trial.number, usual) * survival[trial.epochs : epochs].sum() / survival[trial.epochs])
        for trial in unfinished
        if trial.epochs < epochs
    ]
    new = max(0, asked - len(trials))
    left += [usual * float(survival[:epochs].sum())] * new
    at_work = min(concurrency, len(unfinished))
    starts = new + len(unfinished) - at_work
    trained = sum(_seconds(row) for trial in trials for row in trial.curve)
    under_way = usual / 2 * max(0, at_work - 1)  # one has just reported; the others are in the midst of an epoch
    besides = max(0.0, elapsed * min(concurrency, len(trials)) - trained - under_way) / len(trials)
    longest = max(left, default=0.0) + (besides if starts else 0.0)
    return max((sum(left) + starts * besides) / concurrency, longest)


def surviving(trials: Sequence[TrialRecord], epochs: int) -> np.ndarray:
    """The share of trials (0 to 1) that is trained beyond each number of epochs, from 0 to `epochs`.

    Kaplan and Meier, 1958: of those that have been as far, so many were stopped (or failed) there.
    """
    lengths = np.array([trial.epochs for trial in trials])
    stopped = np.array([trial.state in ("pruned", "failed") for trial in trials])
    share, shares = 1.0, []
    for epoch in range(epochs + 1):
        reached = np.count_nonzero(lengths >= epoch)
        if reached:
            share *= 1 - np.count_nonzero(stopped & (lengths == epoch)) / reached
        shares.append(share)
    return np.array(shares)


def in_words(seconds: float | None) -> str:
    """A time to come for people, with no more figures than an estimate has."""
    if seconds is None:
        return UNKNOWN
    if seconds < MINUTE:
        return "less than a minute"
    if seconds < 10 * MINUTE:
        return f"about {round(seconds / MINUTE)} min"
    if seconds < 57.5 * MINUTE:
        return f"about {5 * round(seconds / MINUTE / 5)} min"
    if seconds < 10 * HOUR:
        return f"about {round(2 * seconds / HOUR) / 2:g} h"
    if seconds < 2 * DAY:
        return f"about {round(seconds / HOUR)} h"
    return f"about {round(seconds / DAY)} days"


def _seconds(row: dict[str, float]) -> float:
    return row["train_seconds"] + row["validation_seconds"]
