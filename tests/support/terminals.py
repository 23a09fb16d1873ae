"""What is printed on terminals of any width, and trials with figures of every length to print."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import cast

import records
from rich.console import Console, RenderableType

from asr_platform.study.ledger import TrialRecord, TrialStatus
from search_spaces.space import Space

STATES: list[TrialStatus] = ["complete", "pruned", "failed", "running"]
REASONS = {
    "pruned": "rung at epoch 15: val CER 45.30% against a cutoff of 40.10%",
    "failed": "DivergedError: the loss became nan [/in] epoch 3 :x: try a lower optimizer.lr, " + "and so on " * 30,
}


def trials_of(space: Space, count: int = 8) -> list[TrialRecord]:
    """Trials in every state, with figures of every length."""
    found = []
    for number in range(count):
        state = STATES[number % 4]
        cers = {"complete": [0.9, 0.1 + number / 1000], "pruned": [1.25], "failed": [], "running": [0.5]}[state]
        params = space.propose(records.Dice(number))
        about = {"parameters": 10 ** (number % 4 + 4) * 3 - 1}
        found.append(records.trial(number, state, cers, params, REASONS.get(state, ""), **about))
    return found


def console(width: int, height: int = 40, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None, _environ={}
    )


def text_of(target: Console) -> str:
    return str(cast(io.StringIO, target.file).getvalue())


def rendered(target: Console, item: RenderableType) -> list[str]:
    target.print(item)
    return text_of(target).splitlines()


def cells(lines: Sequence[str], first: str) -> list[str]:
    """The words of the one line that begins with a word."""
    found = [line.split() for line in lines if line.split()[:1] == [first]]
    assert len(found) == 1, (first, found)
    return found[0]


def numbers(lines: Sequence[str]) -> list[int]:
    """The numbers that lines begin with."""
    words = [line.split()[0] for line in lines if line.strip()]
    return [int(word) for word in words if word.isdigit()]
