"""The help of every command: at once, whole, and about every option."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from asr_platform.cli import cli


def commands() -> list[list[str]]:
    found: list[list[str]] = [[]]
    for name, command in cli.commands.items():
        found.append([name])
        found += [[name, below] for below in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_fits_80_columns_and_cuts_nothing(words: list[str]) -> None:
    """Every command says what it does, and every option what it is for."""
    runner = CliRunner()
    ended, short = (runner.invoke(cli, [*words, flag], prog_name="platform") for flag in ("--help", "-h"))
    assert (ended.exit_code, ended.stderr, ended.output) == (0, "", short.output)
    assert ended.output.startswith(" ".join(["Usage: platform", *words]))
    assert max(map(len, ended.output.splitlines())) <= 80
    assert "..." not in ended.output.replace("FILES...", "").replace("[ARGS]...", "")
    assert "RANGE" not in ended.output
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_help_needs_neither_torch_nor_ray() -> None:
    """Their imports take seconds."""
    code = "import sys; from asr_platform import cli; print({'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
