"""What a space says beside its base and what varies: how to search, when to stop a trial, how much to spend."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainables.bounds import LARGEST_SEED, MOST_EPOCHS, MOST_TRIALS
from trainables.config import ConfigSection

SHARE_OF_GRACE = 0.2  # of a full trial, where a space says nothing else
LATE = 0.5  # of a full trial: from there on a trial that has not dropped is judged like the others
DEFAULT_BUDGET = 30_000_000  # parameters


def _no_word(value: Any) -> Any:
    """YAML's `yes` and '5' are no numbers."""
    if isinstance(value, bool | str):
        raise ValueError(f"must be a number, but got {value!r}")
    return value


Whole = Annotated[int, BeforeValidator(_no_word)]
Number = Annotated[float, BeforeValidator(_no_word)]
Objective = Literal["val_cer", "parameters", "real_time_factor"]


class Asha(ConfigSection):
    """Asynchronous successive halving: which trials stop early."""

    metric: Literal["val_cer", "val_ctc_cer"] | None = Field(
        None, description="what rungs compare; default: what ranks the trials. CTC's is smoother"
    )
    unit: Literal["epochs", "updates", "hours"] = Field(
        "epochs", description="what grace counts; hours are of audio, updates are the base's, as hours"
    )
    grace: Number | None = Field(
        None,
        gt=0,
        description="length before the first rung; default: a fifth of a full trial, and its warm-up and two epochs",
    )
    look: Whole | None = Field(
        None,
        ge=1,
        le=MOST_EPOCHS,
        description="epochs that every trial begins with; then the most promising go on, and the others wait until no "
        "new trial is left. So again at this times the reduction, and so on",
    )
    reduction: Number = Field(3.0, gt=1, le=1000, description="at each rung, one trial in so many goes on")
    click: Number | None = Field(
        0.6, gt=0, description="trials whose validation CER has not yet been below this are spared in their first half"
    )


class Limits(ConfigSection):
    """A sweep that reaches one of these stops cleanly, and can go on with more."""

    hours: Number | None = Field(None, gt=0, description="wall time, all of the sweep's runs together")
    device_hours: Number | None = Field(None, gt=0, description="of training: the trials' times, times their workers")
    disk_gb: Number | None = Field(None, gt=0, description="10^9 bytes of checkpoints")

    def raised(self, other: Limits) -> Limits:
        """These limits, with those of `other` that there are in their place."""
        return self.model_copy(update=other.model_dump(exclude_none=True))


class Settings(ConfigSection):
    """The keys of a space other than `base`, `vary` and `start`."""

    budget: Whole = Field(DEFAULT_BUDGET, ge=1, le=10**12, description="largest number of parameters")
    trials: Whole = Field(40, ge=1, le=MOST_TRIALS, description="how many configurations to try")
    epochs: Whole = Field(20, ge=1, le=MOST_EPOCHS, description="epochs of a trial that is not stopped")
    sampler: Literal["tpe", "gp", "random", "grid", "nsga2"] = Field("tpe", description="what proposes")
    objectives: tuple[Objective, ...] = Field(
        ("val_cer",), min_length=1, description="what is minimised; with several, the result is a Pareto front"
    )
    asha: Asha = Field(Asha(), description="early stopping")
    limits: Limits = Field(Limits(), description="hours, device_hours, disk_gb after which the sweep stops cleanly")
    keep: Whole = Field(3, ge=1, le=MOST_TRIALS, description="models of so many best trials that always stay on disk")
    seed: Whole = Field(0, ge=0, le=LARGEST_SEED, description="of the proposals")

    def conflicts(self) -> list[tuple[str, str]]:
        """What does not go together: keys and reasons."""
        found = []
        if self.objectives[0] != "val_cer" or len(set(self.objectives)) < len(self.objectives):
            found.append(("objectives", f"must begin with val_cer and have none twice, but got {self.objectives}"))
        if len(self.objectives) > 1 and self.sampler == "gp":
            found.append(("sampler", "gp has one objective: use tpe, nsga2, random or grid"))
        grace, unit = self.asha.grace, self.asha.unit
        if unit != "epochs" and grace is None:
            found.append(("asha.unit", f"{unit} needs asha.grace, in {unit}"))
        if unit == "epochs" and grace is not None and grace != int(grace):
            found.append(("asha.grace", f"must be a whole number of epochs, but got {grace:g}"))
        if unit == "epochs" and grace is not None and grace > self.epochs:
            found.append(("asha.grace", f"grace <= epochs must hold, but got grace={grace:g}, epochs={self.epochs}"))
        look, before = self.asha.look, self._most_of_a_look
        if look is not None and look >= before:
            found.append(
                ("asha.look", f"must be shorter than the {before:g} epochs before the first rung, but got {look}")
            )
        return found

    @property
    def first_rung(self) -> float:
        """Length before the first rung, in the unit of grace."""
        return self.asha.grace or math.ceil(SHARE_OF_GRACE * self.epochs)

    @property
    def _most_of_a_look(self) -> float:
        """The epochs below which the first look must end: where rungs are not in epochs, a full trial's."""
        return self.first_rung if self.asha.unit == "epochs" else self.epochs

    @property
    def looks(self) -> list[int]:
        """The epochs after which trials wait: that which `asha.look` says, times the reduction, and so on.

        The later ones are in the half of a trial in which late bloomers are spared; where none are, before the first
        rung.
        """
        first, limit = self.asha.look, LATE * self.epochs
        if self.asha.click is None and self.asha.unit == "epochs":
            limit = self.first_rung
        if first is None:
            return []
        later = (math.ceil(first * self.asha.reduction**look) for look in itertools.count(1))
        return sorted({first, *itertools.takewhile(lambda end: end < limit, later)})

    def lasting(self, epochs: int) -> Settings:
        """These settings with trials of another length."""
        grace, look = self.asha.grace, self.asha.look
        if self.asha.unit == "epochs" and grace is not None:
            grace = min(grace, epochs)
        asha = self.asha.model_copy(update={"grace": grace})
        settings = self.model_copy(update={"epochs": epochs, "asha": asha})
        if look is None or look < settings._most_of_a_look:
            return settings
        return settings.model_copy(update={"asha": asha.model_copy(update={"look": None})})
