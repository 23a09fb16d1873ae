"""`platform status` and `logs`: a sweep seen from another terminal."""

from __future__ import annotations

import json
from pathlib import Path

import click

from asr_platform.cli_completion import sweep_names, trial_numbers
from asr_platform.cli_shared import console, platform
from trainables.errors import InputError


@click.command()
@click.argument("name", required=False, shell_complete=sweep_names)
@click.option("--json", "as_json", is_flag=True, help="A JSON object; without NAME: a list, the latest sweep last.")
@click.pass_obj
def status(home: Path, name: str | None, as_json: bool) -> None:
    """Says how sweeps stand: running, finished, stopped or died.

    Without NAME, a line for each of them; with it, what that one is doing, what it has spent and how long it will
    still take. It may be asked from another terminal at any time.

    \b
    For example:
      platform status
      platform status digits-1
    """
    from asr_platform.home import Home
    from asr_platform.status import all_statuses
    from asr_platform.status import status as status_of
    from asr_platform.status_tables import print_status, print_statuses

    place = Home.existing(home)
    if name is not None:
        one = status_of(place, name)
        if as_json:
            click.echo(json.dumps(one.as_tree(), indent=2))
        else:
            print_status(console(), one, platform())
        return
    found = all_statuses(place)
    if as_json:
        click.echo(json.dumps([one.as_tree() for one in found], indent=2))
    else:
        print_statuses(console(), found, platform())


@click.command()
@click.argument("name", shell_complete=sweep_names)
@click.argument("trial", type=click.IntRange(0), shell_complete=trial_numbers)
@click.option("--follow", "-f", is_flag=True, help="Goes on until the trial is no longer trained, or Ctrl-C.")
@click.pass_obj
def logs(home: Path, name: str, trial: int, follow: bool) -> None:
    """Prints what a trial's workers printed, tracebacks included.

    \b
    For example:
      platform logs digits-1 3
      platform logs digits-1 3 --follow
    """
    from asr_platform.failures import diagnose
    from asr_platform.home import Home
    from asr_platform.leaderboard import pick
    from asr_platform.status import training
    from asr_platform.study import Ledger
    from asr_platform.trial_logs import log_files, printed

    place = Home.existing(home)
    ledger = Ledger.open(place.studies, name)
    pick(ledger, trial)  # refuses what there is not
    folder = place.trial(name, trial)

    def in_training() -> bool:
        return trial in training(place, ledger)

    if not log_files(folder) and not (follow and in_training()):
        raise InputError(
            f"trial {trial} of {name} has no log in {folder}", "Its workers have not begun, or were not logged."
        )
    for text in printed(folder, in_training if follow else lambda: False):
        click.echo(text, nl=False)
    ended = ledger.trial(trial)
    if ended.state != "running":
        click.echo(f"trial {trial} {ended.state}" + (f": {ended.reason}" if ended.reason else ""))
    if ended.state == "failed" and (cause := diagnose(ended.reason)):
        click.echo(f"cause: {cause.words}\ntry:   {cause.remedy}")
