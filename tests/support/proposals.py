"""Proposals without a study, and what becomes of them, for tests of spaces."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.budget import VocabularyOf, complete
from search_spaces.space import Proposal, Space
from trainables.errors import InputError

NUM_FEATS = 80


class Drawn:
    """Answers like an Optuna trial, by chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked: list[str] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked.append(name)
        return self.random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        self.asked.append(name)
        return self.random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked.append(name)
        return (
            self.random.uniform(low, high)
            if step is None
            else low + step * self.random.randint(0, round((high - low) / step))
        )


def feasible(space: Space, values: Mapping[str, Any], vocabulary_of: VocabularyOf) -> Proposal | None:
    """The trial that a proposal makes on features of 80 bins; None where it makes none."""
    try:
        return complete(space, values, vocabulary_of, NUM_FEATS)
    except InputError:
        return None
