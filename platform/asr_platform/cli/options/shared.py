"""Arguments and options that several commands share, and where commands print."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from asr_platform.cli.completion import sweep_names
from asr_platform.cli.options.parameters import FOLDER, MODEL
from asr_platform.storage.store_address import checked_uri, named_uri

if TYPE_CHECKING:
    from asr_platform.cli.live import LiveDisplay

Command = TypeVar("Command", bound=Callable[..., Any])

WIDE = 160  # columns of output that goes to no terminal
INTERRUPTED = 130  # exit code

CORPUS = "The corpus, as `platform prepare` made it."
DATA = click.option("--data", type=FOLDER, required=True, help=CORPUS)
INIT_FROM = click.option(
    "--init-from", metavar="MODEL", type=MODEL, help="Begin with this model's weights, where name and shape are equal."
)
OPTIONAL_DATA = click.option("--data", type=FOLDER, help=CORPUS)
SWEEP = click.argument("name", shell_complete=sweep_names)
SWEEP_OR_LATEST = click.argument("name", required=False, shell_complete=sweep_names)
TRACKING_URI = click.option(
    "--tracking-uri",
    metavar="URI",
    help="An MLflow server or database; default: MLFLOW_TRACKING_URI, or the home's own.",
)
NOTIFY = click.option(
    "--notify", metavar="bell|URL", multiple=True, help="At the end: ring the bell, or POST JSON to URL."
)


def json_option(help: str) -> Callable[[Command], Command]:
    """The flag `--json`; `help` says what is printed."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def store_of_new(given: str | None) -> str | None:
    """Address of a new sweep's MLflow store: `given`, else $MLFLOW_TRACKING_URI; None for the store in the home.

    Raises:
        InputError: the address is invalid, or the database that $MLFLOW_TRACKING_URI names does not exist.
    """
    return checked_uri(given) if given else named_uri()


def console() -> Console:
    """A console on standard output, `WIDE` columns wide if that is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def follow(console: Console, notify: Sequence[str]) -> LiveDisplay:
    """A display of a running sweep on `console`, which notifies the targets `notify` at the end."""
    from asr_platform.cli.live import LiveDisplay
    from asr_platform.tuning.callbacks.notify import check_targets

    return LiveDisplay(console, platform(), check_targets(notify))


def platform() -> str:
    """The command for hints to copy: `platform`, with `--home` if that was given on the command line."""
    context = click.get_current_context().find_root()
    if context.get_parameter_source("home") is not click.core.ParameterSource.COMMANDLINE:
        return "platform"
    return shlex.join(["platform", "--home", str(context.params["home"])])
