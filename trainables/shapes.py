"""Names and shapes of weights: models that have nothing else, and comparison of state dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainables.errors import InputError

INITIALIZERS = {"normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_", "fill_", "zero_"}


class _NoInitialization(TorchFunctionMode):
    """Skips initialisation, for which torch would import its compiler on the meta device (seconds)."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        known = kwargs or {}
        if getattr(func, "__name__", "") in INITIALIZERS:
            return args[0] if args else known["tensor"]
        return func(*args, **known)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Creates tensors and models inside the block on torch's meta device, without initialising them."""
    with torch.device("meta"), _NoInitialization():
        yield


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], remedy: str) -> None:
    """Checks that a state dict has the names and shapes of another.

    Raises:
        InputError: they differ; the message has every difference, and `remedy`.
    """
    differing = [
        f"{name} is {tuple(found[name].shape) if name in found else 'missing'} there and {tuple(value.shape)} here"
        for name, value in expected.items()
        if name not in found or found[name].shape != value.shape
    ]
    differing += [f"{name} has no counterpart here" for name in found if name not in expected]
    if differing:
        raise InputError(f"weights of another shape: {'; '.join(differing)}", remedy)
