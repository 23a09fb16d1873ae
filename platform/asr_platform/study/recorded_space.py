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
from search_spaces.settings import Asha, Limits
from search_spaces.space import DEFAULTS, INITIAL_MODEL, Space
from trainables.config.parsing import FORMER_VALUES

RECORDED_DEFAULTS = "defaults"  # key in the facts from the start of a sweep
MEASURED = "measured"  # key of the seconds of a start and an epoch, and the first promotion chosen from them
INIT_FROM = "init_from"  # key of the model directory with whose weights the trials begin; absent or None: none
FORMER_ASHA = {"promotion": None, "reduction": 3.0}
"""Former defaults of `asha`, which a sweep whose ledger does not record newer ones keeps."""


def defaults_to_record() -> dict[str, Any]:
    """Defaults by key that a new sweep's ledger records: those of keys that older ledgers know with other ones."""
    asha = {f"asha.{key}": Asha.model_fields[key].default for key in FORMER_ASHA}
    return {key: DEFAULTS[key] for key in FORMER_VALUES} | asha


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
    recorded = about.get(RECORDED_DEFAULTS, {})
    former = {key: recorded.get(key, value) for key, value in FORMER_VALUES.items()}
    changed = {key: value for key, value in former.items() if value != DEFAULTS[key]}
    if INITIAL_MODEL not in space.base:
        initial = about.get(INIT_FROM)
        space = space.with_initial_model(Path(initial) if initial else None)
    given = space.settings.asha.model_fields_set
    asha = {key: recorded.get(f"asha.{key}", value) for key, value in FORMER_ASHA.items() if key not in given}
    settings = space.settings.model_copy(update={"asha": space.settings.asha.model_copy(update=asha)})
    return measured_space(about, replace(space, base={**changed, **space.base}, settings=settings))


def measured_space(about: dict[str, Any], space: Space) -> Space:
    """`space` with the first promotion that its sweep chose, if it leaves the choice to the sweep and has made one."""
    first = about.get(MEASURED, {}).get("promotion")
    if first is None or space.settings.asha.promotion != "auto":
        return space
    return replace(space, settings=space.settings.with_promotion(first))


def changed_trials(about: dict[str, Any], wider: Space) -> int | None:
    """Number of trials in `wider`; None if the sweep's current space file has an equal number."""
    return wider.settings.trials if wider.settings.trials != written_space(about).settings.trials else None


def recorded_limits(about: dict[str, Any]) -> Limits:
    """Current spending limits of a sweep."""
    return Limits.model_validate(about.get("limits", {}))
