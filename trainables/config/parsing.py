"""Reads configurations from YAML, JSON and plain values, and names every mistake in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from trainables.config.former_keys import FORMER_TYPES, former_key_notice
from trainables.config.tree import Config
from trainables.errors import InputError

FORMER_VALUES = {"model.sinusoids": "concatenated"}
"""Keys whose default is another than what was done before they existed, and the value that stands for that.

A record that lacks such a key, a model's `config.json` or a sweep's ledger, was written before the key existed."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `("model.dropout", 0.1)` for every leaf of a nested mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mapping from values by flat key, such as `model.dropout`: the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def with_former_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a recorded configuration; a key that is missing, since the record is older, has its former value.

    Args:
        tree: nested mapping that a version of this program wrote with all keys that it knew.
    """
    return unflatten({**FORMER_VALUES, **dict(flatten(tree))})


def problems(error: ValidationError, model: type[BaseModel] = Config) -> list[str]:
    """One line for each mistake in the values of a pydantic `model`: key, reason, value."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "configuration"
        reason = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            reason = f"unknown key; the keys here are {', '.join(known_keys(item['loc'][:-1], model))}"
        elif item["type"] != "value_error":
            reason += f", but got {item['input']!r}"
        lines.append(f"{key}: {reason}")
    return lines


def known_keys(path: tuple[int | str, ...] = (), model: type[BaseModel] = Config) -> list[str]:
    """The keys of the section at `path` in a pydantic `model`; empty if there is no such section."""
    section: Any = model
    for part in path:
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return []
    return list(section.model_fields)


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    """Configuration from the values of a nested mapping.

    Args:
        source: name of the file or place in the error.

    Raises:
        InputError: values are invalid; the message names the key of each.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(problems(error)), "Correct the keys named above.") from None


def load_config(path: Path) -> Config:
    """The configuration in a YAML or JSON file.

    Raises:
        InputError: the file cannot be read, or has mistakes; the message names the line or key of each.
    """
    from trainables.document import Document  # YAML is for files: models and checkpoints are read without

    try:
        document = Document(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}", "Give a configuration file.") from None
    document.check()
    if not isinstance(document.tree, Mapping):
        raise InputError(f"{path}: a configuration is a mapping of sections", f"Start from: {', '.join(known_keys())}.")
    for key in FORMER_TYPES.keys() & dict(flatten(document.tree)).keys():
        warnings.warn(f"{path}, line {document.line(key)}: {former_key_notice(key)}", FutureWarning, stacklevel=2)
    return parse_config(document.tree, str(path))
