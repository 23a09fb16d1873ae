"""`platform evaluate`: scores of a model, by any of its searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from asr_platform.cli_numbers import BEAM, CANDIDATES, FROM_1, MORE_THAN_0, NOT_NEGATIVE, SHARE
from asr_platform.cli_paths import FOLDER
from asr_platform.cli_shared import MODEL, MODEL_IS, options
from trainables.errors import InputError

METHODS = ["greedy", "beam", "ctc", "ctc_beam", "joint"]
# How to search for text, by the names of the configuration's section `decoding`.
SEARCH = [
    click.option("--method", type=click.Choice(METHODS), help="The search; joint: attention and CTC."),
    click.option("--beam", metavar="N", type=BEAM, help="Hypotheses kept for each utterance."),
    click.option("--temperature", metavar="X", type=MORE_THAN_0, help="Divides the logits."),
    click.option("--repeat-penalty", metavar="X", type=FROM_1, help="On tokens already said; 1: none."),
    click.option("--length-penalty", metavar="X", type=NOT_NEGATIVE, help="Ranks by score / length ^ X."),
    click.option("--ctc-weight", metavar="X", type=SHARE, help="CTC's share in joint."),
    click.option("--candidates", metavar="N", type=CANDIDATES, help="Tokens that CTC scores in joint."),
    click.option(
        "--language-model", type=MODEL, help="A language model, named as MODEL is, for beam, greedy and joint."
    ),
    click.option("--lm-weight", metavar="X", type=NOT_NEGATIVE, help="The language model's weight, such as 0.3."),
]


def search_changes(given: dict[str, Any]) -> dict[str, Any]:
    """Those of them that were given, as changes of that section."""
    changes = {key: value for key, value in given.items() if value is not None}
    if "language_model" in changes:
        changes["language_model"] = str(changes["language_model"])
    return changes


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@click.option("--data", type=FOLDER, required=True, help="The corpus, as `platform prepare` made it.")
@click.option("--split", required=True, help="Such as dev-clean.")
@options(SEARCH)
@click.option("--compare", is_flag=True, help="Runs every method, with and without a language model.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object (--compare: a list); rates are fractions.")
def evaluate(model: Path, data: Path, split: str, compare: bool, as_json: bool, **search: Any) -> None:
    """Scores MODEL on a split: CER and WER, or perplexity.

    What is not said of the search is as the model's configuration says.

    \b
    For example:
      platform evaluate mlruns/models/digits-1 --data corpora/digits --split dev
    """
    from asr_platform.terminal import comparison_table
    from asr_platform.using import compare_methods, evaluate_model

    changes = search_changes(search)
    if compare:
        if "method" in changes:
            raise InputError("--compare runs every method", "Leave out --method.")
        rows = compare_methods(model, data, split, changes, METHODS)
        if as_json:
            click.echo(json.dumps(rows, indent=2))
        else:
            Console().print(comparison_table(rows))
        return
    scores = evaluate_model(model, data, split, changes)
    if as_json:
        click.echo(json.dumps(scores))
        return
    for key, value in scores.items():
        kind = ".2%" if key in ("cer", "wer") else ",.3f" if isinstance(value, float) else ","
        click.echo(f"{key:>20}  {value:{kind}}")
