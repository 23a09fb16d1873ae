"""What a sweep on record was asked for: its space and its caps, as the ledger has them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import Space


def recorded_space(about: dict[str, Any]) -> Space:
    """The space that a sweep goes on with: the one it began with, or a wider one since."""
    return written_space(about).with_epochs(about["epochs"])


def written_space(about: dict[str, Any]) -> Space:
    """The space as its file has it, where the sweep may have been started with trials of another length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a record keeps the key names of its time
        return parse_space(about["space"], about["source"], Path(about.get("folder", Path.cwd())))


def changed_trials(about: dict[str, Any], wider: Space) -> int | None:
    """The number of trials that a changed space asks for; None where it asks for as many as before."""
    return wider.settings.trials if wider.settings.trials != written_space(about).settings.trials else None


def recorded_limits(about: dict[str, Any]) -> Limits:
    """The caps that a sweep was last given."""
    return Limits.model_validate(about.get("limits", {}))
