"""Compares ways of searching on recorded learning curves: training time to a good model, and regret at fixed budgets.

    python tests/benchmarks/policies.py [--orders 200] [--workers 1] [--table FILE]

Every policy replays the same table (tests/assets/curves, recorded by record_curves.py), with the same number of seeds:
a seed is an order in which configurations are met. Time is that of training and validation alone, of all workers.

Some policies stop what they look for and never find it. So beside the median there is the expected running time of a
policy that is begun again until it finds it: the seconds of all runs, successful or not, over the number of successful
ones (Hansen et al., 2021, COCO, doi 10.1080/10556788.2020.1808977).
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from replay import (
    SPACE,
    TABLE,
    Curve,
    Nearest,
    Policy,
    RandomOrder,
    Stopping,
    best_after,
    read_table,
    replay,
    seconds_to,
)

from asr_platform.study.samplers import distributions_of, observe, propose
from search_spaces.reader import load_space
from search_spaces.space import Proposal, Space
from trainables.config import Config

ANY = Proposal(Config(), 1)  # every configuration of the table can be a trial
NEAR = 1.05  # times the table's lowest CER: what counts as having found it
BUDGETS = (0.05, 0.1, 0.2, 0.4)  # shares of the time that training all of the table takes


class RayAsha(RandomOrder):
    """Random search with Ray's ASHAScheduler as it comes, told the trials' length."""

    def __init__(self, space: Space, table: Sequence[Curve], seed: int) -> None:
        super().__init__(seed)
        self.scheduler = ASHAScheduler("epoch", "val_cer", "min", max_t=space.settings.epochs)
        self.trials: dict[int, Trial] = {}

    def goes_on(self, curve: Curve, epoch: int) -> bool:
        if curve.number not in self.trials:
            self.trials[curve.number] = Trial("replayed", stub=True)
            self.scheduler.on_trial_add(None, self.trials[curve.number])
        row = curve.epochs[epoch - 1]
        return bool(self.scheduler.on_trial_result(None, self.trials[curve.number], row) == TrialScheduler.CONTINUE)


class RayPair(RayAsha):
    """Ray's OptunaSearch and ASHAScheduler as they come.

    OptunaSearch (2.60) has Optuna's TPE with its defaults, and tells it each trial, stopped early or not, as complete
    with the last value it reported.
    """

    def __init__(self, space: Space, table: Sequence[Curve], seed: int) -> None:
        super().__init__(space, table, seed)
        self.space, self.nearest = space, Nearest(space, table, seed)
        self.study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        return self.nearest(left, self.space.propose(self.study.ask())) if left else None

    def ended(self, curve: Curve, epoch: int, stopped: bool) -> None:
        state, value = TrialState.COMPLETE, curve.epochs[epoch - 1]["val_cer"]
        self.study.add_trial(frozen(self.space, curve, state, value, {}))


class Ours(Stopping):
    """The platform's own sampler, promotions and rungs."""

    def __init__(self, space: Space, table: Sequence[Curve], seed: int) -> None:
        super().__init__(seed, space.settings)
        self.space = replace(space, settings=space.settings.model_copy(update={"seed": seed}))
        self.nearest = Nearest(space, table, seed)
        self.trials: dict[int, FrozenTrial] = {}

    def new(self, left: Sequence[Curve]) -> Curve:
        promotions = self.space.settings.promotions
        trials = [observe(trial, trial.params, promotions) for trial in self.trials.values()]
        values = dict(propose(self.space, trials, lambda values: ANY)[0].params)
        curve = self.nearest(left, values)
        self.trials[curve.number] = frozen(self.space, curve, TrialState.RUNNING, None, {})
        return curve

    def ended(self, curve: Curve, epoch: int, stopped: bool) -> None:
        cers = {row["epoch"]: row["val_cer"] for row in curve.epochs[:epoch]}
        state, value = (TrialState.PRUNED, None) if stopped else (TrialState.COMPLETE, min(cers.values()))
        if curve.number in self.promotions.waiting:
            state = TrialState.RUNNING
        self.trials[curve.number] = frozen(self.space, curve, state, value, cers)


