"""The command `platform prepare`, with one subcommand for each source of speech."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr_platform.cli.options.parameters import FILE, FILE_OR_FOLDER, FOLDER, Finite, Keys, Speakers
from asr_platform.cli.options.shared import Command, json_option
from asr_platform.cli.printing import progress_bar
from asr_platform.cli.tables.corpus import facts, print_tables
from trainables.bounds import LARGEST_SEED, MOST_UTTERANCES, MOST_WORKERS
from trainables.errors import InputError

if TYPE_CHECKING:
    from types import FrameType

    from trainables.data.corpus import Corpus
    from trainables.data.mistakes import Mistakes
    from trainables.data.utterance import Utterance

    Made = tuple[Corpus, Mistakes]  # what commands return, for the Python interface: the corpus, and what was left out

MOST_DEV = 0.3  # share of the training utterances
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
        click.option("--dev-seed", metavar="N", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True,
                     help="Random seed with which dev's speakers or recordings are drawn."),
        click.option("--dev-speakers", metavar="N|A,B", type=Speakers(),
                     help="Hold all speech of N speakers, or of those named, out of training: it is the dev split."),
        click.option("--dev-share", metavar="X", type=Finite(0, MOST_DEV), show_default="0.05",
                     help="Where there is no dev split: the share of the training data that becomes one, by whole "
                     "speakers where they are known; 0: none."),
        click.option("--numbers", metavar="LANG", default="keep", show_default=True,
                     help="Write numbers as words of this language, such as en (package num2words)."),
        click.option("--punctuation", type=click.Choice(["keep", "remove"]), default="keep", show_default=True,
                     help="remove: leaves apostrophes in words, and % and the like, which are spoken."),
        click.option("--text", type=click.Choice(["keep", "upper", "lower"]), default="keep", show_default=True,
                     help="Case of the texts, here and of references in evaluations."),
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
def hw4(root: Path, **output: Any) -> Made:
    """Features and texts of homework 4 of CMU 11-785.

    \b
    ROOT holds train-clean-100, dev-clean and test-clean,
    and each of them the folders fbank and text with .npy files.

    \b
    For example:
      platform prepare hw4 hw4_data/hw4p2_data --out corpora/hw4
    """
    from trainables.data.importers.hw4 import hw4_utterances

    return write_corpus(hw4_utterances(root, output["bad"]), "hw4", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--download", "downloads", metavar="SPLIT", multiple=True,
              help="Fetch this split into ROOT first, such as dev-clean. May be repeated; continues where it "
              "stopped.")  # fmt: skip
@click.option("--base-url", help="Address of the archives; default: the corpus's public address.")
@output_options
def librispeech(root: Path, downloads: Sequence[str], base_url: str | None, **output: Any) -> Made:
    """LibriSpeech's folders, downloaded if need be.

    ROOT holds {split}/{speaker}/{chapter}/ with FLAC files beside their .trans.txt.

    \b
    For example:
      platform prepare librispeech ROOT --download dev-clean --out corpora/dev
    """
    from rich.progress import DownloadColumn

    from trainables.data.importers.librispeech import librispeech_utterances
    from trainables.data.importers.tools.download import BASE_URL, download

    for split in downloads:
        with ended_by_signals(), progress_bar(f"fetching {split}", DownloadColumn()) as show:
            download(split, root, base_url or BASE_URL, show)
    return write_corpus(librispeech_utterances(root, bad=output["bad"]), "librispeech", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--speaker", metavar="REGEX",
              help="The speaker is the first group of this regular expression in the path; default: the first "
              "folder in the split.")  # fmt: skip
@output_options
def folder(root: Path, speaker: str | None, **output: Any) -> Made:
    """Recordings with their texts beside them: a.wav and a.txt.

    Folders named train, dev, val, test or eval (or beginning so) in ROOT are splits.

    \b
    For example:
      platform prepare folder recordings --out corpora/mine
    """
    from trainables.data.importers.folder import folder_utterances

    return write_corpus(folder_utterances(root, output["bad"], speaker), "folder", **output)


@prepare.command()
@click.argument("file", type=FILE)
@click.option("--keys", metavar="OURS=THEIRS,OURS=THEIRS", type=Keys(), default={},
              help="Other names of the keys, such as audio_filepath=path,text=sentence.")  # fmt: skip
@output_options
def manifest(file: Path, keys: dict[str, str], **output: Any) -> Made:
    """Audio files listed in a JSONL manifest.

    Each line is an utterance: audio_filepath and text; optionally offset and duration (seconds), split, speaker, id.

    \b
    For example:
      platform prepare manifest speech.jsonl --out corpora/mine
    """
    from trainables.data.importers.manifest import manifest_utterances

    return write_corpus(manifest_utterances(file, output["bad"], keys), "manifest", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@output_options
def kaldi(root: Path, **output: Any) -> Made:
    """Kaldi data folders: wav.scp, text, segments, utt2spk.

    ROOT is one, or holds one for each split, such as data/train and data/dev. Commands in wav.scp are not run.

    \b
    For example:
      platform prepare kaldi data --out corpora/mine
    """
    from trainables.data.importers.kaldi import kaldi_utterances

    return write_corpus(kaldi_utterances(root, output["bad"]), "kaldi", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--keys", metavar="OURS=THEIRS,OURS=THEIRS", type=Keys(), default={},
              help="Names of the columns audio, text, speaker and id, such as text=sentence.")  # fmt: skip
@click.option("--config", metavar="NAME", help="One of several data sets in ROOT, such as a language.")
@output_options
def hugging_face(root: Path, keys: dict[str, str], config: str | None, **output: Any) -> Made:
    """A data set of Hugging Face on disk (package datasets).

    ROOT is a folder that save_to_disk wrote, or a downloaded one with Parquet files.

    \b
    For example:
      platform prepare hugging-face minds14 --keys text=said --out corpora/minds
    """
    from trainables.data.importers.hugging_face import hugging_face_utterances

    return write_corpus(hugging_face_utterances(root, output["bad"], keys, config), "hugging_face", **output)


@prepare.command()
@click.argument("path", type=FILE_OR_FOLDER)
@output_options
def lhotse(path: Path, **output: Any) -> Made:
    """Lhotse's cuts, or recordings and supervisions.

    PATH is a file such as cuts_train.jsonl.gz, or a folder of such files, or of recordings and supervisions. Each
    supervision is an utterance; its split is named in the file's name. It needs the package lhotse.

    \b
    For example:
      platform prepare lhotse data/manifests --out corpora/mine
    """
    from trainables.data.importers.lhotse import lhotse_utterances

    return write_corpus(lhotse_utterances(path, output["bad"]), "lhotse", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--validated", is_flag=True,
              help="Train on validated.tsv, without the speakers of dev and test, instead of train.tsv.")  # fmt: skip
@output_options
def common_voice(root: Path, validated: bool, **output: Any) -> Made:
    """Tables and clips of Mozilla Common Voice.

    ROOT is a language's folder: train.tsv, dev.tsv, test.tsv, validated.tsv and clips/.

    \b
    For example:
      platform prepare common-voice cv-corpus/cy --out corpora/cy
    """
    from trainables.data.importers.common_voice import common_voice_utterances

    return write_corpus(common_voice_utterances(root, output["bad"], validated), "common_voice", **output)


@prepare.command()
@click.argument("root", type=FOLDER)
@click.option("--held-out-speakers", metavar="A,B", default="", help="These speakers make up the test split, alone.")
@train_option(3000)
@SEED
@output_options
def fsdd(root: Path, held_out_speakers: str, train: int, seed: int, **output: Any) -> Made:
    """Connected digits joined from the Free Spoken Digit Dataset.

    The recordings are real, the joins synthetic.

    \b
    For example:
      platform prepare fsdd free-spoken-digit-dataset --out corpora/digits
    """
    from trainables.data.importers.fsdd import fsdd_utterances

    names = [name.strip() for name in held_out_speakers.split(",") if name.strip()]
    dev_speakers, dev_seed = output.pop("dev_speakers"), output["dev_seed"]
    utterances = fsdd_utterances(root, names, train, seed=seed, dev_speakers=dev_speakers, dev_seed=dev_seed)
    return write_corpus(utterances, "fsdd", dev_speakers=None, **output)


@prepare.command()
@train_option(1500)
@SEED
@output_options
def synthetic(train: int, seed: int, **output: Any) -> Made:
    """Digits and commands spoken by espeak-ng.

    The test split has voices of its own.

    \b
    For example:
      platform prepare synthetic --out corpora/synthetic
    """
    from trainables.data.importers.synthetic import synthetic_utterances

    return write_corpus(synthetic_utterances(train=train, seed=seed), "synthetic", **output)


def write_corpus(
    utterances: Sequence[Utterance],
    source: str,
    out: Path,
    recipe: str,
    jobs: int | None,
    as_json: bool,
    bad: Mistakes,
    dev_share: float | None,
    dev_speakers: int | tuple[str, ...] | None,
    dev_seed: int,
    **text: str,
) -> Made:
    """Writes a corpus of the utterances under a progress bar, prints a summary of it.

    Args:
        text: the options `text`, `punctuation` and `numbers`.
    """
    from trainables.data.features import FeatureRecipe
    from trainables.data.prepare import prepare as write
    from trainables.data.splitting import DEV_SHARE, DevRequest
    from trainables.data.text.normalization import TextRule

    if dev_share is not None and dev_speakers is not None:
        raise InputError("--dev-share and --dev-speakers: both say what dev is", "Give one of the two.")
    dev = DevRequest(DEV_SHARE if dev_share is None else dev_share, dev_speakers, dev_seed)
    rule = TextRule.model_validate({"case": text.pop("text"), **text})
    features = FeatureRecipe.model_validate({"name": recipe})
    with ended_by_signals(), progress_bar(f"preparing {source}") as show:
        try:
            corpus = write(utterances, features, out, source, jobs, show, bad, rule, dev)
        except OSError as error:
            error.filename = error.filename or str(out)  # a full disk does not say where it is
            raise
    if as_json:
        click.echo(json.dumps(facts(corpus, bad), indent=2))
    else:
        print_tables(corpus, bad)
    return corpus, bad


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise SystemExit, so that partial output is removed as after Ctrl-C.

    A SIGHUP that is ignored, as under nohup, stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> Made:
        raise SystemExit(128 + number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
