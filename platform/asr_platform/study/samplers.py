"""What to try next: TPE, a Gaussian process, NSGA-II, chance or a grid, behind one function.

The idea: a proposal is a function of the ledger's content, the space and its seed. The sampler lives for one proposal,
over a copy of the trials in memory, where proposals that cannot be trials are made and thrown away. The ledger stays
one kind of study, with one objective and a value an epoch; what a sampler wants otherwise (several objectives, values
of stopped trials, trials of other sweeps) is in the copy alone.
"""

from __future__ import annotations

import copy
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from asr_platform.compat.optuna import contains
from search_spaces.settings import Settings
from search_spaces.space import Proposal, Space
from trainables.errors import InputError

Feasible = Callable[[dict[str, Any]], Proposal | None]  # None where values cannot be a trial
PROPOSALS = 2000  # before a space is said to have nothing that fits
LEARNED = 30  # of these are the sampler's own; the rest are drawn at random
SMALLEST_POPULATION = 4
LARGEST_GRID = 100_000  # points; each proposal goes through those before it
GENERATION = "NSGAIISampler:generation"  # where Optuna notes a trial's generation
SOME_TIME = datetime(2000, 1, 1)  # Optuna's trials have one, which no sampler reads


@dataclass(frozen=True)
class Observation:
    """A trial as samplers see it; plain values, so that a ledger can hold those of other sweeps.

    Args:
        state: running, complete or pruned.
        epoch, last: its last epoch, and what ranks trials as it was then; None before any.
        values: the objectives at its best epoch, by name.
        generation: in NSGA-II's evolution.
    """

    params: Mapping[str, Any]
    state: str
    epoch: int | None
    last: float | None
    values: Mapping[str, float]
    generation: int = 0


class Misfit(ValueError):
    """Why a trial's values are none that a space could propose."""


def observe(trial: FrozenTrial, looks: Sequence[int] = ()) -> Observation | None:
    """A trial of a ledger; None for one that failed, of which nothing is known.

    Args:
        looks: epochs after which trials wait: one there counts as stopped, since more may not be known of it for long.
    """
    if trial.state == TrialState.FAIL:
        return None
    curve, notes, state = trial.intermediate_values, trial.user_attrs, trial.state.name.lower()
    generation = notes.get("generation", 0)
    if not curve:
        return Observation(trial.params, state, None, None, {}, generation)
    if trial.state == TrialState.RUNNING and max(curve) in looks:
        state = "pruned"
    last, best = max(curve), min(curve, key=lambda epoch: (curve[epoch], -epoch))
    known = {**json.loads(notes[f"epoch:{best}"]), **notes, "val_cer": curve[best]}
    values = {name: known[name] for name in ("val_cer", "parameters", "real_time_factor") if name in known}
    return Observation(trial.params, state, last, curve[last], values, generation)


def propose(
    space: Space, trials: Sequence[FrozenTrial], feasible: Feasible, others: Sequence[Observation] = ()
) -> tuple[FrozenTrial, Proposal]:
    """What to ask for next after these trials that is feasible, and the trial that it makes; nothing is made twice.

    The same for the same trials, space and seed.

    Args:
        others: trials of other sweeps, from which the sampler learns too.

    Raises:
        InputError: there is none.
    """
    if len(trials) < len(space.start):
        values = dict(space.start[len(trials)])
        proposal = feasible(values)
        if proposal is not None:
            return _given(space, values), proposal
    # Trainings are deterministic: one more would tell nothing. Where nothing varies, a failed one may be repeated.
    tried = {_identity(trial.params) for trial in trials} if space.vary else set()
    repeated = 0
    for trial in _grid(space) if space.settings.sampler == "grid" else _sampled(space, trials, others):
        if _identity(trial.params) in tried:
            repeated += 1
            continue
        proposal = feasible(trial.params)
        if proposal is not None:
            return trial, proposal
    raise _nothing(space, repeated)


