"""Packages that only some sources of data need, and that are not installed with the platform."""

from __future__ import annotations

import importlib
from types import ModuleType

from trainables.errors import InputError


def optional(package: str, need: str) -> ModuleType:
    """An installed package.

    Args:
        need: beginning of the error, such as `--numbers needs`.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise InputError(
            f"{need} the package {package}, which is not installed", f"Run `pip install {package}`."
        ) from None
