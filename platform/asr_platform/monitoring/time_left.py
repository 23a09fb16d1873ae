"""Time that a sweep will still take, estimated from what its trials have taken so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asr_platform.study.ledger import TrialRecord
from asr_platform.study.run_record import RUN, SPENT, last_heartbeat
from asr_platform.study.spending import HOUR

MINUTE, DAY = 60, 24 * HOUR  # seconds
UNKNOWN = "not known before the first epoch"


def time_left(about: Mapping[str, Any], trials: Sequence[TrialRecord], epochs: int, now: float) -> float | None:
    """Wall time in seconds until a running sweep ends or reaches its cap of hours, whichever comes first.

    None before any epoch has finished.

    Args:
        about: facts about the sweep (`Ledger.about`).
        epochs: length of a full trial in epochs.
        now: current time in seconds since 1970.
    """
    run = about.get(RUN)
    if run is None:
        return None
    elapsed = float(about.get(SPENT, 0.0))
    concurrency = run["concurrency"] or 1  # 0 while the cluster has no node
    left = seconds_left(trials, about["trials"], epochs, concurrency, elapsed)
    cap = (about.get("limits") or {}).get("hours")
    if left is not None and cap:
        left = min(left, cap * HOUR - elapsed)
    return None if left is None else max(0.0, left - (now - (last_heartbeat(run) or now)))


def seconds_left(
    trials: Sequence[TrialRecord], asked: int, epochs: int, concurrency: int, elapsed: float
) -> float | None:
    """Wall time in seconds from the latest recorded epoch to the end of a sweep; None before any has finished.

    The expected length of unfinished and future trials is a Kaplan-Meier estimate, with running trials censored. So
    until a trial is pruned, all are expected to reach their last epoch. Time outside epochs, such as the start of
    processes, is averaged over the trials that have begun, and added for each start of a new or waiting trial. Paused
    trials take no time.

    Args:
        asked: number of trials of the finished sweep.
        epochs: length of a full trial in epochs.
        concurrency: number of trials that run at once.
        elapsed: wall time of all runs of the sweep, in seconds.
    """
    pace = {trial.number: trial.seconds / trial.epochs for trial in trials if trial.epochs}
    if not pace:
        return None
    usual = float(np.mean(list(pace.values())))
    survival = surviving(trials, epochs)
    unfinished = [trial for trial in trials if trial.state == "running" and not trial.paused]
    left = [
        float(pace.get(trial.number, usual) * survival[trial.epochs : epochs].sum() / survival[trial.epochs])
        for trial in unfinished
        if trial.epochs < epochs
    ]
    new = max(0, asked - len(trials))
    left += [usual * float(survival[:epochs].sum())] * new
    running = min(concurrency, len(unfinished))
    starts = new + len(unfinished) - running
    trained = sum(trial.seconds for trial in trials)
    unrecorded = usual / 2 * max(0, running - 1)  # one has just reported; the others are halfway through an epoch
    start = max(0.0, elapsed * min(concurrency, len(trials)) - trained - unrecorded) / len(trials)
    longest = max(left, default=0.0) + (start if starts else 0.0)
    return max((sum(left) + starts * start) / concurrency, longest)


def surviving(trials: Sequence[TrialRecord], epochs: int) -> np.ndarray:
    """Share of trials (0 to 1) that train beyond each number of epochs, from 0 to `epochs` (Kaplan and Meier, 1958)."""
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
    """A duration in words, rounded as an estimate should be, such as "about 15 min"."""
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
