"""The command `platform prepare`, with one subcommand for each source of speech."""

from __future__ import annotations

import json
import signal
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from asr_platform.cli.options import Command, json_option
from asr_platform.cli.parameters import FILE, FOLDER
from asr_platform.cli.printing import progress_bar, say
from trainables.bounds import LARGEST_SEED, MOST_UTTERANCES, MOST_WORKERS

if TYPE_CHECKING:
    from collections import Counter
    from types import FrameType

    from trainables.data.corpus import Corpus
    from trainables.data.mistakes import Mistakes
    from trainables.data.utterance import Utterance

SHOWN_CHARACTERS = 20
SEED = click.option(
    "--seed", metavar="N", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True, help="Random seed."
)


def train_option(default: int) -> Callable[[Command], Command]:
    """The option `--train` of sources that generate utterances."""
    return click.option(
        "--train", metavar="N", type=click.IntRange(1, MOST_UTTERANCES), default=default, show_default=True,
        help="Number of training utterances.",
    )  # fmt: skip


def skippable_mistakes(context: click.Context, parameter: click.Parameter, limit: int) -> Mistakes:
    """Callback of `--skip-bad`: a collector of mistakes that lets up to `limit` utterances be left out."""
    from trainables.data.mistakes import Mistakes

    return Mistakes(skippable=limit)


