"""A plan: what can be known of a sweep before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st
from rich.console import Console

from asr_platform.cli.tables.monitoring import print_plan
from asr_platform.monitoring import pricing
from asr_platform.monitoring.growth import enough_nodes, growth
from asr_platform.monitoring.plan import LEAST_PROPOSALS, PROPOSALS, Nodes, expense, plan, rungs
from asr_platform.monitoring.pricing import LEAST_PRICED, PRICED, ends_of_kinds, price, trial_cost
from asr_platform.monitoring.simulation import Simulation, TrialCost, simulate
from asr_platform.tuning.cluster import Options
from search_spaces.reader import parse_space
from search_spaces.settings import Settings
from search_spaces.space import Space
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.training.profile import Profile
from trainables.training.workload import Workload

CHEAP = Profile(1.0, 0.1, 1.0, 0.01, checkpoint_bytes=3000, model_bytes=1000, memory=10**9, gpu_memory=0)
EXPENSIVE = Profile(3.0, 0.3, 3.0, 0.03, checkpoint_bytes=9000, model_bytes=3000, memory=2 * 10**9, gpu_memory=5)


def space(**keys: Any) -> Space:
    """A space around the tiny configuration, of two widths."""
    base: dict[str, Any] = {key: dict(value) for key, value in tiny.TREE.items()}
    base["training"].pop("epochs")
    vary = {"model.d_model": {"choice": [32, 64]}, "optimizer.lr": {"log": [1e-4, 1e-2]}}
    return parse_space(yaml.safe_dump({"base": base, "vary": vary, "epochs": 4, "trials": 5, **keys}), "space.yaml")


def workload(flops: float, updates: int = 10, kind: str = "encoder_decoder") -> Workload:
    return Workload(tiny.config({"model.kind": kind}), updates, flops)


def settings(epochs: int, **asha: Any) -> Settings:
    return Settings.model_validate({"epochs": epochs, "asha": {"grace": 1, "promotion": None, **asha}})


def cost(seconds: float, epochs: int) -> TrialCost:
    return TrialCost(0.0, np.full(epochs, seconds))


@pytest.mark.parametrize(
    ("epochs", "asha", "expected"),
    [
        (10, {"grace": 3, "reduction": 2}, [3, 5, 6]),
        (12, {"grace": 3, "reduction": 2}, [3, 6]),
        (13, {"grace": 3, "reduction": 2}, [3, 6, 7, 12]),
        (30, {"grace": 3, "reduction": 3}, [3, 9, 15, 27]),
        (30, {"grace": 3, "plateau": None, "reduction": 3}, [3, 9, 27]),
        (10, {"grace": 3, "reduction": 1.5}, [3, 5, 7]),
        (5, {"grace": 4, "reduction": 1.1}, [4]),
        (10, {"grace": 10}, []),
    ],
)
def test_rungs(epochs: int, asha: dict[str, Any], expected: list[int]) -> None:
    assert rungs(settings(epochs, **asha)) == expected
    hours = settings(epochs, **{**asha, "unit": "hours", "grace": asha["grace"] / 4})
    assert rungs(hours, epoch_length=0.25) == expected


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    concurrency=st.integers(1, 8),
    grace=st.integers(1, 9),
    reduction=st.floats(1.1, 5),
    late=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_simulation_trains_every_trial_to_a_rung_or_to_its_end(
    lengths: list[int], concurrency: int, grace: int, reduction: float, late: bool, seed: int
) -> None:
    how = settings(10, grace=grace, reduction=reduction)
    trials = [cost(length, 10) for length in lengths]
    found = simulate(trials, how, concurrency, np.random.default_rng(seed), plateau=late)
    assert set(found.lengths) <= {*rungs(how), 10} and max(found.lengths) == 10
    assert found.trained == pytest.approx(sum(np.array(lengths) * found.lengths))
    assert found.wall <= found.trained + 1e-6 <= found.wall * min(concurrency, len(trials)) + 2e-6


@given(
    count=st.integers(1, 12), concurrency=st.integers(1, 4), start=st.floats(0, 5), late=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@configured(max_examples=20)
def test_trials_of_a_simulation_wait_at_epochs_of_promotion(
    count: int, concurrency: int, start: float, late: bool, seed: int
) -> None:
    """Who is given up is left at one of them; the best at least goes to its end, and every stage has a start."""
    how = Settings(epochs=12)
    trials = [TrialCost(start, np.ones(12))] * count
    found = simulate(trials, how, concurrency, np.random.default_rng(seed), plateau=late)
    assert set(found.lengths) <= {*how.promotions, 12} and max(found.lengths) == 12
    assert found.trained == found.lengths.sum()
    assert found.wall * concurrency >= found.trained + start * count - 1e-6


def test_a_simulation_is_of_the_same_trials_in_any_unit_of_grace() -> None:
    trials, random = [cost(1, 12)] * 50, np.random.default_rng
    epochs = simulate(trials, settings(12, grace=3), 4, random(0))
    hours = simulate(trials, settings(12, grace=0.75, unit="hours"), 4, random(0), epoch_length=0.25)
    assert epochs.lengths.tolist() == hours.lengths.tolist()


def test_a_simulation_without_rungs() -> None:
    trials, how = [TrialCost(5.0, np.array([1.0, 2.0]))] * 4, settings(2, grace=2)
    for concurrency, wall in ((1, 32.0), (2, 16.0), (9, 8.0)):
        found = simulate(trials, how, concurrency, np.random.default_rng(0))
        assert (found.wall, found.trained, found.lengths.tolist()) == (wall, 12.0, [2] * 4)


def test_about_one_trial_in_so_many_is_promoted() -> None:
    """A few more than that, since the first trials at a rung are not stopped."""
    how = settings(27, grace=3, reduction=3, plateau=None)
    found = simulate([cost(1, 27)] * 2000, how, 8, np.random.default_rng(0))
    second, third = (np.count_nonzero(found.lengths >= epoch) for epoch in (9, 27))
    assert 2000 / 3 < second < 1.2 * 2000 / 3
    assert second / 3 < third < 1.5 * second / 3


def test_a_trial_on_the_plateau_is_not_stopped_in_its_first_half() -> None:
    """At epoch 3 of 12 half of the trials are on the plateau, which each leaves before the sixth epoch."""
    trials, how = [cost(1, 12)] * 2000, settings(12, grace=3, reduction=3)
    found = simulate(trials, how, 8, np.random.default_rng(0))
    second, third = (np.count_nonzero(found.lengths >= epoch) for epoch in (6, 9))
    assert second == pytest.approx(2000 * (1 / 2 + 1 / 2 * 1 / 3), rel=0.05)
    assert third < 1.5 * second / 3
    early = simulate(trials, how, 8, np.random.default_rng(0), plateau=False)
    assert np.count_nonzero(early.lengths >= 6) < 1.2 * 2000 / 3


def test_the_cost_of_a_trial_is_interpolated_by_the_operations_of_a_batch() -> None:
    profiles = [(workload(100), CHEAP), (workload(300), EXPENSIVE)]
    for workers in (1, 2):
        found = trial_cost(workload(200), profiles, settings(4), workers)
        assert found.epochs == pytest.approx([10 * 0.2 + 2 / workers + 0.02] * 4)
    assert trial_cost(workload(100), profiles, settings(4), 1).epochs == pytest.approx([10 * 0.1 + 1 + 0.01] * 4)


def test_pricing_that_takes_long_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [tiny.config()] * (LEAST_PRICED + 3)
    flops = iter(range(len(configs), 0, -1))
    found = price(configs, lambda config: workload(next(flops)))
    assert [one.flops for one in found] == list(range(1, len(configs) + 1))
    monkeypatch.setattr(pricing, "PRICING_SECONDS", -1.0)
    assert len(price(configs, lambda config: workload(1))) == LEAST_PRICED
    monkeypatch.setattr(pricing, "PRICING_SECONDS", 1e9)
    assert len(price(configs * 9, lambda config: workload(1))) == PRICED


def test_each_kind_of_model_is_profiled_and_priced_by_itself() -> None:
    kinds = ["transcript_editor", "encoder_decoder", "transcript_editor", "transcript_editor"]
    priced = [workload(100 * place, kind=kind) for place, kind in enumerate(kinds, start=1)]
    ends = ends_of_kinds(priced)
    assert ends == [priced[0], priced[1], priced[3]]
    profiles = list(zip(ends, (CHEAP, EXPENSIVE, CHEAP), strict=True))
    costs = [trial_cost(one, profiles, settings(4), 1).epochs for one in (priced[2], workload(300))]
    assert costs[0] == pytest.approx([10 * 0.1 + 1 + 0.01] * 4)
    assert costs[1] == pytest.approx([10 * 0.3 + 3 + 0.03] * 4)
    found = expense(profiles, [Simulation(1, 1, np.full(8, 4))], settings(4), 1, 1)
    assert (found.worker_memory_bytes, found.gpu_memory_bytes) == (EXPENSIVE.memory, EXPENSIVE.gpu_memory)


def test_memory_and_disk_suffice_for_the_most_expensive_trials() -> None:
    profiles = [(workload(100), CHEAP), (workload(300), EXPENSIVE)]
    simulations = [Simulation(3600 * wall, 3600, np.full(8, 4)) for wall in (1, 1, 2)]
    few, many = (expense(profiles, simulations, settings(4), 2, concurrency) for concurrency in (1, 4))
    assert few.device_hours == 2
    assert few.wall_hours == pytest.approx(4 / 3, abs=0.05)
    assert few.wall_hours_interval == pytest.approx((1, 1.9), abs=0.05)
    assert few.worker_memory_bytes == EXPENSIVE.memory
    assert many.memory_bytes - few.memory_bytes > 3 * 2 * EXPENSIVE.memory
    assert (few.disk_bytes, many.disk_bytes) == (2 * 9000 + 5 * 3000, 4 * 2 * 9000 + 5 * 3000)
    waiting = expense(profiles, simulations, settings(4, grace=3, promotion=1), 2, 1)
    assert waiting.disk_bytes == 8 * 2 * 9000 + 5 * 3000, "trials that wait to be promoted keep their checkpoints"


def test_the_most_expensive_profile_is_printed_under_its_former_name_too() -> None:
    """For scripts that read `platform plan --json`."""
    profiles = [(workload(100), CHEAP), (workload(300), EXPENSIVE)]
    printed = asdict(expense(profiles, [Simulation(1, 1, np.full(8, 4))], settings(4), 1, 1))
    assert printed["dearest"] == printed["most_expensive"] == asdict(EXPENSIVE) != printed["cheapest"]


def test_a_plan_of_the_tiny_space(tiny_corpus: Corpus) -> None:
    """Every figure, in numbers and as printed."""
    found = plan(space(asha={"grace": 2, "reduction": 2, "promotion": None}), tiny_corpus, 7, Options(max_concurrent=2))
    assert LEAST_PROPOSALS <= found.feasible == found.proposals <= PROPOSALS
    assert (found.trials, found.epochs) == (7, 4)
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
    assert f"{found.feasible} of {found.proposals} random proposals are feasible" in printed
    assert f"{found.parameters['max']:,}" in printed
    assert "of 7 trials reach it" in printed
    assert "device time" in printed and "disk" in printed


@given(
    epochs=st.integers(1, 8), trials=st.integers(1, 30), nodes=st.integers(1, 70), each=st.integers(0, 3),
    driver=st.floats(0, 1),
)  # fmt: skip
@configured(max_examples=30)
def test_more_nodes_are_of_use_until_trials_or_the_driver_are_short(
    epochs: int, trials: int, nodes: int, each: int, driver: float
) -> None:
    """Every trial is trained to its end: all places together need no longer than one, and more are never slower where
    the driver costs nothing (where it does, trials that end together may wait for it in an unlucky order)."""
    how, costs = settings(epochs, grace=epochs), [cost(1, epochs)] * trials

    def simulated(concurrency: int) -> list[Simulation]:
        return [simulate(costs, how, concurrency, np.random.default_rng(0), driver=driver)]

    found = growth(nodes, 2.0, trials, lambda count: count * each, simulated, 10.0)
    if not each:
        assert found == []
        return
    assert [one.nodes for one in found] == sorted({*(2**power for power in range(7) if 2**power < nodes), nodes})
    seconds = [3600 * one.wall_hours for one in found]
    assert max(seconds) <= 10 + simulated(1)[0].wall + 1e-6
    assert driver or all(later <= earlier + 1e-6 for earlier, later in pairwise(seconds))
    assert seconds[-1] >= 10 + max(epochs * driver * trials, epochs) - 1e-6, "the driver acts on one after the other"
    acted = epochs * trials * driver  # seconds of the driver
    assert [one.driver_share for one in found] == pytest.approx([acted / (wall - 10) for wall in seconds])
    assert all(one.price == pytest.approx(2 * one.nodes * one.wall_hours) for one in found)
    gains = {one.nodes: later.wall_hours / one.wall_hours for one, later in pairwise(found)}
    enough = enough_nodes(found)
    doubled = [one.nodes for one, later in pairwise(found) if later.nodes == 2 * one.nodes]
    assert all((gains[count] > 0.9) == (count == enough) for count in doubled if count <= enough)


def test_sweeps_on_more_and_fewer_nodes_are_simulated_in_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one on each number of nodes, and none for more room than there are trials."""
    begun: list[int] = []

    def simulated(concurrency: int) -> Iterator[Simulation]:
        for _ in range(5):
            begun.append(concurrency)
            yield Simulation(1e6 / concurrency, 1.0, np.ones(1))

    for seconds, rounds in ((-1.0, 1), (1e9, 5)):
        begun.clear()
        monkeypatch.setattr("asr_platform.monitoring.growth.ROUNDS_SECONDS", seconds)
        found = growth(64, None, 4, lambda count: count, simulated, 0.0)
        assert begun == [1, 2, 4] * rounds
        assert [one.nodes for one in found] == [1, 2, 4, 8, 16, 32, 64]
        assert found[-1].wall_hours == found[2].wall_hours == found[0].wall_hours / 4


