"""The ways in which a key may vary: what YAML says, what a sampler is asked, which values are extremes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, TypeAlias, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

LARGEST_WHOLE = 10**15  # samplers calculate with 64 bits
MOST_STEPS = 10**6  # of a range of real numbers
ROUNDING = 1e-8  # of steps: what Optuna forgives
Scalar: TypeAlias = str | int | float | bool | None


class Suggest(Protocol):
    """What proposes values: an Optuna trial, or anything that answers like one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


@dataclass(frozen=True)
class Choice:
    """One of these; a list or mapping is its JSON text here (`as_text`), for samplers know plain values alone."""

    values: tuple[Scalar, ...]

    def suggest(self, key: str, suggest: Suggest) -> Any:
        return suggest.suggest_categorical(key, self.values)

    def candidates(self) -> list[Any]:
        """Values among which the smallest model's must be: here all of them."""
        return list(self.values)

    def take(self, value: Any) -> Any:
        """A value as it is proposed.

        Raises:
            ValueError: it never is.
        """
        if value not in self.values:
            raise ValueError(f"{value!r} is not one of {', '.join(map(repr, self.values))}")
        return self.values[self.values.index(value)]


@dataclass(frozen=True)
class Int:
    low: int
    high: int
    step: int = 1

    def suggest(self, key: str, suggest: Suggest) -> Any:
        return suggest.suggest_int(key, self.low, self.high, step=self.step)

    def candidates(self) -> list[Any]:
        return sorted({self.low, self.high})

    def take(self, value: Any) -> int:
        if not _is_whole(value) or int(value) not in range(self.low, self.high + 1, self.step):
            steps = f" in steps of {self.step}" if self.step > 1 else ""
            raise ValueError(f"{value!r} is not in [{self.low}, {self.high}]{steps}")
        return int(value)


@dataclass(frozen=True)
class Float:
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def suggest(self, key: str, suggest: Suggest) -> Any:
        return suggest.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def candidates(self) -> list[Any]:
        return sorted({self.low, self.high})

    def take(self, value: Any) -> float:
        if not _is_finite(value) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not in [{self.low:g}, {self.high:g}]")
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        if abs(steps - round(steps)) > ROUNDING:
            raise ValueError(f"{value!r} is not {self.low:g} and a number of steps of {self.step:g}")
        return float(value)


Distribution: TypeAlias = Choice | Int | Float


@dataclass(frozen=True)
class Fit:
    """A width that no sampler proposes: it is solved for, so that the model fills the budget.

    Attributes:
        low, high: its bounds; None: as narrow as makes sense, as wide as the budget allows.
        step: it is a multiple of this; None: of what suits heads and hardware (budget.py).
    """

    key: str
    low: int | None = None
    high: int | None = None
    step: int | None = None

    def take(self, value: Any) -> int:
        """A value that a configuration of one's own may have: any within the bounds.

        Raises:
            ValueError: it is outside.
        """
        low, high = self.low or 1, self.high or math.inf
        if not _is_whole(value) or not low <= value <= high:
            raise ValueError(f"{value!r} is not in [{low}, {high}]")
        return int(value)


@dataclass(frozen=True)
class Variable:
    """A varied key: its distribution, and the values of other keys with which alone it has a meaning."""

    distribution: Distribution
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)


OPTIONS = {"choice": ["when"], "int": ["step", "when"], "float": ["step", "when"], "log": ["when"]}
"""What may stand beside each distribution's own key."""
FITTED = ("model.d_model", "model.feed_forward")
"""The widths that can be solved for; a count of parameters grows with each of them."""

Report: TypeAlias = Callable[[str], None]


def read_distribution(entry: Any, annotation: Any, report: Report) -> Distribution | None:
    """Reads `{int: [10, 18], step: 2}` for a key of the given type; reports mistakes and then returns None."""
    if not isinstance(entry, Mapping):
        report(f"needs a distribution ({', '.join(OPTIONS)}), such as {{choice: [a, b]}}, but got {entry!r}")
        return None
    kinds = [kind for kind in OPTIONS if kind in entry]
    if len(kinds) != 1:
        unknown = ", ".join(str(key) for key in entry)
        report(f"needs exactly one of {', '.join(OPTIONS)}, but got {unknown or 'nothing'}")
        return None
    kind = kinds[0]
    for option in entry:
        if option != kind and option not in OPTIONS[kind]:
            report(f"unknown option {option}; {kind} takes {' and '.join(OPTIONS[kind])}")
    fitting = fitting_distributions(annotation)
    if kind not in fitting:
        report(f"{kind} does not fit this key; what fits is {' or '.join(fitting) or 'nothing: it cannot vary'}")
        return None
    if kind == "choice":
        return _read_choice(entry[kind], annotation, report)
    return _read_range(kind, entry[kind], entry.get("step"), report)


def is_fit(entry: Any) -> bool:
    """Whether the entry of a varied key says that the budget decides: `fit`, `{fit: [256, 512]}`."""
    return entry == "fit" or (isinstance(entry, Mapping) and "fit" in entry)


