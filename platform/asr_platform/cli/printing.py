"""Printing to terminals and files, and progress bars."""

from __future__ import annotations

from pathlib import Path
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from trainables.output import LastingOutput


def lasting(console: Console) -> Console:
    """The console itself, whose output is dropped from now on once its terminal or pipe has gone away."""
    console.file = cast(IO[str], LastingOutput(console.file))
    return console


def near(path: Path) -> Path:
    """A path relative to the working directory if it is below it; else the path itself."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def say(console: Console, text: str) -> None:
    """Prints a line without markup and without breaking it, so that paths and commands can be copied."""
    console.print(Text(text), soft_wrap=True)


def progress_bar(console: Console, task: str, count: ProgressColumn | None = None) -> Progress:
    """A progress bar that shows the number of items, or the column `count`; no bar where there is no terminal."""
    columns = (TextColumn(task), BarColumn(), count or MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
