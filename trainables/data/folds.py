"""Folds of speakers: parts of a training split that are trained on and validated on in turn.

A fold is named as a split, after the training split: `train.fold-2-of-5` has the speakers of the second of five folds,
`train.except-2-of-5` all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.errors import InputError

_NAME = re.compile(r"(.+)\.(fold|except)-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Fold:
    """One side of a division of a split.

    Args:
        split: name of the split that is divided.
        number: which of the folds, from 1 on.
        folds: how many there are.
        validates: the speakers of the fold, which are validated on; otherwise all others, which are trained on.
    """

    split: str
    number: int
    folds: int
    validates: bool

    @property
    def name(self) -> str:
        """Name of this side as a split."""
        return f"{self.split}.{'fold' if self.validates else 'except'}-{self.number}-of-{self.folds}"

    @classmethod
    def named(cls, name: str) -> Fold | None:
        """The side with this name; None: it is the name of none."""
        match = _NAME.fullmatch(name)
        if match is None or not 1 <= int(match[3]) <= int(match[4]):
            return None
        return cls(match[1], int(match[3]), int(match[4]), match[2] == "fold")

    def places(self, speakers: Sequence[str | None] | None, seconds: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Places in the split of the utterances on this side.

        Args:
            speakers: the speaker of each utterance of the split.
            seconds: the duration of each.

        Raises:
            InputError: an utterance's speaker is not known, or there are fewer speakers than folds.
        """
        unknown = len(seconds) if speakers is None else sum(speaker is None for speaker in speakers)
        if speakers is None or unknown:
            raise InputError(
                f"data.folds: {self.folds}: the speakers of {unknown:,} of {len(seconds):,} utterances of {self.split} "
                "are not known",
                "Prepare the corpus with its speakers (platform prepare has --speaker for names of files), or leave "
                "out data.folds.",
            )
        fold_of = balanced([str(speaker) for speaker in speakers], seconds.tolist(), self.folds)
        if len(fold_of) < self.folds:
            remedy = f"Say at most {len(fold_of)}." if len(fold_of) > 1 else "Leave out data.folds."
            raise InputError(f"data.folds: {self.folds}: {self.split} has {len(fold_of)} speakers", remedy)
        inside = np.array([fold_of[str(speaker)] == self.number for speaker in speakers])
        return np.flatnonzero(inside == self.validates)


def balanced(keys: Sequence[str], amounts: Sequence[float], folds: int) -> dict[str, int]:
    """The fold (1 to `folds`) of each key, so that folds have about the same amount: the largest key comes first.

    Every key goes to the fold with the least so far (Graham, 1969, "Bounds on multiprocessing timing anomalies").
    """
    totals: dict[str, float] = {}
    for key, amount in zip(keys, amounts, strict=True):
        totals[key] = totals.get(key, 0.0) + amount
    filled = [0.0] * folds
    found: dict[str, int] = {}
    for key in sorted(totals, key=lambda key: (-totals[key], key)):
        least = filled.index(min(filled))
        filled[least] += totals[key]
        found[key] = least + 1
    return found
