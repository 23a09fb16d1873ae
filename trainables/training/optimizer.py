"""The optimiser: which parameters change at which multiple of the rate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from trainables.config import Optimizer, ParameterGroup
from trainables.training.patterns import matching

STACK = re.compile(r"(encoder\.|decoder\.|)layers\.(\d+)\.")
ABOVE_THE_LAYERS = ("norm.", "output.")  # within a stack; what is in neither is below: embeddings, time reduction


def build_optimizer(
    config: Optimizer, model: nn.Module, scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with weight decay on matrices alone: biases, norms and embeddings are spared.

    Each of torch's parameter groups says in `lr_scale` by what the schedule's rate is to be multiplied: the product of
    its group's, its layer's, and what `scales` has for the parameter's name.

    Raises:
        InputError: a group's pattern matches no name. Shared weights have the name of the first place: tied output
            weights are `decoder.embedding.weight`.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    parameters = dict(model.named_parameters())
    by_layer = layer_scales(list(parameters), config.layer_decay)
    by_pattern = pattern_groups(list(parameters), config.groups)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        group = by_pattern.get(name, EVERYWHERE)
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        if parameter.dim() <= 1 or id(parameter) in embeddings:
            decay = 0.0
        scale = group.lr_scale * by_layer[name] * (scales or {}).get(name, 1.0)
        groups.setdefault((scale, decay), []).append(parameter)
    listed = [{"params": found, "lr_scale": scale, "weight_decay": decay} for (scale, decay), found in groups.items()]
    if config.name == "sgd":
        return torch.optim.SGD(listed, lr=config.lr, momentum=config.betas[0])
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(listed, lr=config.lr, betas=config.betas, eps=1e-9, fused=True)


EVERYWHERE = ParameterGroup(pattern="*")


def pattern_groups(names: Sequence[str], groups: Sequence[ParameterGroup]) -> dict[str, ParameterGroup]:
    """The group of each parameter that has one: of several, the first."""
    found: dict[str, ParameterGroup] = {}
    for number, group in enumerate(groups):
        for name in matching(group.pattern, names, f"optimizer.groups.{number}.pattern"):
            found.setdefault(name, group)
    return found


def layer_scales(names: Sequence[str], decay: float) -> dict[str, float]:
    """Layer-wise decay (Bao et al., 2022, arXiv 2106.08254): `decay` ^ distance from the top of its stack.

    The final norm, the output projection and the CTC head are at the top (1), the last layer is one below; what feeds
    the first layer (embeddings, time reduction) is one below that.
    """
    matches = {name: STACK.match(name) for name in names}
    layers: dict[str, int] = {}
    for match in matches.values():
        if match:
            layers[match[1]] = max(layers.get(match[1], 0), int(match[2]) + 1)
    scales = {}
    for name, match in matches.items():
        if match:
            distance = layers[match[1]] - int(match[2])
        else:
            stack = next((stack for stack in layers if name.startswith(stack)), None)
            below = stack is not None and not name.removeprefix(stack).startswith(ABOVE_THE_LAYERS)
            distance = layers[stack] + 1 if stack is not None and below else 0
        scales[name] = decay**distance
    return scales
