"""Which keys a sweep's result depends on: fANOVA (Hutter et al., 2014, ICML), and on how many trials that rests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from asr_platform.study.ledger import Ledger

FEWEST = 8  # finished trials: with fewer, chance explains as much as any key


@dataclass(frozen=True)
class Importances:
    """What finished trials say of the keys.

    Args:
        finished: how many trials were trained to the end; stopped ones have values of other epochs, and do not count.
        shares: of the variance in what trials are ranked by, what each key explains on its own, from most to least;
            the rest of it is their interplay. Empty where nothing can be said.
        not_judged: keys of which nothing can be said, and why.
    """

    finished: int
    shares: dict[str, float]
    not_judged: dict[str, str]

    @property
    def basis(self) -> str:
        """What they rest on, or why nothing can be said, in a sentence."""
        if self.shares:
            return f"It rests on {self.finished} finished trials; those that were stopped early do not count."
        few = self.finished < FEWEST
        reason = f"it takes {FEWEST} at least" if few else "nothing varied, or all are equally good"
        return f"{self.finished} finished trials say nothing of which keys matter: {reason}."

    def as_tree(self) -> dict[str, Any]:
        return {"finished_trials": self.finished, "importances": self.shares, "not_judged": self.not_judged}


def importances(ledger: Ledger) -> Importances:
    """Those of a sweep; the same for the same trials."""
    trials = [trial for trial in ledger.frozen() if trial.state == TrialState.COMPLETE]
    not_judged: dict[str, str] = {}
    judged: dict[str, BaseDistribution] = {}
    for key in dict.fromkeys(key for trial in trials for key in trial.params):
        having = [trial for trial in trials if key in trial.params]
        distribution = _whole([trial.distributions[key] for trial in having])
        if len(having) < len(trials):
            not_judged[key] = f"it applies to {len(having)} of {len(trials)} finished trials"
        elif len({trial.params[key] for trial in having}) == 1:
            not_judged[key] = f"it was {having[0].params[key]} in every finished trial"
        elif distribution is None:
            not_judged[key] = "it varied in different ways"
        else:
            judged[key] = distribution
    known = len(trials) >= FEWEST and len({trial.values[0] for trial in trials}) > 1
    return Importances(len(trials), _shares(trials, judged) if known else {}, not_judged)


def _shares(trials: list[FrozenTrial], judged: dict[str, BaseDistribution]) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator  # scikit-learn, whose import takes seconds

    study = optuna.create_study()
    for trial in trials:
        params = {key: trial.params[key] for key in judged}
        study.add_trial(optuna.create_trial(value=trial.values[0], params=params, distributions=judged))
    found = FanovaImportanceEvaluator(seed=0).evaluate(study)
    return {key: float(share) for key, share in found.items()}


def _whole(distributions: list[Any]) -> BaseDistribution | None:
    """One that holds them all: a resumed sweep may have had a wider space. None where they are of different kinds."""
    kind = type(distributions[0])
    if any(type(other) is not kind for other in distributions):
        return None
    if kind is CategoricalDistribution:
        choices = dict.fromkeys(choice for each in distributions for choice in each.choices)
        return CategoricalDistribution(tuple(choices))
    low, high = min(each.low for each in distributions), max(each.high for each in distributions)
    whole: BaseDistribution = kind(low, high, log=distributions[0].log)
    return whole
