"""Reads a sweep's search space and spending limits from its ledger."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import Space


def recorded_space(about: dict[str, Any]) -> Space:
    """The space of a sweep: the one it was started with, or a wider one since."""
    return written_space(about).with_epochs(about["epochs"])


def written_space(about: dict[str, Any]) -> Space:
    """The space as its file says, although the sweep may have been started with another number of epochs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a record keeps the key names of its time
        return parse_space(about["space"], about["source"], Path(about.get("folder", Path.cwd())))


def with_recorded_epochs(about: dict[str, Any], wider: Space) -> Space:
    """A wider space with the sweep's number of epochs, unless its file asks for another number than before."""
    unchanged = wider.settings.epochs == written_space(about).settings.epochs
    return wider.with_epochs(about["epochs"]) if unchanged else wider


def changed_trials(about: dict[str, Any], wider: Space) -> int | None:
    """The number of trials that a wider space asks for; None if it asks for as many as before."""
    return wider.settings.trials if wider.settings.trials != written_space(about).settings.trials else None


def recorded_limits(about: dict[str, Any]) -> Limits:
    """The spending limits that a sweep was given last."""
    return Limits.model_validate(about.get("limits", {}))
