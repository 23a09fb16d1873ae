"""Settings of a search space: the search, early stopping, and spending limits."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from search_spaces.rules import RULES, RuleSetName
from search_spaces.samplers import SAMPLERS, SamplerName
from trainables.bounds import LARGEST_SEED, MOST_EPOCHS, MOST_TRIALS
from trainables.config.model import ConfigSection

GRACE_SHARE = 0.2  # grace period as a share of a full trial, by default
LATE_SHARE = 0.5  # share of a full trial after which rungs prune trials on the plateau, and a trial waits at the latest
PROMOTION_RATIO = 1.5  # of epochs after which a trial waits again to those after which it waited before
TRAINED_PER_START = 0.2  # least training before a trial first waits, as a share of the time of its start
DEFAULT_BUDGET = 30_000_000  # parameters
RENAMED = {"asha.look": "promotion", "asha.click": "plateau"}
"""Former names of keys, which are still read in this version."""


def refuse_words(value: Any) -> Any:
    """Returns `value`; raises ValueError for `yes` and '5' of YAML, which pydantic would convert to numbers."""
    if isinstance(value, bool | str):
        raise ValueError(f"must be a number, but got {value!r}")
    return value


Whole = Annotated[int, BeforeValidator(refuse_words)]
Number = Annotated[float, BeforeValidator(refuse_words)]
Objective = Literal["val_cer", "parameters", "real_time_factor"]


class Asha(ConfigSection):
    """Early stopping: which trials are pruned, and which are promoted first."""

    metric: Literal["val_cer", "val_ctc_cer"] | None = Field(
        None,
        description="validation metric that promotions and rungs compare; default: the metric that ranks the trials. "
        "The CER of greedy CTC falls earlier than that of the decoder, but may say nothing about the final one",
    )
    unit: Literal["epochs", "updates", "hours"] = Field(
        "epochs",
        description="unit of the grace period: epochs, hours of training audio, or updates, which are converted to the "
        "hours of audio that the base configuration trains on in as many updates",
    )
    grace: Number | None = Field(
        None,
        gt=0,
        description="grace period: length of training before the first rung, in unit; default: with promotion no "
        "rungs, else a fifth of a full trial, and at least the trial's own warm-up and two epochs",
    )
    promotion: Annotated[Whole, Field(ge=1, le=MOST_EPOCHS)] | Literal["auto"] | None = Field(
        "auto",
        description="number of epochs after which each trial waits to be promoted; it waits again after half as many "
        "epochs more, and so on. What has the highest chance per second of becoming the sweep's best goes next, a "
        "waiting trial or a new one; once no new trial is left, those whose chances are negligible are pruned. auto: "
        "1, or more where an epoch takes less than a fifth of the time of a trial's start; null: no trial waits, and "
        "rungs prune",
    )
    reduction: Number = Field(
        4.0,
        gt=1,
        le=1000,
        description="reduction factor: at each rung, the best 1/reduction of the trials continue",
    )
    plateau: Number | None = Field(
        0.6,
        gt=0,
        description="plateau threshold: no rung prunes a trial in its first half whose validation CER has never been "
        "below it, because attention decoders start to learn late; null: no trial is exempt",
    )


class Limits(ConfigSection):
    """Spending limits: a sweep that reaches one stops cleanly, and can be resumed with a higher one."""

    hours: Number | None = Field(None, gt=0, description="wall-clock hours of all runs of the sweep together")
    device_hours: Number | None = Field(
        None, gt=0, description="training hours of all trials, each multiplied by its number of workers"
    )
    disk_gb: Number | None = Field(None, gt=0, description="size of the sweep's checkpoints on disk, in 10^9 bytes")

    def replaced_by(self, other: Limits) -> Limits:
        """Copy in which the limits that are set in `other` replace these."""
        return self.model_copy(update=other.model_dump(exclude_none=True))


class Settings(ConfigSection):
    """The keys of a space other than `base`, `vary` and `start`."""

    budget: Whole = Field(
        DEFAULT_BUDGET, ge=1, le=10**12, description="largest number of parameters that a model may have"
    )
    rules: RuleSetName | None = Field(
        None,
        description="rules that every trial must keep; hw4p2: those of CMU 11-785, homework 4, part 2; default: none",
    )
    trials: Whole = Field(40, ge=1, le=MOST_TRIALS, description="number of configurations to try")
    epochs: Whole = Field(20, ge=1, le=MOST_EPOCHS, description="number of epochs of a trial that is not pruned")
    sampler: SamplerName = Field(
        "tpe",
        description="method that proposes configurations: "
        + "; ".join(f"{name}: {one.description}" for name, one in SAMPLERS.items()),
    )
    objectives: tuple[Objective, ...] = Field(
        ("val_cer",),
        min_length=1,
        description="metrics to minimise, val_cer first; with several, the result is their Pareto front",
    )
    asha: Asha = Field(Asha(), description="early stopping by asynchronous successive halving (ASHA)")
    limits: Limits = Field(Limits(), description="spending limits at which the sweep stops cleanly")
    keep: Whole = Field(3, ge=1, le=MOST_TRIALS, description="number of best trials whose models always stay on disk")
    seed: Whole = Field(0, ge=0, le=LARGEST_SEED, description="random seed of the proposals")

    def conflicts(self) -> list[tuple[str, str]]:
        """Conflicts between settings, each as (key to change, reason)."""
        found = []
        if self.objectives[0] != "val_cer" or len(set(self.objectives)) < len(self.objectives):
            found.append(("objectives", f"must begin with val_cer and have none twice, but got {self.objectives}"))
        if len(self.objectives) > 1 and not SAMPLERS[self.sampler].several_objectives:
            others = ", ".join(name for name, one in SAMPLERS.items() if one.several_objectives)
            found.append(("sampler", f"{self.sampler} takes one objective; with several, use one of {others}"))
        if self.rules and self.budget > RULES[self.rules].budget:
            reason = f"at most {RULES[self.rules].budget:,} with rules: {self.rules}, but got {self.budget:,}"
            found.append(("budget", reason))
        grace, unit = self.asha.grace, self.asha.unit
        if unit != "epochs" and grace is None:
            found.append(("asha.unit", f"{unit} needs asha.grace, in {unit}"))
        if unit == "epochs" and grace is not None and grace != int(grace):
            found.append(("asha.grace", f"must be a whole number of epochs, but got {grace:g}"))
        if unit == "epochs" and grace is not None and grace > self.epochs:
            found.append(("asha.grace", f"grace <= epochs must hold, but got grace={grace:g}, epochs={self.epochs}"))
        bound = self._promotion_bound
        if isinstance(self.asha.promotion, int) and self.asha.promotion >= bound:
            what = "before the first rung" if self.has_rungs else "of a full trial"
            found.append(
                ("asha.promotion", f"must be below the {bound:g} epochs {what}, but got {self.asha.promotion}")
            )
        return found

    @property
    def first_rung(self) -> float:
        """Position of the first rung in `asha.unit` (epochs, updates or hours of audio)."""
        return self.asha.grace or math.ceil(GRACE_SHARE * self.epochs)

    @property
    def has_rungs(self) -> bool:
        """Whether rungs prune trials: where no trial waits to be promoted, or there is a grace period."""
        return self.asha.promotion is None or self.asha.grace is not None

    def longer_promotion(self, start: float, epoch: float) -> int | None:
        """Number of epochs of the first promotion where `asha.promotion` is auto and one epoch is too short; else None.

        A trial trains for at least `TRAINED_PER_START` of the time that its start takes before it waits, but for half
        of its length at most, so that a sweep of short epochs is not mostly starts.

        Args:
            start: seconds from the decision to start a trial until its training begins.
            epoch: seconds of an epoch.
        """
        longest = min(int(LATE_SHARE * self.epochs), math.ceil(self._promotion_bound) - 1)
        epochs = min(math.ceil(TRAINED_PER_START * start / epoch), longest)
        return epochs if self.asha.promotion == "auto" and epochs > 1 else None

    @property
    def _promotion_bound(self) -> float:
        """Exclusive upper bound of `asha.promotion`: the first rung if there is one in epochs, else a full trial."""
        in_epochs = self.has_rungs and self.asha.unit == "epochs"
        return self.first_rung if in_epochs else self.epochs

    def with_promotion(self, epochs: int | None) -> Settings:
        """Copy in which trials first wait to be promoted after `epochs` epochs; None: no trial waits."""
        return self.model_copy(update={"asha": self.asha.model_copy(update={"promotion": epochs})})

    @property
    def promotions(self) -> list[int]:
        """Epochs after which trials wait to be promoted: `asha.promotion`, then each times `PROMOTION_RATIO`.

        With `auto`, the first is 1 until a sweep has measured how long a start takes (`longer_promotion`).
        """
        first = self.asha.promotion
        if first == "auto":
            first = 1 if self._promotion_bound > 1 else None
        if first is None:
            return []
        ends = (round(first * PROMOTION_RATIO**number) for number in itertools.count())
        return sorted(set(itertools.takewhile(lambda end: end < self.epochs, ends)))

    def with_epochs(self, epochs: int) -> Settings:
        """Copy with another number of epochs; `asha.grace` is shortened, and `asha.promotion` removed, if too long."""
        grace, promotion = self.asha.grace, self.asha.promotion
        if self.asha.unit == "epochs" and grace is not None:
            grace = min(grace, epochs)
        asha = self.asha.model_copy(update={"grace": grace})
        settings = self.model_copy(update={"epochs": epochs, "asha": asha})
        if not isinstance(promotion, int) or promotion < settings._promotion_bound:
            return settings
        return settings.with_promotion(None)
