"""The command line: parses, calls one function, prints. No logic."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr_platform.cli_compare import compare, confirm, importances
from asr_platform.cli_completion import completion, spaces, sweep_names
from asr_platform.cli_doctor import doctor
from asr_platform.cli_evaluate import evaluate
from asr_platform.cli_export import export
from asr_platform.cli_help import INTRODUCTION, Introduction
from asr_platform.cli_numbers import EPOCHS, MORE_THAN_0, WORKERS
from asr_platform.cli_paths import FILE, FOLDER, PATH_OR_NAME
from asr_platform.cli_plan import plan
from asr_platform.cli_prepare import prepare
from asr_platform.cli_report import report
from asr_platform.cli_shared import (
    GPUS_PER_WORKER,
    INTERRUPTED,
    MODEL,
    MODEL_IS,
    NOTIFY,
    SIZE,
    TRACKING_URI,
    console,
    follow,
    options,
    platform,
    store_of_new,
)
from asr_platform.cli_status import logs, status
from asr_platform.cli_transcribe import transcribe
from asr_platform.cli_ui import ui
from trainables.errors import InputError
from trainables.output import escape_unencodable

if TYPE_CHECKING:
    from asr_platform.sweep import Outcome

ADDRESS = click.option("--address", help="A running Ray cluster; default: one started here.")
FAILED, NO_MODEL, USER_MISTAKE = 1, 1, 2
# What the system refuses through no mistake of the program's.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free space there, or choose another place."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a place that you may write to."),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG), "Correct the path."),
}

# Commands import what they need when they run: `platform --help` need not wait for torch and Ray.


@click.group(cls=Introduction, help=INTRODUCTION, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", type=FOLDER, default=Path("mlruns"), envvar="ASR_PLATFORM_HOME", show_default=True,
              show_envvar=True, help="Where sweeps, models and the MLflow store are kept.")  # fmt: skip
@click.pass_context
def cli(context: click.Context, home: Path) -> None:
    context.obj = home


COMMANDS = (
    plan, prepare, evaluate, transcribe, export, compare, confirm, importances, report, ui, doctor, status, logs,
    completion,
)  # fmt: skip
for _command in COMMANDS:
    cli.add_command(_command)


@cli.command()
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
    from asr_platform.cluster import Options
    from search_spaces.space import Space

    store = store_of_new(tracking_uri)
    how = Options(max_concurrent, workers_per_trial, gpus_per_worker, address, tracking_uri=store)
    _start(home, Space.load(space).lasting(epochs).limited(limits), data, name, trials, how, notify, warm_start)


@cli.command()
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
    from asr_platform.cluster import Options
    from asr_platform.single import single

    if bool(source) == bool(origin):
        raise InputError("train needs a SPACE_OR_CONFIG or --from, one of the two", "See platform train --help.")
    space = single(home, source, origin, epochs)
    store = store_of_new(tracking_uri)
    how = Options(None, workers, gpus_per_worker, address, alone=True, tracking_uri=store)
    _start(home, space, data, name, None, how, notify)


@cli.command()
@click.argument("name", required=False, shell_complete=sweep_names)
@click.option("--json", "as_json", is_flag=True, help="A JSON list, best first.")
@click.pass_obj
def leaderboard(home: Path, name: str | None, as_json: bool) -> None:
    """Lists a sweep's trials, best first.

    Without NAME, those of the latest sweep. CERs have a 95% bootstrap interval over the utterances, and = marks trials
    that a paired bootstrap cannot tell from the best.

    \b
    For example:
      platform leaderboard digits-1
    """
    from asr_platform.errors_on_record import ErrorsOnRecord
    from asr_platform.home import Home
    from asr_platform.leaderboard import latest, rows
    from asr_platform.study import Ledger
    from asr_platform.terminal import print_leaderboard

    place = Home.existing(home)
    ledger = Ledger.open(place.studies, latest(place.studies, name))
    trials = ledger.trials()
    standings = ErrorsOnRecord(place.sweep(ledger.study.study_name)).standings(trials)
    if as_json:
        click.echo(json.dumps(rows(trials, standings, ledger.objectives), indent=2))
    else:
        print_leaderboard(console(), trials, standings, ledger.objectives)


@cli.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@click.option("--data", type=FOLDER, required=True, help="The corpus, as `platform prepare` made it.")
@click.option("--split", required=True, help="Such as test-clean.")
@click.option("--out", type=FILE, required=True, help="The CSV file to write: id,transcription.")
def submit(model: Path, data: Path, split: str, out: Path) -> None:
    """Writes the course's submission file for a split.

    Its ids count from 0, in sorted order of the utterances' file names.

    \b
    For example:
      platform submit MODEL --data corpora/hw4 --split test-clean --out test.csv
    """
    from asr_platform.using import write_submission

    count = write_submission(model, data, split, out)
    click.echo(f"{out}: {count} transcriptions")


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
    from asr_platform import sweep as sweeps
    from asr_platform.home import Home
    from trainables.data.corpus import Corpus

    view, corpus = follow(console(), notify), Corpus.open(data)
    _close(sweeps.start(Home.at(home), space, corpus, name, trials, options, view, warm_start))


def _resume(
    home: Path, name: str, space: str | None, trials: int | None, limits: Any, address: str | None, uri: str | None,
    notify: tuple[str, ...],
) -> None:  # fmt: skip
    from asr_platform import sweep as sweeps
    from asr_platform.home import Home
    from asr_platform.store_address import checked_uri
    from search_spaces.space import Space

    view, place, wider = follow(console(), notify), Home.existing(home), Space.load(space) if space else None
    store = checked_uri(uri) if uri else None
    _close(sweeps.resume(place, name, trials, limits, address, view, wider, store))


def _close(outcome: Outcome) -> None:
    """The leaderboard and where to look next; the exit code tells how the sweep ended, whether or not anybody reads."""
    from asr_platform.terminal import lasting, print_leaderboard, say

    out = lasting(console())
    print_leaderboard(out, outcome.trials, outcome.standings, outcome.objectives)
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
    from trainables.metrics import objective

    if any(trial.best and objective(trial.best) == "val_cer" for trial in outcome.trials):
        return f"transcribe:      platform transcribe {model} FILE.wav"
    return f"let it help:     platform evaluate RECOGNISER --language-model {model} --lm-weight 0.3 ..."


def main() -> None:
    """The `platform` command. A user's mistake ends with exit code 2 and no traceback."""
    escape_unencodable()
    try:
        cli.main(standalone_mode=False)
    except InputError as error:
        _refuse(error.problem, error.remedy)
    except click.ClickException as error:
        error.show()
        sys.exit(USER_MISTAKE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        place = error.filename2 or error.filename
        _refuse(f"{place}: {error.strerror}" if place else str(error.strerror), REMEDIES[error.errno])


def _refuse(problem: str, remedy: str) -> None:
    click.echo(f"platform: {problem}\n{remedy}", err=True)
    sys.exit(USER_MISTAKE)
