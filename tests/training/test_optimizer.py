"""Weight decay and learning-rate scales of parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from trainables.config.tree import Optimizer
from trainables.errors import InputError
from trainables.training.optimizer import build_optimizer, layer_scales


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_matrices_decay_and_biases_norms_and_embeddings_do_not(name: str, tied: bool) -> None:
    model = tiny.model(tied_embeddings=tied, encoder_positions="transformer_xl")
    config = Optimizer.model_validate({"name": name, "weight_decay": 0.3})
    optimizer = build_optimizer(config, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for key, parameter in model.named_parameters():
        spared = parameter.dim() == 1 or "embedding" in key or key.endswith(("content_bias", "position_bias"))
        assert decay[id(parameter)] == (0.0 if spared else 0.3), key


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_every_optimizer_takes_a_step_down(name: str) -> None:
    layer = torch.nn.Linear(4, 1, bias=False)
    optimizer = build_optimizer(Optimizer.model_validate({"name": name, "lr": 1e-2}), layer)
    x = torch.randn(16, 4)
    losses = []
    for _ in range(3):
        loss = layer(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


@pytest.mark.parametrize("wide", [False, True])
def test_muon_is_that_of_torch_for_matrices_of_layers_and_adamw_for_the_rest(wide: bool) -> None:
    """Ours is exact to a few percent of an update: torch's steps are of bfloat16 on a CPU too."""
    torch.manual_seed(0)
    stack = nn.Module()
    stack.layers = nn.ModuleList([nn.Linear(8, 24 if wide else 4), nn.Linear(24 if wide else 4, 8), nn.Linear(8, 24)])
    stack.output = nn.Linear(24, 3)
    ours = nn.ModuleDict({"encoder": stack})
    theirs = copy.deepcopy(ours)
    matrices = [layer.weight for layer in theirs["encoder"].layers]
    others = [parameter for parameter in theirs.parameters() if all(parameter is not one for one in matrices)]
    config = Optimizer(name="muon", lr=1e-2, weight_decay=0.1, betas=(0.9, 0.98))
    optimizers = [
        build_optimizer(config, ours),
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([
            {"params": [one for one in others if one.dim() > 1], "weight_decay": 0.1},
            {"params": [one for one in others if one.dim() == 1], "weight_decay": 0.0},
        ], lr=1e-2, betas=(0.9, 0.98), eps=1e-9),
    ]  # fmt: skip
    before = [parameter.detach().clone() for parameter in theirs.parameters()]
    for _ in range(4):
        for parameter, same in zip(ours.parameters(), theirs.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            same.grad = parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for parameter, same, first in zip(ours.parameters(), theirs.parameters(), before, strict=True):
        if any(same is one for one in matrices):
            assert (parameter - same).norm() < 0.03 * (same - first).norm()
        else:
            torch.testing.assert_close(parameter, same)


@pytest.mark.parametrize("groups", [[], [{"pattern": "encoder.*", "lr_scale": 0.1}]])
def test_muon_leaves_what_has_no_gradient_as_it_is(groups: list[dict[str, Any]]) -> None:
    """Frozen layers have none, and may be all of a group."""
    model = tiny.model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(Optimizer.model_validate({"name": "muon", "lr": 1e-2, "groups": groups}), model)
    for name, parameter in model.named_parameters():
        if name.startswith("decoder."):
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}


def scales(model: torch.nn.Module, config: Optimizer, **kwargs: Any) -> dict[str, float]:
    """The `lr_scale` of each parameter by name."""
    groups = build_optimizer(config, model, **kwargs).param_groups
    found = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def test_the_first_pattern_that_matches_counts() -> None:
    groups = [
        {"pattern": "encoder.layers.0.*", "lr_scale": 0.5, "weight_decay": 0.2},
        {"pattern": "encoder.layers.?.*", "lr_scale": 0.1},
    ]
    model = tiny.model()
    config = Optimizer.model_validate({"groups": groups, "weight_decay": 0.3})
    optimizer = build_optimizer(config, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, scale in scales(model, config).items():
        first, second = name.startswith("encoder.layers.0."), name.startswith("encoder.layers.1.")
        assert scale == (0.5 if first else 0.1 if second else 1.0), name
        matrix = model.get_parameter(name).dim() > 1 and "embedding" not in name
        assert decay[id(model.get_parameter(name))] == (0.0 if not matrix else 0.2 if first else 0.3), name


def test_a_pattern_without_a_match_is_refused() -> None:
    groups = [{"pattern": "encoder.*"}, {"pattern": "encoder.layer.0.*"}]
    with pytest.raises(InputError) as error:
        build_optimizer(Optimizer.model_validate({"groups": groups}), tiny.model())
    assert "optimizer.groups.1.pattern" in error.value.problem and "'encoder.layer.0.*'" in error.value.problem
    assert "encoder." in error.value.remedy and "decoder." in error.value.remedy


def test_rates_fall_from_layer_to_layer() -> None:
    model = tiny.model(encoder_layers=3, decoder_layers=2, embedding_norm=True, encoder_positions="relative")
    found = scales(model, Optimizer(layer_decay=0.5))
    expected = {
        "encoder.subsampling": 0.5**4,
        "encoder.embedding_norm": 0.5**4,
        "encoder.relative_bias": 0.5**4,
        "encoder.layers.0": 0.5**3,
        "encoder.layers.1": 0.5**2,
        "encoder.layers.2": 0.5,
        "encoder.norm": 1,
        "decoder.embedding": 0.5**3,
        "decoder.layers.0": 0.5**2,
        "decoder.layers.1": 0.5,
        "decoder.norm": 1,
        "decoder.output": 1,
        "ctc_head": 1,
    }
    met = set()
    for name, scale in found.items():
        (prefix,) = [prefix for prefix in expected if name.startswith(f"{prefix}.")]
        met.add(prefix)
        assert scale == expected[prefix], name
    assert met == set(expected)


def test_a_decoder_on_its_own_has_the_same_layers() -> None:
    """A language model's parameters lack the prefix `decoder.`."""
    names = [name for name, _ in tiny.model().decoder.named_parameters()]
    whole = layer_scales([f"decoder.{name}" for name in names], 0.5)
    assert layer_scales(names, 0.5) == {name: whole[f"decoder.{name}"] for name in names}


def test_scales_multiply() -> None:
    config = Optimizer.model_validate({"layer_decay": 0.5, "groups": [{"pattern": "*.layers.1.*", "lr_scale": 0.1}]})
    name = "decoder.layers.1.feed_forward_norm.weight"
    found = scales(tiny.model(), config, scales={name: 0.3})
    assert found[name] == pytest.approx(0.5 * 0.1 * 0.3)
    assert found[name.replace("weight", "bias")] == pytest.approx(0.5 * 0.1)
