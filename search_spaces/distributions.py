"""Distributions of searched keys: how a value is suggested, which values are possible, and which are extreme."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Protocol, TypeAlias, Union, get_args, get_origin

ROUNDING = 1e-8  # largest distance of a value from a step, as a share of the step, as in Optuna
Scalar: TypeAlias = str | int | float | bool | None


class Suggest(Protocol):
    """Interface of an Optuna trial that proposes values."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


@dataclass(frozen=True)
class Choice:
    """One value of a list; values that are lists or mappings are kept as JSON texts (`as_text`)."""

    values: tuple[Scalar, ...]

    def suggest(self, key: str, suggest: Suggest) -> Any:
        return suggest.suggest_categorical(key, self.values)

    def candidates(self) -> list[Any]:
        """Values to try for the smallest or largest model of a space: all choices, or the ends of a range."""
        return list(self.values)

    def take(self, value: Any) -> Any:
        """`value` with the type that a sampler proposes; raises ValueError if it is not in the distribution."""
        if value not in self.values:
            raise ValueError(f"{value!r} is not one of {', '.join(map(repr, self.values))}")
        return self.values[self.values.index(value)]


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`, in steps of `step` from `low`."""

    low: int
    high: int
    step: int = 1

    def suggest(self, key: str, suggest: Suggest) -> Any:
        return suggest.suggest_int(key, self.low, self.high, step=self.step)

    def candidates(self) -> list[Any]:
        return sorted({self.low, self.high})

    def take(self, value: Any) -> int:
        if not is_whole(value) or int(value) not in range(self.low, self.high + 1, self.step):
            steps = f" in steps of {self.step}" if self.step > 1 else ""
            raise ValueError(f"{value!r} is not in [{self.low}, {self.high}]{steps}")
        return int(value)


@dataclass(frozen=True)
class Float:
    """A real number from `low` to `high`, in steps of `step` from `low`; on a logarithmic scale if `log` is true."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def suggest(self, key: str, suggest: Suggest) -> Any:
        return suggest.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def candidates(self) -> list[Any]:
        return sorted({self.low, self.high})

    def take(self, value: Any) -> float:
        if not is_finite(value) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not in [{self.low:g}, {self.high:g}]")
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        if abs(steps - round(steps)) > ROUNDING:
            raise ValueError(f"{value!r} is not {self.low:g} and a number of steps of {self.step:g}")
        return float(value)


Distribution: TypeAlias = Choice | Int | Float


@dataclass(frozen=True)
class Fit:
    """A width that is not searched, but computed so that the model fills the budget.

    Attributes:
        low, high: bounds of the width; None: bounds that follow from the budget and the number of heads.
        step: number of which the width is a multiple; None: numbers that suit heads and hardware (`budget.py`).
    """

    key: str
    low: int | None = None
    high: int | None = None
    step: int | None = None

    def take(self, value: Any) -> int:
        """`value`, a width in an entry of `start`, as an int; raises ValueError if it is out of bounds."""
        low, high = self.low or 1, self.high or math.inf
        if not is_whole(value) or not low <= value <= high:
            raise ValueError(f"{value!r} is not in [{low}, {high}]")
        return int(value)


@dataclass(frozen=True)
class Variable:
    """Distribution of a searched key, and its condition: values of other keys with which the key is active."""

    distribution: Distribution
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    @property
    def condition(self) -> str:
        """The condition in words, for messages."""
        return " and ".join(f"{key} is {' or '.join(map(str, values))}" for key, values in self.when.items())


def plain_types(annotation: Any) -> list[Any]:
    """Types of a key's values without their bounds, such as float and NoneType of `Probability | None`."""
    types = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [get_args(one)[0] if get_origin(one) is Annotated else one for one in types]


def is_structured(annotation: Any) -> bool:
    """Whether values of this type are lists, such as those of `optimizer.betas`; of some keys they may also be null."""
    return any(get_origin(one) is tuple for one in plain_types(annotation))


def as_text(value: Any) -> str:
    """JSON text that stands for a list or mapping in samplers and the ledger; equal values give equal texts."""
    return json.dumps(value, sort_keys=True)


def from_text(text: str) -> Any:
    """List or mapping from its JSON text (the inverse of `as_text`)."""
    return json.loads(text)


def is_finite(value: Any) -> bool:
    """Whether a value read from YAML is a finite number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> bool:
    """Whether a value read from YAML is a whole number, such as 3 or 3.0."""
    return is_finite(value) and value == int(value)
