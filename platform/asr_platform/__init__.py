"""The orchestrating package: Ray Tune, Optuna, MLflow and the terminal.

Ray reads its settings from the environment, some of them as it is imported, and hands them on to every process that
it starts. So they are set here, before any module of this package can import it.

What notebooks use can be imported from here; it is looked up only then, because workers import this package too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asr_platform.compat.environment import set_environment

if TYPE_CHECKING:
    from asr_platform.inference.loaded_model import load_model
    from asr_platform.notebook import Sweep
    from trainables.errors import InputError

__all__ = ["InputError", "Sweep", "load_model"]

set_environment()

PLACES = {
    "InputError": "trainables.errors",
    "Sweep": "asr_platform.notebook",
    "load_model": "asr_platform.inference.loaded_model",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
