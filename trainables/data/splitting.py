"""Takes a validation split from the training data of a source that has none.

No speaker is in both parts, as far as speakers are known; else no recording is. A chosen part of a group would leak:
validation on speakers that were trained on promises more than strangers will see.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from trainables.data.utterance import AudioSegment, Utterance, trains, validates

DEV = "dev"
DEV_SHARE = 0.05  # of the training utterances
LARGEST_SHARE = 0.3  # of the training utterances: whole speakers who have more are not taken

Unit = Literal["speaker", "recording", "utterance"]


class DevSplit(BaseModel):
    """A validation split that was taken from training splits.

    Attributes:
        utterances: number of utterances taken.
        share: their share of the training utterances.
        by: what is in one of the two parts alone.
        units: number of speakers, recordings or utterances taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    utterances: int
    share: float
    by: Unit
    units: int

    @property
    def text(self) -> str:
        """What was done, in one line."""
        part = f"{self.utterances:,} utterance{'s' * (self.utterances > 1)} ({self.share:.1%}) taken from training"
        if self.by == "utterance":
            return f"{part}, one by one; speakers and recordings may be in both"
        all_of = f"{part}: all of {self.units:,} {self.by}{'s' * (self.units > 1)}"
        return all_of if self.by == "speaker" else f"{all_of}; speakers may be in both"


def with_dev(utterances: Sequence[Utterance], share: float = DEV_SHARE) -> tuple[list[Utterance], DevSplit | None]:
    """The utterances, with a split `dev` taken from the training splits where there is no validation split.

    Whole speakers are taken, in an order that is random but depends on their names alone, until the share is about
    reached. Recordings are taken where speakers are not known, or so few that one has more than 30% of the utterances;
    single utterances where that is so of recordings. Equal utterances give equal splits.

    Args:
        share: of the training utterances; 0: none are taken.

    Returns:
        The utterances in their order, and the split that was taken; None if there is a validation split, or too little
        to train on (one utterance).
    """
    training = [item for item in utterances if trains(item.split)]
    if not share or len(training) < 2 or any(validates(item.split) for item in utterances):
        return list(utterances), None
    for by, unit in _UNITS.items():
        chosen = _choose(Counter(map(unit, training)), max(1, round(share * len(training))))
        taken = [item for item in training if unit(item) in chosen]
        if len(taken) <= max(LARGEST_SHARE, 1.5 * share) * len(training) or by == "utterance":
            break
    names = Counter(item.id for item in taken)
    moved = {(item.split, item.id): replace(item, split=DEV, id=_new_id(item, names)) for item in taken}
    made = DevSplit(utterances=len(taken), share=len(taken) / len(training), by=by, units=len(chosen))
    return [moved.get((item.split, item.id), item) for item in utterances], made


def _new_id(utterance: Utterance, names: Counter[str]) -> str:
    """Id in the split `dev`, where ids of several training splits meet."""
    return utterance.id if names[utterance.id] == 1 else f"{utterance.split}-{utterance.id}"


def _speaker(utterance: Utterance) -> str:
    return utterance.speaker or ""  # those without a known speaker may share one


def _recording(utterance: Utterance) -> str:
    source = utterance.source
    return str(source.path) if isinstance(source, AudioSegment) else _itself(utterance)


def _itself(utterance: Utterance) -> str:
    return f"{utterance.split}/{utterance.id}"


_UNITS: dict[Unit, Callable[[Utterance], str]] = {"speaker": _speaker, "recording": _recording, "utterance": _itself}


def _choose(sizes: Counter[str], wanted: int) -> set[str]:
    """Groups in a random order until they have `wanted` utterances together; at least one group.

    A group that would make more than twice as many is passed over. If the others have less than half of them, the
    smallest of those comes along.

    Args:
        sizes: number of utterances of each group.
    """
    order = sorted(sizes, key=lambda name: hashlib.sha256(name.encode(errors="surrogatepass")).digest())
    chosen: list[str] = []
    total = 0
    for name in order:
        if total < wanted and total + sizes[name] <= 2 * wanted:
            chosen.append(name)
            total += sizes[name]
    if 2 * total < wanted:
        chosen.append(min((name for name in order if name not in chosen), key=lambda name: sizes[name]))
    return set(chosen)
