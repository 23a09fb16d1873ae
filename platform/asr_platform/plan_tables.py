"""A plan as a person reads it."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from asr_platform.plan import Plan
from asr_platform.terminal import say

MINUTES_BELOW = 2.0  # hours: less is said in minutes


def print_plan(console: Console, plan: Plan) -> None:
    """The space, the rungs, and what the sweep will take with what that assumes."""
    say(console, f"{plan.feasible:,} of {plan.proposals:,} random proposals are feasible")
    sizes = Table("parameters", *plan.parameters, box=SIMPLE)
    sizes.add_row("of these", *(f"{count:,}" for count in plan.parameters.values()))
    console.print(sizes)
    stops = Table("epoch", *(str(rung.epoch) for rung in plan.rungs), box=SIMPLE)
    stops.add_row(f"of {plan.trials} trials reach it", *(f"{rung.trials:.1f}" for rung in plan.rungs))
    console.print(stops)
    expense = plan.expense
    if expense is None:
        return
    takes = Table("the sweep takes", "", box=SIMPLE, show_header=True)
    takes.add_column("of which", overflow="fold")
    at_once = f"{plan.concurrency} trials at once, {plan.workers} worker{'s' * (plan.workers > 1)} each"
    takes.add_row("wall time", _time(expense.wall_hours), at_once)
    takes.add_row("device time", _time(expense.device_hours), "training and validation, of all workers")
    takes.add_row("memory", _size(expense.memory_bytes), f"{_size(expense.worker_memory_bytes)} a worker")
    if expense.gpu_memory_bytes:
        takes.add_row("GPU memory", _size(expense.gpu_memory_bytes), "a worker")
    takes.add_row("disk", _size(expense.disk_bytes), "checkpoints, and the winner")
    console.print(takes)
    for name, profile in (("cheapest", expense.cheapest), ("dearest", expense.dearest)):
        say(
            console,
            f"{name} of those profiled: {profile.batch:.2f} s a batch, validation {profile.validation:.1f} s "
            f"({profile.first_validation:.1f} s before it has learned to end)",
        )


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= MINUTES_BELOW else f"{hours * 60:.0f} min"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
