"""What a sweep will take, before anything of it starts.

Three steps. Proposals drawn by chance say how much of the space is feasible. The cheapest and the most expensive of
these are trained for seconds, which gives every other one its price: what a batch takes grows about as the
multiplications in it, and how far from that it is, the batches of some others say, those that the sweep begins with
among them. And sweeps of such trials are played through, each trial with a quality drawn by chance.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

import numpy as np
import optuna
import torch

from asr_platform.monitoring.simulation import Costs, Rules, Simulation, simulate
from asr_platform.study.failures import LONGEST_REASON
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.halving import Rungs
from asr_platform.study.ledger import Ledger
from asr_platform.study.spending import HOUR
from asr_platform.tuning import cluster
from asr_platform.tuning.callbacks.retention import CHECKPOINTS_PER_TRIAL
from search_spaces.settings import LATE_SHARE, Settings
from search_spaces.space import Space
from trainables.config import Config
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.training.profile import Profile, profile
from trainables.training.workload import BYTES, Workload, Workloads, checkpoint_bytes

PROPOSALS = 1000
BLIND = 10  # proposals before the samplers look at results
WATCHED = 8  # candidates besides the cheapest and the most expensive whose batches are timed, three seconds each
PRICED = 64  # of the feasible proposals; their mean is within some percent of all of them, and each takes 50 ms
QUANTILES = {"min": 0.0, "25%": 0.25, "50%": 0.5, "75%": 0.75, "max": 1.0}
REHEARSALS = 100
# Processes that begin and import, one after another, are what a sweep takes besides its epochs; a busy machine slows
# them all. So both are counted in starts of the profile's process: those of a trial (17 s of a quiet one of 10 epochs,
# its end and reports included), and those of Ray, MLflow, the winner's model and its pictures.
STARTS_OF_A_TRIAL, STARTS_OF_A_SWEEP = 3.5, 4.0
# What is held beside the workers: by Ray and the driver, and by the six processes that each trial has without torch.
# Measured on two cores, pages that processes share counted once.
SWEEP_MEMORY, TRIAL_MEMORY = 1_600_000_000, 550_000_000


@dataclass(frozen=True)
class Rung:
    """An epoch at which trials may be stopped, and how many trials are expected to get there."""

    epoch: int
    trials: float


@dataclass(frozen=True)
class Expense:
    """What the sweep is expected to take; memory at its peak, on all machines together."""

    wall_hours: float
    device_hours: float
    memory_bytes: int
    worker_memory_bytes: int
    gpu_memory_bytes: int
    disk_bytes: int
    cheapest: Profile
    most_expensive: Profile


@dataclass(frozen=True)
class Plan:
    """What is known of a sweep before it starts.

    Args:
        parameters: quantiles over the feasible proposals.
        rungs: the last is a full trial's end.
        expense: None where nothing was profiled.
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


@dataclass(frozen=True)
class Candidate:
    """A feasible proposal and how much work it is."""

    config: Config
    parameters: int
    workload: Workload


@dataclass(frozen=True)
class Measured:
    """What some candidates were seen to take.

    Args:
        cheapest: the candidate whose batches have the fewest multiplications; `low` is its profile.
        most_expensive: that with the most; `high` is its profile.
        batches: others, with the seconds of a batch.
    """

    cheapest: Candidate
    low: Profile
    most_expensive: Candidate
    high: Profile
    batches: Sequence[tuple[Candidate, float]] = ()

    def between(self, candidate: Candidate, name: str) -> float:
        """A figure of the profiles, as the candidate's multiplications lie between theirs."""
        reach = [self.cheapest.workload.multiplications, self.most_expensive.workload.multiplications]
        figures = [getattr(self.low, name), getattr(self.high, name)]
        return float(np.interp(candidate.workload.multiplications, reach, figures))

    def batch(self, candidate: Candidate) -> float:
        """Seconds of a batch: as seen, or between those of the two, as far off as the median of those seen."""
        for other, seconds in self.batches:
            if other is candidate:
                return seconds
        ratios = [seconds / self.between(other, "batch") for other, seconds in self.batches]
        return self.between(candidate, "batch") * (float(np.median(ratios)) if ratios else 1.0)