def _identity(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def _nothing(space: Space, repeated: int) -> InputError:
    """Why there is no proposal; so many were those of earlier trials."""
    is_grid = space.settings.sampler == "grid"
    if not repeated:
        what = "no point of the grid" if is_grid else f"none of {PROPOSALS} proposals"
        return InputError(
            f"{space.source}: {what} fits the budget of {space.settings.budget:,} parameters",
            "Raise the budget or add smaller models to the space.",
        )
    if is_grid:
        problem = "the grid is done: all of its points that fit have been tried"
    else:
        problem = f"nothing new to try: of {PROPOSALS} proposals {repeated} have been tried, the others do not fit"
    return InputError(f"{space.source}: {problem}", "For more trials, let more vary.")


# Sampling


def _sampled(space: Space, trials: Sequence[FrozenTrial], others: Sequence[Observation]) -> Iterator[FrozenTrial]:
    """What the sampler proposes; after many that do not serve, what chance does."""
    settings, looks = space.settings, space.settings.promotions
    seed = (settings.seed * 1_000_003 + len(trials)) % 2**32  # NumPy takes no more
    study = optuna.create_study(directions=["minimize"] * len(settings.objectives), sampler=_sampler(settings, seed))
    study.add_trials(_copies(space, [*others, *filter(None, (observe(trial, looks) for trial in trials))]))
    for attempt in range(PROPOSALS):
        if attempt and attempt % LEARNED == 0:  # a new study each time: the more trials it has, the slower it is
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler((seed + attempt) % 2**32))
        trial = study.ask()
        space.propose(trial)
        proposal = study.get_trials(deepcopy=False)[trial.number]
        generation = proposal.system_attrs.get(GENERATION)
        notes = {} if generation is None else {"generation": generation}
        yield _running(proposal.params, proposal.distributions, notes)
        # A Gaussian process sees no failures and would come back to the same point; from those that run it keeps away.
        if settings.sampler != "gp":
            study.tell(trial, state=TrialState.FAIL)


def _running(
    params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], notes: Mapping[str, Any]
) -> FrozenTrial:
    return optuna.create_trial(
        state=TrialState.RUNNING, params=dict(params), distributions=dict(distributions), user_attrs=dict(notes)
    )


