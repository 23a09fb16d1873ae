"""Compares ways of searching on recorded learning curves: time to a good model, with intervals, beside Ray's own pair.

    python tests/benchmarks/policies.py [--seeds 50] [--workers 1 4] [--start-seconds 0 2 11] [--table PATH] [--json]

Run i of every policy searches the same random configurations of a table, each of which can be tried once. Time is what
a user waits: starts, training and validation, as `--workers` trials train side by side. A proposal is answered by the
nearest configuration that has not been tried (`tests/replay/answers.py`), for all policies alike.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "replay"))
from answers import Answers, Forest
from curve_tables import CURVES, DIGITS, Table, read_table
from replayed_search import Case, Run, replay
from search_measures import BUDGETS, NEAREST, Scores, rows
from search_policies import POLICIES, RAY

from trainables.errors import InputError

REPOSITORY = Path(__file__).parents[2]

TABLES: dict[str, tuple[Table, Answers]] = {}  # read before processes are forked


class Job(NamedTuple):
    """One search, or with one worker the same search with several times for a start."""

    table: str
    policy: str
    seed: int
    workers: int
    starts: tuple[float, ...]


def built_in() -> list[Path]:
    """The tables recorded here, and those of `learning_curves` in `SPEECH_DATA` or `../shared/data`."""
    shared = Path(os.environ.get("SPEECH_DATA", REPOSITORY.parent / "shared" / "data")) / "learning_curves"
    others = sorted(shared.glob("*.npz"))
    if not others:
        print(f"no tables at {shared}; set SPEECH_DATA", file=sys.stderr)
    return [DIGITS, *sorted(path for path in CURVES.glob("*.jsonl") if path != DIGITS), *others]


def read(given: Sequence[Path], epoch_seconds: float | None, forests: bool) -> None:
    """Fills `TABLES` with those given, or else the built-in ones: if small, also without their best configuration.

    Args:
        forests: adds the forest of each `.npz`.
    """
    for path in given or built_in():
        table = read_table(path, epoch_seconds)
        answers = Answers(table)
        name = table.name if table.name not in TABLES else str(path)
        TABLES[name] = table, answers
        if path.parent == CURVES and not given:
            TABLES[f"{name}, without its best"] = table.without_best(), answers
        if path.suffix == ".npz" and forests:
            forest = Forest(table)
            TABLES[f"{name}, forest"] = forest.table, forest


def search(
    job: Job, size: int | None, promoted_start: float | None, whole_sweep: bool
) -> list[tuple[Job, Run, float, float]]:
    """Runs of a job, each with its job of one start, the lowest CER of its table, and the seconds to train it all."""
    table, answers = TABLES[job.table]
    drawn = table.subset(job.seed, size)
    found: list[tuple[Job, Run, float, float]] = []
    run: Run | None = None
    for start in job.starts:
        promoted = start if promoted_start is None else min(start, promoted_start)
        case = Case(drawn, answers, job.seed, job.workers, start, promoted)
        if run is None or job.workers > 1 or POLICIES[job.policy].minds_starts:
            target = -math.inf if whole_sweep else NEAREST * drawn.best
            run = replay(case, POLICIES[job.policy].make(case), target)
        timed = run.with_starts(start, promoted) if job.workers == 1 else run
        whole = (drawn.seconds + start * len(drawn.curves)) / job.workers
        found.append((job._replace(starts=(start,)), timed, drawn.best, whole))
    return found


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of all comparisons: for each number of workers and time for a start, a row a table and policy."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [
        Job(table, policy, seed, workers, starts)
        for workers in options.workers
        for starts in ([tuple(options.start_seconds)] if workers == 1 else [(one,) for one in options.start_seconds])
        for table, policy, seed in product(TABLES, options.policies, seeds)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        sizes, promoted, whole = ([one] * len(jobs) for one in (options.subset, options.promoted_start, options.whole))
        searched: list[tuple[Job, Run, float, float]] = []
        for number, found in enumerate(pool.map(search, jobs, sizes, promoted, whole, chunksize=5), start=1):
            searched += found
            if sys.stderr.isatty():
                print(f"\r{number:,} of {len(jobs):,} searches", end="", file=sys.stderr)
    for workers, start in product(options.workers, options.start_seconds):
        tables = {table: {policy: _scores(searched, table, policy, workers, start) for policy in options.policies}
                  for table in TABLES}  # fmt: skip
        for row in rows(tables, RAY):
            yield {"table": row.pop("table"), "policy": row.pop("policy"), "workers": workers, "start_seconds": start,
                   **row}  # fmt: skip


def _scores(
    searched: Sequence[tuple[Job, Run, float, float]], table: str, policy: str, workers: int, start: float
) -> Scores:
    wanted = (table, policy, workers, (start,))
    mine = [one for one in searched if (one[0].table, one[0].policy, one[0].workers, one[0].starts) == wanted]
    return Scores(*([one[index] for one in mine] for index in (1, 2, 3)))


def print_rows(found: Sequence[dict[str, Any]]) -> None:
    """Tables in Markdown, one for each number of workers and time for a start."""
    heads = ["table", "policy", "found", "s to 1.05 x best [95%]", "/ Ray's [95%]", "s to 1.01 x best", "/ Ray's [95%]"]
    heads += ["best stopped", "time / that of all", *(f"regret at {share:.0%}" for share in BUDGETS)]
    for workers, start in dict.fromkeys((row["workers"], row["start_seconds"]) for row in found):
        print(f"\n{workers} {'worker' if workers == 1 else 'workers'}, {start:g} s a start\n")
        print("| " + " | ".join(heads) + " |")
        print("| --- " * len(heads) + "|")
        for row in found:
            if (row["workers"], row["start_seconds"]) == (workers, start):
                print("| " + " | ".join(_cells(row)) + " |")


def _cells(row: dict[str, Any]) -> list[str]:
    def of(key: str, form: str) -> str:
        number = row.get(key)
        return "" if number is None else "never" if math.isinf(number) else format(number, form)

    def ends(key: str, form: str) -> str:
        return f"[{of(f'{key}_low', form)}, {of(f'{key}_high', form)}]" if f"{key}_low" in row else ""

    expected = f"{of('ert', ',.0f')} {ends('ert', ',.0f')}"
    return [row["table"], POLICIES[row["policy"]].name, of("found", ".0%"), expected,
            f"{of('ratio_to_ray', '.2f')} {ends('ratio', '.2f')}", of("ert_1", ",.0f"),
            f"{of('ratio_1_to_ray', '.2f')} {ends('ratio_1', '.2f')}", of("best_stopped", ".0%"),
            of("share_of_all", ".2f"),
            *(of(f"regret_{share:g}", ".1%") for share in BUDGETS)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=50, help="runs of each policy on each table")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4], help="trials that train side by side")
    parser.add_argument(
        "--start-seconds", nargs="+", type=float, default=[0.0, 2.0, 11.0], help="a trial's start takes"
    )
    parser.add_argument("--promoted-start", type=float, help="most that the start of a promoted trial takes")
    parser.add_argument("--table", action="append", type=Path, help="in place of the built-in ones: .jsonl or .npz")
    parser.add_argument("--epoch-seconds", type=float, help="an epoch of a .npz takes; default: as one of the digits")
    parser.add_argument("--forests", action="store_true", help="also search what a forest has learned from a .npz")
    parser.add_argument("--first-seed", type=int, default=0, help="of these runs: tune on some and judge by others")
    parser.add_argument("--subset", type=int, help="configurations of a run; default: 2/3 of the table, at most 200")
    parser.add_argument("--whole", action="store_true", help="go on after the target, until the sweep ends")
    parser.add_argument("--json", action="store_true", help="one JSON object a table and policy; null: never")
    options = parser.parse_args()
    try:
        read(options.table or [], options.epoch_seconds, options.forests)
    except InputError as error:
        parser.error(str(error))
    found = list(measure(options))
    if not options.json:
        print_rows(found)
    for row in found if options.json else ():
        finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                  for key, value in row.items()}  # fmt: skip
        print(json.dumps(finite))


if __name__ == "__main__":
    main()
