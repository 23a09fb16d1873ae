"""Searches are replayed: times of starts and workers, outcomes, and the policies on tables with known results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from answers import Answers, Forest
from curve_tables import DIGITS, Curve, Table, read_table
from hypothesis import given, settings
from hypothesis import strategies as st
from replayed_search import Case, Decision, Outcome, Policy, replay
from search_measures import Scores, rows
from search_policies import POLICIES, OptunaTpe, Ours

from search_spaces.distributions import Float, Variable
from search_spaces.settings import Settings
from search_spaces.space import Space


@pytest.fixture(scope="module")
def digits() -> tuple[Table, Answers]:
    table = read_table(DIGITS)
    return table, Answers(table)


def toy(cers: Sequence[Sequence[float]], costs: Sequence[float] | None = None, epochs: int | None = None) -> Table:
    """A table of one key, x, the share of a configuration's number."""
    curves = [
        Curve(
            number,
            {"x": number / len(cers)},
            [
                {"epoch": epoch, "val_cer": cer, "cpu_seconds": costs[number] if costs else 1.0}
                for epoch, cer in enumerate(curve, start=1)
            ],
        )
        for number, curve in enumerate(cers)
    ]
    length = Settings(epochs=epochs or max(map(len, cers)))
    space = Space("toy", "", {}, {"x": Variable(Float(0.0, 1.0))}, None, (), length)
    return Table("toy", space, curves)


def case(table: Table, workers: int = 1, start: float = 0.0, promoted: float = 0.0, seed: int = 0) -> Case:
    return Case(table, Answers(table), seed, workers, start, promoted)


class InOrder(Policy):
    """Takes the configurations in their order, and writes down what happens."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.log: list[tuple[int, int, Outcome | None]] = []

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        return left[0] if left else None

    def decide(self, curve: Curve, epoch: int) -> Decision:
        self.log.append((curve.number, epoch, None))
        return "train"

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        self.log.append((curve.number, epoch, outcome))


class Waiting(InOrder):
    """Lets every trial wait after its first epoch, and continues the last that came."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.waiting: list[Curve] = []

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        return left[0] if left else self.waiting.pop() if self.waiting else None

    def decide(self, curve: Curve, epoch: int) -> Decision:
        return "wait" if epoch == 1 else "train"

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        super().ended(curve, epoch, outcome)
        if outcome == "waiting":
            self.waiting.append(curve)


def test_workers_report_in_the_order_in_which_their_epochs_end() -> None:
    one = case(toy([[0.9, 0.8]] * 3, costs=[5.0, 2.0, 4.0]), workers=2)
    run = replay(one, policy := InOrder(one))
    assert [number for number, _, _ in policy.log] == [1, 1, 0, 2, 0, 2]  # 1 at 2 and 4, 0 at 5 and 10, 2 at 8 and 12
    assert run.end.seconds == 12.0


def test_starts_are_paid_by_the_worker_that_starts() -> None:
    one = case(toy([[0.9, 0.8], [0.7, 0.6]]), start=10.0, promoted=3.0)
    run = replay(one, Waiting(one))
    assert [(point.seconds, point.best) for point in run.points] == [(11.0, 0.9), (22.0, 0.7), (26.0, 0.6)]
    assert (run.end.seconds, run.end.new, run.end.promoted) == (30.0, 2, 2)  # two new, two promoted, four epochs
    side_by_side = case(one.table, workers=2, start=10.0, promoted=3.0)
    assert replay(side_by_side, Waiting(side_by_side)).end.seconds == 15.0


def test_starts_change_the_times_of_one_worker_alone() -> None:
    table = toy([[0.9, 0.5, 0.4], [0.8, 0.6, 0.3], [0.7, 0.7, 0.7]])
    slow, free = case(table, start=10.0, promoted=3.0), case(table)
    assert replay(free, Waiting(free)).with_starts(10.0, 3.0) == replay(slow, Waiting(slow))


def test_a_trial_that_diverges_fails_whatever_the_policy() -> None:
    one = case(toy([[], [0.9], [0.8, 0.7]]), start=1.0)
    run = replay(one, policy := InOrder(one))
    assert [entry for entry in policy.log if entry[2]] == [(0, 0, "failed"), (1, 1, "failed"), (2, 2, "complete")]
    assert run.end.seconds == 6.0  # three starts and three epochs


def test_a_run_ends_at_its_target() -> None:
    one = case(toy([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4]]))
    run = replay(one, InOrder(one), target=0.65)
    assert (run.end.seconds, run.end.best) == (4.0, 0.6) and run.seconds_to(0.65) == 4.0
    assert run.seconds_to(0.5) == math.inf and run.best_after(3.5) == 0.7 and run.best_after(0.5) == math.inf


