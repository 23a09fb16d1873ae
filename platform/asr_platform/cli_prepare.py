"""The command `platform prepare` and its sources."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from asr_platform import cli_numbers
from asr_platform.cli_paths import FILE, FOLDER

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from trainables.data.utterance import Utterance

Command = TypeVar("Command", bound=Callable[..., Any])
SEED = click.option(
    "--seed", metavar="N", type=cli_numbers.SEED, default=0, show_default=True, help="Of all that is random."
)


def output_options(command: Command) -> Command:
    """What every source shares: where to, which features, how many processes."""
    for option in (
        click.option("--jobs", metavar="N", type=cli_numbers.WORKERS, help="Worker processes; default: one a CPU."),
        click.option("--features", "recipe", type=click.Choice(["hw4", "kaldi"]), default="hw4", show_default=True,
                     help="hw4: the course's log-mel, 8 ms; kaldi: log-mel of kaldi-native-fbank, 10 ms."),
        click.option("--json", "as_json", is_flag=True, help="A JSON object of what was made."),
        click.option("--out", type=FOLDER, required=True, help="The folder to make."),
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
    """The course's ready-made features and texts.

    \b
    ROOT holds train-clean-100, dev-clean and test-clean,
    and each of them the folders fbank and text with .npy files.

    \b
    For example:
      platform prepare hw4 hw4_data/hw4p2_data --out corpora/hw4
    """
    from trainables.data.importers.hw4 import hw4_utterances

    write_corpus(hw4_utterances(root), "hw4", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option(
    "--download",
    "downloads",
    metavar="SPLIT",
    multiple=True,
    help="Fetch this split into ROOT first, such as dev-clean. May be repeated; goes on where it stopped.",
)
@click.option("--base-url", help="Where the archives are; default: the corpus's public address.")
@output_options
def librispeech(root: Path, downloads: Sequence[str], base_url: str | None, **output: Any) -> None:
    """LibriSpeech's folders, downloaded if need be.

    ROOT holds {split}/{speaker}/{chapter}/ with FLAC files beside their .trans.txt.

    \b
    For example:
      platform prepare librispeech ROOT --download dev-clean --out corpora/dev
    """
    from rich.progress import DownloadColumn

    from asr_platform.terminal import progress_bar
    from trainables.data.importers.librispeech import librispeech_utterances
    from trainables.data.importers.openslr import BASE_URL, download

    for split in downloads:
        with progress_bar(console(), f"fetching {split}", DownloadColumn()) as bar:
            show = partial(_show, bar, bar.add_task("", total=None))
            download(split, root, base_url or BASE_URL, show)
    write_corpus(librispeech_utterances(root), "librispeech", **output)


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

    write_corpus(manifest_utterances(file), "manifest", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--held-out-speakers", metavar="A,B", default="", help="These speakers make up the test split, alone.")
@click.option(
    "--train", metavar="N", type=cli_numbers.UTTERANCES, default=3000, show_default=True, help="Utterances to train on."
)
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
@click.option(
    "--train", metavar="N", type=cli_numbers.UTTERANCES, default=1500, show_default=True, help="Utterances to train on."
)
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
    utterances: Sequence[Utterance], source: str, out: Path, recipe: str, jobs: int | None, as_json: bool
) -> None:
    """Prepares the utterances under a progress bar and prints the closing table."""
    from asr_platform.terminal import corpus_table, progress_bar, say
    from trainables.data.features import Recipe
    from trainables.data.prepare import prepare as write

    with progress_bar(console(), f"preparing {source}") as bar:
        show = partial(_show, bar, bar.add_task("", total=len(utterances)))
        try:
            corpus = write(utterances, Recipe.model_validate({"name": recipe}), out, source, jobs, show)
        except OSError as error:
            error.filename = error.filename or str(out)  # a full disk does not say where it is
            raise
    if as_json:
        splits = {name: split.model_dump() for name, split in corpus.splits.items()}
        click.echo(json.dumps({"corpus": str(out), "hash": corpus.hash, "splits": splits}, indent=2))
        return
    console().print(corpus_table(corpus))
    say(console(), f"corpus: {out}")


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total or None)


def console() -> Console:
    return Console()
