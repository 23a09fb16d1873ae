"""The command line: parses, calls one function, prints. No logic."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from asr_platform.cli_prepare import prepare
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.sweep import Outcome

HELP = """Finds the best speech recogniser that fits in 30 million parameters.

\b
A first run, on speech that it makes itself:
  platform prepare synthetic --out corpora/synthetic
  platform sweep synthetic --data corpora/synthetic
  platform leaderboard
  platform ui
"""
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
WIDE = 160  # columns, where no terminal says otherwise
USER_MISTAKE, INTERRUPTED = 2, 130

# Commands import what they need when they run: `platform --help` need not wait for torch and Ray.


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", type=FOLDER, default=Path("mlruns"), envvar="ASR_PLATFORM_HOME", show_default=True,
              help="Where sweeps, models and the MLflow store are kept.")  # fmt: skip
@click.pass_context
def cli(context: click.Context, home: Path) -> None:
    context.obj = home


cli.add_command(prepare)


@cli.command()
@click.argument("space", required=False)
@click.option("--data", type=FOLDER, help="The corpus, as `platform prepare` made it.")
@click.option("--name", help="The sweep's name; default: the space's, with a number.")
@click.option("--trials", type=click.IntRange(1), help="Trials in all; default: as the space says.")
@click.option("--max-concurrent", type=click.IntRange(1), help="Trials at once; default: as many as fit.")
@click.option("--workers-per-trial", type=click.IntRange(1), help="Ray Train workers of each trial; default: 1.")
@click.option("--gpus-per-worker", type=click.FloatRange(0), help="Default: 1 where there are GPUs, else 0.")
@click.option("--address", help="A running Ray cluster; default: one started here.")
@click.option("--resume", metavar="NAME", help="Go on with this sweep. Takes --trials and --address besides.")
@click.pass_obj
def sweep(
    home: Path, space: str | None, data: Path | None, name: str | None, trials: int | None, max_concurrent: int | None,
    workers_per_trial: int | None, gpus_per_worker: float | None, address: str | None, resume: str | None,
) -> None:  # fmt: skip
    """Searches SPACE (a YAML file, or the name of a shipped one) for the model with the lowest validation CER."""
    if resume:
        if space or data or name or max_concurrent or workers_per_trial or gpus_per_worker is not None:
            raise InputError("--resume goes on as the sweep began", "Give it --trials and --address at most.")
        _resume(home, resume, trials, address)
        return
    if not space or not data:
        raise InputError("sweep needs a SPACE and --data", "For example: platform sweep digits --data corpora/digits.")
    from asr_platform.cluster import Options
    from search_spaces.space import Space

    options = Options(max_concurrent, workers_per_trial, gpus_per_worker, address)
    _start(home, Space.load(space), data, name, trials, options)


@cli.command()
@click.argument("source", metavar="SPACE_OR_CONFIG", required=False)
@click.option("--data", type=FOLDER, required=True, help="The corpus, as `platform prepare` made it.")
@click.option(
    "--from", "origin", metavar="NAME[:TRIAL]", help="The configuration of a sweep's best trial, or of this one."
)
@click.option("--epochs", type=click.IntRange(1), help="Default: as the configuration says.")
@click.option("--name", help="The run's name; default: the configuration's, with a number.")
@click.option("--workers", type=click.IntRange(1), help="Ray Train workers; default: one a GPU, or 1.")
@click.option("--gpus-per-worker", type=click.FloatRange(0), help="Default: 1 where there are GPUs, else 0.")
@click.option("--address", help="A running Ray cluster; default: one started here.")
@click.pass_obj
def train(
    home: Path, source: str | None, data: Path, origin: str | None, epochs: int | None, name: str | None,
    workers: int | None, gpus_per_worker: float | None, address: str | None,
) -> None:  # fmt: skip
    """Trains one model for long: the base of a space, a configuration file, or what a sweep found.

    It is a sweep of one trial with all of the machine: it resumes, is listed and logged like any other.
    """
    from asr_platform import sweep as sweeps
    from asr_platform.cluster import Options

    if bool(source) == bool(origin):
        raise InputError("train needs a SPACE_OR_CONFIG or --from, one of the two", "See platform train --help.")
    space = sweeps.single(home, source, origin, epochs)
    _start(home, space, data, name, None, Options(None, workers, gpus_per_worker, address, alone=True))


@cli.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="A JSON list, best first.")
@click.pass_obj
def leaderboard(home: Path, name: str | None, as_json: bool) -> None:
    """A sweep's trials, best first; without NAME, those of the latest sweep."""
    from asr_platform.home import Home
    from asr_platform.leaderboard import latest, rows
    from asr_platform.study import Ledger
    from asr_platform.terminal import leaderboard_table

    studies = Home.existing(home).studies
    trials = Ledger.open(studies, latest(studies, name)).trials()
    if as_json:
        click.echo(json.dumps(rows(trials), indent=2))
    else:
        _console().print(leaderboard_table(trials))


