"""The commands that use a trained model: evaluate, tune-decoding, transcribe, export, submit, check."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from asr_platform.cli.options.parameters import FILE, FOLDER, MODEL, PATH_OR_NAME, Finite
from asr_platform.cli.options.settings import options
from asr_platform.cli.options.shared import DATA, OPTIONAL_DATA, Command, json_option
from asr_platform.inference.formats import FORMATS
from search_spaces.rules import RuleSetName
from trainables.bounds import LARGEST_BEAM, LONGEST_PIECE, LONGEST_STUDY, MOST_WORKERS
from trainables.config.tree import Decoding
from trainables.errors import InputError

EXPORTS = ("onnx", "transformers")
MODEL_IS = "MODEL is a model directory, models:/NAME@champion or models:/NAME/3 of MLflow's registry, or runs:/ID."
JOBS = click.option(
    "--jobs", metavar="N", type=click.IntRange(1, MOST_WORKERS),
    help="Processes that transcribe; default: one for each CPU where there is enough audio, 1 on a GPU.",
)  # fmt: skip


def decoding_options(command: Command) -> Command:
    """Adds an option for each field of the configuration's section `decoding`, None if not given, to a command."""
    language_model = click.option("--language-model", type=MODEL, help="Language model for shallow fusion: a MODEL.")
    names = [name for name in Decoding.model_fields if name != "language_model"]
    return options(Decoding, names, defaults=False)(language_model(command))


def decoding_changes(given: dict[str, Any]) -> dict[str, Any]:
    """Changes of the configuration's section `decoding` from the decoding options that were given."""
    changes = {key: value for key, value in given.items() if value is not None}
    if "language_model" in changes:
        changes["language_model"] = str(changes["language_model"])
    return changes


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@DATA
@click.option("--split", required=True, help="Such as dev-clean.")
@decoding_options
@click.option(
    "--compare", is_flag=True, help="Run every decoding method; of a transcript editor, its draft and 1 to 3 steps."
)
@click.option(
    "--robustness", is_flag=True, help="Score audio with noise, in a room, at other speeds, through a telephone."
)
@JOBS
@json_option("A JSON object (--compare, --robustness: a list); rates are fractions.")
def evaluate(
    model: Path, data: Path, split: str, compare: bool, robustness: bool, jobs: int | None, as_json: bool,
    **decoding: Any,
) -> None:  # fmt: skip
    """Scores MODEL on a split: CER and WER, or perplexity.

    CER and WER have 95% bootstrap intervals, and are broken down by speaker, the worst first, and by length. Decoding
    options that are not given are the model's own. --robustness takes 250 utterances of the split at random; the report
    and the model card have its table from then on.

    \b
    For example:
      platform evaluate mlruns/models/digits-1 --data corpora/digits --split dev
    """
    from asr_platform.cli.tables.comparison import methods_table, scores_table
    from asr_platform.cli.tables.errors import print_breakdown, print_conditions
    from asr_platform.inference.evaluate import compare_methods, evaluate_model

    changes = decoding_changes(decoding)
    if jobs and (compare or robustness):
        raise InputError("--compare and --robustness transcribe in one process", "Leave out --jobs.")
    if compare:
        if "method" in changes:
            raise InputError("--compare runs every method", "Leave out --method.")
        if robustness:
            raise InputError("--compare and --robustness are two tables", "Ask for them one after the other.")
        rows = compare_methods(model, data, split, changes)
        if as_json:
            click.echo(json.dumps(rows, indent=2))
        else:
            Console().print(methods_table(rows))
        return
    if robustness:
        from asr_platform.inference.conditions import evaluate_conditions

        found = evaluate_conditions(model, data, split, changes)
        if as_json:
            click.echo(json.dumps([asdict(score) for score in found], indent=2))
        else:
            print_conditions(Console(), found)
        return
    scores = evaluate_model(model, data, split, changes, jobs)
    if as_json:
        click.echo(json.dumps(scores))
        return
    if "cer" in scores:
        Console().print(scores_table(scores, split))
        print_breakdown(Console(), scores)
        return
    for key, value in scores.items():
        click.echo(f"{key:>20}  {value:{',.3f' if isinstance(value, float) else ','}}")