def read_fit(key: str, entry: Any, report: Report) -> Fit | None:
    """Reads `fit` or `{fit: [256, 512], step: 32}`; reports mistakes and then returns None."""
    if key not in FITTED:
        report(f"fit solves for a width: {' or '.join(FITTED)}")
        return None
    if not isinstance(entry, Mapping):
        return Fit(key)
    for option in entry:
        if option not in ("fit", "step"):
            report(f"unknown option {option}; fit takes step")
    bounds, step = _read_range("fit", entry["fit"], None, report), entry.get("step")
    if step is not None and not (_is_whole(step) and step > 0):
        report(f"step must be a whole number above 0, but got {step!r}")
        return None
    if not isinstance(bounds, Int):
        return None
    return Fit(key, bounds.low, bounds.high, None if step is None else int(step))


def fitting_distributions(annotation: Any) -> list[str]:
    """The distributions whose every value has this type."""
    if is_structured(annotation):
        return ["choice"]
    types = get_args(annotation) or (annotation,)
    if float in types:
        return list(OPTIONS)
    return ["int", "choice"] if int in types else ["choice"]


def is_structured(annotation: Any) -> bool:
    """Whether a key's values are lists, such as `optimizer.betas` and `training.stages`."""
    return get_origin(annotation) is tuple


def as_text(value: Any) -> str:
    """A structured value as samplers and the ledger have it: equal values, equal texts."""
    return json.dumps(value, sort_keys=True)


def from_text(text: str) -> Any:
    """The inverse of `as_text`."""
    return json.loads(text)


def read_when(entry: Any, report: Report) -> dict[str, tuple[Scalar, ...]]:
    """Reads `{tokenizer.kind: [bpe, unigram]}`; one value may stand without brackets."""
    if not isinstance(entry, Mapping) or not entry:
        report(f"when needs keys and their values, such as {{tokenizer.kind: [bpe]}}, but got {entry!r}")
        return {}
    conditions = {}
    for key, values in entry.items():
        values = values if isinstance(values, list) else [values]
        if not values or not all(_is_scalar(value) for value in values):
            report(f"when {key} needs one or more plain values, but got {values!r}")
        else:
            conditions[str(key)] = tuple(values)
    return conditions


def check_condition(values: tuple[Scalar, ...], parent: Distribution, key: str, report: Report) -> None:
    """Reports values that the key of a `when` never takes."""
    if isinstance(parent, Float):
        report(f"when needs a key that varies by choice or int, but {key} varies over real numbers")
        return
    possible = parent.values if isinstance(parent, Choice) else range(parent.low, parent.high + 1, parent.step)
    for value in values:
        if value not in possible:
            choices = ", ".join(map(repr, possible)) if isinstance(parent, Choice) else f"{parent}"
            report(f"when {key} is {value!r} never holds; its values are {choices}")


def _read_choice(values: Any, annotation: Any, report: Report) -> Choice | None:
    structured = is_structured(annotation)
    if not isinstance(values, list) or not values:
        report(f"choice needs a list of one or more values, but got {values!r}")
    elif not all(_is_tree(value) if structured else _is_scalar(value) for value in values):
        kinds = "lists and mappings of " if structured else ""
        report(f"choice takes {kinds}plain values (numbers, words, true, false, null), but got {values!r}")
    else:
        meant = _as_configured(values, annotation)
        if len(set(meant)) == len(meant):
            return Choice(tuple(as_text(value) for value in values) if structured else tuple(values))
        report(f"choice has a value twice: {values!r}")
    return None


def _as_configured(values: list[Any], annotation: Any) -> list[Any]:
    """Hashable values as a configuration has them: "64" is 64 there; what it would refuse is its JSON text."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    meant: list[Any] = []
    for value in values:
        try:
            meant.append(adapter.validate_python(value))
        except ValidationError:
            meant.append(as_text(value))
    return meant


def _read_range(kind: str, ends: Any, step: Any, report: Report) -> Distribution | None:
    """Two numbers, low <= high, and a step that leads from one exactly to the other."""
    whole = kind in ("int", "fit")
    is_right = _is_whole if whole else _is_finite
    if not isinstance(ends, list) or len(ends) != 2 or not all(is_right(end) for end in ends):
        report(f"{kind} needs two {'whole ' if whole else ''}numbers, [low, high], but got {ends!r}")
        return None
    low, high = ends
    if whole and max(abs(low), abs(high)) > LARGEST_WHOLE:
        report(f"{kind} needs numbers of at most {LARGEST_WHOLE:,}, but got {ends!r}")
    elif low > high:
        report(f"low <= high must hold, but got low={low}, high={high}")
    elif kind == "log" and low <= 0:
        report(f"low > 0 must hold for log, but got low={low}")
    elif kind == "log":
        return Float(float(low), float(high), log=True)
    elif step is None:
        return Int(int(low), int(high)) if whole else Float(float(low), float(high))
    elif not is_right(step) or step <= 0:
        report(f"step must be a {'whole ' if whole else ''}number above 0, but got {step!r}")
    elif (steps := (Fraction(str(high)) - Fraction(str(low))) / Fraction(str(step))) % 1:
        report(f"steps of {step} must lead from {low} to {high} exactly")
    elif not whole and steps > MOST_STEPS:
        report(f"at most {MOST_STEPS:,} steps must lead from {low} to {high}, but got a step of {step}")
    else:
        return Int(int(low), int(high), int(step)) if whole else Float(float(low), float(high), float(step))
    return None


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is_finite(value)


def _is_tree(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_tree, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_tree, value.values()))
    return _is_scalar(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_whole(value: Any) -> bool:
    return _is_finite(value) and value == int(value)
