"""Plan of a sweep: its expected time, memory and disk space, estimated before the sweep starts.

Random proposals give the feasible share of the space. The cheapest and the most expensive of them, of each kind of
model, are trained for seconds; the cost of the others is interpolated by the floating-point operations of a batch. Then
sweeps are simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna

from asr_platform.monitoring.growth import DRIVER_SECONDS, Scale, growth
from asr_platform.monitoring.pricing import (
    STARTS_OF_A_SWEEP,
    ends_of_kinds,
    price,
    profile_each,
    ready,
    trial_cost,
)
from asr_platform.monitoring.simulation import Simulation, TrialCost, simulate
from asr_platform.study.allocation.rungs import Rungs
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.spending import HOUR
from asr_platform.tuning import cluster
from asr_platform.tuning.callbacks.retention import CHECKPOINTS_PER_TRIAL
from search_spaces.settings import Settings
from search_spaces.space import Proposal, Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.training.profile import Profile
from trainables.training.workload import Workload, Workloads

# How many there are, and the least where more would take longer than the seconds.
PROPOSALS, LEAST_PROPOSALS, PROPOSING_SECONDS = 300, 60, 6.0
SIMULATIONS, LEAST_SIMULATIONS, SIMULATING_SECONDS = 20, 4, 8.0
SIMULATIONS_OF_A_SCALE = 5
QUANTILES = {"min": 0.0, "25%": 0.25, "50%": 0.5, "75%": 0.75, "max": 1.0}
INTERVAL = (0.05, 0.95)  # quantiles of the simulated wall times
# Bytes beside the workers: of Ray and the driver, and of the processes that each trial has without torch. Measured on
# two cores, with shared pages counted once, when these were six; they are four now.
SWEEP_MEMORY, TRIAL_MEMORY = 1_600_000_000, 550_000_000


@dataclass(frozen=True)
class Rung:
    """An epoch after which trials may be pruned, and the expected number of trials that reach it."""

    epoch: int
    trials: float


@dataclass(frozen=True)
class Expense:
    """Expected cost of a sweep.

    Args:
        wall_hours_interval: 5% and 95% quantiles of the simulated wall times.
        memory_bytes: peak memory of all machines together.
        dearest: former name of `most_expensive`, for readers of `plan --json`; this is the last version with both.
    """

    wall_hours: float
    wall_hours_interval: tuple[float, float]
    device_hours: float
    memory_bytes: int
    worker_memory_bytes: int
    gpu_memory_bytes: int
    disk_bytes: int
    cheapest: Profile
    most_expensive: Profile
    dearest: Profile


@dataclass(frozen=True)
class Plan:
    """Estimates for a sweep before it starts.

    Args:
        parameters: quantiles of the parameter counts of the feasible proposals, by name.
        rungs: epochs after which trials wait to be promoted or may be pruned, in order; the last one is the end of a
            full trial.
        expense: expected cost; None if no configuration was profiled.
        growth: the sweep on fewer and more nodes; empty if it was not asked for, or no configuration was profiled.
    """

    space: str
    proposals: int
    feasible: int
    parameters: dict[str, int]
    trials: int
    epochs: int
    rungs: list[Rung]
    concurrency: int
    workers: int
    expense: Expense | None
    growth: list[Scale]


@dataclass(frozen=True)
class Nodes:
    """Nodes that are planned for, like the largest one that is there, and the price of one for an hour.

    Args:
        count: None: as many as are there.
    """

    count: int | None = None
    price: float | None = None

    @classmethod
    def asked(cls, count: int | None, price: float | None) -> Nodes | None:
        """The nodes with what is given; None where nothing is."""
        return None if count is None and price is None else cls(count, price)


def plan(
    space: Space, corpus: Corpus, trials: int | None, options: cluster.Options, profiled: bool = True,
    nodes: Nodes | None = None,
) -> Plan:  # fmt: skip
    """Estimates the time, memory and disk space of a sweep.

    Args:
        trials: number of trials; None: the number in the space.
        profiled: whether two configurations are trained for seconds; else hours, memory and disk are not estimated.
        nodes: plan for these in place of those that are there, and say what fewer would take.

    Raises:
        InputError: no proposal of the space is feasible, no trial fits the machine, a profile fails, or `nodes` is out
            of range or without a profile.
    """
    if nodes:
        check_nodes(nodes, profiled)
    feasibility = Feasibility(space, corpus)
    feasibility.check()
    with cluster.resources(options.address) as machine:
        machine = machine.of_type(options.accelerator_type)
        if nodes and nodes.count:
            machine = machine.with_nodes(nodes.count)
        workers = machine.workers(options)
        concurrency = machine.concurrency(workers, options)
    settings, count = space.comparable_settings, trials or space.settings.trials
    drawn = random_proposals(space, feasibility)
    found = [proposal for proposal in drawn if proposal is not None]
    sizes = np.quantile([one.parameters for one in found], list(QUANTILES.values()), method="nearest")
    workloads = Workloads(corpus, feasibility.split, feasibility.tokenizer, workers.count)
    hours = float(feasibility.split.seconds.sum()) / HOUR
    length = {"epochs": 1.0, "updates": float(workloads(found[0].config).updates), "hours": hours}[settings.asha.unit]
    same = [TrialCost(0.0, np.ones(settings.epochs))]
    sweeps, profiles = Sweeps(settings, same, count, length, space.is_recogniser), None
    if profiled:
        priced = price([one.config for one in found], workloads)
        profiles = profile_each(ends_of_kinds(priced), corpus, workers, concurrency)
        costs = [trial_cost(workload, profiles, settings, workers.count) for workload in priced]
        sweeps = replace(sweeps, costs=costs, driver=DRIVER_SECONDS)
    simulations, scales = ready(sweeps.simulated(concurrency), LEAST_SIMULATIONS, SIMULATING_SECONDS), list[Scale]()
    if nodes and profiles:
        scales = growth(
            len(machine.nodes),
            nodes.price,
            count,
            lambda nodes: machine.with_nodes(nodes).concurrency(workers, options),
            lambda concurrency: sweeps.simulated(concurrency, SIMULATIONS_OF_A_SCALE),
            STARTS_OF_A_SWEEP * profiles[0][1].start,
        )
    return Plan(
        space=space.source,
        proposals=len(drawn),
        feasible=len(found),
        parameters=dict(zip(QUANTILES, map(int, sizes), strict=True)),
        trials=count,
        epochs=settings.epochs,
        rungs=reached(settings, length, simulations),
        concurrency=concurrency,
        workers=workers.count,
        expense=expense(profiles, simulations, settings, workers.count, concurrency) if profiles else None,
        growth=scales,
    )


@dataclass(frozen=True)
class Sweeps:
    """Sweeps whose trials are drawn from proposals.

    Args:
        costs: of each proposal.
        count: number of trials of a sweep.
        epoch_length: length of an epoch in the unit of `asha.unit`.
        plateau, driver: see `simulate`.
    """

    settings: Settings
    costs: list[TrialCost]
    count: int
    epoch_length: float
    plateau: bool
    driver: float = 0.0

    def simulated(self, concurrency: int, sweeps: int = SIMULATIONS) -> Iterator[Simulation]:
        """Simulates so many sweeps, one as each is asked for; the same ones at every call."""
        random = np.random.default_rng(self.settings.seed)
        for _ in range(sweeps):
            costs = [self.costs[place] for place in random.choice(len(self.costs), self.count)]
            yield simulate(
                costs,
                settings=self.settings,
                concurrency=concurrency,
                random=random,
                epoch_length=self.epoch_length,
                plateau=self.plateau,
                driver=self.driver,
            )


def reached(settings: Settings, epoch_length: float, simulations: Sequence[Simulation]) -> list[Rung]:
    """The mean number of trials that come to each epoch after which trials may be pruned, and to the last one."""
    epochs = sorted({*settings.promotions, *rungs(settings, epoch_length), settings.epochs})
    counts = [[np.count_nonzero(one.lengths >= epoch) for one in simulations] for epoch in epochs]
    return [Rung(epoch, float(np.mean(count))) for epoch, count in zip(epochs, counts, strict=True)]


def check_nodes(nodes: Nodes, profiled: bool) -> None:
    """Raises `InputError` for a number of nodes or a price that cannot be, or that a plan without hours cannot use."""
    if (nodes.count is not None and nodes.count < 1) or (nodes.price or 0) < 0:
        raise InputError(f"nodes={nodes.count}, price={nodes.price}", "Give at least 1 node, and no negative price.")
    if not profiled:
        raise InputError("the time on other nodes is reckoned from a profile", "Leave out --no-profile.")


def rungs(settings: Settings, epoch_length: float = 1.0) -> list[int]:
    """Rungs of ASHA, as the epochs after which a trial may be pruned.

    Args:
        epoch_length: length of one epoch in the unit of `asha.grace` (epochs, updates or hours of audio).
    """
    places = Rungs(settings).places(settings.epochs * epoch_length)
    return sorted({math.ceil(place / epoch_length) for place in places.values()} - {settings.epochs})


def random_proposals(space: Space, feasibility: Feasibility) -> list[Proposal | None]:
    """Up to `PROPOSALS` random proposals, completed by `feasibility`; None for each that is not feasible.

    Raises:
        InputError: no proposal is feasible.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=space.settings.seed))
    proposals = (feasibility(space.propose(study.ask())) for _ in range(PROPOSALS))
    found = ready(proposals, LEAST_PROPOSALS, PROPOSING_SECONDS)
    if not any(found):
        raise InputError(
            f"{space.source}: none of {len(found)} random proposals can be a trial",
            "Raise the budget, or add smaller models to the space.",
        )
    return found


