"""The commands `platform status`, `logs`, `watch` and `doctor`, which look at sweeps, and `inspect`, at a corpus."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from asr_platform.cli.completion import trial_numbers
from asr_platform.cli.options.parameters import FILE, FOLDER
from asr_platform.cli.options.shared import SWEEP, SWEEP_OR_LATEST, console, json_option, platform
from asr_platform.cli.printing import progress_bar, say


@click.command()
@SWEEP_OR_LATEST
@json_option("A JSON object; without NAME: a list, the latest sweep last.")
@click.pass_obj
def status(home: Path, name: str | None, as_json: bool) -> None:
    """Shows whether sweeps run, are finished, stopped or dead.

    Without NAME, one line for each sweep; with NAME, the sweep's trials, the hours and disk space spent, and the time
    left. The command can be run from another terminal at any time.

    \b
    For example:
      platform status
      platform status digits-1
    """
    from asr_platform.cli.tables.monitoring import print_status, print_statuses
    from asr_platform.monitoring.status import all_statuses
    from asr_platform.monitoring.status import status as status_of
    from asr_platform.storage.home import Home

    place = Home.existing(home)
    if name is not None:
        one = status_of(place, name)
        if as_json:
            click.echo(json.dumps(one.as_tree(), indent=2))
        else:
            print_status(console(), one, platform())
        return
    found = all_statuses(place)
    if as_json:
        click.echo(json.dumps([one.as_tree() for one in found], indent=2))
    else:
        print_statuses(console(), found, platform())


@click.command()
@SWEEP
@click.argument("trial", type=click.IntRange(0), shell_complete=trial_numbers)
@click.option("--follow", "-f", is_flag=True, help="Continue until the training of the trial ends, or Ctrl-C.")
@click.pass_obj
def logs(home: Path, name: str, trial: int, follow: bool) -> None:
    """Prints the logs of a trial's workers, tracebacks included.

    \b
    For example:
      platform logs digits-1 3
      platform logs digits-1 3 --follow
    """
    from asr_platform.monitoring.logs import trial_log
    from asr_platform.storage.home import Home

    for text in trial_log(Home.existing(home), name, trial, follow):
        click.echo(text, nl=False)


@click.command()
@SWEEP_OR_LATEST
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", metavar="N", type=click.IntRange(1, 65535), help="Default: 5000, or the next free one.")
@click.pass_obj
def watch(home: Path, name: str | None, host: str, port: int | None) -> None:
    """Serves Optuna Dashboard for the sweep NAME until Ctrl-C.

    Without NAME, for the latest sweep. The pages follow the sweep as it runs: learning curves, importances, the trials
    with notes that can be written there. The address is printed once it answers.

    \b
    For example:
      platform watch digits-1
    """
    from asr_platform.analysis.leaderboard import latest
    from asr_platform.storage.home import Home
    from asr_platform.storage.ports import free_port

    place = Home.existing(home)
    ledger = latest(place.studies, name)
    free_port(host, port)  # a mistake is told before anything else is said
    click.echo("Optuna Dashboard starts ...")  # its import and MLflow's take seconds
    from asr_platform.monitoring.dashboard import watch as serve

    sys.exit(serve(place, ledger, host, port, click.echo))


UNSOUND = 1


@click.command()
@SWEEP_OR_LATEST
@click.option("--repair", is_flag=True, help="Repair what can be restored, such as a damaged ledger from its copies.")
@click.option("--tracking-uri", metavar="URI", help="The MLflow store to audit; default: the sweep's.")
@json_option("A JSON list of what is found (after --repair: still found).")
@click.pass_obj
def doctor(home: Path, name: str | None, repair: bool, tracking_uri: str | None, as_json: bool) -> None:
    """Audits the sweep NAME; without NAME, only the ledger.

    Compares MLflow and the checkpoints with the ledger. The exit code is 0 if they agree.

    \b
    For example:
      platform doctor digits-1 --repair
    """
    from asr_platform.storage.home import Home
    from asr_platform.storage.store_address import checked_uri
    from asr_platform.study.ledger import Ledger
    from asr_platform.study.ledger_copies import restore
    from asr_platform.tuning.doctor import examine

    def echo(line: str) -> None:
        click.echo(line, err=as_json)

    if repair:
        for line in restore(Home(home.resolve())):
            echo(line)
    place = Home.existing(home)
    if name is None:
        click.echo(json.dumps([]) if as_json else f"the ledger is sound: {', '.join(Ledger.names(place.studies))}")
        return
    findings = examine(place, name, repair, checked_uri(tracking_uri) if tracking_uri else None, echo)
    if as_json:
        click.echo(json.dumps([finding.as_tree() for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(str(finding))
    sound = all(finding.sound for finding in findings)
    if sound and not as_json:
        click.echo(f"sweep {name} is sound")
    sys.exit(0 if sound else UNSOUND)


@click.command("inspect")
@click.argument("corpus", type=FOLDER)
@click.option(
    "--out", "page", type=FILE, metavar="FILE.html", help="Also write a page where utterances are heard and seen."
)
@json_option("A JSON object of all facts.")
def inspect_(corpus: Path, page: Path | None, as_json: bool) -> None:
    """Shows whether a corpus's data are sound.

    CORPUS is a folder that platform prepare made. For each split: hours, lengths, characters, speakers, silence,
    clipping, the longest and shortest utterances; and recordings, texts and speakers that splits have in common.

    \b
    For example:
      platform inspect corpora/mine --out mine.html
    """
    from asr_platform.cli.tables.inspection import print_inspection
    from trainables.data.corpus import Corpus
    from trainables.data.inspection.summary import inspect_corpus

    opened = Corpus.open(corpus)
    with progress_bar("inspecting") as show:
        found = inspect_corpus(opened, show)
    if page:
        from asr_platform.reporting.inspection import write_page

        write_page(opened, found, page)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    shown = console()
    print_inspection(shown, found)
    if page:
        say(shown, f"page: {page}")
