"""`platform plan`, `sweep` and `train`: what begins trials."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from asr_platform.cli.completion import spaces, sweep_names
from asr_platform.cli.options import (
    GPUS_PER_WORKER,
    INTERRUPTED,
    NOTIFY,
    SIZE,
    TRACKING_URI,
    console,
    follow,
    options,
    platform,
    store_of_new,
)
from asr_platform.cli.parameters import EPOCHS, FOLDER, MORE_THAN_0, PATH_OR_NAME, WORKERS
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.tuning.sweep import Outcome


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
    from asr_platform.cli.tables.monitoring import print_plan
    from asr_platform.monitoring.plan import plan as make_plan
    from asr_platform.storage.home import Home
    from asr_platform.tuning.cluster import Options
    from search_spaces.reader import load_space
    from trainables.data.corpus import Corpus

    how = Options(max_concurrent, workers_per_trial, gpus_per_worker, address)
    planned, corpus = load_space(space).with_epochs(epochs), Corpus.open(data)
    place = None if no_profile else Home.at(home)
    found = make_plan(planned, corpus, trials, how, not no_profile)
    text = json.dumps(asdict(found), indent=2)
    if place:
        place.keep_plan(planned.text, corpus.hash, text)
    if as_json:
        click.echo(text)
    else:
        print_plan(Console(), found)


ADDRESS = click.option("--address", help="A running Ray cluster; default: one started here.")
FAILED, NO_MODEL = 1, 1  # exit codes


@click.command()
@click.argument("space", type=PATH_OR_NAME, required=False, shell_complete=spaces)
@click.option("--data", type=FOLDER, help="The corpus, as `platform prepare` made it.")
@click.option("--name", help="The sweep's name; default: the space's, with a number.")
@options(SIZE)
@ADDRESS
@click.option("--max-hours", metavar="X", type=MORE_THAN_0, help="Wall time, all runs of the sweep together.")
@click.option("--max-device-hours", metavar="X", type=MORE_THAN_0, help="Training time of all trials' workers.")
@click.option("--max-disk-gb", metavar="X", type=MORE_THAN_0, help="10^9 bytes of the sweep's checkpoints.")
@click.option("--warm-start", metavar="NAME", multiple=True,
              shell_complete=sweep_names,
              help="Let the sampler learn from this earlier sweep too; may be given again.")  # fmt: skip
@click.option("--resume", metavar="NAME", shell_complete=sweep_names,
              help="Go on with this sweep: a wider SPACE, more --trials, higher caps.")  # fmt: skip
@TRACKING_URI
@NOTIFY
@click.pass_obj
def sweep(
    home: Path, space: str | None, data: Path | None, name: str | None, trials: int | None, epochs: int | None,
    max_concurrent: int | None, workers_per_trial: int | None, gpus_per_worker: float | None, address: str | None,
    max_hours: float | None, max_device_hours: float | None, max_disk_gb: float | None, warm_start: tuple[str, ...],
    resume: str | None, tracking_uri: str | None, notify: tuple[str, ...],
) -> None:  # fmt: skip
    """Searches SPACE for the model with the lowest validation CER.

    SPACE is a YAML file, or the name of a shipped one, such as digits. A sweep that reaches a cap of hours or
    disk (default: as the space's limits say) stops cleanly, and can go on with more.

    \b
    For example:
      platform sweep digits --data corpora/digits --trials 8 --notify bell
      platform sweep --resume digits-1 --trials 16
    """
    from search_spaces.settings import Limits

    limits = Limits(hours=max_hours, device_hours=max_device_hours, disk_gb=max_disk_gb)
    if resume is not None:
        begun = (data, name, epochs, max_concurrent, workers_per_trial, gpus_per_worker)
        if warm_start or any(given is not None for given in begun):
            raise InputError(
                "--resume goes on as the sweep began",
                "Give it at most --notify, SPACE, caps, --trials, --address and --tracking-uri.",
            )
        _resume(home, resume, space, trials, limits, address, tracking_uri, notify)
        return
    if not space or not data:
        raise InputError("sweep needs a SPACE and --data", "For example: platform sweep digits --data corpora/digits.")
    from asr_platform.tuning.cluster import Options
    from search_spaces.reader import load_space

    store = store_of_new(tracking_uri)
    how = Options(max_concurrent, workers_per_trial, gpus_per_worker, address, tracking_uri=store)
    _start(home, load_space(space).with_epochs(epochs).with_limits(limits), data, name, trials, how, notify, warm_start)


@click.command()
@click.argument("source", type=PATH_OR_NAME, metavar="[SPACE_OR_CONFIG]", required=False, shell_complete=spaces)
@click.option("--data", type=FOLDER, required=True, help="The corpus, as `platform prepare` made it.")
@click.option(
    "--from",
    "origin",
    metavar="NAME[:TRIAL]",
    shell_complete=sweep_names,
    help="The configuration of a sweep's best trial, or of this one.",
)
@click.option("--epochs", metavar="N", type=EPOCHS, help="Default: as the configuration says.")
@click.option("--name", help="The run's name; default: the configuration's, with a number.")
@click.option("--workers", metavar="N", type=WORKERS, help="Ray Train workers; default: one a GPU, or 1.")
@GPUS_PER_WORKER
@ADDRESS
@TRACKING_URI
@NOTIFY
@click.pass_obj
def train(
    home: Path, source: str | None, data: Path, origin: str | None, epochs: int | None, name: str | None,
    workers: int | None, gpus_per_worker: float | None, address: str | None, tracking_uri: str | None,
    notify: tuple[str, ...],
) -> None:  # fmt: skip
    """Trains one model for long.

    It is the base of a space, a configuration file, or what a sweep found (--from). The training is a sweep of one
    trial with all of the machine: it resumes, is listed and logged like any other.

    \b
    For example:
      platform train digits --data corpora/digits
      platform train --from digits-1 --data corpora/digits --epochs 30
    """
    from asr_platform.tuning.cluster import Options
    from asr_platform.tuning.single import single

    if bool(source) == bool(origin):
        raise InputError("train needs a SPACE_OR_CONFIG or --from, one of the two", "See platform train --help.")
    space = single(home, source, origin, epochs)
    store = store_of_new(tracking_uri)
    how = Options(None, workers, gpus_per_worker, address, alone=True, tracking_uri=store)
    _start(home, space, data, name, None, how, notify)


def _start(
    home: Path,
    space: Any,
    data: Path,
    name: str | None,
    trials: int | None,
    options: Any,
    notify: tuple[str, ...],
    warm_start: tuple[str, ...] = (),
) -> None:
    from asr_platform.storage.home import Home
    from asr_platform.tuning import sweep as sweeps
    from trainables.data.corpus import Corpus

    view, corpus = follow(console(), notify), Corpus.open(data)
    _close(sweeps.start(Home.at(home), space, corpus, name, trials, options, view, warm_start))


def _resume(
    home: Path, name: str, space: str | None, trials: int | None, limits: Any, address: str | None, uri: str | None,
    notify: tuple[str, ...],
) -> None:  # fmt: skip
    from asr_platform.storage.home import Home
    from asr_platform.storage.store_address import checked_uri
    from asr_platform.tuning import sweep as sweeps
    from search_spaces.reader import load_space

    view, place, wider = follow(console(), notify), Home.existing(home), load_space(space) if space else None
    store = checked_uri(uri) if uri else None
    _close(sweeps.resume(place, name, trials, limits, address, view, wider, store))


def _close(outcome: Outcome) -> None:
    """The leaderboard and where to look next; the exit code tells how the sweep ended, whether or not anybody reads."""
    from asr_platform.cli.printing import lasting, say
    from asr_platform.cli.tables.leaderboard import print_leaderboard

    out = lasting(console())
    print_leaderboard(out, outcome.trials, outcome.intervals, outcome.objectives)
    model = os.path.relpath(outcome.model) if outcome.model else None
    go_on = f"{platform()} sweep --resume {outcome.name}"
    if outcome.state == "stopped":
        lines = [f"stopped; go on with: {go_on}"]
    elif model is None:
        lines = ["no model: no trial finished an epoch"]
    else:
        data = f"--data {shlex.quote(str(outcome.corpus.path))} --split {outcome.split}"
        lines = [
            f"model:           {model}",
            f"see it:          {os.path.join(model, 'plots')}",
            f"score it:        platform evaluate {shlex.quote(model)} {data}",
            _use(outcome, shlex.quote(model)),
            f"why it is best:  {platform()} report {outcome.name}",
            f"compare trials:  {platform()} ui",
            _registered(outcome),
        ]
    if outcome.state == "capped":
        lines.append(f"stopped: {outcome.reason}; with more of them, go on: {go_on}")
    if outcome.state == "failed":
        lines += [f"stopped: {outcome.reason}", f"go on with: {go_on}"]
    for line in lines:
        say(out, line)
    if outcome.state == "stopped":
        sys.exit(INTERRUPTED)
    if outcome.state == "failed":
        sys.exit(FAILED)
    if model is None:
        sys.exit(NO_MODEL)


def _registered(outcome: Outcome) -> str:
    """The model's name in every command, from wherever the same MLflow store is seen."""
    if outcome.registered:
        return f"in the registry: {outcome.registered}"
    return f"not registered:  once MLflow can be written, {platform()} doctor {outcome.name} --repair"


def _use(outcome: Outcome, model: str) -> str:
    """What the model that was found is for."""
    from trainables.evaluation.metrics import objective

    if any(trial.best and objective(trial.best) == "val_cer" for trial in outcome.trials):
        return f"transcribe:      platform transcribe {model} FILE.wav"
    return f"let it help:     platform evaluate RECOGNISER --language-model {model} --lm-weight 0.3 ..."
