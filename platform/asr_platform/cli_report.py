"""`platform report`: a sweep as one page."""

from __future__ import annotations

from pathlib import Path

import click

from asr_platform.cli_completion import sweep_names
from asr_platform.cli_paths import FILE
from asr_platform.cli_shared import platform


@click.command()
@click.argument("name", required=False, shell_complete=sweep_names)
@click.option("--out", metavar="FILE", type=FILE, help="Default: NAME.html here.")
@click.pass_obj
def report(home: Path, name: str | None, out: Path | None) -> None:
    """Writes a page about a sweep, for a browser or paper.

    Without NAME, about the latest sweep. It says what was searched, who won and how sure that is, which keys matter,
    what the best model gets wrong, and how to get it again. The page is one file, and needs no network.

    \b
    For example:
      platform report digits-1
    """
    from asr_platform.home import Home
    from asr_platform.report import write_report

    path = write_report(Home.existing(home), name, out, platform())
    click.echo(f"{path}: open it in a browser")
