"""Progressive training: which layers take part in an epoch, what is frozen, and what else differs.

An epoch's phase is a function of the configuration and the epoch's number alone. So a checkpoint holds nothing of it,
and the number of updates is known before the first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn

from trainables.config import Config, Stage
from trainables.errors import InputError
from trainables.models.speech_transformer import stacks
from trainables.training.optimizer import STACK, pattern_groups
from trainables.training.patterns import matching


@dataclass(frozen=True)
class Phase:
    """What holds in an epoch.

    Args:
        stage: its number in `training.stages`, from 0; None: the full model, which comes after them.
        encoder_layers, decoder_layers: the first so many take part; None: all.
        freeze: patterns of parameter names.
        moved_frozen: whether the weights of the pretrained decoder do not change.
        data: share of the training utterances.
    """

    stage: int | None
    encoder_layers: int | None
    decoder_layers: int | None
    freeze: tuple[str, ...]
    moved_frozen: bool
    dropout: float
    label_smoothing: float
    data: float

    def layers(self, stack: str) -> int | None:
        """How many take part in a stack: the encoder, or a decoder, which may be a model of its own."""
        return self.encoder_layers if stack == "encoder" else self.decoder_layers


def phase_of(config: Config, epoch: int) -> Phase:
    """The phase of an epoch, counted from 1."""
    numbers = [number for number, stage in enumerate(config.training.stages) for _ in range(stage.epochs)]
    number = numbers[epoch - 1] if epoch <= len(numbers) else None
    stage = Stage() if number is None else config.training.stages[number]
    return Phase(
        stage=number,
        encoder_layers=stage.encoder_layers,
        decoder_layers=stage.decoder_layers,
        freeze=stage.freeze,
        moved_frozen=epoch <= config.pretrained.frozen_epochs,
        dropout=config.model.dropout if stage.dropout is None else stage.dropout,
        label_smoothing=config.loss.label_smoothing if stage.label_smoothing is None else stage.label_smoothing,
        data=stage.data,
    )


def trained_names(config: Config, phase: Phase, names: Iterable[str], moved: Collection[str] = ()) -> set[str]:
    """The parameters that change in a phase.

    Args:
        names: of all parameters.
        moved: those that the pretrained decoder gave.

    Raises:
        InputError: a pattern matches no name, or nothing is left to train.
    """
    names = list(names)
    frozen = {name for name, group in pattern_groups(names, config.optimizer.groups).items() if group.lr_scale == 0}
    for number, pattern in enumerate(phase.freeze):
        frozen.update(matching(pattern, names, f"training.stages.{phase.stage}.freeze.{number}"))
    if phase.moved_frozen:
        frozen.update(moved)
    for name in names:
        match = STACK.match(name)
        active = phase.layers(match[1].rstrip(".")) if match else None
        if match and active is not None and int(match[2]) >= active:
            frozen.add(name)
    if len(frozen) == len(names):
        where = "optimizer.groups" if phase.stage is None else f"training.stages.{phase.stage}"
        raise InputError(f"{where}: every parameter is frozen", "Leave some to be trained.")
    return set(names) - frozen


def check_phases(config: Config, names: Iterable[str], moved: Collection[str] = ()) -> None:
    """Refuses a configuration in which a pattern matches no parameter, or a phase has nothing to train.

    Args:
        names: of all parameters.
        moved: those that the pretrained decoder gave.

    Raises:
        InputError: the message names the key.
    """
    names = list(names)
    pattern_groups(names, config.optimizer.groups)
    for phase in {phase_of(config, epoch) for epoch in range(1, config.training.epochs + 1)}:
        trained_names(config, phase, names, moved)


def enter(phase: Phase, model: nn.Module, trained: Collection[str]) -> bool:
    """Puts a model into a phase; returns whether other parameters than before are trained now.

    Args:
        trained: the names of those that change (`trained_names`).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = phase.dropout
    for name, stack in stacks(model).items():
        stack.active_layers = phase.layers(name)
    changed = False
    for name, parameter in model.named_parameters():
        changed |= parameter.requires_grad != (name in trained)
        parameter.requires_grad_(name in trained)
    return changed


def members(share: float, utterances: int, seed: int) -> np.ndarray:
    """The numbers of the utterances of a share of a split: the same each time, and a part of every larger share."""
    order = np.random.default_rng([seed, 0]).permutation(utterances)  # batches are drawn from [seed, epoch >= 1]
    return np.sort(order[: math.ceil(share * utterances)])
