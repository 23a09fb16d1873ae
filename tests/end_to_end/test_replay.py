"""The recorded learning curves, and what the platform's stopping rule does on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import replay
from hypothesis import given
from hypothesis import strategies as st
from replay import Curve

from search_spaces.reader import load_space
from search_spaces.space import Space


class Told(replay.RandomOrder):
    """Remembers where each trial ended, or was last left off."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended_at: dict[int, int] = {}

    def ended(self, curve: Curve, epoch: int, stopped: bool) -> None:
        assert stopped == (epoch < len(curve.epochs)) and self.ended_at.get(curve.number, 0) < epoch
        self.ended_at[curve.number] = epoch


class ToldStopping(Told, replay.Stopping):
    """The same of trials that the rungs stop."""


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space(str(replay.SPACE))


@pytest.fixture(scope="module")
def table() -> list[Curve]:
    return replay.read_table()


def test_the_table_is_of_its_space(space: Space, table: list[Curve]) -> None:
    assert len({curve.number for curve in table}) == len(table) >= 60
    for curve in table:
        assert set(curve.values) <= set(space.vary) and space.config(curve.values)
        assert [row["epoch"] for row in curve.epochs] == list(range(1, len(curve.epochs) + 1))
        assert len(curve.epochs) == space.settings.epochs or not curve.epochs or curve.best > 0.5  # diverged


@pytest.mark.parametrize("workers", [1, 3])
def test_without_stopping_all_of_the_table_is_trained(table: list[Curve], workers: int) -> None:
    reached = replay.replay(table, policy := Told(0), workers)
    assert policy.ended_at == {curve.number: len(curve.epochs) for curve in table}
    spent, best = reached[-1]
    assert spent == pytest.approx(sum(row["cpu_seconds"] for curve in table for row in curve.epochs))
    assert best == min(curve.best for curve in table)
    assert replay.seconds_to(reached, best) <= spent and replay.seconds_to(reached, 0.0) == math.inf
    assert replay.best_after(reached, spent) == best and replay.best_after(reached, 0.0) == math.inf


def test_workers_report_in_the_order_in_which_their_epochs_end() -> None:
    def curve(number: int, cost: float) -> Curve:
        return Curve(number, {}, [{"val_cer": 1 - number / 10, "cpu_seconds": cost}] * 2)

    order: list[int] = []

    class InTurn(replay.RandomOrder):
        def propose(self, left: Sequence[Curve]) -> Curve | None:
            return left[0] if left else None

        def goes_on(self, curve: Curve, epoch: int) -> bool:
            order.append(curve.number)
            return True

        def ended(self, curve: Curve, epoch: int, stopped: bool) -> None:
            order.append(curve.number)

    replay.replay([curve(0, 5.0), curve(1, 2.0), curve(2, 4.0)], InTurn(0), workers=2)
    assert order == [1, 1, 0, 2, 0, 2]  # 1 ends its epochs at 2 and 4, 0 at 5 and 10, 2 at 8 and 12


@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4))
def test_the_rule_stops_nobody_too_early(space: Space, table: list[Curve], seed: int, workers: int) -> None:
    """None before its warm-up and two epochs; none that has not dropped before half of its epochs."""
    settings: Any = space.settings
    asha = settings.asha.model_copy(update={"grace": None, "promotion": None})
    policy = ToldStopping(seed, settings.model_copy(update={"asha": asha}))
    replay.replay(table, policy, workers)
    for curve in table:
        epoch = policy.ended_at[curve.number]
        if epoch == len(curve.epochs):
            continue
        assert epoch >= curve.values["optimizer.warmup"] * settings.epochs + 2
        assert (
            epoch >= settings.epochs / 2 or min(row["val_cer"] for row in curve.epochs[:epoch]) < settings.asha.plateau
        )


@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4), reduction=st.integers(2, 4))
def test_looks_decide_about_the_order_alone(
    space: Space, table: list[Curve], seed: int, workers: int, reduction: int
) -> None:
    """Every trial waits to be promoted; none is left waiting, and whoever does not stop has all of its epochs."""
    settings: Any = space.settings
    asha = settings.asha.model_copy(update={"promotion": 1, "reduction": reduction})
    policy = ToldStopping(seed, settings.model_copy(update={"asha": asha}))
    replay.replay(table, policy, workers)
    assert not policy.promotions.waiting and len(policy.promotions.values[1]) == len(table)
    assert min(policy.ended_at.values()) > 1


def test_the_nearest_configuration_to_one_of_the_table_is_itself(space: Space, table: list[Curve]) -> None:
    """Wherever it is among the handful that waits."""
    nearest = replay.Nearest(space, table, seed=0)
    for number, curve in enumerate(table):
        others = [table[(number + step) % len(table)] for step in range(1, replay.HANDFUL)]
        assert nearest([*others, curve], curve.values) is curve
