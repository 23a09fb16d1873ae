"""Reads one entry of `vary`: the distribution of a key, and the condition under which it varies.

Functions raise a ValueError whose message is the mistake, without the key and its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import TypeAdapter, ValidationError

from search_spaces.distributions import (
    Choice,
    Distribution,
    Fit,
    Float,
    Int,
    Scalar,
    as_text,
    is_finite,
    is_structured,
    is_whole,
    plain_types,
)
from trainables.config.parsing import known_keys

LARGEST_WHOLE = 10**15  # samplers calculate with 64 bits
MOST_STEPS = 10**6  # of a range of real numbers
OPTIONS = {"choice": ["when"], "int": ["step", "when"], "float": ["step", "when"], "log": ["when"]}
"""What may stand beside each distribution's own key."""
FIXED = {
    "data.folds": "trials are compared on the same speakers; platform confirm trains every fold",
    "training.epochs": "early stopping compares trials of one length; set the top-level epochs",
    "training.pass_seconds": "it is for the memory of devices; vary training.update_seconds",
}
"""Keys that a sweep's trials share, and why."""
FITTED = ("model.d_model", "model.feed_forward", "model.editor.d_model", "model.editor.feed_forward")
"""The widths that can be solved for; a count of parameters grows with each of them."""


def read_distribution(entry: Any, annotation: Any) -> Distribution:
    """Reads the distribution of a key of type `annotation`, such as `{int: [10, 18], step: 2}`."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"needs a distribution ({', '.join(OPTIONS)}), such as {{choice: [a, b]}}, but got {entry!r}")
    kinds = [kind for kind in OPTIONS if kind in entry]
    if len(kinds) != 1:
        unknown = ", ".join(str(key) for key in entry)
        raise ValueError(f"needs exactly one of {', '.join(OPTIONS)}, but got {unknown or 'nothing'}")
    kind = kinds[0]
    for option in entry:
        if option != kind and option not in OPTIONS[kind]:
            raise ValueError(f"unknown option {option}; {kind} takes {' and '.join(OPTIONS[kind])}")
    fitting = fitting_kinds(annotation)
    if kind not in fitting:
        raise ValueError(f"{kind} does not fit this key; what fits is {' or '.join(fitting)}")
    return _read_choice(entry[kind], annotation) if kind == "choice" else _read_range(kind, entry[kind], entry)


def is_fit(entry: Any) -> bool:
    """Whether an entry of `vary` is `fit` or `{fit: ...}`: a width that fills the budget."""
    return entry == "fit" or (isinstance(entry, Mapping) and "fit" in entry)


def read_fit(key: str, entry: Any) -> Fit:
    """Reads `fit` or `{fit: [256, 512], step: 32}`."""
    if key not in FITTED:
        raise ValueError(f"fit solves for a width: {', '.join(FITTED[:-1])} or {FITTED[-1]}")
    if not isinstance(entry, Mapping):
        return Fit(key)
    for option in entry:
        if option not in ("fit", "step"):
            raise ValueError(f"unknown option {option}; fit takes step")
    bounds, step = _read_range("fit", entry["fit"], {}), entry.get("step")
    if step is not None and not (is_whole(step) and step > 0):
        raise ValueError(f"step must be a whole number above 0, but got {step!r}")
    return Fit(key, int(bounds.low), int(bounds.high), None if step is None else int(step))


def read_when(entry: Any) -> dict[str, tuple[Scalar, ...]]:
    """Reads a condition such as `{tokenizer.kind: [bpe, unigram]}`; a single value needs no brackets."""
    if not isinstance(entry, Mapping) or not entry:
        raise ValueError(f"when needs keys and their values, such as {{tokenizer.kind: [bpe]}}, but got {entry!r}")
    conditions = {}
    for key, values in entry.items():
        values = values if isinstance(values, list) else [values]
        if not values or not all(_is_scalar(value) for value in values):
            raise ValueError(f"when {key} needs one or more plain values, but got {values!r}")
        conditions[str(key)] = tuple(values)
    return conditions


def check_condition(values: tuple[Scalar, ...], parent: Distribution, key: str) -> None:
    """Raises ValueError if a condition has `values` of `key` that its distribution `parent` never takes."""
    if isinstance(parent, Float):
        raise ValueError(f"when needs a key that varies by choice or int, but {key} varies over real numbers")
    possible = parent.values if isinstance(parent, Choice) else range(parent.low, parent.high + 1, parent.step)
    for value in values:
        if value not in possible:
            choices = ", ".join(map(repr, possible)) if isinstance(parent, Choice) else f"{parent}"
            raise ValueError(f"when {key} is {value!r} never holds; its values are {choices}")


def fitting_kinds(annotation: Any) -> list[str]:
    """Kinds of distribution that suit a key of type `annotation`, of those in `OPTIONS`."""
    types = plain_types(annotation)
    if is_structured(annotation):
        return ["choice"]
    if float in types:
        return list(OPTIONS)
    return ["int", "choice"] if int in types else ["choice"]


def why_not_varied(key: str) -> str:
    """Reason why a key cannot vary: it is unknown, or all trials of a sweep share its value."""
    if key in FIXED:
        return f"cannot vary: {FIXED[key]}"
    path = key.split(".")
    while path:
        if names := known_keys(tuple(path)):
            return f"unknown key; the keys here are {', '.join('.'.join((*path, name)) for name in names)}"
        path.pop()
    return f"unknown key; give a section and its key, such as model.dropout; the sections are {', '.join(known_keys())}"


def _read_choice(values: Any, annotation: Any) -> Choice:
    structured = is_structured(annotation)
    if not isinstance(values, list) or not values:
        raise ValueError(f"choice needs a list of one or more values, but got {values!r}")
    if not all(_is_tree(value) if structured else _is_scalar(value) for value in values):
        kinds = "lists and mappings of " if structured else ""
        raise ValueError(f"choice takes {kinds}plain values (numbers, words, true, false, null), but got {values!r}")
    configured = _as_configured(values, annotation)
    if len(set(configured)) < len(configured):
        raise ValueError(f"choice has a value twice: {values!r}")
    return Choice(tuple(as_text(value) for value in values) if structured else tuple(values))


def _as_configured(values: list[Any], annotation: Any) -> list[Any]:
    """Values as a configuration of type `annotation` stores them ("64" as 64); invalid values become JSON texts."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    configured: list[Any] = []
    for value in values:
        try:
            configured.append(adapter.validate_python(value))
        except ValidationError:
            configured.append(as_text(value))
    return configured


