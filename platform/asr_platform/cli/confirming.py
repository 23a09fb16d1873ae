"""The command `platform confirm`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from asr_platform.cli.models import decoding_changes, decoding_options
from asr_platform.cli.options.parameters import FOLDER
from asr_platform.cli.options.settings import Repetitions, options
from asr_platform.cli.options.shared import INTERRUPTED, NOTIFY, SWEEP, WIDE, console, follow, json_option, platform


@click.command()
@SWEEP
@options(Repetitions)
@click.option("--data", type=FOLDER, help="The sweep's corpus, if it has been moved.")
@decoding_options
@NOTIFY
@json_option("A JSON list, best first.")
@click.pass_obj
def confirm(
    home: Path, name: str, top: int, seeds: int, data: Path | None, notify: tuple[str, ...], as_json: bool,
    **decoding: Any,
) -> None:  # fmt: skip
    """Trains the best configurations of the sweep NAME again.

    Each is trained at full length from several new seeds; where the space has data.folds, for every fold of speakers.
    Decoding options replace those of the configuration in the validations. Configurations are ranked by their means.
    The trainings are a sweep of their own, NAME-confirm-1. Running the command again continues that sweep, or prints
    its result if it is complete.

    \b
    For example:
      platform confirm digits-1 --top 3 --seeds 3 --method joint
    """
    from asr_platform.cli.printing import say
    from asr_platform.cli.tables.comparison import print_confirmation
    from asr_platform.storage.home import Home
    from asr_platform.tuning import confirm as confirmations

    messages = Console(stderr=True, width=WIDE) if as_json else console()
    view = follow(messages, notify)
    found = confirmations.confirm(Home.existing(home), name, top, seeds, decoding_changes(decoding), data, view)
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2))
    else:
        print_confirmation(messages, found)
    if found.interrupted:
        say(messages, f"stopped; go on with: {platform()} sweep --resume {found.name}")
        sys.exit(INTERRUPTED)
