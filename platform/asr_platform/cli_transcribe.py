"""`platform transcribe`: the text of recordings, as lines, JSON or subtitles."""

from __future__ import annotations

from pathlib import Path

import click

from asr_platform.cli_numbers import PIECE_SECONDS
from asr_platform.cli_paths import PATH_OR_NAME
from asr_platform.cli_shared import MODEL, MODEL_IS

FORMATS = ["txt", "json", "srt", "vtt"]


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@click.argument("paths", type=PATH_OR_NAME, nargs=-1, required=True, metavar="PATH...")
@click.option("--format", "format", type=click.Choice(FORMATS), help="Default: as --out ends, or txt.")
@click.option(
    "--out", type=PATH_OR_NAME, metavar="PATH", help="A file, or a folder (ends with /) with a file for each recording."
)
@click.option("--piece-seconds", metavar="X", type=PIECE_SECONDS,
              help="Longer recordings are cut at silences; default: as MODEL was trained, 30 at most.")  # fmt: skip
def transcribe(
    model: Path, paths: tuple[str, ...], format: str | None, out: str | None, piece_seconds: float | None
) -> None:
    """Prints what is said in recordings of any length.

    PATH is audio of any sample rate (WAV, FLAC, OGG, MP3), a .npy file with features of the course, a folder of these,
    a quoted pattern such as 'calls/**/*.wav', or - for audio on standard input.

    \b
    txt   a line for each recording: its path, a tab, the text
    json  a list: file, duration, text, and phrases with a start and an end
          for every word, in seconds
    srt, vtt  subtitles of one recording; of several with --out FOLDER/

    Times of words come from the model's CTC head. A byte of a file name that is not UTF-8 is written as \\udcXX.

    \b
    For example:
      platform transcribe mlruns/models/digits-1 recording.flac
      platform transcribe mlruns/models/digits-1 lecture.mp3 --out lecture.srt
    """
    from asr_platform.transcription import transcribe_to

    suffix = Path(out or "").suffix[1:]
    chosen = format or (suffix if suffix in FORMATS else "txt")
    for line in transcribe_to(model, paths, chosen, out, piece_seconds):
        click.echo(line)
