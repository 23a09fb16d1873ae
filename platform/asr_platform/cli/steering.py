"""The commands that steer a sweep from another terminal: `platform stop`, `pause`, `unpause`, `add` and `change`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asr_platform.cli.completion import trial_numbers
from asr_platform.cli.options import SWEEP, Caps, Continuation, options, platform
from asr_platform.cli.parameters import VALUE

TRIAL = click.argument("trial", type=click.IntRange(0), shell_complete=trial_numbers)


@click.command()
@SWEEP
@TRIAL
@click.pass_obj
def stop(home: Path, name: str, trial: int) -> None:
    """Ends a trial of the running sweep NAME.

    The trial counts as pruned. Its best checkpoint may still become the sweep's model. If no driver runs, the trial is
    ended when the sweep goes on.

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

    Other trials get its place. What it has trained since its last epoch is trained again later. A sweep of which only
    paused trials are left ends, and can be continued.

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


def _ask(home: Path, name: str, kind: str, *content: Any) -> None:
    from asr_platform.storage.home import Home
    from asr_platform.study.ledger import Ledger
    from asr_platform.study.steering import asking
    from asr_platform.study.steering.requests import outcome

    place = Home.existing(home)
    ledger = Ledger.open(place.studies, name)
    request = getattr(asking, kind)(ledger, *content)
    click.echo(outcome(place, ledger, request, platform()))
