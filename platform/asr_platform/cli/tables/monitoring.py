"""Tables of a sweep's plan and of the status of sweeps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr_platform.cli.printing import say
from asr_platform.cli.tables.leaderboard import trial_table
from asr_platform.monitoring.status import Status
from asr_platform.monitoring.time_left import in_words
from asr_platform.study.spending import Cap
from asr_platform.study.steering.notes import note_of
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text

if TYPE_CHECKING:
    from asr_platform.monitoring.growth import Scale
    from asr_platform.monitoring.plan import Plan  # torch and Ray

MINUTES_BELOW = 2.0  # hours; shorter times are printed in minutes


def print_plan(console: Console, plan: Plan) -> None:
    """Prints the feasible share of the space, the rungs, and the expected time, memory and disk."""
    say(console, f"{plan.feasible:,} of {plan.proposals:,} random proposals are feasible")
    sizes = Table("parameters", *plan.parameters, box=SIMPLE)
    sizes.add_row("of these", *(f"{count:,}" for count in plan.parameters.values()))
    console.print(sizes)
    stops = Table(box=SIMPLE)
    for heading in ("epoch", f"of {plan.trials} trials reach it"):
        stops.add_column(heading, justify="right")
    for rung in plan.rungs:
        stops.add_row(str(rung.epoch), f"{rung.trials:.1f}")
    console.print(stops)
    expense = plan.expense
    if expense is None:
        return
    takes = Table("the sweep takes", "", box=SIMPLE, show_header=True)
    takes.add_column("of which", overflow="fold")
    at_once = f"{plan.concurrency} trials at once, {plan.workers} worker{'s' * (plan.workers > 1)} each"
    low, high = map(_time, expense.wall_hours_interval)
    takes.add_row("wall time", _time(expense.wall_hours), f"{low} to {high} in 9 of 10 simulations; {at_once}")
    takes.add_row("device time", _time(expense.device_hours), "training and validation of all workers")
    takes.add_row("memory", _size(expense.memory_bytes), f"{_size(expense.worker_memory_bytes)} a worker")
    if expense.gpu_memory_bytes:
        takes.add_row("GPU memory", _size(expense.gpu_memory_bytes), "a worker")
    takes.add_row("disk", _size(expense.disk_bytes), "checkpoints and the best model")
    console.print(takes)
    if plan.growth:
        print_growth(console, plan.growth)
    for name, profile in (("cheapest", expense.cheapest), ("most expensive", expense.most_expensive)):
        say(console, f"{name} configuration: {profile.update:.2f} s an update, {profile.validation:.1f} s a validation")


def print_growth(console: Console, scales: Sequence[Scale]) -> None:
    """Prints what a sweep takes on each number of nodes, and from which number on more are of no use."""
    from asr_platform.monitoring.growth import enough_nodes

    priced = scales[0].price is not None
    table = Table(box=SIMPLE)
    headings = ["nodes", "trials at once", "wall time", "node-hours", *(["price"] if priced else []), "driver busy"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in scales:
        price = [f"{one.price:,.2f}"] if one.price is not None else []
        cells = [f"{one.nodes:,}", f"{one.concurrency:,}", _time(one.wall_hours), f"{one.node_hours:,.1f}", *price]
        table.add_row(*cells, f"{one.driver_share:.0%}")
    console.print(table)
    if (enough := enough_nodes(scales)) < scales[-1].nodes:
        say(console, f"more nodes than {enough:,} are of little use: twice as many save less than 10% of the time")


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= MINUTES_BELOW else f"{hours * 60:.0f} min"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


WHEN = {"running": "time left", "died": "last heartbeat"}
COLOURS = {"running": "cyan", "finished": "green", "capped": "yellow", "paused": "yellow", "stopped": "yellow"}


def print_statuses(console: Console, statuses: Sequence[Status], platform: str) -> None:
    """Prints one line for each sweep, and the command that resumes each failed one."""
    table = Table("sweep", "state", box=SIMPLE)
    for heading in ("trials ended", "best"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("left, or ended", no_wrap=True)
    for one in statuses:
        ended = sum(trial.state != "running" for trial in one.trials)
        table.add_row(one.name, _state(one), f"{ended} of {one.asked}", _best(one), when(one))
    console.print(table)
    for one in statuses:
        if one.state in ("died", "failed"):
            say(console, f"{one.name}: {one.reason}; go on with: {platform} sweep --resume {one.name}")


def print_status(console: Console, one: Status, platform: str) -> None:
    """Prints a sweep's state, spending, caps and unfinished trials."""
    counts = one.counts
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in list(counts)[2:] if counts[kind])
    lines = {
        "state": one.state + (f": {one.reason}" if one.reason else ""),
        "trials": f"{counts['begun']} of {one.asked} begun" + (f": {kinds}" if kinds else ""),
        "best": f"trial {one.best.number}, {_best(one, heading=True)}" if one.best else "no epoch on record yet",
        WHEN.get(one.state, "ended"): when(one),
        "spent": ", ".join(_spent(cap) for cap in one.caps if cap.spent),
        "driver": f"process {one.process}" if one.process else "none",
        "asked for": "; ".join(one.requests),
        "dashboard": one.dashboard,
    }  # fmt: skip
    say(console, f"sweep {one.name}")
    for name, text in lines.items():
        if text:
            say(console, f"  {name + ':':16}{text}")
    for trial in one.trials:  # of the others, the table has it
        if trial.state != "running" and (text := note_of(trial)):
            say(console, f"  {f'note on {trial.number}:':16}{' '.join(text.split())}")
    if one.unfinished:
        waiting = {trial.number for trial in one.unfinished} - one.training
        console.print(trial_table(one.unfinished, one.epochs, console.width, waiting))
        first = one.unfinished[0].number
        say(console, f"what trial {first} prints: {platform} logs {one.name} {first}")
    if one.state not in ("running", "finished"):
        say(console, f"go on with: {platform} sweep --resume {one.name}")


def when(one: Status) -> str:
    """Time left of a running sweep, or time of the last heartbeat of any other sweep, in words."""
    if one.state == "running":
        return in_words(one.left)
    latest = one.last_heartbeat
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(latest)) if latest else ""


def _spent(cap: Cap) -> str:
    return str(cap) if cap.most else f"{cap.spent:.2f} {cap.name.partition(' (')[0]}"


def _state(one: Status) -> Text:
    return Text(one.state, style=COLOURS.get(one.state, "red"))


def _best(one: Status, heading: bool = False) -> str:
    if one.best is None or one.best.best is None:
        return ""
    text = objective_text(one.best.best)
    return f"{OBJECTIVES[objective(one.best.best)]} {text}" if heading else text
