"""`platform compare`, `confirm` and `importances`: what is known, and how well."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--data", type=FOLDER, help="The corpus, as `platform prepare` made it.")
@click.option("--split", help="Such as test-clean: both models transcribe it.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object; rates are fractions.")
@click.pass_obj
def compare(home: Path, a: str, b: str, data: Path | None, split: str | None, as_json: bool) -> None:
    """Says whether two models can be told apart.

    A and B are model directories, or trials of a sweep: NAME:TRIAL, or NAME for its best. Without --data and --split,
    they are compared by the errors of their validations.
    """
    from asr_platform.compare import compare
    from asr_platform.terminal_statistics import print_comparison

    found = compare(home, a, b, data, split)
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2, ensure_ascii=False))
    else:
        print_comparison(Console(), found)
