"""The command `platform`: its subcommands, and its exit codes. Commands parse, call one function and print."""

from __future__ import annotations

import errno
import gc
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from asr_platform.cli.help import INTRODUCTION, Commands, Introduction
from asr_platform.cli.options.parameters import FOLDER
from asr_platform.cli.options.shared import INTERRUPTED
from asr_platform.compat import mlflow
from asr_platform.compat.environment import ENVIRONMENT, set_environment
from asr_platform.storage.addresses import LEDGER, STORAGE, VARIABLES, chosen_for
from trainables.errors import InputError
from trainables.output import escape_unencodable

USER_MISTAKE = 2  # exit code
# Remedies for errors of the operating system that are no mistake of the program.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free space there, or choose another place."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a place that you may write to."),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG), "Correct the path."),
}

# Modules of commands are imported when a command is asked for, and a command imports its functions when it runs: so
# `platform leaderboard` waits for nothing that it does not need.
COMMANDS = Commands({
    "asr_platform.cli.data": ["prepare"],
    "asr_platform.cli.sweeps": ["schema", "plan", "sweep", "train"],
    "asr_platform.cli.monitoring": ["inspect_", "status", "logs", "watch", "doctor"],
    "asr_platform.cli.steering": ["stop", "pause", "unpause", "note", "add", "change", "delete"],
    "asr_platform.cli.results": ["leaderboard", "compare", "importances", "report", "ui"],
    "asr_platform.cli.confirming": ["confirm"],
    "asr_platform.cli.models": ["evaluate", "tune_decoding", "transcribe", "export", "submit", "check"],
    "asr_platform.cli.completion": ["completion"],
})  # fmt: skip


@click.group(
    cls=Introduction, commands=COMMANDS, help=INTRODUCTION, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--home", type=FOLDER, default=Path("mlruns"), envvar="ASR_PLATFORM_HOME", show_default=True,
              show_envvar=True, help="Where sweeps, models and the MLflow store are kept.")  # fmt: skip
@click.option("--storage", metavar="URI", envvar=VARIABLES[STORAGE], show_envvar=True,
              help="Keeps checkpoints and models: s3://BUCKET/FOLDER, or gs, or a shared folder.")  # fmt: skip
@click.option("--ledger", metavar="URI", envvar=VARIABLES[LEDGER], show_envvar=True,
              help="Keeps the records of sweeps: postgresql://USER@HOST/DATABASE.")  # fmt: skip
@click.version_option(package_name="asr-platform", message="%(package)s %(version)s")
@click.pass_context
def cli(context: click.Context, home: Path, storage: str | None, ledger: str | None) -> None:
    context.obj = home
    context.with_resource(chosen_for(storage, ledger))


def main() -> None:
    """Runs the command `platform`; a user's mistake ends it with exit code 2 and no traceback."""
    escape_unencodable()
    collect_seldom()
    set_environment({**ENVIRONMENT, **mlflow.ENVIRONMENT})
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            cli.main(standalone_mode=False)
    except InputError as error:
        _refuse(error.problem, error.remedy)
    except click.ClickException as error:
        error.show()
        sys.exit(USER_MISTAKE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # as in `platform leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        place = error.filename2 or error.filename
        _refuse(f"{place}: {error.strerror}" if place else str(error.strerror), REMEDIES[error.errno])


def collect_seldom() -> None:
    """Makes Python look for garbage after 50,000 new objects instead of 700.

    The trials of a large sweep are hundreds of thousands of objects, all in use: looking through them took a quarter of
    the time of reading and printing.
    """
    gc.set_threshold(50_000, 20, 20)


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Prints a FutureWarning, which is for users, in one line; other warnings are printed as Python does."""
    text = f"platform: {message}\n"
    if not issubclass(category, FutureWarning):
        text = warnings.formatwarning(message, category, filename, lineno)
    click.echo(text, err=True, nl=False)


def _refuse(problem: str, remedy: str) -> None:
    click.echo(f"platform: {problem}\n{remedy}", err=True)
    sys.exit(USER_MISTAKE)
