"""Runs schedules: `PYTHONPATH=tests/support python tests/simulation/simulate.py --first 0 --count 1000`."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import click
from schedules import Schedule, Store
from world import Templates, World

EVERY: dict[Store, int] = {"mlflow": 100, "sqlite": 50}
"""So often a schedule has an MLflow store, or at least a ledger in SQLite: they take 50 and 20 times as long."""


MEMORY = Path("/dev/shm")  # a file system in memory, where there is one: a schedule writes hundreds of files


class ScheduleError(AssertionError):
    """What must hold does not, after the schedule of a seed."""


def store_of(seed: int) -> Store:
    return next((store for store, every in EVERY.items() if seed % every == 0), "memory")


def new_folder() -> Path:
    """A new folder, in memory where possible."""
    return Path(tempfile.mkdtemp(prefix="simulation_", dir=MEMORY if MEMORY.is_dir() else None))


def simulate(seeds: Iterable[int], templates: Templates, folder: Path, store: Store | None = None) -> dict[str, int]:
    """Runs the schedules of these seeds; returns how many drivers ended in which way.

    Args:
        folder: for what they write, each in a folder of its own that is removed after it.
        store: the same for all, in the place of what each seed says.

    Raises:
        ScheduleError: the message has the seed, its schedule, what the drivers printed and their last writes.
    """
    ends: dict[str, int] = {}
    for seed in seeds:
        world = World(Schedule.of(seed, store or store_of(seed)), templates, folder / f"seed-{seed}")
        try:
            world.run()
        except Exception as error:
            raise ScheduleError(_told(world, error)) from error
        for end in world.told:
            ends[end] = ends.get(end, 0) + 1
        shutil.rmtree(world.folder)
    return ends


def _told(world: World, error: Exception) -> str:
    seed = world.schedule.seed
    return "\n".join(
        [
            f"{type(error).__name__}: {error}",
            str(world.schedule),
            *(f"  | {line}" for line in world.printed.getvalue().splitlines()),
            "the last driver's last writes:",
            *(f"  {line}" for line in world.writes.latest),
            "again: PYTHONPATH=tests/support python "
            f"tests/simulation/simulate.py --first {seed} --count 1 --store {world.schedule.store}",
            f"its files: {world.folder}",
        ]
    )


@click.command()
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--count", default=1000, show_default=True, help="So many seeds.")
@click.option("--store", type=click.Choice(["memory", "sqlite", "mlflow"]), help="For all; default: by the seed.")
@click.option("--keep-going", is_flag=True, help="Tell of all that fail.")
def main(first: int, count: int, store: Store | None, keep_going: bool) -> None:
    """Runs schedules, and tells the first that fails."""
    folder = new_folder()
    templates, failed, began = Templates(folder / "templates"), 0, time.process_time()
    for seed in range(first, first + count):
        try:
            simulate([seed], templates, folder, store)
        except ScheduleError as error:
            failed += 1
            click.echo(f"{error}\n")
            if not keep_going:
                break
    click.echo(f"{failed} failed, {time.process_time() - began:.1f} s of CPU")
    if not failed:
        shutil.rmtree(folder)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
