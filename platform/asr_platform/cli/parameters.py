"""Types of numbers and paths on the command line, with the bounds that configurations and spaces have."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

from asr_platform.storage.home import local_path
from trainables.bounds import (
    LARGEST_BEAM,
    LARGEST_SEED,
    LONGEST_PIECE,
    MOST_EPOCHS,
    MOST_SEEDS,
    MOST_TOKENS,
    MOST_TRIALS,
    MOST_UTTERANCES,
    MOST_WORKERS,
)


class Finite(click.FloatRange):
    """A number within bounds; `nan` is refused, which lies within all of them, and so is `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


NOT_NEGATIVE, MORE_THAN_0, FROM_1 = Finite(0), Finite(0, min_open=True), Finite(1)
SHARE = Finite(0, 1)
GPUS = Finite(0, MOST_WORKERS)
PIECE_SECONDS = Finite(1, LONGEST_PIECE)

TRIALS = click.IntRange(1, MOST_TRIALS)
EPOCHS = click.IntRange(1, MOST_EPOCHS)
WORKERS = click.IntRange(1, MOST_WORKERS)
UTTERANCES, BAD = click.IntRange(1, MOST_UTTERANCES), click.IntRange(0, MOST_UTTERANCES)
SEEDS = click.IntRange(1, MOST_SEEDS)
SEED = click.IntRange(0, LARGEST_SEED)
BEAM = click.IntRange(1, LARGEST_BEAM)
CANDIDATES = click.IntRange(1, MOST_TOKENS)


class LocalPath(click.Path):
    """A path on this machine: `~` is the user's home directory, and addresses such as `s3://BUCKET` are refused."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(local_path(value), param, ctx)


class PathOrName(click.ParamType[str]):
    """A path, a pattern of paths, or the name of something; what begins with `~` is a path in a home directory."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return os.path.expanduser(str(value))


PATH_OR_NAME = PathOrName()
FOLDER = LocalPath(path_type=Path, file_okay=False)
FILE = LocalPath(path_type=Path, dir_okay=False)
