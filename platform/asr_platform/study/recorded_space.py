"""Reads a sweep's search space and spending limits from its ledger.

A space leaves out most keys, which then have their defaults. A sweep keeps the defaults that it began with, since its
trials continue from checkpoints: its ledger records those that were once others, and an older ledger stands for the
former ones.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import DEFAULTS, Space
from trainables.config_parsing import FORMER_VALUES

RECORDED_DEFAULTS = "defaults"  # key in the facts from the start of a sweep


def defaults_to_record() -> dict[str, Any]:
    """Defaults by key that a new sweep's ledger records: those of keys that older ledgers know with other ones."""
    return {key: DEFAULTS[key] for key in FORMER_VALUES}


def recorded_space(about: dict[str, Any]) -> Space:
    """Current space of a sweep: the space of its start, or a wider space given at a later resume."""
    return written_space(about).with_epochs(about["epochs"])


def written_space(about: dict[str, Any]) -> Space:
    """Current space of a sweep as its file has it; `--epochs` at the start of the sweep is not applied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a record keeps the key names of its time
        space = parse_space(about["space"], about["source"], Path(about.get("folder", Path.cwd())))
    return _with_recorded_defaults(about, space)


def wider_space(about: dict[str, Any], given: Space) -> Space:
    """`given` as the wider space of a sweep: with the defaults that the sweep began with, and with its number of
    epochs, unless the space file's number has changed since the start."""
    wider = _with_recorded_defaults(about, given)
    unchanged = wider.settings.epochs == written_space(about).settings.epochs
    return wider.with_epochs(about["epochs"]) if unchanged else wider


def _with_recorded_defaults(about: dict[str, Any], space: Space) -> Space:
    recorded = {**FORMER_VALUES, **about.get(RECORDED_DEFAULTS, {})}
    changed = {key: value for key, value in recorded.items() if value != DEFAULTS[key]}
    return replace(space, base={**changed, **space.base})


def changed_trials(about: dict[str, Any], wider: Space) -> int | None:
    """Number of trials in `wider`; None if the sweep's current space file has an equal number."""
    return wider.settings.trials if wider.settings.trials != written_space(about).settings.trials else None


def recorded_limits(about: dict[str, Any]) -> Limits:
    """Current spending limits of a sweep."""
    return Limits.model_validate(about.get("limits", {}))