def _sampler(settings: Settings, seed: int) -> optuna.samplers.BaseSampler:
    if settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    if settings.sampler == "nsga2":
        # As many generations as a generation has trials: Optuna's 50 are more than most sweeps have in all.
        size = max(SMALLEST_POPULATION, math.isqrt(settings.trials))
        return optuna.samplers.NSGAIISampler(population_size=size, seed=seed)
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` has been one for years
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


class _Copy(FrozenTrial):
    """Optuna copies the trials it is given down to the last choice, which takes longer than sampling."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Copy:
        return copy.copy(self)


def _copies(space: Space, seen: Sequence[Observation]) -> list[FrozenTrial]:
    """The trials in the form of which the space's sampler makes the most; what does not fit the space is left out."""
    settings, distributions = space.settings, distributions_of(space)
    finished = [trial.values["val_cer"] for trial in seen if trial.state == "complete"]
    worst = max(finished, default=math.inf) if settings.sampler == "gp" else math.inf
    copies: list[FrozenTrial] = []
    for trial in seen:
        try:
            params = fitting(space, trial.params, distributions)
            state, values, curve = _outcome(trial, settings, worst)
        except Misfit:
            continue
        if settings.sampler in ("gp", "nsga2"):
            # They vary together only what every trial has: where a condition does not hold, its key has any one value.
            params = {key: params.get(key, _first(distribution)) for key, distribution in distributions.items()}
        copies.append(
            _Copy(
                number=0,
                trial_id=0,
                state=state,
                value=None,
                values=values,
                params=params,
                distributions={key: distributions[key] for key in params},
                intermediate_values=curve,
                user_attrs={},
                system_attrs={GENERATION: trial.generation},
                datetime_start=SOME_TIME,
                datetime_complete=None if state == TrialState.RUNNING else SOME_TIME,
            )
        )
    return copies


def _outcome(
    trial: Observation, settings: Settings, worst: float
) -> tuple[TrialState, list[float] | None, dict[int, float]]:
    """State, values of the objectives, and values by epoch, as the sampler is told them.

    TPE with one objective ranks stopped trials behind finished ones, by how far they came and then by their last
    value: so they are told as they are. Elsewhere they count as finished with what they reached, which is no better
    than what they would have reached. Told as stopped,
    - the Gaussian process and NSGA-II would not see them: both read finished trials alone, a minority of a sweep;
    - TPE would refuse their values beside several objectives and without these rank them last (Optuna's
      `_get_pruned_trial_score`); then it would avoid the small models that early stopping ends for their CER alone.

    Args:
        worst: no CER above this is told. Beside the 90% of an early epoch, a Gaussian process would see all finished
            trials as one; and a stopped trial is not known to be worse than the worst of these.

    Raises:
        Misfit: an objective is not known of it.
    """
    if trial.state == "running":
        return TrialState.RUNNING, None, {}
    if trial.epoch is None or trial.last is None:
        raise Misfit("no epoch was finished")
    if trial.state == "pruned" and settings.sampler == "tpe" and len(settings.objectives) == 1:
        return TrialState.PRUNED, None, {trial.epoch: trial.last}
    check_objectives(settings, trial)
    values = [trial.values[name] for name in settings.objectives]
    return TrialState.COMPLETE, [min(values[0], worst), *values[1:]], {}


def check_objectives(settings: Settings, trial: Observation) -> None:
    """Raises Misfit where an objective of the sweep is not known of a trial."""
    for name in settings.objectives:
        if name not in trial.values:
            raise Misfit(f"{name} was not measured")


# Values of a space


class _Asked:
    """Keeps what a space asks; answers with the first possible value."""

    def __init__(self) -> None:
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, CategoricalDistribution(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> Any:
        return self._keep(name, IntDistribution(low, high, step=step))

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        return self._keep(name, FloatDistribution(low, high, log, step))

    def _keep(self, name: str, distribution: BaseDistribution) -> Any:
        self.distributions[name] = distribution
        return _first(distribution)


def _first(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Those of all varied keys, whatever their conditions."""
    asked = _Asked()
    for key, variable in space.vary.items():
        variable.distribution.suggest(key, asked)
    return asked.distributions


def fitting(
    space: Space, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution] | None = None
) -> dict[str, Any]:
    """The values as the space could propose them.

    Raises:
        Misfit: it could not.
    """
    distributions = distributions_of(space) if distributions is None else distributions
    for key in params:
        if key not in space.vary:
            raise Misfit(f"{key} does not vary here")
    found = {}
    for key, distribution in distributions.items():
        if not space.is_active(key, params):
            if key in params:
                raise Misfit(f"{key} has another condition here")
            continue
        if key not in params:
            raise Misfit(f"{key} varies here alone")
        if not _holds(distribution, params[key]):
            raise Misfit(f"{key}={params[key]} is {_elsewhere(distribution)}")
        found[key] = params[key]
    return found


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return contains(distribution, value)
    except ValueError:  # not one of the choices, or no number
        return False


def _elsewhere(distribution: BaseDistribution) -> str:
    """Where a value lies that the distribution does not have."""
    if isinstance(distribution, CategoricalDistribution):
        return f"none of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return f"outside [{distribution.low:g}, {distribution.high:g}]"


def _given(space: Space, values: Mapping[str, Any]) -> FrozenTrial:
    """A proposal of these values, of which those that no sampler is asked for are left out."""
    distributions = {key: distribution for key, distribution in distributions_of(space).items() if key in values}
    return _running({key: values[key] for key in distributions}, distributions, {})


# The grid


def _grid(space: Space) -> Iterator[FrozenTrial]:
    """Every combination of the space's values that its conditions allow, in an order that the seed shuffles."""
    axes = {key: _points(distribution) for key, distribution in distributions_of(space).items()}
    count = math.prod(map(len, axes.values()))
    if count > LARGEST_GRID:
        raise InputError(
            f"{space.source}: a grid of {count:,} points, more than {LARGEST_GRID:,}",
            "Let fewer keys vary, or in longer steps; or choose another sampler.",
        )
    for index in _shuffled(count, space.settings.seed):
        values: dict[str, Any] = {}
        for key, axis in axes.items():
            index, place = divmod(index, len(axis))
            if space.is_active(key, values):
                values[key] = axis[place]
            elif place:
                break  # the same combination as that with the first of the values that do not matter
        else:
            yield _given(space, values)


def _points(distribution: BaseDistribution) -> Sequence[Any]:
    """The values of a distribution that has so many."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution) and distribution.step is not None
    low, high, step = (Decimal(str(number)) for number in (distribution.low, distribution.high, distribution.step))
    return [float(low + step * number) for number in range(int((high - low) / step) + 1)]


@lru_cache(maxsize=1)
def _shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