@click.command("tune-decoding", epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@DATA
@click.option("--split", help="Default: the split that MODEL was validated on.")
@click.option("--minutes", metavar="X", type=Finite(0.01, LONGEST_STUDY), default=5.0, show_default=True,
              help="Longest time to search.")  # fmt: skip
@click.option("--language-model", type=MODEL, help="Language model for shallow fusion: a MODEL.")
@json_option("A JSON object; rates are fractions.")
def tune_decoding(
    model: Path, data: Path, split: str | None, minutes: float, language_model: Path | None, as_json: bool
) -> None:
    """Finds the decoding options of MODEL with the lowest CER.

    Method, beam, CTC weight, length penalty and the weight of a language model are searched with Optuna, over encoder
    states that are computed once. The best options become the model's own: all commands use them from then on. If the
    time is short for the split, a random part of it is searched.

    \b
    For example:
      platform tune-decoding MODEL --data corpora/digits --minutes 10
    """
    from asr_platform.cli.tables.comparison import print_tuning
    from asr_platform.inference.tune_decoding import tune_decoding

    found = tune_decoding(model, data, split, minutes, language_model, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps(found.as_tree(), indent=2))
    else:
        print_tuning(Console(), found, model)


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@click.argument("paths", type=PATH_OR_NAME, nargs=-1, required=True, metavar="PATH...")
@click.option("--format", "format", type=click.Choice(list(FORMATS)), help="Default: as --out ends, or txt.")
@click.option(
    "--out", type=PATH_OR_NAME, metavar="PATH", help="A file, or a folder (ends with /) with a file for each recording."
)
@click.option("--piece-seconds", metavar="X", type=Finite(1, LONGEST_PIECE),
              help="Longer recordings are cut at silences; default: as MODEL was trained, 30 at most.")  # fmt: skip
@click.option("--nbest", metavar="N", type=click.IntRange(1, LARGEST_BEAM),
              help="Best hypotheses of each piece, in JSON; for a search with a beam of N at least.")  # fmt: skip
@JOBS
@decoding_options
def transcribe(
    model: Path, paths: tuple[str, ...], format: str | None, out: str | None, piece_seconds: float | None,
    nbest: int | None, jobs: int | None,
    **decoding: Any,
) -> None:  # fmt: skip
    """Prints what is said in recordings of any length.

    PATH is audio of any sample rate (WAV, FLAC, OGG, MP3), a .npy file with features of CMU 11-785, a folder of such
    files, a quoted pattern such as 'calls/**/*.wav', or - for audio on standard input.

    \b
    txt   a line for each recording: its path, a tab, the text
    json  a list: file, duration, text, and phrases with a start and an end
          for every word, in seconds
    srt, vtt  subtitles of one recording; of several with --out FOLDER/

    Times of words come from the model's CTC head. Decoding options that are not given are the model's own. A byte of a
    file name that is not UTF-8 is written as \\udcXX.

    \b
    For example:
      platform transcribe mlruns/models/digits-1 recording.flac
      platform transcribe mlruns/models/digits-1 lecture.mp3 --out lecture.srt
    """
    from asr_platform.inference.transcribe import transcribe_to

    suffix = Path(out or "").suffix[1:]
    chosen = format or (suffix if suffix in FORMATS else "txt")
    changes = decoding_changes(decoding)
    for line in transcribe_to(model, paths, chosen, out, piece_seconds, changes, nbest or 0, jobs):
        click.echo(line)


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@click.option("--out", type=FOLDER, required=True, help="The folder to write; it must not hold anything yet.")
@click.option(
    "--format",
    type=click.Choice(EXPORTS),
    default=EXPORTS[0],
    show_default=True,
    help="transformers: a Speech2Text model, where the architecture allows it.",
)
@decoding_options
def export(model: Path, out: Path, format: str, **decoding: Any) -> None:
    """Writes MODEL for other programs: ONNX or transformers.

    The folder has the encoder, the decoder (of a transcript editor: projector and editor), the tokenizer, what else a
    program must know, and a script that transcribes WAV files with numpy, onnxruntime and sentencepiece alone, with the
    decoding options given (except language models and hotwords).

    With --format transformers it has what Speech2TextForConditionalGeneration.from_pretrained reads; generate then
    searches with a beam where MODEL searches jointly with CTC.

    \b
    For example:
      platform export mlruns/models/digits-1 --out digits.onnx
    """
    from trainables.inference.decoding_options import decoding_with
    from trainables.inference.export import SCRIPT
    from trainables.inference.export.formats import EXPORTERS
    from trainables.inference.recognizer import Recognizer

    recognizer, changes, exporter = Recognizer.load(model), decoding_changes(decoding), EXPORTERS[format]
    exporter.export(recognizer, out, changes)
    if missing := exporter.missing(decoding_with(recognizer.config, changes)):
        click.echo(f"{exporter.searcher} does not have {' and '.join(missing)}, so its texts may differ", err=True)
    click.echo(f"model:       {out}")
    click.echo(f"transcribe:  python {shlex.quote(str(out / SCRIPT))} FILE.wav")


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@DATA
@click.option("--split", required=True, help="Such as test-clean.")
@click.option("--out", type=FILE, required=True, help="The CSV file to write: id,transcription.")
@decoding_options
def submit(model: Path, data: Path, split: str, out: Path, **decoding: Any) -> None:
    """Writes a CSV file of transcripts to submit to CMU 11-785.

    IDs count from 0, in the sorted order of the utterances' file names. Decoding options that are not given are the
    model's own.

    \b
    For example:
      platform submit MODEL --data corpora/hw4 --split test-clean --out test.csv
    """
    from asr_platform.inference.evaluate import write_submission

    count = write_submission(model, data, split, out, decoding_changes(decoding))
    click.echo(f"{out}: {count} transcriptions")


BROKEN = 1  # exit code


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@click.option("--rules", type=click.Choice(get_args(RuleSetName)), required=True, help="hw4p2: those of CMU 11-785.")
@OPTIONAL_DATA
@click.option("--submission", type=FILE, help="Also check the format of this CSV file of transcripts.")
@click.option(
    "--split", default="test-clean", show_default=True, help="The split of --submission, counted with --data."
)
@json_option("A JSON list of the rules.")
def check(
    model: Path, rules: RuleSetName, data: Path | None, submission: Path | None, split: str, as_json: bool
) -> None:
    """Checks whether MODEL keeps the rules of a competition.

    Prints each rule with its verdict, and what the verdict is based on. With --data, the training and validation
    splits of the corpus are examined too. The exit code is 0 if all rules hold, and 1 if one is broken.

    \b
    For example:
      platform check mlruns/models/hw4p2-1 --rules hw4p2 --data corpora/hw4
    """
    from asr_platform.inference import rule_check

    found = rule_check.check(model, rules, data, submission, split)
    broken = [finding.rule for finding in found if not finding.holds]
    if as_json:
        click.echo(json.dumps([finding.as_tree() for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(f"{'holds' if finding.holds else 'BROKEN':<8}{finding.rule:<14}{finding.text}")
            for line in (*finding.violations, f"based on: {finding.evidence}"):
                click.echo(f"{'':22}{line}")
        click.echo(f"{rules}: " + (f"broken: {', '.join(broken)}" if broken else "all rules hold"))
    sys.exit(BROKEN if broken else 0)
