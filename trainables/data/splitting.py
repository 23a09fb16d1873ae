"""Takes a validation split from training data: a share of it, or a number of speakers.

No speaker is in both parts, as far as speakers are known; else no recording is. A chosen part of a group would leak:
validation on speakers that were trained on promises more than strangers will see.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from trainables.data.utterance import AudioSegment, Utterance, trains, validates
from trainables.errors import InputError

DEV = "dev"
DEV_SHARE = 0.05  # of the training utterances
LARGEST_SHARE = 0.3  # of the training utterances: whole speakers who have more are not taken
SHOWN_SPEAKERS = 20  # in an error

Unit = Literal["speaker", "recording", "utterance"]
DevSpeakers = int | tuple[str, ...] | None  # how many speakers, or their names; None: not by a number of speakers


@dataclass(frozen=True)
class DevRequest:
    """The validation split that is wanted of a source.

    Args:
        share: share of the training utterances that is taken where the source has no validation split; 0: none.
        speakers: number of speakers who are only in the validation split, or their names; replaces `share`, and the
            source's own validation split.
        seed: random seed with which speakers and recordings are drawn.
    """

    share: float = DEV_SHARE
    speakers: DevSpeakers = None
    seed: int = 0


class DevSplit(BaseModel):
    """A validation split that was taken from training splits.

    Attributes:
        utterances: number of utterances taken.
        share: their share of the training utterances.
        by: what is in one of the two parts alone.
        units: number of speakers, recordings or utterances taken.
        replaced: validation splits of the source that were added to the training data first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    utterances: int
    share: float
    by: Unit
    units: int
    replaced: list[str] = []

    @property
    def text(self) -> str:
        """What was done, in one line."""
        data = " and ".join(["training", *self.replaced])
        part = f"{self.utterances:,} utterance{'s' * (self.utterances > 1)} ({self.share:.1%}) taken from {data}"
        if self.by == "utterance":
            return f"{part}, one by one; speakers and recordings may be in both"
        all_of = f"{part}: all of {self.units:,} {self.by}{'s' * (self.units > 1)}"
        return all_of if self.by == "speaker" else f"{all_of}; speakers may be in both"


def with_dev(utterances: Sequence[Utterance], wanted: DevRequest) -> tuple[list[Utterance], DevSplit | None]:
    """The utterances, with a split `dev` taken from the training splits.

    A share is taken only where there is no validation split. Whole speakers are taken, in an order that is random but
    depends on their names and the seed alone, until the share is about reached. Recordings are taken where speakers are
    not known, or so few that one has more than 30% of the utterances; single utterances where that is so of recordings.

    Where a number of speakers is wanted, all their utterances are taken. A validation split that has speakers of the
    training splits is divided again together with these. Equal utterances give equal splits.

    Returns:
        The utterances in their order, and the split that was taken; None if there is a validation split, or too little
        to train on (one utterance).

    Raises:
        InputError: the speakers that are wanted cannot be taken: some are not known, too few are left to train on, or
            the validation split has none of the training speakers already.
    """
    if wanted.speakers is not None:
        return _by_speakers(utterances, wanted.speakers, wanted.seed)
    training = [item for item in utterances if trains(item.split)]
    if not wanted.share or len(training) < 2 or any(validates(item.split) for item in utterances):
        return list(utterances), None
    for by, unit in _UNITS.items():
        count = max(1, round(wanted.share * len(training)))
        chosen = _choose(Counter(map(unit, training)), count, wanted.seed)
        taken = [item for item in training if unit(item) in chosen]
        if len(taken) <= max(LARGEST_SHARE, 1.5 * wanted.share) * len(training) or by == "utterance":
            break
    places = {_itself(item) for item in taken}
    made = DevSplit(utterances=len(taken), share=len(taken) / len(training), by=by, units=len(chosen))
    return _moved(utterances, lambda item: DEV if _itself(item) in places else item.split), made


