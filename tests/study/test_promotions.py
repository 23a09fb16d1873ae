"""Promotions and the model of learning curves: what is worth an epoch, and what is given up."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_platform.study.allocation.learning_curves import POINTS, CurveModel
from asr_platform.study.allocation.promotions import FIRST_TRIALS, LOWEST_VALUE, NEGLIGIBLE, Promotions
from search_spaces.settings import Asha, Settings

LEVELS = 5
falling = st.lists(st.floats(0, 1), min_size=LEVELS, max_size=LEVELS).map(
    lambda values: sorted(map(float, np.log(np.array(values) + 0.01)), reverse=True)
)


@st.composite
def curves(draw: st.DrawFn) -> list[list[float]]:
    """Trials that have come to different levels."""
    whole = draw(st.lists(falling, min_size=1, max_size=12))
    return [curve[: draw(st.integers(1, LEVELS))] for curve in whole]


def promotions(cers: list[list[float]], epochs: int = 12, start: float = 0.2) -> Promotions:
    """Promotions that know trials with these CERs at the epochs of promotion; all wait that are not at their end."""
    found = Promotions(Settings(epochs=epochs), start)
    for number, curve in enumerate(cers):
        reached = 0
        for level, cer in zip(found.levels, curve, strict=False):
            for epoch in range(reached + 1, level + 1):
                found.record(number, records.row(epoch, cer))
            reached = level
        found.wait(number, reached)
    return found


@given(curves())
def test_chances_add_up_and_no_lowest_value_rises(known: list[list[float]]) -> None:
    model = CurveModel(known, LEVELS)
    for (before, after), chances_GG in zip(itertools.pairwise(model.grids), model.transitions, strict=True):
        assert chances_GG.min() >= 0 and chances_GG.sum(axis=1) == pytest.approx(1)
        rises = after.values_G > np.maximum(before.values_G[:, None], after.values_G[0]) + after.step
        assert not chances_GG[rises].any()
    assert ((model.chances() >= 0) & (model.chances() <= 1)).all()
    steps = [grid.step for grid in model.grids]
    inside = [min(curve[-1], model.grids[len(curve) - 1].values_G[-1]) for curve in known]
    assert (model.expected_finals() <= np.array(inside) + sum(steps) + 1e-6).all()


@given(curves(), st.floats(0.1, 100), st.integers(0, 50))
def test_chances_are_per_cost(known: list[list[float]], factor: float, left: int) -> None:
    model, costs = CurveModel(known, LEVELS), [1.0, 2.0, 3.0, 4.0]
    chances_N, new = model.chances_per_cost(costs, 0.5, model.lowest_to_come(left))
    scaled_N, scaled = model.chances_per_cost(
        [factor * cost for cost in costs], factor * 0.5, model.lowest_to_come(left)
    )
    assert scaled_N * factor == pytest.approx(chances_N) and scaled * factor == pytest.approx(new)


def test_a_chance_per_cost_is_that_of_the_best_rule_for_giving_up() -> None:
    """Gittins' index of a trial two levels before its end, against all rules "go on from what promises most"."""
    random = np.random.default_rng(0)
    known = [sorted(random.normal(0, 1, 3), reverse=True)[: 1 + number % 3] for number in range(12)]
    model, first, second = CurveModel(known, 3), 1.0, 4.0
    found, _ = model.chances_per_cost([first, second], 1.0, model.best)
    success_G = model.transitions[1] @ model._success(model.best)
    order = np.argsort(-success_G)
    for number in (number for number, curve in enumerate(known) if len(curve) == 1):
        reach_G = [np.interp(known[number][0], model.grids[0].values_G, column) for column in model.transitions[0].T]
        chance_G, goes_on_G = np.cumsum((np.array(reach_G) * success_G)[order]), np.cumsum(np.array(reach_G)[order])
        assert found[number] == pytest.approx(max(chance_G / (first + second * goes_on_G)), rel=0.2)


@given(curves(), st.integers(0, 50))
def test_the_more_trials_are_to_come_the_lower_is_the_lowest_expected(known: list[list[float]], left: int) -> None:
    model = CurveModel(known, LEVELS)
    lowest, later = model.lowest_to_come(left), model.lowest_to_come(left + 10)
    assert model.values[-1][0] <= later <= lowest + 1e-9


def test_the_lowest_to_come_is_the_median_of_chains_drawn_from_the_model() -> None:
    random = np.random.default_rng(0)
    known = [sorted(random.normal(0, 1, 3), reverse=True)[: 1 + number % 3] for number in range(9)]
    model, left, lowest = CurveModel(known, 3), 5, []
    for _ in range(2000):
        ends = []
        for curve in [*known, *([None] * left)]:
            level = 0 if curve is None else len(curve) - 1
            if curve is None:
                at = int(random.choice(POINTS, p=model._first_values()))
            else:  # between two points, one of them by chance
                place = float(np.interp(curve[-1], model.values[level], range(POINTS)))
                at = int(place) + int(random.random() < place % 1)
            for chances_GG in model.transitions[level:]:
                at = int(random.choice(POINTS, p=chances_GG[at]))
            ends.append(model.values[-1][at])
        lowest.append(min(ends))
    assert model.lowest_to_come(left) == pytest.approx(np.median(lowest), abs=model.grids[-1].step)


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.floats(0.01, 1.2), min_size=1, max_size=7), min_size=1, max_size=10),
    st.integers(0, 50),
    st.sampled_from([0.0, 0.2, 5.0, 200.0]),
)
def test_decisions_depend_on_the_values_alone(cers: list[list[float]], left: int, start: float) -> None:
    """Not on the order in which trials were recorded: a resumed sweep reads them by number.

    And no trial with a chance is given up, however long starts take: those of tiny epochs take hundreds of them.
    """
    cers = [sorted(curve, reverse=True) for curve in cers]
    one, other = promotions(cers, start=start), promotions(cers, start=start)
    other.curves = dict(reversed(other.curves.items()))
    other.waiting = dict(reversed(other.waiting.items()))
    assert one.promoted(left) == other.promoted(left) and one.promoted(left) in {None, *one.waiting}
    assert one.most_promising() == other.most_promising() and (one.most_promising() in one.waiting or not one.waiting)
    waiting = set(one.waiting)
    gone = one.give_up()
    assert gone == other.give_up() and gone.keys() | one.waiting.keys() == waiting
    assert all(chance < NEGLIGIBLE for chance in gone.values())