def plan(space: Space, corpus: Corpus, trials: int | None, options: cluster.Options, profiled: bool = True) -> Plan:
    """Draws, profiles and plays through; `trials` overrides the space's number.

    Raises:
        InputError: nothing in the space is feasible, no trial fits the machine, or the profile fails.
    """
    feasibility = Feasibility(space, corpus)
    feasibility.check()
    with cluster.resources(options.address) as machine:
        workers = machine.workers(options)
        concurrency = machine.concurrency(workers, options)
    found = feasible_proposals(space, feasibility)
    sizes = np.quantile([parameters for _, parameters in found], list(QUANTILES.values()), method="nearest")
    settings, count = space.comparable_settings, trials or space.settings.trials
    workloads = Workloads(corpus, feasibility.split, feasibility.tokenizer, workers.count)
    config, seconds = found[0][0], float(feasibility.split.seconds.sum())
    stops = rungs(settings, length_of_an_epoch(settings.asha.unit, config, workloads(config), seconds))
    first, drawn, measured = [], [Costs.even(settings.epochs)], None
    if profiled:
        begun = [Candidate(*one, workloads(one[0])) for one in first_proposals(space, feasibility, count)]
        others = [Candidate(*one, workloads(one[0])) for one in found[:PRICED]]
        measured = profiles([*begun, *others], corpus, workers, concurrency)
        grace = min([*stops, settings.epochs])
        starts = 2 if settings.promotions else 1  # a trial that waits goes on once, the most promising ones oftener
        first, drawn = (
            [priced(one, measured, workers.count, grace, starts) for one in group] for group in (begun, others)
        )
    attends = settings.asha.plateau is not None and config.model.kind != "language_model"
    spared = LATE_SHARE * settings.epochs if attends else 0.0
    rules = Rules(stops, settings.asha.reduction, spared, waiting=bool(settings.promotions))
    random = np.random.default_rng(settings.seed)
    played = []
    for _ in range(REHEARSALS):
        rest = [drawn[number] for number in random.choice(len(drawn), count - len(first))]
        played.append(simulate([*first, *rest], rules, concurrency, random))
    reached = np.mean([one.reached for one in played], axis=0).tolist()
    steps = [Rung(epoch, trials) for epoch, trials in zip([*stops, settings.epochs], reached, strict=True)]
    return Plan(
        space=space.source,
        proposals=PROPOSALS,
        feasible=len(found),
        parameters=dict(zip(QUANTILES, map(int, sizes), strict=True)),
        trials=count,
        epochs=settings.epochs,
        rungs=steps,
        concurrency=concurrency,
        workers=workers.count,
        expense=expected(measured, played, workers.count, min(concurrency, count), min(settings.keep, count))
        if measured
        else None,
    )


def rungs(settings: Settings, of_an_epoch: float = 1.0) -> list[int]:
    """The epochs at which a trial may be stopped; `of_an_epoch` is an epoch in the unit of ASHA's grace."""
    places = Rungs(settings).places(settings.epochs * of_an_epoch)
    return sorted({math.ceil(place / of_an_epoch) for place in places.values()} - {settings.epochs})


def length_of_an_epoch(unit: str, config: Config, workload: Workload, seconds: float) -> float:
    """An epoch of a configuration, in the unit of ASHA's grace; `seconds` of audio are in the training split."""
    updates = math.ceil(workload.batches / config.training.accumulation)
    return {"epochs": 1.0, "updates": float(updates), "hours": seconds / HOUR}[unit]


