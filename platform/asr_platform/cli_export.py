"""`platform export`: a model for programs without torch."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from asr_platform.cli_paths import FOLDER
from asr_platform.cli_shared import MODEL, MODEL_IS


@click.command(epilog=MODEL_IS)
@click.argument("model", type=MODEL)
@click.option("--out", type=FOLDER, required=True, help="The folder to write; it must not hold anything yet.")
def export(model: Path, out: Path) -> None:
    """Writes MODEL as ONNX graphs, for use without torch.

    The folder has the encoder, the decoder, the tokenizer, what else a program must know, and a script that transcribes
    with numpy, onnxruntime and sentencepiece alone, by greedy search.

    \b
    For example:
      platform export mlruns/models/digits-1 --out digits.onnx
    """
    from trainables.export import SCRIPT, export
    from trainables.recognizer import Recognizer

    export(Recognizer.load(model), out)
    click.echo(f"model:       {out}")
    click.echo(f"transcribe:  python {shlex.quote(str(out / SCRIPT))} FILE.wav")
