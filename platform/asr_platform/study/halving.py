"""Asynchronous successive halving (Li et al., 2020, arXiv 1810.05934), in its stopping form.

Three things are added for attention decoders, which stay above 60% CER for long and then fall within a few epochs:
no trial is pruned before its own warm-up and two epochs have passed; no trial on the plateau is pruned before half of
its length; and rungs may compare the CER of greedy CTC, which falls earlier and more smoothly.

`Promotions` decides which trials continue first, `Rungs` which trials are pruned. Both are made again from recorded
epochs after a restart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from search_spaces.settings import LATE_SHARE, Asha, Settings
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text, objective_value

PROGRESS = {"epochs": "epoch", "updates": "updates", "hours": "audio_hours"}  # a row's key for each unit of grace
EPOCHS_AFTER_WARMUP = 2
HALF = -1  # index of the rung at half of a trial
NAMES = {**OBJECTIVES, "val_ctc_cer": "val CTC CER"}


def ranking_value(asha: Asha, row: Mapping[str, Any]) -> float:
    """The value of an epoch by which rungs compare trials; lower is better."""
    return float(row[asha.metric]) if asha.metric else objective_value(row)


class Promotions:
    """Decides which trials continue first, from their values at the epochs of `Settings.promotions`.

    So early, pruning would be a guess; waiting costs a trial nothing but its turn. A trial is promoted while it is
    among the best 1 / reduction of the trials with as many epochs.

    Attributes:
        values: value of each trial at an epoch of promotion, by epoch and number of the trial.
        waiting: epochs of each trial that waits, by its number.
    """

    def __init__(self, settings: Settings) -> None:
        self.asha = settings.asha
        self.values: dict[int, dict[int, float]] = {epoch: {} for epoch in settings.promotions}
        self.waiting: dict[int, int] = {}

    def next_epoch(self, epochs: int) -> int | None:
        """The epoch after which a trial with `epochs` epochs waits next; None if it does not wait any more."""
        return next((epoch for epoch in self.values if epoch > epochs), None)

    def record(self, number: int, row: Mapping[str, Any]) -> None:
        """Takes in an epoch of a trial."""
        if row["epoch"] in self.values:
            self.values[row["epoch"]][number] = ranking_value(self.asha, row)

    def wait(self, number: int, epochs: int) -> bool:
        """Lets a trial wait if it is to wait after `epochs` epochs; returns whether it is."""
        if epochs in self.values:
            self.waiting[number] = epochs
        return epochs in self.values

    def promoted(self) -> int | None:
        """The waiting trial that continues before any new trial; None if no waiting trial is promoted."""
        for epoch, values in reversed(self.values.items()):
            ranked = sorted(values, key=lambda number: (values[number], number))
            for number in ranked[: int(len(ranked) / self.asha.reduction)]:
                if self.waiting.get(number) == epoch:
                    return number
        return None

    def best(self) -> int | None:
        """Of the waiting trials with the most epochs, the best; None if no trial waits."""
        return min(
            self.waiting, key=lambda one: (-self.waiting[one], self.values[self.waiting[one]][one]), default=None
        )


class Rungs:
    """Decides, epoch by epoch, which trials of a sweep are pruned.

    Attributes:
        recorded: value of each trial at each rung, by index of rung and number of trial.
        off_plateau: numbers of the trials whose CER has been below the plateau threshold.
    """

    def __init__(self, settings: Settings) -> None:
        self.asha, self.epochs = settings.asha, settings.epochs
        self.first = settings.first_rung
        self.recorded: dict[int, dict[int, float]] = {}
        self.off_plateau: set[int] = set()

    def places(self, length: float) -> dict[int, float]:
        """Where the rungs of a trial lie, by index, in order.

        Index 0 is the first rung, and each next one lies `reduction` times as far. With a plateau threshold, one more
        rung, `HALF`, lies at half of the trial, where trials on the plateau are first judged. Rungs are known by
        their index, since their place may differ from trial to trial, and in its last digits from epoch to epoch.

        Args:
            length: length of a full trial, in the unit of grace, as the places are.
        """
        steps = (self.first * self.asha.reduction**index for index in itertools.count())
        places = dict(enumerate(itertools.takewhile(lambda place: place < length, steps)))
        half = LATE_SHARE * length
        if (
            self.asha.plateau is not None
            and self.first < half
            and not any(math.isclose(half, place) for place in places.values())
        ):
            places[HALF] = half
        return dict(sorted(places.items(), key=lambda item: item[1]))

    def record(self, number: int, row: Mapping[str, Any]) -> tuple[float, float] | None:
        """Takes in an epoch of a trial.

        Returns:
            Place and current cutoff of the rung that the trial has reached with this epoch; None if it has reached no
            new rung.
        """
        if self.asha.plateau is None or row.get("val_cer", 0.0) < self.asha.plateau:
            self.off_plateau.add(number)
        progress = row[PROGRESS[self.asha.unit]]
        places = self.places(progress * self.epochs / row["epoch"])  # as if all epochs were like those so far
        reached = [index for index, place in places.items() if place <= progress]
        rung = self.recorded.setdefault(reached[-1], {}) if reached else {}
        if not reached or number in rung or row["epoch"] >= self.epochs:
            return None
        # As Ray's scheduler computes it, to the last bit.
        best = (1 - 1 / self.asha.reduction) * 100
        cutoff = -np.percentile([-value for value in rung.values()], best) if rung else math.inf
        rung[number] = ranking_value(self.asha, row)
        return places[reached[-1]], float(cutoff)

    def verdict(self, number: int, row: Mapping[str, Any], warmup: float) -> str | None:
        """Takes in an epoch of a trial; returns in words why the trial is pruned, None if it continues.

        Args:
            warmup: the trial's warm-up, as a share of its length.
        """
        reached = self.record(number, row)
        if reached is None:
            return None
        place, cutoff = reached
        value, share = ranking_value(self.asha, row), row["epoch"] / self.epochs
        young = row["epoch"] < math.ceil(warmup * self.epochs) + EPOCHS_AFTER_WARMUP
        on_plateau = number not in self.off_plateau and share < LATE_SHARE
        if value <= cutoff or (self.asha.grace is None and young) or on_plateau:
            return None
        key = self.asha.metric or objective(row)
        where = f"epoch {place:g}" if self.asha.unit == "epochs" else f"{place:g} {self.asha.unit}"
        ours, theirs = (objective_text({objective(row): figure}) for figure in (value, cutoff))  # all CERs alike
        return f"rung at {where}: {NAMES[key]} {ours} against a cutoff of {theirs}"