def _read_range(kind: str, ends: Any, options: Mapping[str, Any]) -> Int | Float:
    """Reads a range: two numbers, low <= high, and optionally a step that divides high - low."""
    whole, step = kind in ("int", "fit"), options.get("step")
    is_right, name = (is_whole, "whole number") if whole else (is_finite, "number")
    if not isinstance(ends, list) or len(ends) != 2 or not all(is_right(end) for end in ends):
        raise ValueError(f"{kind} needs two {name}s, [low, high], but got {ends!r}")
    low, high = map(int if whole else float, ends)
    if whole and max(abs(low), abs(high)) > LARGEST_WHOLE:
        raise ValueError(f"{kind} needs numbers of at most {LARGEST_WHOLE:,}, but got {ends!r}")
    if low > high:
        raise ValueError(f"low <= high must hold, but got low={ends[0]}, high={ends[1]}")
    if kind == "log" and low <= 0:
        raise ValueError(f"low > 0 must hold for log, but got low={ends[0]}")
    if step is not None:
        if not is_right(step) or step <= 0:
            raise ValueError(f"step must be a {name} above 0, but got {step!r}")
        steps = (Fraction(str(ends[1])) - Fraction(str(ends[0]))) / Fraction(str(step))
        if steps % 1:
            raise ValueError(f"steps of {step} must lead from {ends[0]} to {ends[1]} exactly")
        if not whole and steps > MOST_STEPS:
            raise ValueError(f"at most {MOST_STEPS:,} steps must lead from {ends[0]} to {ends[1]}, but got {step}")
    if whole:
        return Int(int(low), int(high), 1 if step is None else int(step))
    return Float(low, high, None if step is None else float(step), log=kind == "log")


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or is_finite(value)


def _is_tree(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_tree, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_tree, value.values()))
    return _is_scalar(value)
