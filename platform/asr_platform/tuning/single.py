"""Makes a space of a single configuration, so that its training is recorded and resumed like a sweep."""

from __future__ import annotations

from pathlib import Path

import yaml

from asr_platform.analysis.leaderboard import find
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.recorded_space import recorded_space
from search_spaces.kinds import KIND, has_meaning
from search_spaces.reader import is_space, load_space, parse_space
from search_spaces.settings import Settings
from search_spaces.space import DEFAULTS, Space
from trainables.config.parsing import flatten, load_config
from trainables.config.tree import Config
from trainables.errors import InputError

UNLIMITED = 10**12  # parameters


def single(home: Path, source: str | None, origin: str | None, epochs: int | None) -> Space:
    """A space of one trial from the base of a space, from a configuration file, or from a trial of a sweep.

    Args:
        home: folder of the home that has the sweep.
        source: a space (path or shipped name) or a configuration file.
        origin: `NAME` for the best trial of a sweep, or `NAME:TRIAL` for the trial with this number.
        epochs: number of epochs; default: the number in the source.

    Raises:
        InputError: the source does not exist, or has mistakes.
    """
    if origin is not None:
        storage = Home.existing(home).studies
        name, trial = find(storage, origin)
        space = recorded_space(Ledger.open(storage, name).about)
        return _fixed(space.config(trial.params), f"{name}-trial-{trial.number}", space.settings, epochs)
    path = Path(source or "")
    if path.is_file() and not is_space(path):
        return _fixed(_with_meaning(load_config(path), path), path.stem, None, epochs)
    space = load_space(str(source))
    return _fixed(space.config({}), f"{space.name}-base", space.settings, epochs)


def _with_meaning(config: Config, path: Path) -> Config:
    """The configuration of a file, after a check that its kind of model has every key that the file changes.

    Raises:
        InputError: values without a meaning for the kind of model; the message has all of them.
    """
    kind = config.model.kind
    given = dict(flatten(config.model_dump(exclude_unset=True)))
    changed = {key: value for key, value in given.items() if value != DEFAULTS.get(key)}
    if needless := [f"{key}={value}" for key, value in changed.items() if not has_meaning(key, kind)]:
        raise InputError(f"{path}: no meaning with {KIND}={kind}: {', '.join(needless)}", "Leave them out.")
    return config


def _fixed(config: Config, name: str, settings: Settings | None, epochs: int | None) -> Space:
    """A space without searched keys, with budget and rules of `settings`; None allows any model."""
    base = config.model_dump(mode="json")
    length = base["training"].pop("epochs")
    tree = {"base": base, "trials": 1, "epochs": epochs or length, "budget": UNLIMITED}
    tree["asha"] = {"promotion": None}
    if settings is not None:
        tree |= {"budget": settings.budget, "rules": settings.rules}
    return parse_space(yaml.safe_dump(tree), f"{name}.yaml")
