"""How true the chances are by which a sweep promotes trials and gives them up: a reliability table, by replay.

    python tests/benchmarks/chance_calibration.py [--seeds 40] [--sizes 8 40] [--table PATH ...]

Sweeps of recorded learning curves, in random orders, are replayed as the platform would run them with one worker,
except that no trial is given up. Whenever the number of finished trials becomes one of `FINISHED`, the chance of each
waiting trial to beat the best is compared with whether it would: its lowest recorded CER is below what was then the
best, which is the lowest CER that any trial has reached or is expected to reach. A trial that diverges beats nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "replay"))
from answers import Answers
from curve_tables import Curve, Table, read_table
from policies import built_in
from replayed_search import Case, Outcome, replay
from search_policies import Ours

from asr_platform.study.allocation import promotions
from asr_platform.study.allocation.promotions import LOWEST_VALUE
from trainables.errors import InputError

FINISHED = (1, 2, 3, 5, 10)
BINS = (0.03, 0.1, 0.3, 0.7)  # ends of the bins of chances; the first is that of negligible ones
START_SECONDS = 2.0


class Forecast(NamedTuple):
    """A waiting trial at the moment at which another trial of its sweep finished.

    Attributes:
        finished: number of finished trials of the sweep.
        chance: chance of the trial to beat the best, as the platform computes it.
        beats: whether it would beat the best.
    """

    finished: int
    chance: float
    beats: bool


class Forecasting(Ours):
    """The platform with random proposals, which writes down the chances of waiting trials as others finish."""

    def __init__(self, case: Case) -> None:
        super().__init__(case, sampler="random")
        self.finished = 0
        self.forecasts: list[Forecast] = []

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        return None if self.finished >= FINISHED[-1] else super().propose(left)

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        super().ended(curve, epoch, outcome)
        self.finished += outcome == "complete"
        if outcome == "complete" and self.finished in FINISHED:
            self.forecasts += self._forecast()

    def _forecast(self) -> Iterator[Forecast]:
        """Forecasts for all waiting trials."""
        numbers, model = self.promotions._model()
        for number, chance in zip(numbers, model.chances().tolist(), strict=True):
            if number in self.promotions.waiting:
                curve = self.begun[number]
                is_whole = len(curve.epochs) == self.case.table.epochs
                beats = is_whole and np.log(max(curve.best, LOWEST_VALUE)) < model.best
                yield Forecast(self.finished, chance, bool(beats))


def forecasts(table: Table, size: int, seeds: Sequence[int]) -> list[Forecast]:
    """Forecasts in sweeps of `size` configurations of a table, one sweep for each seed."""
    answers, found = Answers(table), []
    for seed in seeds:
        case = Case(table.subset(seed, size), answers, seed, 1, START_SECONDS, START_SECONDS)
        replay(case, policy := Forecasting(case))
        found += policy.forecasts
    return found


def cells(found: Sequence[Forecast]) -> list[str]:
    """For each bin the mean chance, the share of trials that would beat the best, and their number."""
    chances_N, beats_N = np.array([one.chance for one in found]), np.array([one.beats for one in found])
    bin_N = np.digitize(chances_N, BINS)
    texts = []
    for index in range(len(BINS) + 1):
        inside_N = bin_N == index
        means = f"{chances_N[inside_N].mean():.1%} / {beats_N[inside_N].mean():.1%}" if inside_N.any() else ""
        texts.append(f"{means} ({inside_N.sum():,})" if means else "")
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=40, help="sweeps of each size and table")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 40], help="trials of a sweep")
    parser.add_argument("--table", action="append", type=Path, help="in place of the built-in ones: .jsonl or .npz")
    options = parser.parse_args()
    promotions.NEGLIGIBLE = 0.0  # so that what would be given up is compared, too
    try:
        tables = [read_table(path) for path in options.table or built_in()]
    except InputError as error:
        parser.error(str(error))
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    ends = [f"{low:.0%} to {high:.0%}" for low, high in zip((0, *BINS), (*BINS, 1), strict=True)]
    print("Mean chance / share of the trials that would beat the best (trials)\n")
    print("| " + " | ".join(["trials", "table", "finished", *ends]) + " |")
    print("| --- " * (3 + len(ends)) + "|")
    for size in options.sizes:
        pooled: dict[int, list[Forecast]] = defaultdict(list)
        for table in tables:
            by_finished: dict[int, list[Forecast]] = defaultdict(list)
            for one in forecasts(table, size, seeds):
                by_finished[one.finished].append(one)
                pooled[one.finished].append(one)
            print_rows(size, table.name, by_finished)
        if len(tables) > 1:
            print_rows(size, "all", pooled)


def print_rows(size: int, name: str, by_finished: dict[int, list[Forecast]]) -> None:
    """Rows in Markdown, one for each number of finished trials."""
    for finished, found in sorted(by_finished.items()):
        print("| " + " | ".join([str(size), name, str(finished), *cells(found)]) + " |", flush=True)


if __name__ == "__main__":
    main()
