"""Printing that never fails for want of a terminal, and bars for long work."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from trainables.output import LastingOutput

if TYPE_CHECKING:
    pass


def lasting(console: Console) -> Console:
    """The console itself, whose output is dropped from now on where its terminal or pipe has gone away."""
    console.file = cast(IO[str], LastingOutput(console.file))
    return console


def near(path: Path) -> Path:
    """A path for people: from where they are, if it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def say(console: Console, text: str) -> None:
    """Prints a line as it is: paths and reasons may hold what would be markup, and are copied from the terminal."""
    console.print(Text(text), soft_wrap=True)


def progress_bar(console: Console, task: str, count: ProgressColumn | None = None) -> Progress:
    """A bar for work on a known number of items, or of what `count` shows; nothing where there is no terminal."""
    columns = (TextColumn(task), BarColumn(), count or MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
