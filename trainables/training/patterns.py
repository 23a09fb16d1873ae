"""Patterns of parameter names, such as `encoder.layers.0.*`."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from trainables.errors import InputError

NAMED = 8  # names in a message: enough to see how they are built


def matching(pattern: str, names: Iterable[str], key: str) -> list[str]:
    """The names that a pattern stands for; * is any text, dots included, and ? one character.

    Args:
        key: the configuration's key that holds the pattern, for the error.

    Raises:
        InputError: it stands for none.
    """
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        shown = names[:: max(1, len(names) // NAMED)]
        raise InputError(
            f"{key}: no parameter's name matches {pattern!r}",
            f"Some of the {len(names)} names are: {', '.join(shown)}.",
        )
    return found