@cli.command()
@click.argument("model", type=FOLDER)
@click.option("--data", type=FOLDER, required=True)
@click.option("--split", required=True)
@click.option("--json", "as_json", is_flag=True)
def evaluate(model: Path, data: Path, split: str, as_json: bool) -> None:
    """Scores MODEL, a model directory, on a split: CER and WER of greedy decoding."""
    from asr_platform.using import evaluate_model

    scores = evaluate_model(model, data, split)
    if as_json:
        click.echo(json.dumps(scores))
    else:
        click.echo(
            "\n".join(
                f"{key:>12}  {value:.2%}" if "er" in key[-2:] else f"{key:>12}  {value:,}"
                for key, value in scores.items()
            )
        )


@cli.command()
@click.argument("model", type=FOLDER)
@click.argument("files", nargs=-1, required=True, type=FILE)
def transcribe(model: Path, files: tuple[Path, ...]) -> None:
    """Prints the text of each FILE: audio of any rate, or features of the model's recipe as .npy."""
    from asr_platform.using import transcribe_files

    for file, text in transcribe_files(model, files):
        click.echo(f"{file}\t{text}")


@cli.command()
@click.argument("model", type=FOLDER)
@click.option("--data", type=FOLDER, required=True)
@click.option("--split", required=True, help="Such as test-clean.")
@click.option("--out", type=FILE, required=True, help="The CSV file to write: id,transcription.")
def submit(model: Path, data: Path, split: str, out: Path) -> None:
    """Writes the course's submission file: ids count from 0 in sorted file order."""
    from asr_platform.using import write_submission

    count = write_submission(model, data, split, out)
    click.echo(f"{out}: {count} transcriptions")


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Default: 5000, or the next free one.")
@click.pass_obj
def ui(home: Path, host: str, port: int | None) -> None:
    """Opens MLflow's pages over this home's store, until Ctrl-C."""
    from asr_platform.home import Home
    from asr_platform.tracking import serve

    place = Home.existing(home)
    serve(place.tracking, place.artifacts, host, port, click.echo)


def _start(home: Path, space: Any, data: Path, name: str | None, trials: int | None, options: Any) -> None:
    from asr_platform import sweep as sweeps
    from asr_platform.home import Home
    from asr_platform.terminal import View
    from trainables.data.corpus import Corpus

    corpus = Corpus.open(data)
    _close(sweeps.start(Home.at(home), space, corpus, name, trials, options, View(_console())))


def _resume(home: Path, name: str, trials: int | None, address: str | None) -> None:
    from asr_platform import sweep as sweeps
    from asr_platform.home import Home
    from asr_platform.terminal import View

    _close(sweeps.resume(Home.existing(home), name, trials, address, View(_console())))


def _close(outcome: Outcome) -> None:
    """The leaderboard and where to look next."""
    from asr_platform.terminal import leaderboard_table

    console = _console()
    console.print(leaderboard_table(outcome.trials))
    lines = [f"model: {outcome.model}"] if outcome.model else []
    if outcome.interrupted:
        lines.append(f"stopped; go on with: platform sweep --resume {outcome.name}")
    elif outcome.model:
        lines += [
            f"score it:        platform evaluate {outcome.model} --data {outcome.corpus.path} --split {outcome.split}",
            f"transcribe:      platform transcribe {outcome.model} FILE.wav",
            "compare trials:  platform ui",
        ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    if outcome.interrupted:
        sys.exit(INTERRUPTED)
    if outcome.model is None:
        sys.exit(1)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def main() -> None:
    """The `platform` command. A user's mistake ends with exit code 2 and no traceback."""
    try:
        cli.main(standalone_mode=False)
    except InputError as error:
        click.echo(f"platform: {error.problem}\n{error.remedy}", err=True)
        sys.exit(USER_MISTAKE)
    except click.ClickException as error:
        error.show()
        sys.exit(USER_MISTAKE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
