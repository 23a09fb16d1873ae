"""Help of `platform` itself: an introduction, and the commands by purpose."""

from __future__ import annotations

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


class Introduction(click.Group):
    """A group whose help lists the commands in sections."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        limit = formatter.width - 4 - width  # indentation and gap
        for heading, names in SECTIONS.items():
            with formatter.section(heading):
                rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
                formatter.write_dl(rows)
