"""`platform compare`, `confirm` and `importances`: what is known, and how well."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from asr_platform.cli_completion import sweep_names
from asr_platform.cli_evaluate import SEARCH, search_changes
from asr_platform.cli_numbers import SEEDS, TRIALS
from asr_platform.cli_paths import FOLDER, PATH_OR_NAME
from asr_platform.cli_shared import INTERRUPTED, NOTIFY, WIDE, console, follow, options, platform


@click.command()
@click.argument("a", type=PATH_OR_NAME, shell_complete=sweep_names)
@click.argument("b", type=PATH_OR_NAME, shell_complete=sweep_names)
@click.option("--data", type=FOLDER, help="The corpus, as `platform prepare` made it.")
@click.option("--split", help="Such as test-clean: both models transcribe it.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object; rates are fractions.")
@click.pass_obj
def compare(home: Path, a: str, b: str, data: Path | None, split: str | None, as_json: bool) -> None:
    """Says whether two models can be told apart.

    A and B are trials of a sweep, NAME:TRIAL, or NAME for its best; or model directories; or MLflow's
    models:/NAME@champion, models:/NAME/3 and runs:/ID. Without --data and --split, they are compared by the errors of
    their validations.

    \b
    For example:
      platform compare digits-1:0 digits-1:2
      platform compare digits-1 digits-2 --data corpora/digits --split test
    """
    from asr_platform.compare import compare
    from asr_platform.terminal_statistics import print_comparison

    found = compare(home, a, b, data, split)
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2, ensure_ascii=False))
    else:
        print_comparison(Console(), found)


@click.command()
@click.argument("name", shell_complete=sweep_names)
@click.option("--top", metavar="K", type=TRIALS, default=3, show_default=True, help="Best configurations.")
@click.option("--seeds", metavar="S", type=SEEDS, default=3, show_default=True, help="Of each of them.")
@click.option("--data", type=FOLDER, help="The sweep's corpus, where it has been moved.")
@options(SEARCH)
@NOTIFY
@click.option("--json", "as_json", is_flag=True, help="A JSON list, best first.")
@click.pass_obj
def confirm(
    home: Path,
    name: str,
    top: int,
    seeds: int,
    data: Path | None,
    notify: tuple[str, ...],
    as_json: bool,
    **search: Any,
) -> None:
    """Trains a sweep's best configurations again.

    Each is trained at full length from several new seeds, and validated with the search asked for, or the
    configuration's own; they are ranked by their means. That is a sweep, NAME-confirm-1, which the same command goes on
    with; once it is done, the command prints its result.

    \b
    For example:
      platform confirm digits-1 --top 3 --seeds 3 --method joint
    """
    from asr_platform import confirm as confirmations
    from asr_platform.home import Home
    from asr_platform.terminal import say
    from asr_platform.terminal_statistics import print_confirmation

    messages = Console(stderr=True, width=WIDE) if as_json else console()
    view = follow(messages, notify)
    found = confirmations.confirm(Home.existing(home), name, top, seeds, search_changes(search), data, view)
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2))
    else:
        print_confirmation(messages, found)
    if found.interrupted:
        say(messages, f"stopped; go on with: {platform()} sweep --resume {found.name}")
        sys.exit(INTERRUPTED)


@click.command()
@click.argument("name", required=False, shell_complete=sweep_names)
@click.option("--json", "as_json", is_flag=True, help="A JSON object; shares are fractions.")
@click.pass_obj
def importances(home: Path, name: str | None, as_json: bool) -> None:
    """Says which keys a sweep's result depends on.

    Without NAME, of the latest sweep. By fANOVA, over the trials that were trained to the end.

    \b
    For example:
      platform importances digits-1
    """
    from asr_platform.home import Home
    from asr_platform.importances import importances
    from asr_platform.leaderboard import latest
    from asr_platform.study import Ledger
    from asr_platform.terminal_statistics import print_importances

    studies = Home.existing(home).studies
    found = importances(Ledger.open(studies, latest(studies, name)))
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2))
    else:
        print_importances(Console(), found)
