"""A plan: what can be known of a sweep before it starts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asr_platform.cli.tables.monitoring import print_plan
from asr_platform.monitoring.plan import PROPOSALS, Candidate, Measured, expected, plan, priced, rungs
from asr_platform.monitoring.simulation import Costs, Rules, Simulation, simulate
from asr_platform.tuning.cluster import Options
from search_spaces.reader import parse_space
from search_spaces.settings import Settings
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.training.profile import Profile
from trainables.training.workload import Workload

CHEAP = Profile(1.0, 0.1, 1.0, 2.0, 0.01, memory=10**9, gpu_memory=0)
DEAR = Profile(3.0, 0.3, 3.0, 4.0, 0.03, memory=2 * 10**9, gpu_memory=5)


def space(**keys: Any) -> Space:
    """A space around the tiny configuration, of two widths."""
    base: dict[str, Any] = {key: dict(value) for key, value in tiny.TREE.items()}
    base["training"].pop("epochs")
    vary = {"model.d_model": {"choice": [32, 64]}, "optimizer.lr": {"log": [1e-4, 1e-2]}}
    return parse_space(yaml.safe_dump({"base": base, "vary": vary, "epochs": 4, "trials": 5, **keys}), "space.yaml")


def candidate(multiplications: float, epochs: int = 4, batches: int = 10) -> Candidate:
    return Candidate(tiny.config({"training.epochs": epochs}), 1000, Workload(batches, multiplications))


@pytest.mark.parametrize(
    ("epochs", "asha", "expected"),
    [
        (10, {"grace": 3, "reduction": 2}, [3, 5, 6]),
        (12, {"grace": 3, "reduction": 2}, [3, 6]),
        (13, {"grace": 3, "reduction": 2}, [3, 6, 7, 12]),
        (30, {"grace": 3}, [3, 9, 15, 27]),
        (30, {"grace": 3, "plateau": None}, [3, 9, 27]),
        (10, {"grace": 3, "reduction": 1.5}, [3, 5, 7]),
        (5, {"grace": 4, "reduction": 1.1}, [4]),
        (10, {"grace": 10}, []),
    ],
)
def test_rungs(epochs: int, asha: dict[str, Any], expected: list[int]) -> None:
    settings = Settings.model_validate({"epochs": epochs, "asha": asha})
    assert rungs(settings) == expected
    hours = Settings.model_validate({"epochs": epochs, "asha": {**asha, "unit": "hours", "grace": asha["grace"] / 4}})
    assert rungs(hours, of_an_epoch=0.25) == expected


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    concurrency=st.integers(1, 8),
    grace=st.integers(1, 9),
    reduction=st.floats(1.1, 5),
    spared=st.floats(0, 9),
    seed=st.integers(0, 99),
)
def test_a_rehearsal_runs_every_trial_as_far_as_it_goes(
    lengths: list[int], concurrency: int, grace: int, reduction: float, spared: float, seed: int
) -> None:
    milestones = sorted({math.ceil(grace * reduction**power) for power in range(9)} & set(range(10)))
    trials = [Costs(0.0, np.full(10, float(length)), np.full(10, 2.0 * length), disk=7) for length in lengths]
    found = simulate(trials, Rules(milestones, reduction, spared), concurrency, np.random.default_rng(seed))
    assert found.reached[0] == len(trials)
    assert found.reached == sorted(found.reached, reverse=True) and found.reached[-1] >= 1
    least = milestones[0] if milestones else 10
    assert 2 * least * sum(lengths) <= found.device <= 2 * 10 * sum(lengths)
    slots = min(concurrency, len(trials))
    assert found.wall <= found.device / 2 <= found.wall * slots + 1e-6
    assert found.disk == 7 * slots


def test_a_rehearsal_without_rungs_and_one_after_another() -> None:
    trials = [Costs(5.0, np.array([1.0, 2.0]), np.array([1.0, 1.0]), 100)] * 4
    random = np.random.default_rng(0)
    assert simulate(trials, Rules([], 3), 1, random) == Simulation(32.0, 8.0, 100, [4])
    assert simulate(trials, Rules([], 3), 2, random) == Simulation(16.0, 8.0, 200, [4])
    assert simulate(trials, Rules([], 3), 9, random) == Simulation(8.0, 8.0, 400, [4])
    assert simulate(trials, Rules([], 3, waiting=True), 2, random) == Simulation(16.0, 8.0, 400, [4])


def test_about_one_in_so_many_goes_on() -> None:
    """A little more than that, for the first ones do whatever they are."""
    trials = [Costs.even(27)] * 2000
    first, second, third = simulate(trials, Rules([3, 9], 3), 8, np.random.default_rng(0)).reached
    assert first == 2000
    assert 2000 / 3 < second < 1.2 * 2000 / 3
    assert second / 3 < third < 1.5 * second / 3


def test_what_does_not_attend_yet_is_spared() -> None:
    """At epoch 3 of 12 that is half of those that are spared until the sixth, and all of them go on to there."""
    trials = [Costs.even(12)] * 2000
    first, second, third, _ = simulate(trials, Rules([3, 6, 9], 3, spared=6), 8, np.random.default_rng(0)).reached
    assert first == 2000
    assert second == pytest.approx(2000 * (1 / 2 + 1 / 2 * 1 / 3), rel=0.05)
    assert third < 1.5 * second / 3


def test_a_price_lies_between_those_of_the_extremes() -> None:
    ends = Measured(candidate(100), CHEAP, candidate(300), DEAR)
    costs = priced(candidate(200), ends, workers=1, grace=1)
    assert costs.device == pytest.approx([10 * 0.2 + 3, *[10 * 0.2 + 2] * 3])
    assert costs.epochs == pytest.approx(costs.device + 0.02)
    assert costs.disk == 2 * 3 * 4 * 1000
    of_two = priced(candidate(200), ends, workers=2, grace=1)
    assert of_two.device == pytest.approx(2 * np.array([10 * 0.2 + 1.5, *[10 * 0.2 + 1] * 3]))
    assert of_two.epochs == pytest.approx(of_two.device / 2 + 0.02)


def test_where_all_cost_the_same_there_is_one_price() -> None:
    ends = Measured(candidate(100), CHEAP, candidate(100), CHEAP)
    assert priced(candidate(100), ends, 1, 0).device == pytest.approx([10 * 0.1 + 1] * 4)


def test_others_tell_how_far_off_the_multiplications_are() -> None:
    """Those whose batches were watched cost what was seen; all others as much more as the median of these."""
    seen = [(candidate(200), 0.3), (candidate(100), 0.2), (candidate(300), 0.3)]
    ends = Measured(candidate(100), CHEAP, candidate(300), DEAR, seen)
    assert [ends.batch(one) for one, _ in seen] == [0.3, 0.2, 0.3]
    assert ends.batch(candidate(200)) == pytest.approx(1.5 * 0.2)
    assert priced(candidate(200), ends, 1, 0).device == pytest.approx([10 * 0.3 + 2] * 4)


def test_room_is_for_the_dearest() -> None:
    ends = Measured(candidate(100), CHEAP, candidate(300), DEAR)
    few, many = (expected(ends, [Simulation(3600, 7200, 10**6, [1])] * 3, 2, concurrency, 3) for concurrency in (1, 4))
    assert few.device_hours == 2
    assert few.wall_hours == pytest.approx(1, abs=0.05)
    assert few.worker_memory_bytes == DEAR.memory
    assert many.memory_bytes - few.memory_bytes > 3 * 2 * DEAR.memory
    assert few.disk_bytes == 10**6 + (3 + 2) * 4 * 1000


def test_a_plan_of_the_tiny_space(tiny_corpus: Corpus) -> None:
    """Every figure, and the same as a person reads it."""
    found = plan(space(asha={"grace": 2, "reduction": 2}), tiny_corpus, 7, Options(max_concurrent=2))
    assert (found.proposals, found.feasible, found.trials, found.epochs) == (PROPOSALS, PROPOSALS, 7, 4)
    assert found.parameters["min"] == found.parameters["25%"] < found.parameters["max"] == found.parameters["75%"]
    assert [rung.epoch for rung in found.rungs] == [2, 4]
    assert 1 <= found.rungs[1].trials < found.rungs[0].trials == 7
    assert found.expense is not None
    assert min(found.expense.worker_memory_bytes, found.expense.disk_bytes) > 0 == found.expense.gpu_memory_bytes
    assert found.expense.memory_bytes > 2 * found.expense.worker_memory_bytes
    assert 0 < found.expense.device_hours < found.expense.wall_hours < 1
    console = Console(width=100, record=True)
    print_plan(console, found)
    printed = console.export_text()
    assert "1,000 of 1,000 random proposals are feasible" in printed
    assert f"{found.parameters['max']:,}" in printed
    assert "of 7 trials reach it" in printed
    assert "device time" in printed and "disk" in printed


def test_a_budget_halves_the_space(tiny_corpus: Corpus) -> None:
    whole = plan(space(), tiny_corpus, None, Options(), profiled=False)
    budget = whole.parameters["min"]
    found = plan(space(budget=budget), tiny_corpus, None, Options(), profiled=False)
    assert whole.feasible == PROPOSALS
    assert 0.4 * PROPOSALS < found.feasible < 0.6 * PROPOSALS
    assert set(found.parameters.values()) == {budget}
    assert found.expense is None and found.trials == 5
