"""Compiled layers: all layers of an encoder share their graphs, and so do those of a decoder.

Only training runs them: a search calls a decoder's layers token by token, which would compile anew for each. Time
reduction, gathering and CTC stay as they are.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.fx.experimental._config
from torch import nn

from trainables.config.tree import Training
from trainables.models.speech_transformer import stacks
from trainables.output import say

WORTHWHILE_EPOCHS = 10  # compiling takes a minute, and an epoch of a large corpus becomes seconds shorter


def wants_compilation(config: Training, device: torch.device, epochs: int) -> bool:
    """Whether layers are compiled for a run with so many epochs left.

    `auto` compiles on a GPU where the epochs repay it: never where a sweep trains a few epochs at a time.
    """
    if config.compile == "auto":
        return device.type == "cuda" and epochs >= WORTHWHILE_EPOCHS
    return config.compile == "always"


def compile_layers(model: nn.Module, backend: Any = "inductor") -> None:
    """Compiles every layer of every stack at its first training pass; names of parameters stay."""
    # Else sizes that are equal in the first pass, such as the width of the model and the stride of a mask, are taken
    # for one and the same, and a pass in which they differ has the layers compiled again.
    torch.fx.experimental._config.use_duck_shape = False
    layers = [layer for stack in stacks(model).values() for layer in stack.layers]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    say(f"{len(layers)} layers are compiled during the first update")


def uncompiled(wanted: bool = True) -> AbstractContextManager[Any]:
    """Context in which compiled layers run as if they were not, if `wanted`; torch's compiler takes seconds to import.

    Validation runs so, and so does a pass of one utterance: torch would compile all layers for this size alone.
    """
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()
