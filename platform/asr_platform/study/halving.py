"""ASHA with what keeps it honest: rungs that survive a restart, late bloomers spared, every stop with its reason.

The rule is asynchronous successive halving (Li et al., 2020, arXiv 1810.05934), in its stopping form. Three things are
added for attention decoders, which sit above 60% CER for long and then drop within epochs: no trial is stopped before
its own warm-up and two epochs have passed, none that has not yet dropped is stopped before half of its length, and
rungs may compare the CER of greedy CTC, which moves earlier and more smoothly.

A space may ask for looks at every trial (`asha.look`), which decide about their order alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from search_spaces.settings import LATE, Asha, Settings
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text, objective_value

PROGRESS = {"epochs": "epoch", "updates": "updates", "hours": "audio_hours"}  # a row's key for each unit of grace
EPOCHS_AFTER_WARMUP = 2
HALF = -1  # the index of the rung at half of a trial
NAMES = {**OBJECTIVES, "val_ctc_cer": "val CTC CER"}


def ranking_value(asha: Asha, row: Mapping[str, Any]) -> float:
    """What trials are compared by, lower is better."""
    return float(row[asha.metric]) if asha.metric else objective_value(row)


class Promotions:
    """Who goes on first, of trials that have been looked at.

    So early a stop would be a guess, and often a wrong one; to wait costs a trial nothing but its turn. The rule is
    the promotion of asynchronous successive halving: the best 1 / reduction of those that have had the same look go on.

    Attributes:
        values: by the epoch at which a look ends, those of all trials that have had it.
        waiting: trials whose look is over, and that have not gone on, with its last epoch.
    """

    def __init__(self, settings: Settings) -> None:
        self.asha = settings.asha
        self.values: dict[int, dict[int, float]] = {end: {} for end in settings.looks}
        self.waiting: dict[int, int] = {}

    def next_end(self, epochs: int) -> int | None:
        """Where the next look of a trial with so many epochs ends; None where there is none any more."""
        return next((end for end in self.values if end > epochs), None)

    def record(self, number: int, row: Mapping[str, Any]) -> None:
        if row["epoch"] in self.values:
            self.values[row["epoch"]][number] = ranking_value(self.asha, row)

    def wait(self, number: int, epochs: int) -> bool:
        """Lets a trial wait if it has just had a look; whether it has."""
        if epochs in self.values:
            self.waiting[number] = epochs
        return epochs in self.values

    def promising(self) -> int | None:
        """The one of the waiting that is to go on before anything new is tried, if there is one."""
        for end, values in reversed(self.values.items()):
            ranked = sorted(values, key=lambda number: (values[number], number))
            for number in ranked[: int(len(ranked) / self.asha.reduction)]:
                if self.waiting.get(number) == end:
                    return number
        return None

    def best(self) -> int | None:
        """The one of the waiting that has come farthest, and of those the best."""
        return min(
            self.waiting, key=lambda one: (-self.waiting[one], self.values[self.waiting[one]][one]), default=None
        )


class Rungs:
    """Decides, report by report, which trials of a sweep are trained further. Knows nothing of who trains them.

    Args:
        settings: the space's; `asha` and `epochs` of them count.
    """

    def __init__(self, settings: Settings) -> None:
        self.asha, self.epochs = settings.asha, settings.epochs
        self.first = settings.first_rung
        self.recorded: dict[int, dict[int, float]] = {}  # a rung's index -> trial -> value
        self.dropped: set[int] = set()  # trials whose CER has been below `click`

    def places(self, length: float) -> dict[int, float]:
        """The rungs below a full trial's length, in order: where each lies, by its index.

        Index 0 is the first rung, and each next one lies `reduction` times as far. Where late bloomers are spared in
        their first half, there is one more where that ends, at which they are judged at last: `HALF`.

        A rung is known by its index, since its place may differ from trial to trial, and in its last digits from epoch
        to epoch.

        Args:
            length: of a full trial, in the unit of grace, as the places are.
        """
        steps = (self.first * self.asha.reduction**index for index in itertools.count())
        places = dict(enumerate(itertools.takewhile(lambda place: place < length, steps)))
        half = LATE * length
        if (
            self.asha.click is not None
            and self.first < half
            and not any(math.isclose(half, place) for place in places.values())
        ):
            places[HALF] = half
        return dict(sorted(places.items(), key=lambda item: item[1]))

    def record(self, number: int, row: Mapping[str, Any]) -> tuple[float, float] | None:
        """Takes in an epoch.

        Returns:
            Where the rung lies that the trial has reached with it, and that rung's cutoff so far; None where it has
            reached none that it was not at before.
        """
        if self.asha.click is None or row.get("val_cer", 0.0) < self.asha.click:
            self.dropped.add(number)
        progress = row[PROGRESS[self.asha.unit]]
        places = self.places(self._length(row))
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
        """Why a trial is stopped at this epoch, in words; None where it goes on.

        Args:
            warmup: the trial's, as a share of its length.
        """
        reached = self.record(number, row)
        if reached is None:
            return None
        milestone, cutoff = reached
        value, share = ranking_value(self.asha, row), row["epoch"] / self.epochs
        young = row["epoch"] < math.ceil(warmup * self.epochs) + EPOCHS_AFTER_WARMUP
        late_bloomer = number not in self.dropped and share < LATE
        if value <= cutoff or (self.asha.grace is None and young) or late_bloomer:
            return None
        key = self.asha.metric or objective(row)
        where = f"epoch {milestone:g}" if self.asha.unit == "epochs" else f"{milestone:g} {self.asha.unit}"
        ours, theirs = (objective_text({objective(row): figure}) for figure in (value, cutoff))  # all CERs alike
        return f"rung at {where}: {NAMES[key]} {ours} against a cutoff of {theirs}"

    def _length(self, row: Mapping[str, Any]) -> float:
        """Length of a full trial in the unit of grace, as if all of its epochs were like those so far."""
        return float(row[PROGRESS[self.asha.unit]]) * self.epochs / float(row["epoch"])
