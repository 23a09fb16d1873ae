"""JSON schema of a space file, which editors complete and check keys by.

It comes from the pydantic models that the reader checks a space with. What needs several keys at once (a width that
heads must divide, a condition on a key that does not vary) only the reader sees.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from search_spaces.settings import Settings
from search_spaces.space import TYPES
from search_spaces.vary import FITTED, FIXED, OPTIONS, fitting_kinds
from trainables.config.tree import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALAR = {"type": ["string", "number", "boolean", "null"]}
WHEN = {
    "description": "the key exists only where each of these keys has one of the values",
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"enum": list(TYPES)},
    "additionalProperties": {"anyOf": [SCALAR, {"type": "array", "minItems": 1, "items": SCALAR}]},
}
MEANINGS = {
    "choice": "one of several values",
    "int": "a whole number, both ends included",
    "float": "a number, uniform",
    "log": "a number, uniform in its logarithm",
    "fit": "lowest and highest width that may fill the budget",
}
STEP = {"type": "number", "exclusiveMinimum": 0, "description": "distance between neighbouring values"}


def space_schema() -> dict[str, Any]:
    """The schema, as JSON (draft 2020-12)."""
    _, found = models_json_schema([(Config, "validation"), (Settings, "validation")])
    sections: dict[str, Any] = {name: _plain(section) for name, section in found["$defs"].items()}
    del sections["Training"]["properties"]["epochs"]  # of the whole space
    settings, base = sections.pop("Settings"), sections.pop("Config")
    keys = {key: _leaf(key, base, sections) for key in TYPES if key not in FIXED}
    starts = {"type": "object", "properties": {**keys, **base["properties"]}, "additionalProperties": False}
    own = {
        "base": _optional({**base, "description": "a configuration; what it leaves out has the default"}),
        "vary": _optional(
            {
                "description": "keys that vary, and how",
                "type": "object",
                "properties": {key: _variable(key, leaf) for key, leaf in keys.items()},
                "additionalProperties": False,
            }
        ),
        "start": {"description": "configurations tried first", "type": ["array", "null"], "items": starts},
    }
    return {
        "$schema": DIALECT,
        "title": "Search space",
        "description": "What is fixed, what varies, and how to search",
        "type": "object",
        "properties": {**own, **settings["properties"]},
        "additionalProperties": False,
        "$defs": sections,
    }


def _plain(schema: Any) -> Any:
    """A schema without titles, which repeat the keys, and without defaults of whole sections."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    if "$ref" in kept:
        kept.pop("default", None)
    return {key: _plain(value) for key, value in kept.items()}


def _leaf(key: str, base: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Schema of the values of a key such as `model.dropout`."""
    *path, name = key.split(".")
    section = base
    for part in path:
        section = sections[section["properties"][part]["$ref"].rpartition("/")[2]]
    leaf: dict[str, Any] = section["properties"][name]
    return leaf


def _variable(key: str, leaf: dict[str, Any]) -> dict[str, Any]:
    """Schema of an entry of `vary`, for a key whose values have the schema `leaf`."""
    value = {name: item for name, item in leaf.items() if name not in ("description", "default")}
    ranges = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    forms = []
    for kind in fitting_kinds(TYPES[key]):
        inner = {"type": "array", "minItems": 1, "items": value} if kind == "choice" else ranges
        beside = {"when": WHEN, "step": STEP}
        forms.append(_form(kind, inner, {option: beside[option] for option in OPTIONS[kind]}))
    if key in FITTED:
        forms += [
            {"const": "fit", "description": "a width that fills the budget"},
            _form("fit", ranges, {"step": STEP}),
        ]
    return {"description": leaf.get("description", ""), "anyOf": forms}


def _form(kind: str, inner: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    properties = {kind: {**inner, "description": MEANINGS[kind]}, **beside}
    return {"type": "object", "properties": properties, "required": [kind], "additionalProperties": False}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """A section that may also be empty, which YAML reads as null."""
    return {**schema, "type": ["object", "null"]}
