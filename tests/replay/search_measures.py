"""What the runs of a policy are worth: expected running time, its interval, and its ratio to Ray's.

Some policies stop what they look for and never find it. The expected running time (ERT) to a target is that of a policy
which is begun again until it finds it: the seconds of all runs, successful or not, over the number of successful ones
(Hansen et al., 2021, COCO, doi 10.1080/10556788.2020.1808977).

Run i of every policy searches the same configurations, so the bootstrap of a ratio draws pairs of runs. A rival that
never finds the target is taken to find it in the last second of one run: its expected running time is at least that,
and a ratio to it is at most what is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from replayed_search import Run

NEAR, NEAREST = 1.05, 1.01  # times the lowest CER: the targets
BUDGETS = (0.05, 0.1, 0.2, 0.4)  # shares of the time that training everything takes
RESAMPLES = 2000


@dataclass(frozen=True)
class Scores:
    """Times and outcomes of the runs of a policy on a table, in order of their seeds.

    Attributes:
        best: lowest CER of each run's configurations.
        whole: seconds that training all of them takes.
    """

    runs: Sequence[Run]
    best: Sequence[float]
    whole: Sequence[float]

    def spent_and_found(self, near: float) -> tuple[np.ndarray, np.ndarray]:
        """Seconds (N,) until `near` times the lowest CER or the end of the run, and whether it was found (N,)."""
        times = np.array([run.seconds_to(near * best) for run, best in zip(self.runs, self.best, strict=True)])
        found = np.isfinite(times)
        return np.where(found, times, [run.end.seconds for run in self.runs]), found

    def regret(self, share: float) -> float:
        """Mean of the lowest CER over the best one, minus 1, after a share of the seconds that everything takes.

        Infinite if a run has no epoch by then; a run that has ended at the nearest target is not followed further.
        """
        regrets = [
            run.best_after(share * whole) / best - 1
            for run, best, whole in zip(self.runs, self.best, self.whole, strict=True)
        ]
        return float(np.mean(regrets))


def ert(spent: np.ndarray, found: np.ndarray) -> Any:
    """Expected running time along the last axis; infinite where no run has found the target."""
    with np.errstate(divide="ignore"):
        return spent.sum(-1) / found.sum(-1)


def least_ert(spent: np.ndarray, found: np.ndarray) -> Any:
    """Expected running time along the last axis; where no run has found the target, the seconds of all runs."""
    return spent.sum(-1) / np.maximum(found.sum(-1), 1)


def resampled(scores: Scores, near: float, seed: int, measure: Callable[..., Any] = ert) -> np.ndarray:
    """Expected running times (R,) of resampled runs; equal seeds draw the same runs of every policy."""
    spent, found = scores.spent_and_found(near)
    drawn_RN = np.random.default_rng(seed).integers(len(spent), size=(RESAMPLES, len(spent)))
    return np.asarray(measure(spent[drawn_RN], found[drawn_RN]))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap interval of 95% (percentiles) of resampled values; an undefined ratio counts as infinite."""
    ordered = np.sort(np.where(np.isnan(values), math.inf, values))
    return float(ordered[int(0.025 * len(ordered))]), float(ordered[math.ceil(0.975 * len(ordered)) - 1])


def ratio(ours: Any, theirs: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(ours) / np.asarray(theirs)


def rows(tables: Mapping[str, Mapping[str, Scores]], rival: str) -> list[dict[str, Any]]:
    """A row for each table and policy, and for each policy one of all tables together (geometric means).

    Args:
        tables: scores by table and policy.
        rival: policy to which the others are compared.
    """
    found = [
        _row(table, policy, scores, seed, by_policy.get(rival))
        for seed, (table, by_policy) in enumerate(tables.items())
        for policy, scores in by_policy.items()
    ]
    policies = {policy: None for by_policy in tables.values() for policy in by_policy}
    if len(tables) > 1:
        for policy in policies:
            of_policy = [row for row in found if row["policy"] == policy]
            found.append(_pooled(of_policy, [(scores[policy], scores.get(rival)) for scores in tables.values()]))
    return found


def _row(table: str, policy: str, scores: Scores, seed: int, rival: Scores | None) -> dict[str, Any]:
    row: dict[str, Any] = {"table": table, "policy": policy, "runs": len(scores.runs)}
    for near, suffix in ((NEAR, ""), (NEAREST, "_1")):
        spent, found = scores.spent_and_found(near)
        samples = resampled(scores, near, seed)
        row[f"found{suffix}"] = float(found.mean())
        row[f"ert{suffix}"] = float(ert(spent, found))
        row[f"ert{suffix}_low"], row[f"ert{suffix}_high"] = interval(samples)
        if rival is scores:
            row |= dict.fromkeys((f"ratio{suffix}_to_ray", f"ratio{suffix}_low", f"ratio{suffix}_high"), 1.0)
        elif rival is not None:
            row[f"ratio{suffix}_to_ray"] = float(ratio(row[f"ert{suffix}"], least_ert(*rival.spent_and_found(near))))
            ends = interval(ratio(samples, resampled(rival, near, seed, least_ert)))
            row[f"ratio{suffix}_low"], row[f"ratio{suffix}_high"] = ends
    row["best_stopped"] = float(np.mean([run.best_stopped for run in scores.runs]))
    shares = [run.end.seconds / whole for run, whole in zip(scores.runs, scores.whole, strict=True)]
    row["share_of_all"] = float(np.mean(shares))
    row["starts"] = float(np.mean([run.end.new + run.end.promoted for run in scores.runs]))
    return row | {f"regret_{share:g}": scores.regret(share) for share in BUDGETS}


def _pooled(of_policy: Sequence[Mapping[str, Any]], scores: Sequence[tuple[Scores, Scores | None]]) -> dict[str, Any]:
    """Geometric means over tables, with the intervals of the means."""
    row: dict[str, Any] = {"table": "all", "policy": of_policy[0]["policy"]}
    row["runs"] = sum(one["runs"] for one in of_policy)
    for near, suffix in ((NEAR, ""), (NEAREST, "_1")):
        own = [resampled(one, near, seed) for seed, (one, _) in enumerate(scores)]
        row[f"ert{suffix}"] = geometric_mean([one[f"ert{suffix}"] for one in of_policy])
        row[f"ert{suffix}_low"], row[f"ert{suffix}_high"] = interval(geometric_mean(own))
        theirs = [
            resampled(rival, near, seed, least_ert) for seed, (_, rival) in enumerate(scores) if rival is not None
        ]
        if len(theirs) == len(own):
            row[f"ratio{suffix}_to_ray"] = geometric_mean([one[f"ratio{suffix}_to_ray"] for one in of_policy])
            ratios = [
                ratio(mine, other) if one is not rival else np.ones_like(mine)
                for mine, other, (one, rival) in zip(own, theirs, scores, strict=True)
            ]
            row[f"ratio{suffix}_low"], row[f"ratio{suffix}_high"] = interval(geometric_mean(ratios))
            row[f"worst{suffix}_to_ray"] = max(one[f"ratio{suffix}_to_ray"] for one in of_policy)
    for key in (f"found{suffix}" for suffix in ("", "_1")):
        row[key] = float(np.mean([one[key] for one in of_policy]))
    row["best_stopped"] = float(np.mean([one["best_stopped"] for one in of_policy]))
    return row


def geometric_mean(values: Sequence[Any]) -> Any:
    """Geometric mean over the first axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.exp(np.mean(np.log(np.asarray(values)), axis=0))
    return float(mean) if np.ndim(mean) == 0 else mean
