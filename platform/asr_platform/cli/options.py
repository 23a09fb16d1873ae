"""What several commands share: options, the console that they print on, the command that they tell people to type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich.console import Console

from asr_platform.cli.parameters import EPOCHS, GPUS, TRIALS, WORKERS, LocalPath
from asr_platform.storage.store_address import checked_uri, named_uri
from asr_platform.tracking.resolving import IN_MLFLOW, resolve_model

if TYPE_CHECKING:
    from asr_platform.cli.live import LiveDisplay

Option: TypeAlias = Callable[[Callable[..., None]], Callable[..., None]]

WIDE = 160  # columns, where no terminal says otherwise
INTERRUPTED = 130  # exit code
GPUS_PER_WORKER = click.option(
    "--gpus-per-worker", metavar="X", type=GPUS, help="Default: 1 where there are GPUs, else 0."
)
TRACKING_URI = click.option(
    "--tracking-uri",
    metavar="URI",
    help="An MLflow server or database; default: MLFLOW_TRACKING_URI, or the home's own.",
)
NOTIFY = click.option(
    "--notify", metavar="bell|URL", multiple=True, help="When it ends: ring the bell, or POST JSON to URL."
)
SIZE = [
    click.option("--trials", metavar="N", type=TRIALS, help="Trials in all; default: as the space says."),
    click.option("--epochs", metavar="N", type=EPOCHS, help="A full trial's; default: as the space says."),
    click.option("--max-concurrent", metavar="N", type=WORKERS, help="Trials at once; default: as many as fit."),
    click.option("--workers-per-trial", metavar="N", type=WORKERS, help="Ray Train workers; default: 1."),
    GPUS_PER_WORKER,
]


class ModelDirectory(LocalPath):
    """A model directory, or the name of a model in MLflow, which becomes one."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if ctx and not ctx.resilient_parsing and str(value).startswith(IN_MLFLOW):
            value = resolve_model(ctx.find_root().params["home"], str(value))
        return super().convert(value, param, ctx)


MODEL = ModelDirectory(path_type=Path, file_okay=False)
MODEL_IS = "MODEL is a model directory, models:/NAME@champion or models:/NAME/3 of MLflow's registry, or runs:/ID."


def options(listed: Sequence[Option]) -> Option:
    """Several options as one decorator, in the order of their listing."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(listed):
            command = option(command)
        return command

    return decorate


def store_of_new(given: str | None) -> str | None:
    """The address of the MLflow store of a new sweep; None: the home's own.

    Raises:
        InputError: its address is no good, or the database that $MLFLOW_TRACKING_URI names is not there.
    """
    return checked_uri(given) if given else named_uri()


def console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def follow(console: Console, notify: Sequence[str]) -> LiveDisplay:
    """What shows a sweep there, and tells these when it has come to rest."""
    from asr_platform.cli.live import LiveDisplay
    from asr_platform.tuning.callbacks.notify import check_targets

    return LiveDisplay(console, platform(), check_targets(notify))


def platform() -> str:
    """The command for hints to copy, with its home where that was given on the command line."""
    context = click.get_current_context().find_root()
    if context.get_parameter_source("home") is not click.core.ParameterSource.COMMANDLINE:
        return "platform"
    return shlex.join(["platform", "--home", str(context.params["home"])])
