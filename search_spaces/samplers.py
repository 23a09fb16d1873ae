"""The samplers that a space may choose, and what sets each apart.

To add one of Optuna's, add its name to `SamplerName` and its entry to `SAMPLERS`: settings, checks, help, proposals and
the tests of all samplers read these two.
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
    """What sets a sampler apart.

    Attributes:
        description: the method in a few words, for the reference.
        optuna: name of the class in `optuna.samplers`; None for the grid, which the platform goes through itself.
        options: arguments of the class, `seed` aside, for a sweep of so many trials.
        several_objectives: whether the sampler takes more than one objective.
        learns: whether proposals depend on the results of trials, of the sweep's own and of those of a warm start.
        pruned: how the sampler is told a pruned trial.
            "pruned": as such, with its last epoch and value; as "complete" where there are several objectives.
            "complete": as complete, with the best values that it reached.
            "capped": as complete, with a CER no higher than the highest of the complete trials.
        same_keys: whether the sampler models together only keys that every trial has. Then inactive keys are told with
            the first value of their distribution.
        sees_failures: whether a proposal that cannot be a trial is told as failed. Otherwise it is told as running.
        notes: prefix of what the class writes into a trial's system attributes and needs again for later proposals.
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
    # TPE with one objective ranks pruned trials behind complete ones, by their last epoch and then by its value. With
    # several objectives it would refuse their values, and without values rank them last: then it would avoid the small
    # models that early stopping prunes for their CER alone.
    "tpe": Sampler(
        "tree-structured Parzen estimator",
        "TPESampler",
        lambda trials: {"multivariate": True, "group": True, "constant_liar": True},
        pruned="pruned",
    ),
    # Reads complete trials alone, a minority of a sweep. Beside the 90% CER of an early epoch it would see all complete
    # trials as one; and a pruned trial is not known to be worse than the worst of these. It sees no failures and would
    # propose the same point again; from running trials it keeps away.
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
    # Reads complete trials alone. As many generations as a generation has trials: Optuna's 50 trials in each are more
    # than most sweeps have in all.
    "nsga2": Sampler(
        "evolution by NSGA-II",
        "NSGAIISampler",
        lambda trials: {"population_size": max(SMALLEST_POPULATION, math.isqrt(trials))},
        same_keys=True,
        notes="NSGAIISampler:",
    ),
}
