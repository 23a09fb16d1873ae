"""The learning rate of every update, and which parameters decay."""

from __future__ import annotations

import itertools

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import Optimizer
from trainables.optimizer import build_optimizer, learning_rate

PEAK = 2e-3


def rates(total: int, **fields: object) -> list[float]:
    config = Optimizer.model_validate({"lr": PEAK, **fields})
    return [learning_rate(config, update, total) for update in range(total)]


def test_the_rate_rises_in_equal_steps_to_the_peak() -> None:
    found = rates(100, warmup=0.25)
    assert found[0] == pytest.approx(PEAK / 25)
    assert found[24] == pytest.approx(PEAK)
    assert found[:25] == pytest.approx([PEAK * step / 25 for step in range(1, 26)])


def test_the_cosine_ends_at_the_final_rate() -> None:
    found = rates(101, warmup=0.2, final_lr=0.1)
    assert found[20] == pytest.approx(PEAK)
    assert found[60] == pytest.approx(PEAK * (0.1 + 0.9 * 0.5))
    assert found[100] == pytest.approx(0.1 * PEAK)


def test_a_constant_rate_stays_at_the_peak() -> None:
    assert rates(50, warmup=0.1, schedule="constant")[4:] == pytest.approx([PEAK] * 46)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["cosine", "constant"]))
def test_a_rate_is_positive_and_rises_before_it_falls(total: int, warmup: float, final: float, schedule: str) -> None:
    found = rates(total, warmup=warmup, final_lr=final, schedule=schedule)
    assert all(0 <= rate <= PEAK * (1 + 1e-9) for rate in found)
    top = found.index(max(found))
    assert all(one <= other for one, other in itertools.pairwise(found[: top + 1]))
    assert all(one >= other for one, other in itertools.pairwise(found[top:]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_matrices_decay_and_biases_norms_and_embeddings_do_not(name: str, tied: bool) -> None:
    model = tiny.model(tied_embeddings=tied)
    config = Optimizer.model_validate({"name": name, "weight_decay": 0.3})
    optimizer = build_optimizer(config, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for key, parameter in model.named_parameters():
        spared = parameter.dim() == 1 or "embedding" in key
        assert decay[id(parameter)] == (0.0 if spared else 0.3), key


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
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