def test_a_plan_for_a_cluster_that_is_not_there(tiny_corpus: Corpus) -> None:
    """With eight trials, a ninth place has none."""
    how = space(asha={"grace": 4, "promotion": None})
    found = plan(how, tiny_corpus, 8, Options(workers_per_trial=1), nodes=Nodes(1000, 0.5))
    here = plan(how, tiny_corpus, 8, Options(workers_per_trial=1), profiled=False).concurrency
    assert found.concurrency == 1000 * here and found.growth[0].concurrency == here
    assert [one.nodes for one in found.growth] == [*(2**power for power in range(10)), 1000]
    assert found.growth[-1].wall_hours <= found.growth[0].wall_hours
    console = Console(width=100, record=True)
    print_plan(console, found)
    printed = console.export_text()
    enough = enough_nodes(found.growth)
    assert enough <= 8 and f"more nodes than {enough} are of little use" in printed
    assert f"{found.growth[-1].price:,.2f}" in printed
    for nodes, problem in ((Nodes(0), "nodes=0"), (Nodes(2, -1.0), "price=-1")):
        with pytest.raises(InputError, match=problem):
            plan(how, tiny_corpus, 8, Options(), nodes=nodes)
    with pytest.raises(InputError, match="profile"):
        plan(how, tiny_corpus, 8, Options(), profiled=False, nodes=Nodes(2))


@pytest.mark.parametrize("nodes", [1, 5, 33, 48, 1000])
def test_where_nodes_are_always_of_use_it_is_not_said_otherwise(nodes: int) -> None:
    def simulated(concurrency: int) -> list[Simulation]:
        return [Simulation(1e6 / concurrency, 1.0, np.ones(1))]

    assert enough_nodes(growth(nodes, None, 1000, lambda count: count, simulated, 0.0)) == nodes


def test_a_budget_halves_the_space(tiny_corpus: Corpus) -> None:
    whole = plan(space(), tiny_corpus, None, Options(), profiled=False)
    budget = whole.parameters["min"]
    found = plan(space(budget=budget), tiny_corpus, None, Options(), profiled=False)
    assert whole.feasible == whole.proposals
    assert 0.3 * found.proposals < found.feasible < 0.7 * found.proposals
    assert set(found.parameters.values()) == {budget}
    assert found.expense is None and found.trials == 5