def _by_speakers(
    utterances: Sequence[Utterance], wanted: int | tuple[str, ...], seed: int
) -> tuple[list[Utterance], DevSplit]:
    """The utterances, with all that the wanted speakers say in training and validation splits as the split `dev`."""
    splits = sorted({item.split for item in utterances if validates(item.split)})
    divided = [item for item in utterances if trains(item.split) or validates(item.split)]
    if unknown := [item for item in divided if item.speaker is None]:
        raise InputError(
            f"--dev-speakers: {len(unknown):,} of {len(divided):,} utterances have no known speaker, such as "
            f"{unknown[0].origin or _itself(unknown[0])}",
            "Name the speakers in the source, or take a share of the utterances with --dev-share.",
        )
    training = {item.speaker for item in divided if trains(item.split)}
    if splits and not any(item.speaker in training for item in divided if validates(item.split)):
        raise InputError(
            f"--dev-speakers: no speaker of {', '.join(splits)} is in a training split", "Leave out --dev-speakers."
        )
    chosen = chosen_speakers([item.speaker or "" for item in divided], wanted, seed)
    taken = sum(item.speaker in chosen for item in divided)
    made = DevSplit(utterances=taken, share=taken / len(divided), by="speaker", units=len(chosen), replaced=splits)
    training_split = min(item.split for item in divided if trains(item.split))

    def destination(item: Utterance) -> str:
        if not (trains(item.split) or validates(item.split)):
            return item.split
        return DEV if item.speaker in chosen else item.split if trains(item.split) else training_split

    return _moved(utterances, destination), made


def chosen_speakers(speakers: Iterable[str], wanted: DevSpeakers, seed: int = 0) -> set[str]:
    """The speakers of a validation split: those named, or as many as are wanted, drawn with a seed; None: nobody.

    Args:
        speakers: names of those who can be chosen, in any order; equal names are one speaker.

    Raises:
        InputError: a speaker is not known, or nobody would be left to train on.
    """
    if wanted is None:
        return set()
    names = sorted(set(speakers), key=lambda name: _random_order(name, seed))
    there = f"The speakers are {', '.join(sorted(names)[:SHOWN_SPEAKERS])}{', …' * (len(names) > SHOWN_SPEAKERS)}."
    if isinstance(wanted, tuple) and (unknown := sorted(set(wanted) - set(names))):
        raise InputError(f"--dev-speakers: no speaker named {', '.join(unknown)}", there)
    chosen = set(names[:wanted] if isinstance(wanted, int) else wanted)
    if len(chosen) >= len(names) or (isinstance(wanted, int) and wanted > len(chosen)):
        count = wanted if isinstance(wanted, int) else len(chosen)
        raise InputError(
            f"--dev-speakers: {count} of {len(names)} known speakers for validation leave nobody to train on",
            f"Hold out at most {len(names) - 1}. {there}" if len(names) > 1 else f"Leave out --dev-speakers. {there}",
        )
    return chosen


def _moved(utterances: Sequence[Utterance], destination: Callable[[Utterance], str]) -> list[Utterance]:
    """The utterances in their new splits; an id that would be twice in a split begins with the name of the old one."""
    splits = [destination(item) for item in utterances]
    names = Counter((split, item.id) for split, item in zip(splits, utterances, strict=True))
    return [
        item
        if split == item.split
        else replace(item, split=split, id=item.id if names[split, item.id] == 1 else f"{item.split}-{item.id}")
        for split, item in zip(splits, utterances, strict=True)
    ]


def _speaker(utterance: Utterance) -> str:
    return utterance.speaker or ""  # those without a known speaker may share one


def _recording(utterance: Utterance) -> str:
    source = utterance.source
    return str(source.path) if isinstance(source, AudioSegment) else _itself(utterance)


def _itself(utterance: Utterance) -> str:
    return f"{utterance.split}/{utterance.id}"


_UNITS: dict[Unit, Callable[[Utterance], str]] = {"speaker": _speaker, "recording": _recording, "utterance": _itself}


def _random_order(name: str, seed: int) -> bytes:
    """Key that sorts names in an order that is random, but depends on each name and the seed alone."""
    return hashlib.sha256(f"{seed or ''}{name}".encode(errors="surrogatepass")).digest()


def _choose(sizes: Counter[str], wanted: int, seed: int) -> set[str]:
    """Groups in a random order until they have `wanted` utterances together; at least one group.

    A group that would make more than twice as many is passed over. If the others have less than half of them, the
    smallest of those comes along.

    Args:
        sizes: number of utterances of each group.
    """
    order = sorted(sizes, key=lambda name: _random_order(name, seed))
    chosen: list[str] = []
    total = 0
    for name in order:
        if total < wanted and total + sizes[name] <= 2 * wanted:
            chosen.append(name)
            total += sizes[name]
    if 2 * total < wanted:
        chosen.append(min((name for name in order if name not in chosen), key=lambda name: sizes[name]))
    return set(chosen)
