"""A trial's values in the words of another space: how a sweep's space grows, and how one sweep can learn of another.

Samplers compare trials by the distributions that their values came from. A trial of another space gets those of this
one: what it varied keeps its value, and what has begun to vary has the value that its own space gave it all along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from asr_platform.study.samplers import Misfit, distributions_of, fitting
from search_spaces.distributions import as_text
from search_spaces.space import STRUCTURED, Space
from trainables.config_parsing import flatten
from trainables.errors import InputError

AGAIN = "#"  # in a study, between a key whose choices have changed and the number of the change
MOST_PROBLEMS = 5  # in one message


def restated(params: Mapping[str, Any], origin: Space, space: Space) -> dict[str, Any]:
    """The values in `space` of a trial that had `params` in `origin`.

    Raises:
        Misfit: one of them is not in the space.
    """
    values = {key: _value(key, params, origin) for key in space.vary}
    active = {key: value for key, value in values.items() if space.is_active(key, values)}
    fitted = {space.fit.key: _value(space.fit.key, params, origin)} if space.fit else {}
    return {**fitting(space, active), **fitted}


def refit(trial: FrozenTrial, params: Mapping[str, Any], space: Space) -> FrozenTrial | None:
    """A trial with these values, and the distributions that the space has for them; None where it has them not."""
    distributions = distributions_of(space)
    try:
        values = fitting(space, {key: value for key, value in params.items() if key in space.vary}, distributions)
    except Misfit:
        return None
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=values,
        distributions={key: distributions[key] for key in values},
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )


def check_widening(trials: Mapping[int, Mapping[str, Any]], origin: Space, space: Space) -> dict[int, dict[str, Any]]:
    """The values of a sweep's trials, by number, in the space with which the sweep is to go on.

    Raises:
        InputError: the trials could not be compared any more, or one of them would be another model.
    """
    for key, why in (("epochs", "early stopping compares trials of one length"), ("objectives", "they rank trials")):
        before, after = getattr(origin.settings, key), getattr(space.settings, key)
        if before != after:
            raise InputError(
                f"{space.source}: {key}: a sweep cannot change it ({why}): it was {before}, not {after}",
                "Leave it as it was, or start a new sweep.",
            )
    values, problems = {}, []
    for number, params in trials.items():
        try:
            values[number] = restated(params, origin, space)
        except Misfit as error:
            problems.append(f"trial {number}: {error}")
            continue
        problems += [f"trial {number}: {line}" for line in _changes(params, origin, values[number], space)]
    if problems:
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise InputError(
            f"{space.source}: the sweep's trials do not fit: " + "; ".join(problems[:MOST_PROBLEMS] + more),
            "Keep what they had among what varies, or start a new sweep.",
        )
    return values


def stored_name(key: str, distribution: BaseDistribution, trials: Iterable[FrozenTrial]) -> str:
    """The name under which a study takes a key's value: in one study, the choices of one name never change."""
    found = (name for trial in trials for name in trial.distributions if plain_name(name) == key)
    names = {name: None for name in found}
    for name in names:
        recorded = next(trial.distributions[name] for trial in trials if name in trial.distributions)
        try:
            optuna.distributions.check_distribution_compatibility(recorded, distribution)
            return name
        except ValueError:
            continue
    return f"{key}{AGAIN}{len(names) + 1}" if names else key


def plain_name(name: str) -> str:
    """The key of a name in a study."""
    return name.partition(AGAIN)[0]


def _value(key: str, params: Mapping[str, Any], origin: Space) -> Any:
    """A key's value in a trial, whether it varied or not."""
    value = origin.value(key, params)
    return as_text(value) if key in STRUCTURED and key not in params else value


def _changes(before: Mapping[str, Any], origin: Space, after: Mapping[str, Any], space: Space) -> list[str]:
    """What would differ between a trial's configuration of then and of now."""
    there, here = (dict(flatten(one.config(values).model_dump())) for one, values in ((origin, before), (space, after)))
    return [f"{key} was {there[key]!r}, not {here[key]!r}" for key in here if there[key] != here[key]]