def expense(
    profiles: Sequence[tuple[Workload, Profile]],
    simulations: Sequence[Simulation],
    settings: Settings,
    workers: int,
    concurrency: int,
) -> Expense:
    """Expected cost of a sweep: mean times of the simulated sweeps, and peak memory and disk space.

    The disk holds the checkpoints of unfinished trials, the models of the best finished trials, and two more copies of
    the best model: its directory and MLflow's artifact.
    """
    low, high = profiles[0][1], profiles[-1][1]
    trials = len(simulations[0].lengths)
    running = min(concurrency, trials)
    walls = [STARTS_OF_A_SWEEP * low.start + one.wall for one in simulations]
    lower, upper = np.quantile(walls, INTERVAL) / HOUR
    of_worker = max(one.memory for _, one in profiles)
    unfinished = trials if settings.promotions else running
    kept = unfinished * min(CHECKPOINTS_PER_TRIAL, settings.epochs)
    stored = kept * max(one.checkpoint_bytes for _, one in profiles)
    stored += (min(settings.keep, trials) + 2) * max(one.model_bytes for _, one in profiles)
    return Expense(
        wall_hours=float(np.mean(walls)) / HOUR,
        wall_hours_interval=(float(lower), float(upper)),
        device_hours=workers * float(np.mean([one.trained for one in simulations])) / HOUR,
        memory_bytes=SWEEP_MEMORY + running * (TRIAL_MEMORY + workers * of_worker),
        worker_memory_bytes=of_worker,
        gpu_memory_bytes=max(one.gpu_memory for _, one in profiles),
        disk_bytes=stored,
        cheapest=low,
        most_expensive=high,
        dearest=high,
    )
