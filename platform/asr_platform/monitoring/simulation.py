"""Simulation of a sweep: trials of known cost and random quality, pruned by the sweep's settings."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr_platform.study.allocation.promotions import Promotions
from asr_platform.study.allocation.rungs import PROGRESS, Rungs
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
        driver: seconds in which the driver acted on ends of epochs.
    """

    wall: float
    trained: float
    lengths: np.ndarray
    driver: float = 0.0


def simulate(
    trials: Sequence[TrialCost],
    settings: Settings,
    concurrency: int,
    random: np.random.Generator,
    epoch_length: float = 1.0,
    plateau: bool = True,
    driver: float = 0.0,
) -> Simulation:
    """Simulates a sweep that runs `trials`, `concurrency` at a time, promotes them and prunes them by `settings`.

    Args:
        epoch_length: length of an epoch in the unit of `asha.grace` (epochs, updates or hours of audio).
        plateau: whether each trial begins on the plateau (`asha.plateau`), and leaves it at an epoch that is uniform
            over the first half of the trial; else no trial is ever on the plateau.
        driver: seconds in which the driver acts on the end of an epoch, of one trial after the other.
    """
    return _Sweep(trials, settings, concurrency, random, epoch_length, plateau, driver).run()


class _Sweep:
    """A simulated sweep.

    Each trial has a quality, a uniform random number from 0 to 1, which is its metric after every epoch. Where trials
    wait to be promoted, the metric begins at another such number, moves to the quality and falls to a twentieth of it:
    promotions extrapolate curves, and would see at once which trial is the best if none changed.
    """

    def __init__(
        self, trials: Sequence[TrialCost], settings: Settings, concurrency: int, random: np.random.Generator,
        epoch_length: float, plateau: bool, driver: float,
    ) -> None:  # fmt: skip
        # Rungs compare the quality, given as val_ctc_cer, so that val_cer can tell whether a trial is on the plateau.
        asha = settings.asha.model_copy(update={"metric": "val_ctc_cer"})
        self.trials, self.settings = trials, settings.model_copy(update={"asha": asha})
        self.concurrency, self.epoch_length, self.driver = concurrency, epoch_length, driver
        self.quality = random.random(len(trials))
        self.leaves_at = plateau * LATE_SHARE * settings.epochs * random.random(len(trials))
        self.at_first = random.random(len(trials)) if settings.promotions else self.quality
        costs = [(trial.start / float(trial.epochs.mean())) for trial in trials]
        self.rungs, self.promotions = Rungs(self.settings), Promotions(self.settings, float(np.mean(costs)))
        self.lengths = np.zeros(len(trials), dtype=int)
        self.begun = 0
        self.events: list[tuple[float, int, int | None]] = []  # end of an epoch: time, trial, last epoch of this stage

    def run(self) -> Simulation:
        wall = 0.0
        while self._fill(wall):
            ended, number, until = heapq.heappop(self.events)
            wall = max(wall, ended) + self.driver
            self.lengths[number] += 1
            epoch, row = int(self.lengths[number]), self._row(number)
            self.promotions.record(number, row)
            pruned = self.rungs.verdict(number, row, self.trials[number].warmup)
            if pruned:
                self.promotions.ended |= {number}
            if epoch == self.settings.epochs or pruned or (epoch == until and self.promotions.wait(number, epoch)):
                continue
            self._train(wall, number, until)
        costs = zip(self.trials, self.lengths, strict=True)
        trained = sum(float(trial.epochs[:length].sum()) for trial, length in costs)
        return Simulation(float(wall), trained, self.lengths, self.driver * int(self.lengths.sum()))

    def _fill(self, now: float) -> bool:
        """Gives every free place a trial, if there is one; returns whether any place has one."""
        while len(self.events) < self.concurrency:
            number = self.promotions.next(self._begin, len(self.trials) - self.begun)
            self.promotions.ended |= self.promotions.given_up.keys()
            if number is None:
                break
            self._train(now + self.trials[number].start, number, self.promotions.next_epoch(int(self.lengths[number])))
        return bool(self.events)

    def _begin(self) -> int | None:
        """Number of the next new trial; None if none is left."""
        if self.begun == len(self.trials):
            return None
        self.begun += 1
        return self.begun - 1

    def _train(self, now: float, number: int, until: int | None) -> None:
        """Begins the next epoch of a trial."""
        heapq.heappush(self.events, (now + self.trials[number].epochs[self.lengths[number]], number, until))

    def _row(self, number: int) -> dict[str, float]:
        """Metrics of a trial's last epoch."""
        epoch = int(self.lengths[number])
        share = epoch / self.settings.epochs
        metric = self.quality[number] ** share * self.at_first[number] ** (1 - share)
        return {
            "epoch": epoch,
            PROGRESS[self.settings.asha.unit]: epoch * self.epoch_length,
            "val_cer": 0.0 if epoch >= self.leaves_at[number] else np.inf,
            "val_ctc_cer": float(metric * (0.05**share if self.settings.promotions else 1.0)),
        }