@given(st.lists(st.floats(0.01, 1.2), min_size=1, max_size=12), st.lists(st.integers(1, 12), max_size=4))
def test_a_record_given_again_changes_nothing(cers: list[float], times: list[int]) -> None:
    """The driver gives a trial's whole record each time that the trial waits; a resumed sweep gives it once."""
    rows = [records.row(epoch, cer) for epoch, cer in enumerate(cers, start=1)]
    once, often = Promotions(Settings(epochs=12)), Promotions(Settings(epochs=12))
    for until in [*sorted(times), len(rows)]:
        for row in rows[:until]:
            often.record(0, row)
    for row in rows:
        once.record(0, row)
    assert often.curves == once.curves and often.lowest == once.lowest


def test_a_trial_that_diverged_is_no_rival() -> None:
    """The CER predicted for its end counts no more; its recorded CERs do, and what they say of other trials."""
    rivals = [[0.9, 0.6, 0.4, 0.3, 0.25, 0.22, 0.2], [0.9, 0.65, 0.45], [0.92, 0.7, 0.5]]
    leading = [0.8, 0.4, 0.21]
    alive, dead = promotions([*rivals, leading]), promotions([*rivals, leading])
    dead.ended = frozenset({3})
    expected, left = alive._model()[1], dead._model()[1]
    assert expected.best < left.best <= math.log(0.2)
    assert expected.lowest_to_come(0) < left.lowest_to_come(0) <= left.best
    assert (left.chances()[1:3] >= expected.chances()[1:3]).all()


def test_a_trial_far_ahead_goes_on_and_one_far_behind_does_not() -> None:
    ahead = promotions([[0.9], [0.9], [0.85], [0.2], [0.95], [0.9], [0.92], [0.88]])
    assert ahead.promoted(9) == 3 == ahead.most_promising()
    whole = [0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.09]
    worse = [[value * (1 + rank / 20) for value in whole] for rank in range(1, 6)]
    behind = promotions([whole, *worse, [0.95, 0.93, 0.92, 0.91], [0.95, 0.94]])
    assert behind.promoted(9) is None, "a new trial has a better chance"
    assert behind.give_up().keys() == {6}, "7 has epochs before it in which the others fell fast"


def test_where_nothing_is_told_apart_early_trials_go_on_to_where_it_is() -> None:
    """All are on a plateau for 3 of 12 epochs, and then some fall: to begin more of them would tell nothing."""
    plateau = [1.0, 1.0, 1.0]
    ends = [[0.6, 0.2, 0.1, 0.1], [1.0, 0.9, 0.9, 0.9], [0.5, 0.15, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]]
    late = [[*plateau, *end] for end in ends]
    early = [[value / 3 for value in (1.0, 0.9, 0.85, 0.8, 0.8, 0.8, 0.8)]] * 4
    waiting = [[1.0, 1.0], [1.0], [1.0], [1.0]]
    assert promotions([*late, *waiting], start=1.0).promoted(9) in (4, 5, 6, 7)
    assert promotions([*early, *waiting], start=1.0).promoted(9) is None


@pytest.mark.parametrize("trials", [1, FIRST_TRIALS - 1])
def test_no_trial_goes_on_before_the_first_trials_have_begun(trials: int) -> None:
    """However far ahead one of a few is, it may be a poor one; with few new trials left it goes on all the same."""
    few = promotions([[0.2], *[[0.9]] * (trials - 1)])
    assert few.promoted(FIRST_TRIALS) is None and few.next(lambda: 99, FIRST_TRIALS) == 99
    assert few.promoted(FIRST_TRIALS - 1) == 0
    assert few.promoted(0) == few.next(lambda: None, 0) == 0, "no new trial is left"
    assert promotions([[0.2], *[[0.9]] * (FIRST_TRIALS - 1)]).promoted(FIRST_TRIALS) == 0


def test_a_longer_start_is_paid_at_every_stage() -> None:
    """The chance per second of going on falls with the time of a start, and so does that of a new trial."""
    cers = [[0.9, 0.8], [0.5], [0.7]]
    rates = []
    for start in (0.0, 1.0, 10.0):
        found, new = promotions(cers, start=start)._chances_per_epoch(math.log(0.6))
        rates.append(np.array([*(chance for chance, _, _ in found.values()), new]))
    assert (rates[0] > rates[1]).all() and (rates[1] > rates[2]).all()


def test_promotions_compare_what_rungs_compare() -> None:
    found = Promotions(Settings(epochs=4, asha=Asha(promotion=1, metric="val_ctc_cer")))
    found.record(0, {**records.row(1, 0.5), "val_ctc_cer": 0.9})
    found.record(1, {**records.row(1, 0.8), "val_ctc_cer": 0.0})
    assert found.wait(0, 1) and found.wait(1, 1) and not found.wait(2, 4)
    assert found.most_promising() == 1 and found.curves[1] == {1: math.log(LOWEST_VALUE)}
