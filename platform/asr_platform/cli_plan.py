"""`platform plan`: what a sweep will take, before it starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from asr_platform.cli_completion import spaces
from asr_platform.cli_paths import FOLDER, PATH_OR_NAME
from asr_platform.cli_shared import SIZE, options


@click.command()
@click.argument("space", type=PATH_OR_NAME, shell_complete=spaces)
@click.option(
    "--data",
    type=FOLDER,
    required=True,
    help="The corpus, as `platform prepare` made it.",
)
@options(SIZE)
@click.option("--address", help="A running Ray cluster, for its resources; default: this machine's.")
@click.option("--no-profile", is_flag=True, help="Trains nothing, and says nothing of hours, memory and disk.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@click.pass_obj
def plan(
    home: Path, space: str, data: Path, trials: int | None, epochs: int | None, max_concurrent: int | None,
    workers_per_trial: int | None, gpus_per_worker: float | None, address: str | None, no_profile: bool, as_json: bool,
) -> None:  # fmt: skip
    """Says what a sweep of SPACE will take, before it starts.

    Two extreme configurations are trained for seconds each on this machine; nothing is kept of them. Take the options
    that the sweep will have. The plan itself is kept in the home, and shown with the sweep in MLflow.

    \b
    For example:
      platform plan digits --data corpora/digits --trials 8
    """
    from asr_platform.cluster import Options
    from asr_platform.home import Home
    from asr_platform.plan import plan as make_plan
    from asr_platform.plan_tables import print_plan
    from search_spaces.space import Space
    from trainables.data.corpus import Corpus

    how = Options(max_concurrent, workers_per_trial, gpus_per_worker, address)
    planned, corpus = Space.load(space).lasting(epochs), Corpus.open(data)
    place = None if no_profile else Home.at(home)
    found = make_plan(planned, corpus, trials, how, not no_profile)
    text = json.dumps(asdict(found), indent=2)
    if place:
        place.keep_plan(planned.text, corpus.hash, text)
    if as_json:
        click.echo(text)
    else:
        print_plan(Console(), found)
