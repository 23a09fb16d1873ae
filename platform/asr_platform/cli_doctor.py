"""`platform doctor`: whether a sweep's records agree, and their repair."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from asr_platform.cli_completion import sweep_names

UNSOUND = 1


@click.command()
@click.argument("name", required=False, shell_complete=sweep_names)
@click.option(
    "--repair", is_flag=True, help="Mends what can be made again, a damaged ledger from sweeps' copies of it."
)
@click.option("--tracking-uri", metavar="URI", help="The MLflow store to audit; default: the sweep's.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list of what is found (after --repair: still found).")
@click.pass_obj
def doctor(home: Path, name: str | None, repair: bool, tracking_uri: str | None, as_json: bool) -> None:
    """Audits the sweep NAME, or the ledger alone.

    Ledger, leaderboard, MLflow and checkpoints must tell the same story. Ends with exit code 0 where they do.

    \b
    For example:
      platform doctor digits-1 --repair
    """
    from asr_platform.doctor import Doctor
    from asr_platform.home import Home
    from asr_platform.ledger_copies import keep_copy, restore
    from asr_platform.store_address import checked_uri
    from asr_platform.study import Ledger

    if repair:
        for line in restore(Home(home.resolve())):
            click.echo(line, err=as_json)
    place = Home.existing(home)
    if name is None:
        click.echo(json.dumps([]) if as_json else f"the ledger is sound: {', '.join(Ledger.names(place.studies))}")
        return
    opened = Doctor(place, name, checked_uri(tracking_uri) if tracking_uri else None)
    with place.lock(name, "doctor"):
        findings = opened.audit()
        if repair:
            for line in opened.repair(findings):
                click.echo(line, err=as_json)
            keep_copy(place, name)
            findings = opened.audit()
    if as_json:
        rows = [{"kind": one.kind, "trial": one.trial, "finding": str(one), "sound": one.sound} for one in findings]
        click.echo(json.dumps(rows, indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
    sound = all(finding.sound for finding in findings)
    if sound and not as_json:
        click.echo(f"sweep {name} is sound")
    sys.exit(0 if sound else UNSOUND)
