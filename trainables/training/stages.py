"""Progressive training: the layers that take part in an epoch, the frozen parameters, and other settings of a stage.

An epoch's phase depends on the configuration and the epoch's number alone. So no checkpoint holds it, and the number
of updates is known before the first one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from torch import nn

from trainables.config.tree import Config, Stage
from trainables.errors import InputError
from trainables.models.speech_transformer import stacks
from trainables.training.optimizer import LAYER, groups_by_name, matching_names


class Phase(Stage):
    """The settings of an epoch: a stage with its gaps filled, or the full model.

    Attributes:
        number: index of the stage in `training.stages`; None: the full model, after all stages.
        freeze_pretrained: whether the weights of `pretrained.decoder` are frozen.
        editor_dropout: dropout probability in the editor of a transcript editor.
    """

    number: int | None
    freeze_pretrained: bool
    dropout: float
    editor_dropout: float
    label_smoothing: float

    def layers(self, stack: str) -> int | None:
        """Number of active layers of a stack: `encoder`, `decoder`, `editor`, or "" for a language model."""
        return self.encoder_layers if stack == "encoder" else self.decoder_layers


def phase_of(config: Config, epoch: int) -> Phase:
    """The phase of an epoch, counted from 1."""
    numbers = [number for number, stage in enumerate(config.training.stages) for _ in range(stage.epochs)]
    number = numbers[epoch - 1] if epoch <= len(numbers) else None
    stage = Stage() if number is None else config.training.stages[number]
    full = {"dropout": config.model.dropout, "label_smoothing": config.loss.label_smoothing}
    settings = full | stage.model_dump(exclude_none=True)
    settings["editor_dropout"] = config.model.editor.dropout if stage.dropout is None else stage.dropout
    return Phase(number=number, freeze_pretrained=epoch <= config.pretrained.frozen_epochs, **settings)


def trained_names(config: Config, phase: Phase, names: Sequence[str], pretrained: Collection[str] = ()) -> set[str]:
    """Names of the parameters that are trained in a phase.

    Args:
        names: of all parameters.
        pretrained: names of the parameters that begin with the weights of another model.

    Raises:
        InputError: a pattern matches no name, or nothing is left to train.
    """
    frozen = {name for name, group in groups_by_name(names, config.optimizer.groups).items() if group.lr_scale == 0}
    for number, pattern in enumerate(phase.freeze):
        frozen.update(matching_names(pattern, names, f"training.stages.{phase.number}.freeze.{number}"))
    if phase.freeze_pretrained:
        frozen.update(pretrained)
    for name in names:
        match = LAYER.match(name)
        active = phase.layers(match[1].rstrip(".")) if match else None
        if match and active is not None and int(match[2]) >= active:
            frozen.add(name)
    if len(frozen) == len(names):
        if frozen == set(pretrained):
            raise InputError(
                "pretrained.frozen_epochs: every parameter began with other weights, so all would be frozen",
                "Set it to 0, or lower pretrained.lr_scale instead.",
            )
        where = "optimizer.groups" if phase.number is None else f"training.stages.{phase.number}"
        raise InputError(f"{where}: every parameter is frozen", "Leave some to be trained.")
    return set(names) - frozen


def check_phases(config: Config, names: Sequence[str], pretrained: Collection[str] = ()) -> None:
    """Checks that every pattern matches a parameter, and that every phase has parameters to train.

    Args:
        names: of all parameters.
        pretrained: names of the parameters that begin with the weights of `pretrained.decoder`.

    Raises:
        InputError: a check fails; the message names the key.
    """
    for phase in {phase_of(config, epoch) for epoch in range(1, config.training.epochs + 1)}:
        trained_names(config, phase, names, pretrained)


def enter(phase: Phase, model: nn.Module, trained: Collection[str]) -> bool:
    """Sets a model's dropout, active layers and frozen parameters for a phase.

    Args:
        trained: the names of the parameters to train (`trained_names`).

    Returns:
        Whether the set of trained parameters has changed.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = phase.editor_dropout if name.startswith("editor.") else phase.dropout
    for name, stack in stacks(model).items():
        stack.active_layers = phase.layers(name)
    changed = False
    for name, parameter in model.named_parameters():
        changed |= parameter.requires_grad != (name in trained)
        parameter.requires_grad_(name in trained)
    return changed


def subset(share: float, utterances: int, seed: int) -> np.ndarray:
    """Sorted indices of a random share of a split; larger shares contain smaller ones."""
    order = np.random.default_rng([seed, 0]).permutation(utterances)  # batches are drawn from [seed, epoch >= 1]
    return np.sort(order[: math.ceil(share * utterances)])
