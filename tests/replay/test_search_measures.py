"""Expected running times, their intervals and ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest
from replayed_search import Point, Run
from search_measures import Scores, ert, geometric_mean, interval, rows


def scores(times: list[float], end: float = 100.0) -> Scores:
    """Runs that find the best, 0.1, after these seconds; those of an infinite time end without it."""
    runs = []
    for time in times:
        points = [Point(1.0, 1.0, 1, 0, 0.2)]
        if math.isfinite(time):
            points.append(Point(time, time, 1, 0, 0.1))
        last = points[-1]._replace(seconds=time if math.isfinite(time) else end)
        runs.append(Run(points, last, best_stopped=math.isinf(time)))
    return Scores(runs, [0.1] * len(times), [50.0] * len(times))


def test_runs_that_fail_are_paid_too() -> None:
    spent, found = scores([10.0, 20.0, math.inf]).spent_and_found(1.05)
    assert spent.tolist() == [10.0, 20.0, 100.0] and found.tolist() == [True, True, False]
    assert ert(spent, found) == 65.0
    assert ert(*scores([math.inf]).spent_and_found(1.05)) == math.inf


def test_intervals_are_those_of_the_resampled_values() -> None:
    assert interval(np.arange(1000.0)) == (25.0, 974.0)
    assert interval(np.array([1.0] * 90 + [math.nan] * 10)) == (1.0, math.inf)
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_ratios_are_of_pairs() -> None:
    """A policy that always takes half of Ray's time has no interval to speak of, though the times differ a lot."""
    rays = [float(time) for time in np.random.default_rng(0).integers(10, 1000, size=50)]
    tables = {"a": {"ray": scores(rays), "half": scores([time / 2 for time in rays])},
              "b": {"ray": scores(rays), "half": scores([time * 2 for time in rays])}}  # fmt: skip
    by_name = {(row["table"], row["policy"]): row for row in rows(tables, "ray")}
    half = by_name["a", "half"]
    assert (half["ratio_low"], half["ratio_to_ray"], half["ratio_high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert half["ert_low"] < half["ert"] < half["ert_high"] and half["ert"] == pytest.approx(np.mean(rays) / 2)
    pooled = by_name["all", "half"]
    assert pooled["ratio_to_ray"] == pytest.approx(1.0) and pooled["worst_to_ray"] == pytest.approx(2.0)
    assert pooled["runs"] == 100 and by_name["all", "ray"]["ratio_high"] == 1.0


def test_regret_and_stopped_bests() -> None:
    row = rows({"a": {"ray": scores([4.0, 30.0, math.inf])}}, "ray")[0]
    assert row["regret_0.05"] == pytest.approx(1.0)  # after 2.5 s of 50, all have 0.2 in place of 0.1
    assert row["regret_0.1"] == pytest.approx(2 / 3) and row["best_stopped"] == row["found"] - 1 / 3


def test_a_rival_that_never_finds_it_gives_bounds_and_no_zeros() -> None:
    """Two runs of 100 seconds find nothing, so the rival takes at least 200; the pooled ratio stays a number."""
    found = rows({"a": {"ray": scores([math.inf, math.inf]), "own": scores([10.0, 30.0])},
                  "b": {"ray": scores([20.0, 20.0]), "own": scores([10.0, 10.0])}}, "ray")  # fmt: skip
    by_name = {(row["table"], row["policy"]): row for row in found}
    assert by_name["a", "ray"]["ert"] == math.inf and by_name["a", "own"]["ratio_to_ray"] == pytest.approx(20 / 200)
    assert by_name["all", "own"]["ratio_to_ray"] == pytest.approx(math.sqrt(0.1 * 0.5))
    assert by_name["all", "own"]["ratio_low"] > 0 and by_name["all", "ray"]["ratio_high"] == 1.0
