"""The optimizer: which parameters are trained, each with its weight decay and its multiple of the learning rate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.config.tree import Optimizer, ParameterGroup
from trainables.errors import InputError

LAYER = re.compile(r"(encoder\.|decoder\.|editor\.|)layers\.(\d+)\.")  # a stack's prefix, the number of the layer
ABOVE_THE_LAYERS = ("norm.", "output.")  # parts of a stack; its other parts (embeddings, subsampling) are below
NO_GROUP = ParameterGroup(pattern="*")
MOMENTUM = 0.95  # of Muon
NAMES_SHOWN = 8  # in the message about a pattern that matches none


def build_optimizer(
    config: Optimizer, model: nn.Module, scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimizer that `config` names, with weight decay on matrices only: not on biases, norms and embeddings.

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
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        group = by_pattern.get(name, NO_GROUP)
        matrix = parameter.dim() > 1 and not name.endswith("bias") and id(parameter) not in embeddings
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        scale = group.lr_scale * by_layer[name] * (scales or {}).get(name, 1.0)
        orthogonal = config.name == "muon" and matrix and parameter.dim() == 2 and LAYER.match(name) is not None
        groups.setdefault((scale, decay if matrix else 0.0, orthogonal), []).append(parameter)
    listed = [
        {"params": found, "lr_scale": scale, "weight_decay": decay, "orthogonal": orthogonal}
        for (scale, decay, orthogonal), found in groups.items()
    ]
    if config.name == "sgd":
        return torch.optim.SGD(listed, lr=config.lr, momentum=config.betas[0])
    if config.name == "muon":
        return Muon(listed, lr=config.lr, betas=config.betas, eps=1e-9, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(listed, lr=config.lr, betas=config.betas, eps=1e-9, fused=True)


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of layers, AdamW for all other parameters.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest
    matrix with orthogonal rows or columns, so that an update changes all directions alike. It is scaled to the mean
    square of AdamW's updates (Liu et al., 2025, arXiv 2502.16982): rates and weight decay that suit AdamW suit it.
    `torch.optim.Muon` computes the same for one matrix after the other, and holds no other parameters; here matrices of
    equal shape are one batch, which saves launches on a GPU.

    Args:
        groups: torch's parameter groups, each with `orthogonal`: whether it has matrices for Muon.
        others: keywords of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **others: Any) -> None:
        super().__init__(groups, {"lr": others["lr"], "weight_decay": 0.0})
        self.others = others
        self._share_with_adamw()

    def _share_with_adamw(self) -> None:
        """Makes the AdamW that shares this optimizer's other groups, and its state."""
        self.adamw = torch.optim.AdamW([group for group in self.param_groups if not group["orthogonal"]], **self.others)
        self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # replaces groups and state
        self._share_with_adamw()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Updates all parameters that have a gradient."""
        self.adamw.step()
        for group in self.param_groups:
            if group["orthogonal"]:
                self._update_matrices(group)

    def _update_matrices(self, group: dict[str, Any]) -> None:
        matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
        if not matrices:  # all are frozen
            return
        gradients = [matrix.grad for matrix in matrices]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's momentum
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for matrix, update in zip(matrices, ahead, strict=True):
            tall = matrix.size(0) > matrix.size(1)
            wide, change = (matrix.mT, update.mT) if tall else (matrix, update)
            by_shape.setdefault(wide.shape, []).append((wide, change))
        for shape, found in by_shape.items():
            views, updates = zip(*found, strict=True)
            changes = orthogonal(torch.stack(updates)).to(views[0].dtype)
            torch._foreach_add_(views, changes.unbind(), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices near the given ones: five Newton-Schulz steps, as in `torch.optim.Muon`.

    Args:
        matrices: (N, rows, columns), not more rows than columns.

    Returns:
        (N, rows, columns), with singular values of about 0.7 to 1.2; of bfloat16 on a GPU, where that is faster.
    """
    found = matrices.bfloat16() if matrices.is_cuda else matrices
    found = found / torch.linalg.matrix_norm(found, keepdim=True).clamp(min=1e-7)  # no singular value is above 1
    for _ in range(5):
        products = found @ found.mT
        polynomial = torch.baddbmm(products, products, products, beta=-4.7750, alpha=2.0315)
        found = torch.baddbmm(found, polynomial, found, beta=3.4445)
    return found


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


def synchronized(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Context in which gradients are synchronised across workers only if `last`, the last batch of an update."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


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
