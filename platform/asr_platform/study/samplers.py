"""Proposals by the sampler of a space, behind one function.

A proposal is a function of the ledger's content, the space and its seed. Each proposal uses a new Optuna sampler and
study in memory, where infeasible proposals are thrown away. The ledger's own study has one objective and a value for
each epoch; several objectives, values of pruned trials, and trials of other sweeps are in the memory study alone. The
differences between samplers are listed in `search_spaces/samplers.py`.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from asr_platform.study.trials.reading import NEXT_CHOICES
from search_spaces.distributions import Choice, Distribution, Float, Int
from search_spaces.samplers import SAMPLERS
from search_spaces.settings import Settings
from search_spaces.space import Proposal, Space
from trainables.errors import InputError

Feasible = Callable[[dict[str, Any]], Proposal | None]  # None where values cannot be a trial
PROPOSALS = 2000  # tried before a space counts as exhausted
OF_THE_SAMPLER = 30  # of these are proposed by the space's sampler; the others are drawn at random
LARGEST_GRID = 100_000  # points; each proposal iterates over all points before it
SAMPLER_NOTES = "sampler_notes"  # in a trial's attributes: `Observation.notes`
SOME_TIME = datetime(2000, 1, 1)  # Optuna requires a start time, which no sampler reads


@dataclass(frozen=True)
class Observation:
    """A trial as samplers see it. It holds plain values, so that a ledger can keep observations of other sweeps.

    Args:
        state: running, complete, pruned or failed.
        epoch: the last epoch; None before the first one.
        last: the value at the last epoch by which trials are ranked.
        values: the objectives at the best epoch, by name.
        notes: what Optuna's sampler wrote into the trial's system attributes.
    """

    params: Mapping[str, Any]
    state: str
    epoch: int | None
    last: float | None
    values: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Suggestion(NamedTuple):
    """Values that a sampler proposes, by key, and attributes to store with the trial (`Observation.notes`)."""

    params: Mapping[str, Any]
    notes: Mapping[str, Any]


class NotComparableError(ValueError):
    """A trial is not comparable with the trials of a space; the message is the reason."""


def observe(trial: FrozenTrial, params: Mapping[str, Any], promotions: Sequence[int] = ()) -> Observation:
    """A trial of a ledger as samplers see it.

    Args:
        params: values of the trial, by key.
        promotions: epochs after which trials wait to be promoted; a waiting trial counts as pruned.
    """
    curve, facts, state = trial.intermediate_values, trial.user_attrs, trial.state.name.lower()
    state = "failed" if trial.state == TrialState.FAIL else state
    notes = facts.get(SAMPLER_NOTES, {})
    if "generation" in facts:  # as earlier versions noted it
        notes = {"NSGAIISampler:generation": facts["generation"]}
    if not curve:
        return Observation(params, state, None, None, {}, notes)
    if trial.state == TrialState.RUNNING and max(curve) in promotions:
        state = "pruned"
    last, best = max(curve), min(curve, key=lambda epoch: (curve[epoch], -epoch))
    known = {**json.loads(facts[f"epoch:{best}"]), **facts, "val_cer": curve[best]}
    values = {name: known[name] for name in ("val_cer", "parameters", "real_time_factor") if name in known}
    return Observation(params, state, last, curve[last], values, notes)


def propose(
    space: Space, trials: Sequence[Observation], feasible: Feasible, others: Sequence[Observation] = (), added: int = 0
) -> tuple[Suggestion, Proposal]:
    """The next feasible proposal of the space's sampler: its values, and the trial that it becomes.

    Equal trials, space and seed give equal proposals. No values are proposed twice.

    Args:
        trials: trials of the sweep so far.
        feasible: returns the trial for proposed values; None if they are not feasible.
        others: trials of other sweeps, from which the sampler also learns.
        added: number of trials that were added on request, which take the place of no entry of `start`.

    Raises:
        InputError: no feasible proposal was found.
    """
    # Training is deterministic: repeating a trial is useless. Only if nothing varies, a failed trial may be repeated.
    tried = {identity(space, trial.params) for trial in trials} if space.vary else set()
    if (number := len(trials) - added) < len(space.start):
        values = dict(space.start[number])
        proposal = feasible(values) if not added or identity(space, values) not in tried else None
        if proposal is not None:
            return Suggestion({key: values[key] for key in space.vary if key in values}, {}), proposal
    repeated = 0
    for suggestion in _grid(space) if space.settings.sampler == "grid" else _sampled(space, trials, others):
        if identity(space, suggestion.params) in tried:
            repeated += 1
            continue
        proposal = feasible(dict(suggestion.params))
        if proposal is not None:
            return suggestion, proposal
    raise _nothing(space, repeated)


def identity(space: Space, params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The searched keys and their values, sorted: equal for two trials of which one repeats the other."""
    return tuple(sorted((key, value) for key, value in params.items() if key in space.vary))


def _nothing(space: Space, repeated: int) -> InputError:
    """Error that says why no proposal was found; `repeated`: number of proposals equal to earlier trials."""
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


def _sampled(space: Space, trials: Sequence[Observation], others: Sequence[Observation]) -> Iterator[Suggestion]:
    """Yields proposals of the space's sampler, and after `OF_THE_SAMPLER` of them random ones."""
    settings, kind = space.settings, SAMPLERS[space.settings.sampler]
    seed = (settings.seed * 1_000_003 + len(trials)) % 2**32  # NumPy takes no more
    study = optuna.create_study(directions=["minimize"] * len(settings.objectives), sampler=_sampler(settings, seed))
    study.add_trials(_copies(space, [*others, *trials]))
    for attempt in range(PROPOSALS):
        if attempt and attempt % OF_THE_SAMPLER == 0:  # a new study: the more trials it has, the slower it is
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler((seed + attempt) % 2**32))
        trial = study.ask()
        space.propose(trial)
        asked = study.get_trials(deepcopy=False)[trial.number]
        notes = {key: value for key, value in asked.system_attrs.items() if kind.notes and key.startswith(kind.notes)}
        yield Suggestion(asked.params, notes)
        if kind.sees_failures:
            study.tell(trial, state=TrialState.FAIL)


