"""Types of command-line values: finite numbers, local paths, names."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

from asr_platform.storage.paths import local_path
from asr_platform.tracking.resolving import IN_MLFLOW, resolve_model
from trainables.bounds import MOST_UTTERANCES


class Finite(click.FloatRange):
    """A finite number within bounds; refuses `nan`, which lies within all bounds, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not math.isfinite(click.FLOAT.convert(value, param, ctx)):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return super().convert(value, param, ctx)


class LocalPath(click.Path):
    """A path on this machine; `~` is the user's home directory, and addresses such as `s3://BUCKET` are refused."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(local_path(value), param, ctx)


class PathOrName(click.ParamType[str]):
    """A path, a pattern of paths, or the name of something; a leading `~` is expanded."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return os.path.expanduser(str(value))


class ModelDirectory(LocalPath):
    """A model directory; a model in MLflow is downloaded into one."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if ctx and not ctx.resilient_parsing and str(value).startswith(IN_MLFLOW):
            value = resolve_model(ctx.find_root().params["home"], str(value))
        return super().convert(value, param, ctx)


class Value(click.ParamType[tuple[str, Any]]):
    """A key of a configuration with its value, such as `model.dropout=0.1`; the value is YAML."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not (key and equals and text):
            self.fail(f"{value!r} is not KEY=VALUE, such as model.dropout=0.1.", param, ctx)
        from trainables.document import Document  # YAML

        document = Document(text, value)
        document.check()
        return key, document.tree


class Keys(click.ParamType[dict[str, str]]):
    """Pairs such as `text=sentence`, with commas between them, as a dictionary."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        pairs = [pair.partition("=") for pair in str(value).split(",")]
        for ours, sign, theirs in pairs:
            if not (ours.strip() and sign and theirs.strip()):
                self.fail(f"{ours + sign + theirs!r} is not OURS=THEIRS, such as text=sentence.", param, ctx)
        return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


class Speakers(click.ParamType[int | tuple[str, ...]]):
    """A number of speakers from 1 on, or their names with commas between them (`84,` names the speaker 84)."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[str, ...]:
        if isinstance(value, int | tuple):
            return value
        if "," not in value and value.strip().lstrip("-").isdecimal():
            return click.IntRange(1, MOST_UTTERANCES).convert(int(value), param, ctx)
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        return names or self.fail(f"{value!r} names no speaker.", param, ctx)


PATH_OR_NAME = PathOrName()
VALUE = Value()
FOLDER = LocalPath(path_type=Path, file_okay=False)
FILE_OR_FOLDER = LocalPath(path_type=Path)
FILE = LocalPath(path_type=Path, dir_okay=False)
MODEL = ModelDirectory(path_type=Path, file_okay=False)
