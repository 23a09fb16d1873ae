"""No option takes a number that no machine can do: neither nan and inf nor one without a bound."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from asr_platform.cli.main import cli
from asr_platform.cli.options.parameters import Finite

# Looked up among the trials that there are.
COUNTLESS = {(command, "trial") for command in ("logs", "stop", "pause", "unpause", "note")}


def numbers(command: click.Command = cli, path: str = "") -> Iterator[tuple[str, click.Parameter]]:
    """The numeric parameters of a command and of those below it, each with the command's words."""
    for parameter in command.params:
        if isinstance(parameter.type, click.IntRange | click.FloatRange | type(click.INT) | type(click.FLOAT)):
            yield path, parameter
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from numbers(inner, f"{path} {name}".strip())


NUMBERS = [pytest.param(path, each, id=f"{path} {each.name}") for path, each in numbers()]


@pytest.mark.parametrize(("path", "parameter"), NUMBERS)
def test_a_number_that_is_none_is_refused(path: str, parameter: click.Parameter) -> None:
    for text in ("nan", "NaN", "-nan", "inf", "-inf", "1e400", "x", ""):
        with pytest.raises(click.BadParameter):
            parameter.type.convert(text, parameter, None)


@pytest.mark.parametrize(("path", "parameter"), NUMBERS)
def test_numbers_have_bounds(path: str, parameter: click.Parameter) -> None:
    kind = parameter.type
    assert isinstance(kind, click.IntRange | Finite)
    if isinstance(kind, click.IntRange) and (path, parameter.name) not in COUNTLESS:
        with pytest.raises(click.BadParameter, match="is not in the range"):
            kind.convert(str(10**25), parameter, None)


def test_there_are_numbers() -> None:
    assert len(NUMBERS) > 25
    assert Finite(0).convert("1e3", None, None) == 1000
