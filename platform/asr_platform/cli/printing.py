"""Printing to terminals and files, and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from rich.console import Console
from rich.text import Text

from trainables.output import LastingOutput

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


def lasting(console: Console) -> Console:
    """Returns `console`, whose output is dropped from now on once its terminal or pipe is closed."""
    console.file = cast(IO[str], LastingOutput(console.file))
    return console


def near(path: Path) -> Path:
    """`path` relative to the working directory if it lies below that; else `path` itself."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def say(console: Console, text: str) -> None:
    """Prints a line without markup and without breaking it, so that paths and commands can be copied."""
    console.print(Text(text), soft_wrap=True)


@contextmanager
def progress_bar(task: str, count: ProgressColumn | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar within the block if standard output is a terminal.

    Args:
        count: column that shows the amount that is done; default: the number of items.

    Yields:
        A function that takes the amount that is done, and the total amount (0 if unknown).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    columns = (TextColumn(task), BarColumn(), count or MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        number = bar.add_task("", total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total or None)
