"""Former keys of the section `training`, which are still read in this version.

An update was once given as the audio of a forward pass and a number of passes. Files, models and sweeps of that time
are read as if they gave the audio of an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REPLACED = {"batch_seconds": "update_seconds", "batch_tokens": "update_tokens", "accumulation": "update_seconds"}
"""Former keys, and the key that replaces each."""
FORMER_TYPES: dict[str, Any] = {
    "training.batch_seconds": float,
    "training.batch_tokens": int,
    "training.accumulation": int,
}
FORMER_DEFAULTS: dict[str, Any] = {
    "training.batch_seconds": 200.0,
    "training.batch_tokens": 8192,
    "training.accumulation": 1,
}
REPLACING = ("training.update_seconds", "training.pass_seconds", "training.update_tokens")
"""Keys that former ones stand for; a configuration has either these or those."""


def with_update_keys(training: Mapping[str, Any]) -> dict[str, Any]:
    """The section `training` with keys of today in place of former ones.

    `update_seconds` is `batch_seconds` times `accumulation`, and `update_tokens` is `batch_tokens` times
    `accumulation`. Passes are as large as memory allows: `batch_seconds` was the audio of a pass of all workers, whose
    number is not known here. What is no number becomes the value of the key of today, which refuses it.

    Raises:
        ValueError: keys of today stand beside former ones.
    """
    former = {key: training[key] for key in REPLACED if key in training}
    found = {key: value for key, value in training.items() if key not in former}
    if not former:
        return found
    if both := [key for key in found if f"training.{key}" in REPLACING]:
        raise ValueError(f"{', '.join(both)} cannot stand beside {', '.join(former)}: leave out the latter")
    of_key = {key.removeprefix("training."): value for key, value in FORMER_DEFAULTS.items()} | former
    if "batch_seconds" in former or "accumulation" in former:
        found["update_seconds"] = _product(of_key["batch_seconds"], of_key["accumulation"])
    if "batch_tokens" in former or "accumulation" in former:
        found["update_tokens"] = _product(of_key["batch_tokens"], of_key["accumulation"])
    return found


def former_key_notice(key: str) -> str:
    """Warning for whoever has a former key, such as `training.accumulation`, in a file: what it is called now."""
    section, name = key.split(".")
    what = "is a part of" if name == "accumulation" else "is called"
    return f"{key} {what} {section}.{REPLACED[name]} now; this is the last version to read both"


def _product(one: Any, other: Any) -> Any:
    """Product of two numbers; of two values, the one that is no number."""
    for value in (one, other):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
    return one * other
