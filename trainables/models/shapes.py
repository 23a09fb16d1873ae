"""Models of which only the shapes matter: they take no memory, and hold no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FILLING = {"normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_", "fill_", "zero_"}


class _Unfilled(TorchFunctionMode):
    """Leaves tensors as they are made: to draw numbers on the meta device, torch imports its compiler, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        known = kwargs or {}
        if getattr(func, "__name__", "") in FILLING:
            return args[0] if args else known["tensor"]
        return func(*args, **known)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within it, tensors and models are made on torch's meta device, and initialised with nothing."""
    with torch.device("meta"), _Unfilled():
        yield
