"""Simulation of a sweep: trials of known cost and random quality, pruned by the sweep's settings."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr_platform.study.halving import PROGRESS, Rungs
from search_spaces.settings import LATE_SHARE, Settings


@dataclass(frozen=True)
class TrialCost:
    """Wall time of a full trial.

    Args:
        start: seconds outside epochs, such as the start of processes.
        epochs: seconds of each epoch.
        warmup: share of the trial (0 to 1) in which the learning rate rises.
    """

    start: float
    epochs: np.ndarray
    warmup: float = 0.0


@dataclass(frozen=True)
class Simulation:
    """Outcome of a simulated sweep.

    Args:
        wall: seconds from the first trial's start to the last trial's end.
        trained: sum of the seconds of all epochs of all trials.
        lengths: number of epochs for which each trial was trained.
    """

    wall: float
    trained: float
    lengths: np.ndarray


def simulate(
    trials: Sequence[TrialCost],
    settings: Settings,
    concurrency: int,
    random: np.random.Generator,
    epoch_length: float = 1.0,
    plateau: bool = True,
) -> Simulation:
    """Simulates a sweep that runs `trials` in order, `concurrency` at a time, and prunes them with `Rungs`.

    Each trial has a quality, a uniform random number from 0 to 1, which is its metric after every epoch.

    Args:
        epoch_length: length of an epoch in the unit of `asha.grace` (epochs, updates or hours of audio).
        plateau: whether each trial begins on the plateau (`asha.plateau`), and leaves it at an epoch that is uniform
            over the first half of the trial; else no trial is ever on the plateau.
    """
    # Rungs compare the quality, given as val_ctc_cer, so that val_cer can tell whether a trial is on the plateau.
    asha = settings.asha.model_copy(update={"metric": "val_ctc_cer"})
    rungs = Rungs(settings.model_copy(update={"asha": asha}))
    quality = random.random(len(trials))
    leaves_at = plateau * LATE_SHARE * settings.epochs * random.random(len(trials))
    lengths = np.zeros(len(trials), dtype=int)
    events: list[tuple[float, int, int]] = []  # end of an epoch: time, trial, epoch
    waiting = iter(range(len(trials)))

    def start_next(now: float) -> None:
        number = next(waiting, None)
        if number is not None:
            heapq.heappush(events, (now + trials[number].start + trials[number].epochs[0], number, 1))

    for _ in range(concurrency):
        start_next(0.0)
    wall = 0.0
    while events:
        wall, number, epoch = heapq.heappop(events)
        trial, lengths[number] = trials[number], epoch
        row = {
            "epoch": epoch,
            PROGRESS[asha.unit]: epoch * epoch_length,
            "val_cer": 0.0 if epoch >= leaves_at[number] else np.inf,
            "val_ctc_cer": quality[number],
        }
        if rungs.verdict(number, row, trial.warmup) or epoch == settings.epochs:
            start_next(wall)
        else:
            heapq.heappush(events, (wall + trial.epochs[epoch], number, epoch + 1))
    trained = sum(float(trial.epochs[:length].sum()) for trial, length in zip(trials, lengths, strict=True))
    return Simulation(float(wall), trained, lengths)
