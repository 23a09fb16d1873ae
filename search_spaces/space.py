"""A search space: a base configuration, the keys that vary, and the settings of the search. `reader.py` reads one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from search_spaces.distributions import Choice, Distribution, Fit, Suggest, Variable, as_text, from_text, is_structured
from search_spaces.kinds import KIND, has_meaning, kinds_of
from search_spaces.settings import Limits, Settings
from trainables.config.former_keys import FORMER_DEFAULTS
from trainables.config.model import RECOGNISERS
from trainables.config.parsing import flatten, parse_config, unflatten
from trainables.config.tree import Config

DEFAULTS = dict(flatten(Config().model_dump()))
"""Every key of a configuration that a space may set or vary, such as `model.dropout`, with its default."""


def _leaf_types(section: type[BaseModel], path: str = "") -> dict[str, Any]:
    types: dict[str, Any] = {}
    for name, leaf in section.model_fields.items():
        if isinstance(leaf.annotation, type) and issubclass(leaf.annotation, BaseModel):
            types |= _leaf_types(leaf.annotation, f"{path}{name}.")
        else:
            types[f"{path}{name}"] = leaf.annotation
    return types


TYPES = _leaf_types(Config)
"""Every key of a configuration, with its type."""
STRUCTURED = frozenset(key for key, annotation in TYPES.items() if is_structured(annotation))
"""The keys whose values are lists, such as `optimizer.betas`; samplers propose the lists as JSON texts."""


INITIAL_MODEL = "pretrained.model"


@dataclass(frozen=True)
class Space:
    """One search space.

    Attributes:
        source: the file that the space was read from, for messages.
        text: content of that file.
        base: values of the base configuration by key, as `{"model.dropout": 0.1}`; valid on their own.
        vary: distribution and condition of each searched key; a key comes after the keys that its condition names.
        fit: width that is computed from all other values, so that the model fills the budget; None if there is none.
        start: proposals tried before the sampler's: values of all active searched keys, and optionally of the width
            `fit`.
        settings: how to search, when to prune a trial, how much to spend.
    """

    source: str
    text: str
    base: Mapping[str, Any]
    vary: Mapping[str, Variable]
    fit: Fit | None
    start: tuple[Mapping[str, Any], ...]
    settings: Settings

    @property
    def name(self) -> str:
        """Name of the space's file without its suffix."""
        return Path(self.source).stem

    def with_epochs(self, epochs: int | None) -> Space:
        """Copy of the space with `epochs` as the length of a full trial; None keeps the length."""
        return self if epochs is None else replace(self, settings=self.settings.with_epochs(epochs))

    def with_initial_model(self, folder: Path | None) -> Space:
        """Copy of the space whose trials begin with the weights of the model in `folder`; None keeps the base's."""
        return self if folder is None else replace(self, base={**self.base, INITIAL_MODEL: str(folder.absolute())})

    def with_limits(self, limits: Limits) -> Space:
        """Copy of the space in which the limits that are set in `limits` replace its own."""
        settings = self.settings.model_copy(update={"limits": self.settings.limits.replaced_by(limits)})
        return replace(self, settings=settings)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of model that the space proposes."""
        return kinds_of(self.vary, self._kind({}))

    @property
    def is_recogniser(self) -> bool:
        """Whether the models transcribe speech, rather than being language models; a space never has both."""
        return self._kind({}) in RECOGNISERS

    def of_kind(self, kind: str) -> Space:
        """Copy of the space that proposes one of its kinds of model only."""
        if KIND not in self.vary:
            return self
        return replace(self, vary={**self.vary, KIND: replace(self.vary[KIND], distribution=Choice((kind,)))})

    def _kind(self, values: Mapping[str, Any]) -> str:
        return str(values.get(KIND, self.base.get(KIND, DEFAULTS[KIND])))

    @property
    def comparable_settings(self) -> Settings:
        """The settings, with a grace period in updates converted to hours of audio.

        If `training.update_seconds` varies, updates of different trials hold different amounts of audio. So N updates
        become the hours of audio in N updates of the base configuration, without padding. Language models have no
        audio and keep updates.
        """
        training, asha = self.config({}).training, self.settings.asha
        if asha.unit != "updates" or asha.grace is None or not self.is_recogniser:
            return self.settings
        hours = asha.grace * training.update_seconds / 3600
        changed = asha.model_copy(update={"unit": "hours", "grace": hours})
        return self.settings.model_copy(update={"asha": changed})

    def propose(self, suggest: Suggest) -> dict[str, Any]:
        """Asks `suggest` for a value of every active key; a key is inactive while its condition does not hold.

        Returns:
            Values by key, lists as JSON texts, without the width `fit`, which `budget.complete` computes.
        """
        values: dict[str, Any] = {}
        for key, variable in self.vary.items():
            if self.is_active(key, values):
                values[key] = variable.distribution.suggest(key, suggest)
        return values

    def take(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Checks values as a proposal of this space.

        Args:
            given: values by key, lists as JSON texts; the width `fit` may be left out.

        Returns:
            The values with the types that a sampler proposes; and by key, reasons why the space excludes a value.
        """
        values: dict[str, Any] = {}
        wrong = {key: "does not vary here" for key in given if key not in self.vary}
        for key, variable in self.vary.items():
            if not self.is_active(key, values):
                if key in given:
                    wrong[key] = f"has no meaning here: it varies when {variable.condition}"
            elif key not in given:
                wrong[key] = "varies only here"
            else:
                values[key] = _take(variable.distribution, key, given[key], wrong)
        if self.fit and self.fit.key in given:
            del wrong[self.fit.key]
            values[self.fit.key] = _take(self.fit, self.fit.key, given[self.fit.key], wrong)
        return values, wrong

    def with_base(self, entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Completes values to a proposal: active keys that are missing have the value of the base; see `take`.

        Args:
            entry: values by key, lists as JSON texts. The width `fit` is computed if missing here and in the base.
        """
        active = [key for key in self.vary if key not in entry and self.is_active(key, entry)]
        if self.fit and self.fit.key not in entry and self.fit.key in self.base:
            active.append(self.fit.key)
        return self.take({**{key: plain(key, self.value(key, entry)) for key in active}, **entry})

    def is_active(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether the condition of `key` holds, and also the conditions of the keys in that condition.

        Args:
            values: values of searched keys; missing ones are taken from the base.
        """
        variable = self.vary.get(key)
        return variable is None or all(
            self.is_active(parent, values) and self.value(parent, values) in allowed
            for parent, allowed in variable.when.items()
        )

    def value(self, key: str, values: Mapping[str, Any]) -> Any:
        """Value of a key in a configuration: from `values`, else from the base; see `config` for inactive keys."""
        default = FORMER_DEFAULTS[key] if key in FORMER_DEFAULTS else DEFAULTS[key]
        in_base = self.base.get(key, default)
        if self.is_active(key, values):
            return values.get(key, in_base)
        return default if has_meaning(key, self._kind(values)) else in_base

    def config(self, values: Mapping[str, Any]) -> Config:
        """Configuration of a proposal: the base, with `values` in place of its own; `{}` gives the base.

        Inactive keys have their defaults, even if the base or `values` have others. But keys without a meaning for the
        proposal's kind of model stay as in the base, so that sections of other kinds remain valid.

        Raises:
            InputError: the values are no valid configuration together.
        """
        read = {key: from_text(value) if key in STRUCTURED else value for key, value in values.items()}
        leaves = {**self.base, **read, "training.epochs": self.settings.epochs}
        active = {key: value for key, value in leaves.items() if self.is_active(key, values)}
        kind = self._kind(values)
        unused = {key: value for key, value in self.base.items() if not has_meaning(key, kind)}
        return parse_config(unflatten({**active, **unused}), f"{self.source}: proposal")


def plain(key: str, value: Any) -> Any:
    """`value` of a key as samplers need it: a list or mapping, and whatever else stands for one, as its JSON text."""
    return as_text(value) if key in STRUCTURED or isinstance(value, list | tuple) else value


def _take(distribution: Distribution | Fit, key: str, value: Any, wrong: dict[str, str]) -> Any:
    try:
        return distribution.take(value)
    except ValueError as error:
        wrong[key] = str(error)
        return value


@dataclass(frozen=True)
class Proposal:
    """A completed proposal, ready to be a trial.

    Args:
        parameters: exact number of the model's parameters.
        fitted: width that fills the budget, by its key; empty if the space has no `fit`.
    """

    config: Config
    parameters: int
    fitted: Mapping[str, int] = field(default_factory=dict)
