"""The commands that steer a sweep from another terminal: stop, pause, unpause, note, add, change and delete."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from asr_platform.cli.completion import trial_numbers
from asr_platform.cli.options.parameters import VALUE
from asr_platform.cli.options.settings import Caps, Continuation, options
from asr_platform.cli.options.shared import SWEEP, platform
from asr_platform.storage.home import SWEEP as RUNS
from trainables.errors import InputError

TRIAL = click.argument("trial", type=click.IntRange(0), shell_complete=trial_numbers)


@click.command()
@SWEEP
@TRIAL
@click.pass_obj
def stop(home: Path, name: str, trial: int) -> None:
    """Ends a trial of the running sweep NAME.

    The trial counts as pruned, and its workers end within seconds. Its best checkpoint may still become the sweep's
    model. If no driver runs, the trial is ended when the sweep goes on.

    \b
    For example:
      platform stop digits-1 3
    """
    _ask(home, name, "stop", trial)


@click.command()
@SWEEP
@TRIAL
@click.pass_obj
def pause(home: Path, name: str, trial: int) -> None:
    """Pauses a trial of the running sweep NAME.

    Its workers end within seconds, and another trial gets its place. The epoch that was cut off is trained again later.
    A sweep of which only paused trials are left ends, and can be continued.

    \b
    For example:
      platform pause digits-1 3
    """
    _ask(home, name, "pause", trial)


@click.command()
@SWEEP
@TRIAL
@click.pass_obj
def unpause(home: Path, name: str, trial: int) -> None:
    """Lets a paused trial of the sweep NAME go on.

    It goes on from its latest checkpoint.

    To go on with a sweep that has ended: platform sweep --resume NAME.

    \b
    For example:
      platform unpause digits-1 3
    """
    _ask(home, name, "unpause", trial)


@click.command()
@SWEEP
@TRIAL
@click.argument("text")
@click.pass_obj
def note(home: Path, name: str, trial: int, text: str) -> None:
    """Writes TEXT as the note on a trial of the sweep NAME.

    The leaderboard, the status, the report, the description of the trial's MLflow run and Optuna Dashboard (`platform
    watch`) show it; in the last two it can be written as well. A new note replaces the old one; an empty TEXT removes
    it. The trial may have ended, and no driver needs to run.

    \b
    For example:
      platform note digits-1 3 "diverges after the warm-up"
    """
    from asr_platform.storage.home import Home
    from asr_platform.study.ledger import Ledger
    from asr_platform.study.steering.notes import note_of
    from asr_platform.tracking.notes import annotate

    place = Home.existing(home)
    ledger = Ledger.open(place.studies, name)
    annotate(place, ledger, trial, text, partial(click.echo, err=True))
    found = note_of(ledger.trial(trial))
    click.echo(f"trial {trial}: {found}" if found else f"trial {trial} has no note")


@click.command()
@SWEEP
@click.argument("values", metavar="KEY=VALUE...", type=VALUE, nargs=-1, required=True)
@click.pass_obj
def add(home: Path, name: str, values: tuple[tuple[str, Any], ...]) -> None:
    """Adds a trial with these values to the sweep NAME.

    The keys are those that the sweep varies; keys that are left out have the value of the space's base. The trial is
    the next one to begin, and the sweep has one trial more.

    \b
    For example:
      platform add digits-1 model.dropout=0.1 optimizer.lr=0.002
    """
    _ask(home, name, "add", dict(values))


@click.command()
@SWEEP
@options(Continuation, ["trials"])
@options(Caps)
@click.pass_obj
def change(home: Path, name: str, trials: int | None, **caps: Any) -> None:
    """Changes the number of trials and the caps of the sweep NAME.

    \b
    For example:
      platform change digits-1 --trials 16 --max-hours 3
    """
    from asr_platform.storage.home import Home

    _ask(home, name, "change", Home(home).sweep(name), trials, Caps(**caps).limits)


@click.command()
@SWEEP
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(home: Path, name: str, yes: bool) -> None:
    """Deletes the sweep NAME with its MLflow runs, models and files.

    What will be deleted is listed with its size, and asked about. A sweep that runs is not deleted. If the command is
    interrupted, repeat it.

    \b
    For example:
      platform delete digits-1
    """
    from asr_platform.storage.home import Home
    from asr_platform.tracking.deletion import Deletion

    place = Home.existing(home)
    found = Deletion.of(place, name)
    if place.holder(name).startswith(RUNS):
        raise InputError(f"sweep {name} is running", "Stop it with Ctrl-C, then delete it.")
    if not yes and not sys.stdin.isatty():
        raise InputError("delete asks first, and there is no terminal", "Give it --yes.")
    for line in found.lines:
        click.echo(line)
    if not yes:
        click.confirm(f"Delete all of this of the sweep {name}?", abort=True)
    found.delete()
    click.echo(f"sweep {name} is deleted")


def _ask(home: Path, name: str, kind: str, *content: Any) -> None:
    from asr_platform.storage.home import Home
    from asr_platform.study.ledger import Ledger
    from asr_platform.study.steering import asking
    from asr_platform.study.steering.requests import outcome

    place = Home.existing(home)
    ledger = Ledger.open(place.studies, name)
    request = getattr(asking, kind)(ledger, *content)
    click.echo(outcome(place, ledger, request, platform()))