def test_a_stopped_best_is_seen() -> None:
    class StopsAll(InOrder):
        def decide(self, curve: Curve, epoch: int) -> Decision:
            return "stop"

    one = case(toy([[0.9, 0.1], [0.8, 0.7]]))
    assert replay(one, StopsAll(one)).best_stopped and not replay(one, Waiting(one)).best_stopped


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_tries_each_configuration_once(name: str, workers: int, digits: tuple[Table, Answers]) -> None:
    table, answers = digits
    one = Case(table.subset(0, 15), answers, 0, workers)
    policy = POLICIES[name].make(one)
    lasts: dict[int, tuple[int, Outcome]] = {}
    ended = policy.ended

    def remembered(curve: Curve, epoch: int, outcome: Outcome) -> None:
        assert lasts.get(curve.number, (0, ""))[0] < epoch or outcome in ("failed", "pruned")
        lasts[curve.number] = epoch, outcome
        ended(curve, epoch, outcome)

    policy.ended = remembered  # type: ignore[method-assign]
    run = replay(one, policy)
    assert run.end.new == len(lasts) == 15
    assert {outcome for _, outcome in lasts.values()} <= {"complete", "pruned", "failed"}
    assert all((epoch == 16) == (outcome == "complete") for epoch, outcome in lasts.values())
    assert replay(one, POLICIES[name].make(one)) == run  # equal seeds, equal runs


@pytest.mark.parametrize("name", ["ray", "tpe_hyperband", "tpe_halving", "ours"])
def test_samplers_learn_where_the_best_are(name: str) -> None:
    """The best of 100 configurations is met earlier than by chance, which takes 50.5 trials on average."""
    cers = [[0.2 + abs(number - 70) / 100] * 2 for number in range(100)]
    table = toy(cers)
    trials = []
    for seed in range(5):
        one = case(table, seed=seed)
        trials.append(replay(one, POLICIES[name].make(one), target=0.2).end.new)
    assert sum(trials) / len(trials) < 40


def test_the_best_and_the_worst_order_have_known_times() -> None:
    """With the best configuration first, it alone is paid; with the best last, everything is."""
    table = toy([[0.9, 0.8], [0.3, 0.2], [0.7, 0.6], [0.5, 0.4]], costs=[1.0, 2.0, 3.0, 4.0])

    class BestFirst(Policy):
        def propose(self, left: Sequence[Curve]) -> Curve | None:
            return min(left, key=lambda curve: curve.best, default=None)

    class BestLast(Policy):
        def propose(self, left: Sequence[Curve]) -> Curve | None:
            return max(left, key=lambda curve: curve.best, default=None)

    def measured(policy: type[Policy], workers: int) -> dict[str, Any]:
        cases = [case(table, workers, start=10.0, seed=seed) for seed in range(3)]
        runs = [replay(one, policy(one), target=0.2) for one in cases]
        return rows({"toy": {"ray": Scores(runs, [0.2] * 3, [60.0] * 3)}}, "ray")[0]

    first, last = measured(BestFirst, 1), measured(BestLast, 1)
    assert (first["ert"], first["ert_low"], first["ert_high"]) == (14.0, 14.0, 14.0)  # a start and two epochs of 2 s
    assert (last["ert"], last["starts"], last["regret_0.4"]) == (60.0, 4.0, pytest.approx(3.0))  # 0.8 after 24 s
    assert (measured(BestFirst, 4)["ert"], measured(BestLast, 4)["ert"]) == (14.0, 14.0)
    assert measured(BestLast, 2)["ert"] == 30.0  # the best starts when the second ends, after 16 s


def test_random_search_is_as_good_as_chance() -> None:
    """The best of nine is met after five trials on average: its neighbours on both sides are as far as any other's."""
    table = toy([[1.0 - 0.1 * (number == 4)] for number in range(9)])
    new = [replay(one, Policy(one), target=0.9).end.new for one in (case(table, seed=seed) for seed in range(300))]
    assert sum(new) / len(new) == pytest.approx(5.0, abs=0.6)


def test_optuna_is_told_of_the_configurations_that_answer(digits: tuple[Table, Answers]) -> None:
    """Not of its proposals: conditional keys included, each with its outcome and its values."""
    table, answers = digits
    one = Case(table.subset(0, 20), answers, 0)
    policy = OptunaTpe(one, optuna.pruners.SuccessiveHalvingPruner)
    replay(one, policy)
    told = policy.study.get_trials()
    assert sorted(str(trial.params) for trial in told) == sorted(str(curve.values) for curve in one.table.curves)
    by_values = {str(curve.values): curve for curve in one.table.curves}
    for trial in told:
        curve = by_values[str(trial.params)]
        cers = {row["epoch"]: row["val_cer"] for row in curve.epochs}
        assert trial.intermediate_values.items() <= cers.items() and set(trial.distributions) == set(trial.params)
        assert trial.value == (curve.best if trial.state.name == "COMPLETE" else cers[trial.last_step])
    assert {trial.state.name for trial in told} == {"PRUNED", "COMPLETE"}


