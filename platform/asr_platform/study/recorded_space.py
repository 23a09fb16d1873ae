"""Reads a sweep's search space and spending limits from its ledger."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import Space


def recorded_space(about: dict[str, Any]) -> Space:
    """Current space of a sweep: the space of its start, or a wider space given at a later resume."""
    return written_space(about).with_epochs(about["epochs"])


def written_space(about: dict[str, Any]) -> Space:
    """Current space of a sweep as its file has it; `--epochs` at the start of the sweep is not applied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a record keeps the key names of its time
        return parse_space(about["space"], about["source"], Path(about.get("folder", Path.cwd())))


def with_recorded_epochs(about: dict[str, Any], wider: Space) -> Space:
    """`wider` with the sweep's number of epochs, unless the space file's number has changed since the start."""
    unchanged = wider.settings.epochs == written_space(about).settings.epochs
    return wider.with_epochs(about["epochs"]) if unchanged else wider


def changed_trials(about: dict[str, Any], wider: Space) -> int | None:
    """Number of trials in `wider`; None if the sweep's current space file has an equal number."""
    return wider.settings.trials if wider.settings.trials != written_space(about).settings.trials else None


def recorded_limits(about: dict[str, Any]) -> Limits:
    """Current spending limits of a sweep."""
    return Limits.model_validate(about.get("limits", {}))
