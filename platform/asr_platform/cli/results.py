"""The commands about results: `platform leaderboard`, `compare`, `importances`, `report` and `ui`."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from asr_platform.cli.completion import sweep_names
from asr_platform.cli.options.parameters import FILE, PATH_OR_NAME
from asr_platform.cli.options.shared import (
    OPTIONAL_DATA,
    SWEEP_OR_LATEST,
    console,
    json_option,
    platform,
)


@click.command()
@SWEEP_OR_LATEST
@json_option("A JSON list, best first.")
@click.pass_obj
def leaderboard(home: Path, name: str | None, as_json: bool) -> None:
    """Lists the trials of the sweep NAME, best first.

    Without NAME, the trials of the latest sweep. CERs have a 95% bootstrap interval over the utterances (by speaker
    where speakers are known), and = marks trials that do not differ significantly from the best (paired bootstrap).

    \b
    For example:
      platform leaderboard digits-1
    """
    from asr_platform.analysis.leaderboard import latest, rows
    from asr_platform.analysis.recorded_errors import RecordedErrors
    from asr_platform.cli.tables.leaderboard import print_leaderboard
    from asr_platform.monitoring.status import waiting
    from asr_platform.storage.home import Home

    place = Home.existing(home)
    ledger = latest(place.studies, name)
    trials = ledger.trials()
    intervals = RecordedErrors(place.sweep(ledger.name)).cer_intervals(trials)
    untrained = waiting(place, ledger, trials)
    if as_json:
        click.echo(json.dumps(rows(trials, intervals, ledger.objectives, untrained), indent=2))
    else:
        print_leaderboard(console(), trials, intervals, ledger.objectives, untrained)


@click.command()
@click.argument("a", type=PATH_OR_NAME, shell_complete=sweep_names)
@click.argument("b", type=PATH_OR_NAME, shell_complete=sweep_names)
@OPTIONAL_DATA
@click.option("--split", help="Such as test-clean: both models transcribe it.")
@json_option("A JSON object; rates are fractions.")
@click.pass_obj
def compare(home: Path, a: str, b: str, data: Path | None, split: str | None, as_json: bool) -> None:
    """Says whether the models A and B differ significantly.

    Each model is a trial of a sweep (NAME:TRIAL, or NAME for its best trial), a model directory, or a model in MLflow
    (models:/NAME@champion, models:/NAME/3 or runs:/ID). Without --data and --split, models are compared by the recorded
    errors of their validations.

    \b
    For example:
      platform compare digits-1:0 digits-1:2
      platform compare digits-1 digits-2 --data corpora/digits --split test
    """
    from asr_platform.cli.tables.comparison import print_comparison
    from asr_platform.inference.compare import compare

    found = compare(home, a, b, data, split)
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2, ensure_ascii=False))
    else:
        print_comparison(Console(), found)


@click.command()
@SWEEP_OR_LATEST
@json_option("A JSON object; shares are fractions.")
@click.pass_obj
def importances(home: Path, name: str | None, as_json: bool) -> None:
    """Prints how much each key of the sweep NAME matters.

    Without NAME, for the latest sweep. Importances are computed by fANOVA over the trials that were trained to the end.

    \b
    For example:
      platform importances digits-1
    """
    from asr_platform.analysis.importances import importances
    from asr_platform.analysis.leaderboard import latest
    from asr_platform.cli.tables.comparison import print_importances
    from asr_platform.storage.home import Home

    found = importances(latest(Home.existing(home).studies, name))
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2))
    else:
        print_importances(Console(), found)


@click.command()
@SWEEP_OR_LATEST
@click.option("--out", metavar="FILE", type=FILE, help="Default: NAME.html here.")
@click.pass_obj
def report(home: Path, name: str | None, out: Path | None) -> None:
    """Writes a report of the sweep NAME as an HTML page.

    Without NAME, of the latest sweep. The report shows the search space, the leaderboard with confidence intervals, the
    importance of the keys, the errors of the best model, and the commands that repeat the sweep. The page is one file,
    and needs no network.

    \b
    For example:
      platform report digits-1
    """
    from asr_platform.analysis.leaderboard import latest
    from asr_platform.reporting.report import write_report
    from asr_platform.storage.home import Home
    from asr_platform.tracking.notes import read_notes

    place = Home.existing(home)
    ledger = latest(place.studies, name)
    read_notes(place, ledger, partial(click.echo, err=True))
    path = write_report(place, ledger, out, platform())
    click.echo(f"{path}: open it in a browser")


@click.command()
@SWEEP_OR_LATEST
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="Default: 5000, or the next free one.")
@click.option("--tracking-uri", metavar="URI", help="An MLflow server or database; default: the sweep's.")
@click.pass_obj
def ui(home: Path, name: str | None, host: str, port: int | None, tracking_uri: str | None) -> None:
    """Serves MLflow's UI for the sweep NAME until Ctrl-C.

    Without NAME, for the latest sweep. Two addresses are printed: of the sweep's trials, best first, and of all of
    MLflow. If the store is a server already, nothing is started, and only the addresses are printed.

    What is written there into the description of a trial's run becomes the note on the trial when the command ends.

    \b
    For example:
      platform ui digits-1 --port 5001
    """
    from asr_platform.storage.home import Home
    from asr_platform.storage.store_address import checked_uri
    from asr_platform.tracking.server import open_pages

    uri = checked_uri(tracking_uri, existing=True) if tracking_uri else None
    sys.exit(open_pages(Home.existing(home), name, uri, host, port, click.echo))
