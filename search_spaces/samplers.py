"""The samplers that a space may choose, and their properties.

To add a sampler of Optuna, add its name to `SamplerName` and its entry to `SAMPLERS`: settings, checks, help, proposals
and the tests of all samplers are derived from these two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SamplerName = Literal["tpe", "gp", "random", "grid", "nsga2"]
SMALLEST_POPULATION = 4


@dataclass(frozen=True)
class Sampler:
    """Properties of a sampler.

    Attributes:
        description: the method in a few words, for the reference.
        optuna: name of the class in `optuna.samplers`; None for the grid, which is part of the platform.
        options: returns arguments of the class, except `seed`, for a number of trials.
        several_objectives: whether the sampler takes more than one objective.
        learns: whether proposals depend on the results of trials, those of a warm start included.
        pruned: how pruned trials are passed to the sampler.
            "pruned": as pruned, with the last epoch and its value; with several objectives, as "complete".
            "complete": as complete, with the best values so far.
            "capped": as complete, with a CER no higher than the highest of the complete trials.
        same_keys: whether the sampler models only keys that every trial has. Then inactive keys are passed with the
            first value of their distribution.
        sees_failures: whether infeasible proposals are passed as failed trials; else as running ones.
        notes: prefix of the system attributes that the class stores with a trial and reads for later proposals.
    """

    description: str
    optuna: str | None
    options: Callable[[int], Mapping[str, Any]] = lambda trials: {}
    several_objectives: bool = True
    learns: bool = True
    pruned: Literal["pruned", "complete", "capped"] = "complete"
    same_keys: bool = False
    sees_failures: bool = True
    notes: str | None = None


SAMPLERS: Mapping[SamplerName, Sampler] = {
    # With one objective, TPE ranks pruned trials after complete ones, by last epoch and then by value. With several, it
    # takes no values of pruned trials and ranks them last: it would avoid small models, pruned for their CER.
    "tpe": Sampler(
        "tree-structured Parzen estimator",
        "TPESampler",
        lambda trials: {"multivariate": True, "group": True, "constant_liar": True},
        pruned="pruned",
    ),
    # Reads only complete trials, a minority of a sweep. Beside a CER of 90% after an early epoch, all complete trials
    # would look alike; and a pruned trial need not be worse than the worst complete one. It ignores failed trials, and
    # would propose their values again, but avoids the values of running trials.
    "gp": Sampler(
        "Gaussian process",
        "GPSampler",
        lambda trials: {"warn_independent_sampling": False},
        several_objectives=False,
        pruned="capped",
        same_keys=True,
        sees_failures=False,
    ),
    "random": Sampler("random search", "RandomSampler", learns=False),
    "grid": Sampler("all combinations, in random order", None, learns=False),
    # Reads only complete trials. There are as many generations as trials in a generation: Optuna's default of 50 trials
    # in each is more than most sweeps have.
    "nsga2": Sampler(
        "evolution by NSGA-II",
        "NSGAIISampler",
        lambda trials: {"population_size": max(SMALLEST_POPULATION, math.isqrt(trials))},
        same_keys=True,
        notes="NSGAIISampler:",
    ),
}