def _sampler(settings: Settings, seed: int) -> optuna.samplers.BaseSampler:
    kind = SAMPLERS[settings.sampler]
    assert kind.optuna is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # TPE's `group` has been one for years
        sampler: optuna.samplers.BaseSampler = getattr(optuna.samplers, kind.optuna)(
            seed=seed, **kind.options(settings.trials)
        )
    return sampler


class _Copy(FrozenTrial):
    """An Optuna trial whose deep copies are shallow: Optuna's many deep copies would take longer than sampling."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Copy:
        return copy.copy(self)


def _copies(space: Space, trials: Sequence[Observation]) -> list[FrozenTrial]:
    """Optuna trials for the comparable ones of `trials`, with the outcomes that the space's sampler is told."""
    settings, distributions = space.settings, distributions_of(space)
    complete = [trial.values["val_cer"] for trial in trials if trial.state == "complete"]
    worst = max(complete, default=math.inf)
    first = {key: variable.distribution.candidates()[0] for key, variable in space.vary.items()}
    copies: list[FrozenTrial] = []
    for trial in trials:
        try:
            values = values_in(space, trial.params)
            state, objectives, curve = _outcome(trial, settings, worst)
        except NotComparableError:
            continue
        if SAMPLERS[settings.sampler].same_keys:
            values = {**first, **values}
        params = {key: values[key] for key in distributions if key in values}
        copies.append(
            _Copy(
                number=0,
                trial_id=0,
                state=state,
                value=None,
                values=objectives,
                params=params,
                distributions={key: distributions[key] for key in params},
                intermediate_values=curve,
                user_attrs={},
                system_attrs=dict(trial.notes),
                datetime_start=SOME_TIME,
                datetime_complete=None if state == TrialState.RUNNING else SOME_TIME,
            )
        )
    return copies


def _outcome(
    trial: Observation, settings: Settings, worst: float
) -> tuple[TrialState, list[float] | None, dict[int, float]]:
    """Outcome of a trial as the sampler is told it: state, values of the objectives, and value by epoch.

    Args:
        worst: highest CER of the complete trials.

    Raises:
        NotComparableError: the trial has failed, has no epoch, or an objective was not measured.
    """
    if trial.state == "running":
        return TrialState.RUNNING, None, {}
    if trial.state == "failed" or trial.epoch is None or trial.last is None:
        raise NotComparableError("no epoch was finished")
    told = SAMPLERS[settings.sampler].pruned
    if trial.state == "pruned" and told == "pruned" and len(settings.objectives) == 1:
        return TrialState.PRUNED, None, {trial.epoch: trial.last}
    check_objectives(settings, trial)
    values = [trial.values[name] for name in settings.objectives]
    return TrialState.COMPLETE, [min(values[0], worst) if told == "capped" else values[0], *values[1:]], {}


def check_objectives(settings: Settings, trial: Observation) -> None:
    """Raises a NotComparableError if an objective of the sweep was not measured in a trial."""
    for name in settings.objectives:
        if name not in trial.values:
            raise NotComparableError(f"{name} was not measured")


# Values of a space


def values_in(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a trial in the form that `space` proposes; raises NotComparableError if `space` excludes them."""
    values, wrong = space.take(params)
    for key, reason in wrong.items():
        raise NotComparableError(f"{key}: {reason}")
    return values


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Optuna distributions of all searched keys, conditional ones included."""
    return {key: _distribution(variable.distribution) for key, variable in space.vary.items()}


def _distribution(distribution: Distribution) -> BaseDistribution:
    match distribution:
        case Choice():
            return CategoricalDistribution(distribution.values)
        case Int():
            return IntDistribution(distribution.low, distribution.high, step=distribution.step)
        case Float():
            return FloatDistribution(distribution.low, distribution.high, distribution.log, distribution.step)


def parameter_name(key: str, distribution: BaseDistribution, trials: Sequence[FrozenTrial]) -> str:
    """Name of a key's parameter in the study; new if the choices changed, since Optuna refuses to change them."""
    names = itertools.chain([key], (f"{key}{NEXT_CHOICES}{number}" for number in itertools.count(2)))
    recorded = [trial.distributions for trial in trials]
    return next(
        name for name in names if all(_compatible(each.get(name, distribution), distribution) for each in recorded)
    )


def _compatible(recorded: BaseDistribution, distribution: BaseDistribution) -> bool:
    try:
        optuna.distributions.check_distribution_compatibility(recorded, distribution)
    except ValueError:
        return False
    return True


# The grid


def _grid(space: Space) -> Iterator[Suggestion]:
    """Yields every combination of values that the conditions allow, shuffled by the space's seed."""
    axes = {key: _points(variable.distribution) for key, variable in space.vary.items()}
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
                break  # inactive keys: an equal combination was yielded with their first values
        else:
            yield Suggestion(values, {})


def _points(distribution: Distribution) -> Sequence[Any]:
    """All values of a distribution; a range of real numbers must have a step."""
    match distribution:
        case Choice():
            return distribution.values
        case Int():
            return range(distribution.low, distribution.high + 1, distribution.step)
        case Float():
            low, high, step = (Decimal(str(end)) for end in (distribution.low, distribution.high, distribution.step))
            return [float(low + step * number) for number in range(int((high - low) / step) + 1)]


@lru_cache(maxsize=1)
def _shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
