"""What several commands share: the console that they print on, and the command that they tell people to type."""

from __future__ import annotations

import shlex
import sys

import click
from rich.console import Console

WIDE = 160  # columns, where no terminal says otherwise
INTERRUPTED = 130  # exit code


def console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def platform() -> str:
    """The command for hints to copy, with its home where that was given on the command line."""
    context = click.get_current_context().find_root()
    if context.get_parameter_source("home") is not click.core.ParameterSource.COMMANDLINE:
        return "platform"
    return shlex.join(["platform", "--home", str(context.params["home"])])
