"""Types of paths on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from asr_platform.home import local_path


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