def output_options(command: Command) -> Command:
    """Adds the options that all sources share, such as `--out`, `--features` and `--jobs`, to a command."""
    for option in (
        click.option("--skip-bad", "bad", metavar="N", type=click.IntRange(0, MOST_UTTERANCES), default=0,
                     callback=skippable_mistakes,
                     help="Leave out up to N utterances that cannot be used, and list them; default: none."),
        click.option("--jobs", metavar="N", type=click.IntRange(1, MOST_WORKERS),
                     help="Worker processes; default: one for each CPU."),
        click.option("--features", "recipe", type=click.Choice(["hw4", "kaldi"]), default="hw4", show_default=True,
                     help="hw4: log-mel of CMU 11-785, 8 ms; kaldi: log-mel of kaldi-native-fbank, 10 ms."),
        json_option("A JSON object of the corpus that was made."),
        click.option("--out", type=FOLDER, required=True, help="The folder to write."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def prepare() -> None:
    """Turns speech into a corpus: features, texts and statistics.

    \b
    For example:
      platform prepare manifest speech.jsonl --out corpora/mine
    """


@prepare.command()
@click.argument("root", type=FOLDER)
@output_options
def hw4(root: Path, **output: Any) -> None:
    """Features and texts of homework 4 of CMU 11-785.

    \b
    ROOT holds train-clean-100, dev-clean and test-clean,
    and each of them the folders fbank and text with .npy files.

    \b
    For example:
      platform prepare hw4 hw4_data/hw4p2_data --out corpora/hw4
    """
    from trainables.data.importers.hw4 import hw4_utterances

    write_corpus(hw4_utterances(root, output["bad"]), "hw4", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--download", "downloads", metavar="SPLIT", multiple=True,
              help="Fetch this split into ROOT first, such as dev-clean. May be repeated; continues where it "
              "stopped.")  # fmt: skip
@click.option("--base-url", help="Address of the archives; default: the corpus's public address.")
@output_options
def librispeech(root: Path, downloads: Sequence[str], base_url: str | None, **output: Any) -> None:
    """LibriSpeech's folders, downloaded if need be.

    ROOT holds {split}/{speaker}/{chapter}/ with FLAC files beside their .trans.txt.

    \b
    For example:
      platform prepare librispeech ROOT --download dev-clean --out corpora/dev
    """
    from rich.progress import DownloadColumn

    from trainables.data.download import BASE_URL, download
    from trainables.data.importers.librispeech import librispeech_utterances

    for split in downloads:
        with ended_by_signals(), progress_bar(f"fetching {split}", DownloadColumn()) as show:
            download(split, root, base_url or BASE_URL, show)
    write_corpus(librispeech_utterances(root, bad=output["bad"]), "librispeech", **output)


@prepare.command()
@click.argument("file", type=FILE)
@output_options
def manifest(file: Path, **output: Any) -> None:
    """Audio files listed in a JSONL manifest.

    Each line is an utterance: audio_filepath and text; optionally offset and duration (seconds), and split.

    \b
    For example:
      platform prepare manifest speech.jsonl --out corpora/mine
    """
    from trainables.data.importers.manifest import manifest_utterances

    write_corpus(manifest_utterances(file, output["bad"]), "manifest", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--held-out-speakers", metavar="A,B", default="", help="These speakers make up the test split, alone.")
@train_option(3000)
@SEED
@output_options
def fsdd(root: Path, held_out_speakers: str, train: int, seed: int, **output: Any) -> None:
    """Connected digits joined from the Free Spoken Digit Dataset.

    The recordings are real, the joins synthetic.

    \b
    For example:
      platform prepare fsdd free-spoken-digit-dataset --out corpora/digits
    """
    from trainables.data.importers.fsdd import fsdd_utterances

    names = [name.strip() for name in held_out_speakers.split(",") if name.strip()]
    write_corpus(fsdd_utterances(root, names, train=train, seed=seed), "fsdd", **output)


@prepare.command()
@train_option(1500)
@SEED
@output_options
def synthetic(train: int, seed: int, **output: Any) -> None:
    """Digits and commands spoken by espeak-ng.

    The test split has voices of its own.

    \b
    For example:
      platform prepare synthetic --out corpora/synthetic
    """
    from trainables.data.importers.synthetic import synthetic_utterances

    write_corpus(synthetic_utterances(train=train, seed=seed), "synthetic", **output)


def write_corpus(
    utterances: Sequence[Utterance], source: str, out: Path, recipe: str, jobs: int | None, as_json: bool, bad: Mistakes
) -> None:
    """Writes a corpus of the utterances under a progress bar, and prints a summary of it."""
    from trainables.data.features import FeatureRecipe
    from trainables.data.prepare import prepare as write

    with ended_by_signals(), progress_bar(f"preparing {source}") as show:
        try:
            corpus = write(utterances, FeatureRecipe.model_validate({"name": recipe}), out, source, jobs, show, bad)
        except OSError as error:
            error.filename = error.filename or str(out)  # a full disk does not say where it is
            raise
    (print_json if as_json else print_tables)(corpus, bad)


def print_json(corpus: Corpus, bad: Mistakes) -> None:
    """Prints the corpus that was made as JSON."""
    from trainables.data.text.transcripts import unseen_characters

    tree = {
        "corpus": str(corpus.path),
        "hash": corpus.hash,
        "splits": {name: split.model_dump() for name, split in corpus.splits.items()},
        "train_on": corpus.training_splits,
        "validate_on": corpus.validation_splits,
        "unseen_characters": {name: dict(counts) for name, counts in unseen_characters(corpus).items()},
        "skipped": bad.problems,
    }
    click.echo(json.dumps(tree, indent=2))


def print_tables(corpus: Corpus, bad: Mistakes) -> None:
    """Prints the splits, the characters without a training example, and the utterances that were left out."""
    from trainables.data.corpus_writer import SKIPPED_FILE
    from trainables.data.mistakes import SHOWN
    from trainables.data.text.transcripts import unseen_characters

    console = Console()
    console.print(corpus_table(corpus))
    unseen = unseen_characters(corpus)
    if unseen:
        say(console, "Characters that no training transcript has. Each is an error; if one means the same as another")
        say(console, "that training has, as two kinds of apostrophe do, change the texts and prepare them again.")
        console.print(unseen_table(unseen))
    for name, splits, prefixes in (
        ("train on", corpus.training_splits, "train"),
        ("validate on", corpus.validation_splits, "dev or val"),
    ):
        say(console, f"{name}: {', '.join(splits) or f'none (no name of a split begins with {prefixes})'}")
    for problem in bad.problems[:SHOWN]:
        say(console, f"left out: {problem}")
    if bad.problems:
        say(console, f"left out: {len(bad.problems)} in all, listed in {corpus.path / SKIPPED_FILE}")
    say(console, f"corpus: {corpus.path}")


def corpus_table(corpus: Corpus) -> Table:
    """A table of a corpus, one row for each split."""
    table = Table("split", box=SIMPLE)
    for heading in ("utterances", "hours", "characters", "mean seconds"):
        table.add_column(heading, justify="right")
    for name, split in corpus.splits.items():
        table.add_row(
            name,
            f"{split.utterances:,}",
            f"{split.seconds / 3600:.2f}",
            f"{split.characters:,}",
            f"{split.seconds / max(1, split.utterances):.2f}",
        )
    return table


def unseen_table(unseen: dict[str, Counter[str]]) -> Table:
    """Table of characters without a training example: split, name, and number of utterances that have each."""
    table = Table("split", "character", "code point", "name", box=SIMPLE)
    table.add_column("utterances", justify="right")
    for split, counts in unseen.items():
        for character, utterances in counts.most_common(SHOWN_CHARACTERS):
            shown = character if character.isprintable() and not unicodedata.combining(character) else ""
            name = unicodedata.name(character, "")
            table.add_row(split, shown, f"U+{ord(character):04X}", name, f"{utterances:,}")
        if len(counts) > SHOWN_CHARACTERS:
            table.add_row(split, "", "", f"and {len(counts) - SHOWN_CHARACTERS} more", "")
    return table


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise SystemExit, so that partial output is removed as after Ctrl-C.

    A SIGHUP that is ignored, as under nohup, stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
