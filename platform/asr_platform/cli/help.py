"""Help of `platform` itself: an introduction, and the commands by purpose; and how a command is found by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module

import click

INTRODUCTION = """Finds the best speech recogniser that fits in 30 million parameters.

You give it speech and a space of models; it tries many of them, stops the weak ones early, and keeps the best,
which transcribes.

\b
A first run, on speech that it makes itself (5 to 7 minutes on 2 CPU cores):
  platform prepare synthetic --out corpora/synthetic
  platform sweep synthetic --data corpora/synthetic
  platform leaderboard
  platform transcribe mlruns/models/synthetic-1 FILE.wav

Every command explains itself, with an example: platform sweep --help.
"""
SECTIONS = {
    "Begin": ["prepare", "inspect", "schema", "plan"],
    "Search": ["sweep", "train", "status", "logs", "watch"],
    "Steer": ["stop", "pause", "unpause", "note", "add", "change", "delete"],
    "Look": ["leaderboard", "compare", "confirm", "importances", "report", "ui", "doctor"],
    "Use": ["evaluate", "tune-decoding", "transcribe", "export", "submit", "check"],
    "This command": ["completion"],
}


class Commands(MutableMapping[str, click.Command]):
    """Commands by name. The module of a command is imported when the command is first asked for.

    Args:
        modules: names of the commands' functions, by module. A function's name is that of its command with `_` for `-`,
            and with `_` at the end where it would hide a function of Python.
    """

    def __init__(self, modules: Mapping[str, Sequence[str]]) -> None:
        places = [(module, function) for module, functions in modules.items() for function in functions]
        self._found: dict[str, click.Command | tuple[str, str]] = {
            place[1].rstrip("_").replace("_", "-"): place for place in places
        }

    def __getitem__(self, name: str) -> click.Command:
        found = self._found[name]
        if isinstance(found, tuple):
            module, function = found
            found = self._found[name] = getattr(import_module(module), function)
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class Introduction(click.Group):
    """A group whose help lists the commands in sections."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        limit = formatter.width - 4 - width  # indentation and gap
        for heading, names in SECTIONS.items():
            with formatter.section(heading):
                rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
                formatter.write_dl(rows)
