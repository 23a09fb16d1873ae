"""`start:` in a space: configurations that are tried before the sampler's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.distributions import as_text
from trainables.config_parsing import flatten
from trainables.errors import InputError

if TYPE_CHECKING:
    from search_spaces.space import Space


def read_entries(
    tree: Any, varied: Mapping[Any, Any], mistake: Callable[[str, str], None]
) -> list[tuple[str, dict[str, Any]]]:
    """The entries as leaves, each with its place (`start.0`); `mistake` is told what is wrong at which key."""
    if tree is None:
        return []
    if not isinstance(tree, list):
        mistake("start", f"must be a list of configurations, such as [{{}}], which is the base, but got {tree!r}")
        return []
    entries = []
    for number, entry in enumerate(tree):
        place = f"start.{number}"
        if not isinstance(entry, Mapping):
            mistake(place, f"must be a mapping of varied keys to values, but got {entry!r}")
            continue
        leaves: dict[str, Any] = {}
        for key, value in flatten(entry):
            if key not in varied:
                mistake(f"{place}.{key}", f"does not vary; what varies is {', '.join(map(str, varied)) or 'nothing'}")
            elif key in leaves:
                mistake(f"{place}.{key}", "given twice, once by its path and once in its section")
            leaves[key] = value
        entries.append((place, leaves))
    return entries


def complete_entry(
    space: Space, place: str, entry: Mapping[str, Any], mistake: Callable[[str, str], None]
) -> dict[str, Any]:
    """The entry's values and, of the active keys that it leaves out, the base's: as `Space.config` takes them.

    A fitted width that neither the entry nor the base says is left out, to be solved for.
    """
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    distributions = {key: variable.distribution for key, variable in space.vary.items()}
    for key, distribution in {**distributions, **({space.fit.key: space.fit} if space.fit else {})}.items():
        if not space.is_active(key, values):
            if key in entry:
                wrong[key] = f"has no meaning here: it varies when {_condition(space.vary[key].when)}"
            continue
        if space.fit and key == space.fit.key and key not in entry and key not in space.base:
            continue  # nobody has said a width: it is solved for, as in all other proposals
        value = entry[key] if key in entry else space.value(key, values)
        try:
            values[key] = distribution.take(as_text(value) if isinstance(value, list | tuple) else value)
        except (TypeError, ValueError) as error:
            remedy = "; it is the base's: give the key a value in this entry, or widen what varies"
            wrong[key] = f"{error}{'' if key in entry else remedy}"
            values[key] = value  # conditions on it are as the entry means them
    for key, reason in wrong.items():
        mistake(f"{place}.{key}", reason)
    if not wrong:
        try:
            space.config(values)
        except InputError as error:
            mistake(place, error.problem.removeprefix(f"{space.source}: proposal: "))
    return values


def _condition(when: Mapping[str, tuple[Any, ...]]) -> str:
    return " and ".join(f"{key} is {' or '.join(map(str, values))}" for key, values in when.items())
