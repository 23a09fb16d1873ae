"""The orchestrating package: Ray Tune, Optuna, MLflow and the terminal.

Importing it changes nothing in the process. The names for notebooks are looked up when they are used, because Ray's
workers import this package too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_platform.inference.loaded_model import load_model
    from asr_platform.notebook.corpora import inspect, prepare
    from asr_platform.notebook.sweep import Sweep
    from trainables.errors import InputError

__all__ = ["InputError", "Sweep", "inspect", "load_model", "prepare"]

MODULES = {
    "InputError": "trainables.errors",
    "Sweep": "asr_platform.notebook.sweep",
    "inspect": "asr_platform.notebook.corpora",
    "load_model": "asr_platform.inference.loaded_model",
    "prepare": "asr_platform.notebook.corpora",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