def feasible_proposals(space: Space, feasibility: Feasibility) -> list[tuple[Config, int]]:
    """Those of `PROPOSALS` random ones that are feasible, with their parameter counts.

    Raises:
        InputError: none is.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=space.settings.seed))
    found = []
    for _ in range(PROPOSALS):
        proposal = feasibility(space.propose(study.ask()))
        if proposal is not None:
            found.append((proposal.config, proposal.parameters))
    if not found:
        raise InputError(
            f"{space.source}: none of {PROPOSALS} random proposals can be a trial",
            "Raise the budget, or add smaller models to the space.",
        )
    return found


def first_proposals(space: Space, feasibility: Feasibility, trials: int) -> list[tuple[Config, int]]:
    """What the sweep itself will begin with: its seed and the space decide that, not what becomes of the trials."""
    ledger = Ledger(optuna.create_study())
    found = []
    for _ in range(min(trials, BLIND)):
        try:
            trial = ledger.propose(space, feasibility)
        except InputError:  # a small grid is done
            break
        found.append((space.config(trial.params), int(trial.about["parameters"])))
    return found


def profiles(candidates: list[Candidate], corpus: Corpus, workers: cluster.Workers, concurrency: int) -> Measured:
    """Profiles the candidates whose batches have the fewest and the most multiplications, and the first ones' batches.

    Where trials run side by side on the same device, so do the two: they slow each other down as trials will.

    Raises:
        InputError: one of them could not be trained.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.workload.multiplications)
    ends = ordered[0], ordered[-1]
    others = [candidate for candidate in candidates if not any(candidate is end for end in ends)][:WATCHED]
    shares = others[::2], others[1::2]
    gpu = workers.gpus > 0
    if gpu and not torch.cuda.is_available():
        raise InputError(
            "the trials would train on GPUs, and this machine has none to profile on",
            "Run plan on a machine of the cluster, or leave the profile out: --no-profile.",
        )
    together = 2 if concurrency > 1 and workers.gpus < 1 else 1
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(together, mp_context=spawn, max_tasks_per_child=1) as pool:
        jobs = [
            pool.submit(
                profile, share(end.config, workers.count), corpus.path.resolve(), workers.threads, gpu,
                [share(other.config, workers.count) for other in beside],
            )
            for end, beside in zip(ends, shares, strict=True)
        ]  # fmt: skip
        try:
            low, high = (job.result() for job in jobs)
        except (BrokenProcessPool, RuntimeError) as error:  # out of memory, most of all
            raise InputError(
                f"a profile failed: {' '.join(str(error).split())[:LONGEST_REASON]}",
                "Lower training.batch_seconds or the budget; --no-profile leaves it out.",
            ) from None
    seen = [*zip(shares[0], low.others, strict=True), *zip(shares[1], high.others, strict=True)]
    return Measured(ends[0], low, ends[1], high, seen)


def share(config: Config, workers: int) -> Config:
    """The run with batches as large as one worker's share."""
    training = config.training
    update = {
        "batch_seconds": training.batch_seconds / workers,
        "batch_tokens": max(1, training.batch_tokens // workers),
    }
    return config.model_copy(update={"training": training.model_copy(update=update)})


def priced(candidate: Candidate, measured: Measured, workers: int, grace: int, starts: int = 1) -> Costs:
    """What a trial takes, each of its figures between those of the two that were profiled.

    Until the first rung a model is taken to have learned no end, so that its hypotheses run to their longest; after it
    they are taken to be as long as the references. Workers are taken to wait for nobody.

    Args:
        starts: of each trial's processes.
    """
    config, between = candidate.config, partial(measured.between, candidate)
    epochs = np.arange(config.training.epochs)
    validation = np.where(epochs < grace, between("first_validation"), between("validation")) / workers
    training = candidate.workload.batches * measured.batch(candidate) + validation
    disk = min(CHECKPOINTS_PER_TRIAL, config.training.epochs) * checkpoint_bytes(config, candidate.parameters)
    return Costs(
        starts * STARTS_OF_A_TRIAL * between("start"), training + between("checkpoint"), workers * training, disk
    )


def expected(measured: Measured, played: list[Simulation], workers: int, concurrency: int, keep: int) -> Expense:
    """Means over the rehearsals; room for as much as there can be at one time.

    On disk are the checkpoints of trials that have not ended, the weights of the best that have, and the winner's twice
    more: its directory, and MLflow's artifact.

    Args:
        keep: trials whose models stay.
    """
    low, most_expensive, high = measured.low, measured.most_expensive, measured.high
    wall, device, disk = (float(np.mean([getattr(one, name) for one in played])) for name in ("wall", "device", "disk"))
    of_worker = max(low.memory, high.memory)
    return Expense(
        wall_hours=(STARTS_OF_A_SWEEP * low.start + wall) / HOUR,
        device_hours=device / HOUR,
        memory_bytes=SWEEP_MEMORY + concurrency * (TRIAL_MEMORY + workers * of_worker),
        worker_memory_bytes=of_worker,
        gpu_memory_bytes=max(low.gpu_memory, high.gpu_memory),
        disk_bytes=int(disk) + (keep + 2) * BYTES * most_expensive.parameters,
        cheapest=low,
        most_expensive=high,
    )