def frozen(space: Space, curve: Curve, state: TrialState, value: float | None, cers: dict[int, float]) -> FrozenTrial:
    """A configuration of the table as Optuna has trials."""
    distributions = distributions_of(space)
    return optuna.create_trial(
        state=state,
        value=value,
        params=curve.values,
        distributions={key: distributions[key] for key in curve.values},
        intermediate_values=cers,
        user_attrs={f"epoch:{epoch}": "{}" for epoch in cers},  # a ledger's rows, of which nothing else is needed
    )


def ours(**asha: Any) -> Callable[[Space, Sequence[Curve], int], Policy]:
    """The platform with other values in the space's `asha`."""

    def policy(space: Space, table: Sequence[Curve], seed: int) -> Policy:
        update = {"asha": space.settings.asha.model_copy(update=asha)}
        return Ours(replace(space, settings=space.settings.model_copy(update=update)), table, seed)

    return policy


POLICIES: dict[str, Callable[[Space, Sequence[Curve], int], Policy]] = {
    "the platform": Ours,
    "the same, reduction 3": ours(reduction=3.0),
    "ours without promotions": ours(promotion=None),
    "random + the platform's promotions and rungs": lambda space, table, seed: Stopping(seed, space.settings),
    "Ray: OptunaSearch + ASHAScheduler": RayPair,
    "random + ASHAScheduler": RayAsha,
    "random": lambda space, table, seed: RandomOrder(seed),
}


def run(name: str, table: Sequence[Curve], workers: int, seed: int) -> list[tuple[float, float]]:
    return replay(table, POLICIES[name](load_space(str(SPACE)), table, seed), workers)


def print_table(name: str, table: Sequence[Curve], runs: Sequence[Sequence[tuple[float, float]]]) -> None:
    """A row: how often and when the target is reached, the time of a whole run, the regret at the budgets."""
    best, whole = min(curve.best for curve in table), sum(row["cpu_seconds"] for c in table for row in c.epochs)
    times = [seconds_to(reached, NEAR * best) for reached in runs]
    found = sum(time < math.inf for time in times) / len(times)
    median = statistics.median(times)
    regrets = [statistics.mean(best_after(reached, share * whole) - best for reached in runs) for share in BUDGETS]
    spent = [min(time, reached[-1][0]) for time, reached in zip(times, runs, strict=True)]
    expected = statistics.mean(spent) / found if found else math.inf
    whole_run = statistics.mean(reached[-1][0] for reached in runs)
    cells = [name, f"{found:.0%}", seconds(median), seconds(expected), seconds(whole_run)]
    print(" | ".join(["", *cells, *(f"{regret:.2%}" for regret in regrets), ""]).strip(), flush=True)


def seconds(number: float) -> str:
    return f"{number:,.0f}" if number < math.inf else "never"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args()
    table = read_table(options.table)
    whole = sum(row["cpu_seconds"] for curve in table for row in curve.epochs)
    best = min(curve.best for curve in table)
    near = sum(curve.best <= NEAR * best for curve in table)
    print(f"{len(table)} configurations, {whole:,.0f} s to train all; {options.workers} workers")
    print(f"lowest CER {best:.2%}; within {NEAR:g} times that: {near}")
    budgets = " | ".join(f"at {share * whole:,.0f} s" for share in BUDGETS)
    print(f"\n| policy | found | median s to {NEAR:g} x best | expected s | s a run | regret {budgets} |")
    print("| --- " * (5 + len(BUDGETS)) + "|")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in POLICIES:
            runs = list(pool.map(partial(run, name, table, options.workers), range(options.orders), chunksize=5))
            print_table(name, table, runs)


if __name__ == "__main__":
    main()
