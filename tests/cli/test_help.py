"""The help of every command: at once, whole, and about every option."""

from __future__ import annotations

import shlex
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from asr_platform.cli.help import SECTIONS
from asr_platform.cli.main import cli


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
    assert "..." not in ended.output.replace("PATH...", "").replace("KEY=VALUE...", "").replace("[ARGS]...", "")
    assert "RANGE" not in ended.output
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_introduction_lists_every_command_once() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(cli.commands)
    shown = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    assert [line.split()[0] for line in shown if line.split()[:1] and line.split()[0] in cli.commands] == listed
    assert [line.removesuffix(":") for line in shown if line.removesuffix(":") in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_examples_are_commands(words: list[str]) -> None:
    """Each command has one at least, of its own, with options that there are."""
    shown = CliRunner().invoke(cli, [*words, "--help"]).output.splitlines()
    examples = [line.split() for line in shown if line.startswith("    platform ") or line.startswith("  platform ")]
    assert examples
    for example in examples:
        assert example[1 : len(words) + 1] == words
        parse(cli, shlex.split(" ".join(example))[1:])


def parse(command: click.Command, words: list[str]) -> None:
    """Takes words as the command would, without running it."""
    with command.make_context("platform", words) as context:
        if isinstance(command, click.Group):
            _, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert below is not None
            parse(below, rest)


def test_help_needs_neither_torch_nor_ray() -> None:
    """Their imports take seconds."""
    code = (
        "import sys; from asr_platform.cli import main; print({'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
