"""The optimizer: which parameters are trained, each with its weight decay and its multiple of the learning rate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from trainables.config.tree import Optimizer, ParameterGroup
from trainables.errors import InputError

LAYER = re.compile(r"(encoder\.|decoder\.|editor\.|)layers\.(\d+)\.")  # a stack's prefix, the number of the layer
ABOVE_THE_LAYERS = ("norm.", "output.")  # parts of a stack; its other parts (embeddings, subsampling) are below
NO_GROUP = ParameterGroup(pattern="*")
NAMES_SHOWN = 8  # in the message about a pattern that matches none


def build_optimizer(
    config: Optimizer, model: nn.Module, scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with weight decay on matrices only: not on biases, norms and embeddings.

    Each of torch's parameter groups has an `lr_scale`, by which the schedule's rate is to be multiplied: the product of
    the scales of the parameter's group, of its layer, and in `scales`.

    Args:
        scales: factors of the rate by parameter name, such as those of pretrained weights.

    Raises:
        InputError: a group's pattern matches no name. Shared weights have their first name: tied output weights are
            `decoder.embedding.weight`.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    parameters = dict(model.named_parameters())
    by_layer = layer_scales(list(parameters), config.layer_decay)
    by_pattern = groups_by_name(list(parameters), config.groups)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        group = by_pattern.get(name, NO_GROUP)
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        if parameter.dim() <= 1 or name.endswith("bias") or id(parameter) in embeddings:
            decay = 0.0
        scale = group.lr_scale * by_layer[name] * (scales or {}).get(name, 1.0)
        groups.setdefault((scale, decay), []).append(parameter)
    listed = [{"params": found, "lr_scale": scale, "weight_decay": decay} for (scale, decay), found in groups.items()]
    if config.name == "sgd":
        return torch.optim.SGD(listed, lr=config.lr, momentum=config.betas[0])
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(listed, lr=config.lr, betas=config.betas, eps=1e-9, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate that the schedule gives; each group has a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def matching_names(pattern: str, names: Sequence[str], key: str) -> list[str]:
    """Parameter names that match a pattern such as `encoder.layers.0.*`: * is any text, dots included, ? a character.

    Args:
        key: the configuration key of the pattern, for the error.

    Raises:
        InputError: no name matches.
    """
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        shown = names[:: max(1, len(names) // NAMES_SHOWN)]
        raise InputError(
            f"{key}: no parameter's name matches {pattern!r}",
            f"Some of the {len(names)} names are: {', '.join(shown)}.",
        )
    return found


def groups_by_name(names: Sequence[str], groups: Sequence[ParameterGroup]) -> dict[str, ParameterGroup]:
    """The first matching group of each parameter; parameters without one are left out.

    Raises:
        InputError: a group's pattern matches no name.
    """
    found: dict[str, ParameterGroup] = {}
    for number, group in enumerate(groups):
        for name in matching_names(group.pattern, names, f"optimizer.groups.{number}.pattern"):
            found.setdefault(name, group)
    return found


def layer_scales(names: Sequence[str], decay: float) -> dict[str, float]:
    """Layer-wise decay (Bao et al., 2022, arXiv 2106.08254): `decay` ^ distance from the top of the stack, by name.

    The final norm, the output projection, all heads and the projector are at the top (distance 0), the last layer is
    one below; the inputs of the first layer (embeddings, subsampling) are one below the first layer.
    """
    matches = {name: LAYER.match(name) for name in names}
    layers: dict[str, int] = {}
    for match in matches.values():
        if match:
            layers[match[1]] = max(layers.get(match[1], 0), int(match[2]) + 1)
    scales = {}
    for name, match in matches.items():
        stack = next((stack for stack in layers if name.startswith(stack)), None)
        if stack is None or name.removeprefix(stack).startswith(ABOVE_THE_LAYERS):
            distance = 0
        else:
            distance = layers[stack] - int(match[2]) if match else layers[stack] + 1
        scales[name] = decay**distance
    return scales


@contextmanager
def added_to_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context in which a backward pass adds to the gradients of all `parameters` in one kernel, not one for each."""
    before = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    for parameter, _ in before:
        parameter.grad = None
    yield
    sums: list[Tensor] = []
    for parameter, gradient in before:
        sums.append(torch.zeros_like(gradient) if parameter.grad is None else parameter.grad)
        parameter.grad = sums[-1]
    if sums:
        torch._foreach_add_(sums, [gradient for _, gradient in before])
