"""Rungs: which trials are pruned, by asynchronous successive halving (Li et al., 2020, arXiv 1810.05934).

Two things are added for attention decoders, which stay above 60% CER for long and then fall within a few epochs: no
trial is pruned before its own warm-up and two epochs have passed, and none on the plateau before half of its length.
After a restart, rungs are rebuilt from the recorded epochs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from search_spaces.settings import LATE_SHARE, Asha, Settings
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text, objective_value

PROGRESS = {"epochs": "epoch", "updates": "updates", "hours": "audio_hours"}  # metric for each `asha.unit`
EPOCHS_AFTER_WARMUP = 2
HALF = -1  # index of the rung at half of a trial
METRIC_NAMES = {**OBJECTIVES, "val_ctc_cer": "val CTC CER"}


def ranking_value(asha: Asha, row: Mapping[str, Any]) -> float:
    """Value by which rungs compare trials (`asha.metric`), from the metrics of an epoch; lower is better."""
    return float(row[asha.metric]) if asha.metric else objective_value(row)


class Rungs:
    """Decides, epoch by epoch, which trials of a sweep are pruned.

    Attributes:
        recorded: value of each trial at each rung, by index of rung and number of trial.
        off_plateau: numbers of the trials whose CER has been below the plateau threshold.
    """

    def __init__(self, settings: Settings) -> None:
        self.asha, self.epochs = settings.asha, settings.epochs
        self.are_used, self.first = settings.has_rungs, settings.first_rung
        self.recorded: dict[int, dict[int, float]] = {}
        self.off_plateau: set[int] = set()

    def places(self, length: float) -> dict[int, float]:
        """Positions of the rungs of a trial by index, in order and in the unit of `asha.grace`.

        Rung 0 is the first, and the position of each next rung is multiplied by `reduction`. With a plateau threshold,
        the rung `HALF` at half of the trial is added, where trials on the plateau are judged first. Indices identify
        rungs, since positions may differ between trials, and in the last digits between epochs.

        Args:
            length: length of a full trial in the unit of `asha.grace`.
        """
        if not self.are_used:
            return {}
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
        """Adds the metrics `row` of an epoch of trial `number`.

        Returns:
            Position and current cutoff of the rung that the trial has reached in this epoch; None if it has reached no
            new rung.
        """
        if self.asha.plateau is None or row.get("val_cer", 0.0) < self.asha.plateau:
            self.off_plateau.add(number)
        progress = row[PROGRESS[self.asha.unit]]
        places = self.places(progress * self.epochs / row["epoch"])  # extrapolated from the epochs so far
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
        """Adds the metrics `row` of an epoch; returns the reason why the trial is pruned, or None if it continues.

        Args:
            warmup: warm-up of the trial, as a share (0 to 1) of its length.
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
        return f"rung at {where}: {METRIC_NAMES[key]} {ours} against a cutoff of {theirs}"
