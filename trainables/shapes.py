"""Models whose parameters have names and shapes, but no values and no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

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
