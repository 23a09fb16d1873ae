"""Parameter importances of a sweep: fANOVA (Hutter et al., 2014, ICML) over its finished trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from asr_platform.analysis.text import short_value
from asr_platform.study.ledger import Ledger

FEWEST = 8  # finished trials: with fewer, chance explains as much as any parameter


@dataclass(frozen=True)
class Importances:
    """Parameter importances of a sweep.

    Args:
        finished: number of trials that were trained to the end; only these are used.
        shares: share (0 to 1) of the ranking metric's variance that each key alone explains, the largest first; the
            rest is interaction. Empty with fewer than `FEWEST` finished trials, or if all are equally good.
        not_judged: reasons why keys have no share, by key.
    """

    finished: int
    shares: dict[str, float]
    not_judged: dict[str, str]

    @property
    def basis(self) -> str:
        """A sentence on the number of trials that the estimate rests on, or why there is no estimate."""
        if self.shares:
            return f"Computed from {self.finished} finished trials; trials that were stopped early do not count."
        few = self.finished < FEWEST
        reason = f"{FEWEST} are needed" if few else "nothing varied, or all trials are equally good"
        return f"No importances from {self.finished} finished trials: {reason}."

    def as_tree(self) -> dict[str, Any]:
        """The importances as JSON."""
        return {"finished_trials": self.finished, "importances": self.shares, "not_judged": self.not_judged}


def importances(ledger: Ledger) -> Importances:
    """Parameter importances of a sweep (fANOVA, seeded: equal trials give equal results)."""
    trials = [trial for trial in ledger.frozen() if trial.state == TrialState.COMPLETE]
    not_judged: dict[str, str] = {}
    judged: dict[str, BaseDistribution] = {}
    for key in dict.fromkeys(key for trial in trials for key in trial.params):
        having = [trial for trial in trials if key in trial.params]
        distribution = _union([trial.distributions[key] for trial in having])
        if len(having) < len(trials):
            not_judged[key] = f"it applies to {len(having)} of {len(trials)} finished trials"
        elif len({trial.params[key] for trial in having}) == 1:
            not_judged[key] = f"it was {short_value(having[0].params[key])} in every finished trial"
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


def _union(distributions: list[Any]) -> BaseDistribution | None:
    """Union of a key's distributions, which differ if the space was widened; None if their types differ."""
    kind = type(distributions[0])
    if any(type(other) is not kind for other in distributions):
        return None
    if kind is CategoricalDistribution:
        choices = dict.fromkeys(choice for each in distributions for choice in each.choices)
        return CategoricalDistribution(tuple(choices))
    low, high = min(each.low for each in distributions), max(each.high for each in distributions)
    union: BaseDistribution = kind(low, high, log=distributions[0].log)
    return union
