"""The learning rate of every update: warm-up, each schedule's shape, and torch's schedulers where they agree."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from trainables.config.tree import Optimizer
from trainables.data.corpus import Corpus
from trainables.training.loop import train
from trainables.training.schedules import ONE_CYCLE_START, learning_rate

PEAK = 2e-3
SCHEDULES = ["cosine", "cosine_restarts", "plateau", "noam", "one_cycle", "constant"]
losses = st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]), max_size=30)


def rates(total: int, losses: Sequence[float] = (), **fields: object) -> list[float]:
    config = Optimizer.model_validate({"lr": PEAK, **fields})
    return [learning_rate(config, update, total, losses) for update in range(total)]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def torch_rates(scheduler: LRScheduler, total: int) -> list[float]:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no optimizer takes a step here
        for _ in range(total):
            found.append(scheduler.get_last_lr()[0])
            scheduler.step()
    return found


@pytest.mark.parametrize("schedule", ["cosine", "cosine_restarts", "plateau", "noam", "constant"])
def test_the_rate_rises_in_equal_steps_to_the_peak(schedule: str) -> None:
    found = rates(100, warmup=0.25, schedule=schedule)
    assert found[:25] == pytest.approx([PEAK * step / 25 for step in range(1, 26)])
    assert max(found) == found[24] == pytest.approx(PEAK)


def test_the_cosine_is_that_of_torch_and_ends_at_the_final_rate() -> None:
    found = rates(101, warmup=0.2, final_lr=0.1)
    assert found[60] == pytest.approx(PEAK * (0.1 + 0.9 * 0.5))
    assert found[100] == pytest.approx(0.1 * PEAK)
    assert found[20:] == pytest.approx(torch_rates(CosineAnnealingLR(optimizer(), 80, eta_min=0.1 * PEAK), 81))


@pytest.mark.parametrize(("cycles", "warmup"), [(1, 0.0), (3, 0.0), (4, 0.25)])
def test_restarts_are_those_of_torch(cycles: int, warmup: float) -> None:
    after = 60
    total = round(after / (1 - warmup))
    expected = CosineAnnealingWarmRestarts(optimizer(), after // cycles, eta_min=0.05 * PEAK)
    found = rates(total, schedule="cosine_restarts", cycles=cycles, warmup=warmup, final_lr=0.05)
    assert found[total - after :] == pytest.approx(torch_rates(expected, after))


@given(st.integers(1, 300), st.integers(1, 9), st.floats(0, 1))
def test_there_are_as_many_cycles_as_asked_for(total: int, cycles: int, warmup: float) -> None:
    found = rates(total, schedule="cosine_restarts", cycles=cycles, warmup=warmup, final_lr=0)
    after = found[round(warmup * total) :]
    rises = sum(one < other for one, other in itertools.pairwise(after))
    assert rises == max(0, min(cycles, len(after)) - 1) or len(after) < 2 * cycles


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.3), (37, 0.25), (1000, 0.05), (11, 0.5)])
def test_one_cycle_is_that_of_torch(total: int, warmup: float) -> None:
    final = 0.002
    expected = OneCycleLR(
        optimizer(),
        PEAK,
        total_steps=total,
        pct_start=warmup,
        div_factor=1 / ONE_CYCLE_START,
        final_div_factor=ONE_CYCLE_START / final,
        cycle_momentum=False,
    )
    found = rates(total, schedule="one_cycle", warmup=warmup, final_lr=final)
    assert found[:-1] == pytest.approx(torch_rates(expected, total - 1))
    assert found[-1] == pytest.approx(expected.get_last_lr()[0]) == pytest.approx(final * PEAK)


@given(losses, st.integers(0, 4), st.floats(0.1, 0.9), st.floats(0, 0.5))
def test_plateau_is_that_of_torch(losses: list[float], patience: int, factor: float, final: float) -> None:
    one = optimizer()
    expected = ReduceLROnPlateau(
        one, factor=factor, patience=patience, threshold=0, min_lr=final * PEAK, eps=0, threshold_mode="abs"
    )
    config = {"schedule": "plateau", "patience": patience, "factor": factor, "final_lr": final, "warmup": 0.0}
    for epoch, loss in enumerate(losses, start=1):
        expected.step(loss)
        assert rates(10, losses[:epoch], **config)[5] == pytest.approx(one.param_groups[0]["lr"])


def test_noam_falls_with_the_root_of_the_update() -> None:
    """The formula of the paper, for a width and a warm-up: d^-0.5 x min(n^-0.5, n x w^-1.5), n counted from 1."""
    width, warmup, total = 64, 40, 400
    paper = [width**-0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, total + 1)]
    peak = width**-0.5 * warmup**-0.5
    found = rates(total, schedule="noam", warmup=0.1, final_lr=0.0)
    assert found == pytest.approx([rate * PEAK / peak for rate in paper])


def test_a_constant_rate_stays_at_the_peak() -> None:
    assert rates(50, warmup=0.1, schedule="constant")[4:] == pytest.approx([PEAK] * 46)


@given(st.integers(1, 300), st.floats(0, 1), st.just(0.0) | st.floats(1e-6, 1), st.sampled_from(SCHEDULES), losses)
def test_a_rate_is_within_its_limits(
    total: int, warmup: float, final: float, schedule: str, losses: list[float]
) -> None:
    found = rates(total, losses, warmup=warmup, final_lr=final, schedule=schedule)
    assert all(0 < rate <= PEAK * (1 + 1e-9) or rate == final == 0 for rate in found)
    assert all(rate >= final * PEAK * (1 - 1e-9) for rate in found[round(warmup * total) :])


@given(
    st.integers(1, 300),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([name for name in SCHEDULES if name != "cosine_restarts"]),
)
def test_a_rate_rises_before_it_falls(total: int, warmup: float, final: float, schedule: str) -> None:
    found = rates(total, warmup=warmup, final_lr=final, schedule=schedule)
    top = found.index(max(found))
    assert all(one <= other for one, other in itertools.pairwise(found[: top + 1]))
    assert all(one >= other for one, other in itertools.pairwise(found[top:]))


def test_training_tells_the_plateau_how_validation_went(tiny_corpus: Corpus) -> None:
    """No epoch lowers the loss when no parameter that it depends on is trained."""
    groups = [{"pattern": "ctc_head.*"}, {"pattern": "*", "lr_scale": 0}]
    leaves = {"optimizer.groups": groups, "loss.ctc_weight": 0.0, "optimizer.schedule": "plateau"}
    recorder = tiny.Recorder()
    rest = {"optimizer.patience": 1, "optimizer.warmup": 0.0, "optimizer.lr": PEAK, "training.epochs": 6}
    train(tiny.config({**leaves, **rest}), tiny_corpus, recorder)
    expected = [PEAK, PEAK, PEAK, PEAK / 2, PEAK / 2, PEAK / 4]
    assert [row["learning_rate"] for row in recorder.history] == pytest.approx(expected)
