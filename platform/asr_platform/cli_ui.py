"""`platform ui`: MLflow's pages."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from asr_platform.cli_completion import sweep_names


@click.command()
@click.argument("name", required=False, shell_complete=sweep_names)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="Default: 5000, or the next free one.")
@click.option("--tracking-uri", metavar="URI", help="An MLflow server or database; default: the sweep's.")
@click.pass_obj
def ui(home: Path, name: str | None, host: str, port: int | None, tracking_uri: str | None) -> None:
    """Opens MLflow's pages at the sweep NAME, until Ctrl-C.

    Without NAME, at the latest sweep. The second address that is printed shows its trials, best first; each sweep
    has such a view in the menu "Views" of MLflow's runs. Where the store is a server, the addresses are all.

    \b
    For example:
      platform ui digits-1 --port 5001
    """
    from asr_platform.home import Home
    from asr_platform.pages import open_pages
    from asr_platform.store_address import checked_uri

    uri = checked_uri(tracking_uri, existing=True) if tracking_uri else None
    sys.exit(open_pages(Home.existing(home), name, uri, host, port, click.echo))