def test_ours_takes_other_settings(digits: tuple[Table, Answers]) -> None:
    table, answers = digits
    one = Case(table.subset(0), answers, 0)
    everything = replay(one, Ours(one, sampler="random", grace=16, promotion=None))
    halved = replay(one, Ours(one, sampler="random", grace=4, promotion=None))
    assert everything.end.promoted == 0 == halved.end.promoted
    assert halved.end.training < everything.end.training == pytest.approx(one.table.seconds)


@pytest.mark.parametrize(("start", "first"), [(0.0, 1), (12.0, 3)])
def test_ours_waits_later_where_starts_are_long(start: float, first: int) -> None:
    """After 3 epochs of 1 s, more than a fifth of 12 s; trials that have begun return after 1, and go on at once."""
    table = toy([[1.0 - number / 100] * 20 for number in range(6)])
    one = case(table, workers=2, start=start, promoted=start)
    policy = Remembering(one)
    replay(one, policy)
    left_at = list(policy.left_at.values())
    assert policy.space.settings.promotions[0] == first
    assert [epochs[0] for epochs in left_at] == [1, 1, *[first] * 4]
    assert first == 1 or [epochs[1] for epochs in left_at[:2]] == [first, first]
    assert {outcome for _, outcome in policy.last.values()} <= {"pruned", "complete"} and not policy.unfinished


@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4))
def test_the_rungs_stop_nobody_too_early(seed: int, workers: int, digits: tuple[Table, Answers]) -> None:
    """None before its warm-up and two epochs; none that has never left the plateau before half of its epochs."""
    table, answers = digits
    one = Case(table.subset(seed), answers, seed, workers)
    plateau = table.space.settings.asha.plateau
    assert plateau is not None
    policy = Remembering(one, sampler="random", grace=None, promotion=None)
    replay(one, policy)
    for curve in one.table.curves:
        epoch, outcome = policy.last[curve.number]
        if outcome == "pruned":
            assert epoch >= curve.values["optimizer.warmup"] * table.epochs + 2
            low = min(row["val_cer"] for row in curve.epochs[:epoch])
            assert epoch >= table.epochs / 2 or low < plateau


@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4))
@settings(max_examples=3)
def test_who_waits_goes_on_or_is_given_up(seed: int, workers: int, digits: tuple[Table, Answers]) -> None:
    """Nobody is left waiting; what is given up is left at an epoch of promotion, and the best is seldom among them."""
    table, answers = digits
    one = Case(table.subset(seed, 20), answers, seed, workers)
    policy = Remembering(one, sampler="random")
    run = replay(one, policy)
    assert not policy.promotions.waiting and len(policy.last) == len(one.table.curves)
    assert {outcome for _, outcome in policy.last.values()} <= {"pruned", "complete", "failed"}
    assert all(epoch in policy.promotions.levels for epoch, outcome in policy.last.values() if outcome == "pruned")
    assert run.end.training < one.table.seconds


def test_ours_learns_how_trials_end(digits: tuple[Table, Answers]) -> None:
    """Chances rest on the last epochs of finished trials, too, as they do in a sweep."""
    table, answers = digits
    one = Case(table.subset(0, 8), answers, 0)
    policy = Remembering(one)
    replay(one, policy)
    complete = {number for number, (_, outcome) in policy.last.items() if outcome == "complete"}
    ends = {number for number, curve in policy.promotions.curves.items() if table.epochs in curve}
    assert complete == ends != set()


class Remembering(Ours):
    """Remembers how each trial ended."""

    def __init__(self, case: Case, **settings: Any) -> None:
        super().__init__(case, **settings)
        self.last: dict[int, tuple[int, Outcome]] = {}
        self.left_at: dict[int, list[int]] = {}  # epochs at which each trial was left, in order of the first

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        super().ended(curve, epoch, outcome)
        self.last[curve.number] = epoch, outcome
        self.left_at.setdefault(curve.number, []).append(epoch)


def test_a_table_of_losses_is_searched_by_every_policy(speech_data: Path) -> None:
    paths = sorted((speech_data / "learning_curves").glob("*.npz"))
    if not paths:
        pytest.skip(f"no learning curves in {speech_data}")
    table = read_table(paths[0])
    forest = Forest(table, trees=3)
    for one in (Case(table.subset(0, 12), Answers(table), 0), Case(forest.table.subset(0, 12), forest, 0, workers=4)):
        assert all(replay(one, entry.make(one)).end.new == 12 for entry in POLICIES.values())
