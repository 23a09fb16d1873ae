"""Corpora in Python: the commands `platform prepare` and `platform inspect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from asr_platform.cli.main import cli
from asr_platform.cli.tables.corpus import facts
from asr_platform.notebook.inputs import Place
from trainables.data.corpus import Corpus
from trainables.data.inspection.summary import inspect_corpus
from trainables.errors import InputError


def prepare(source: str, path: Place | None = None, *, out: Place, **options: Any) -> dict[str, Any]:
    """Turns speech into a corpus, as `platform prepare SOURCE PATH --out DIR` does, and prints what that prints.

    Args:
        source: a command of `platform prepare`, such as "folder" or "hugging-face".
        path: the source's files; None for a source that has none ("synthetic").
        out: the folder to write.
        options: options of the command by name, such as text="lower", dev_speakers=["84"], keys={"text": "said"}.

    Returns:
        What the command prints with `--json`.

    Raises:
        InputError: there is no such source or option, or the files cannot be used.
    """
    given = [word for name, value in {"out": out, **options}.items() for word in _option(name, value)]
    words = [source, *given, *(["--", str(path)] if path is not None else [])]
    try:
        made = cli.main(["prepare", *words], prog_name="platform", standalone_mode=False)
    except click.ClickException as error:
        raise InputError(error.format_message(), f"What there is: platform prepare {source} --help.") from None
    return facts(*made)


def inspect(corpus: Place, *, out: Place | None = None) -> dict[str, Any]:
    """Facts about a corpus, as `platform inspect --json` prints them.

    Args:
        out: an HTML file to write, in which utterances are heard and seen.

    Raises:
        InputError: there is no corpus, a split is damaged, or the file cannot be written.
    """
    opened = Corpus.open(Path(corpus))
    found = inspect_corpus(opened)
    if out is not None:
        from asr_platform.reporting.inspection import write_page

        write_page(opened, found, Path(out))
    return asdict(found)


def _option(name: str, value: Any) -> list[str]:
    """Words of the command line for an option; none for None and False."""
    flag = f"--{name.replace('_', '-')}"
    match value:
        case None | False:
            return []
        case True:
            return [flag]
        case Mapping():
            return [f"{flag}={','.join(f'{key}={each}' for key, each in value.items())}"]
        case Sequence() if not isinstance(value, str):
            if name == "download":  # the one option that is repeated
                return [f"{flag}={each}" for each in value]
            return [f"{flag}={','.join(map(str, value))},"]  # with a comma at the end, one speaker is a name too
        case _:
            return [f"{flag}={value}"]
