"""Recordings, texts and speakers that two splits of a corpus share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch

from trainables.data.corpus import Corpus, Split

SHOWN = 10  # pairs of utterances


@dataclass(frozen=True)
class Overlap:
    """Recordings, texts and speakers of the split `other` that the split `split` has too; both may be the same one.

    Args:
        recordings: utterances of `other` whose features are equal to those of an utterance of `split`; within one
            split, those of an earlier utterance.
        texts: utterances of `other` whose text is that of an utterance of `split`; 0 within one split.
        speakers: speakers of `other` who are in `split`; 0 within one split.
        relabelled: number of these equal recordings with another text: one of the two is wrong.
        pairs: ids of the first utterances with equal features, in `split` and in `other`.
    """

    split: str
    other: str
    recordings: int
    texts: int
    speakers: int
    relabelled: int
    pairs: list[tuple[str, str]]


def overlaps(corpus: Corpus) -> list[Overlap]:
    """Overlaps within each split, and of each two splits; the first of two is a training split if one of them is."""
    names = [*corpus.training_splits, *(name for name in corpus.splits if name not in corpus.training_splits)]
    splits = {name: corpus.split(name) for name in names}
    places = {name: _by_fingerprint(split) for name, split in splits.items()}
    pairs = [*((name, name) for name in names), *combinations(names, 2)]
    return [_overlap(splits[one], splits[other], places[one], places[other]) for one, other in pairs]


Places = dict[tuple[int, bytes], list[int]]  # utterances by number of frames and content of the middle frame


def _by_fingerprint(split: Split) -> Places:
    places: Places = defaultdict(list)
    for place in range(len(split)):
        places[_fingerprint(split, place)].append(place)
    return dict(places)


def _fingerprint(split: Split, place: int) -> tuple[int, bytes]:
    """Number of frames and content of the middle one: equal for equal utterances, and cheap to read."""
    frames = int(split.frames[place])
    return frames, split.features[int(split.offsets[place]) + frames // 2].numpy().tobytes()


def _overlap(one: Split, other: Split, ours: Places, theirs: Places) -> Overlap:
    same = one.name == other.name
    equal: dict[int, int] = {}  # the first equal utterance of `one`, by utterance of `other`
    for fingerprint in ours.keys() & theirs.keys():
        for place in theirs[fingerprint]:
            earlier = (candidate for candidate in ours[fingerprint] if not same or candidate < place)
            first = next((each for each in earlier if torch.equal(one.utterance(each), other.utterance(place))), None)
            if first is not None:
                equal[place] = first
    pairs = [(first, place) for place, first in sorted(equal.items())]
    texts = set() if same else set(one.texts or ())
    speakers = set() if same else set(one.speakers or ()) & set(other.speakers or ()) - {None}
    relabelled = sum(one.texts[a] != other.texts[b] for a, b in pairs) if one.texts and other.texts else 0
    return Overlap(
        one.name,
        other.name,
        recordings=len(pairs),
        texts=sum(text in texts for text in other.texts or ()),
        speakers=len(speakers),
        relabelled=relabelled,
        pairs=[(one.ids[a], other.ids[b]) for a, b in pairs[:SHOWN]],
    )


@lru_cache(maxsize=8)
def shared_utterances(corpus: Corpus, one: str, other: str) -> list[str]:
    """Ids in the split `other` of utterances that are also in the split `one`: with equal text and equal features."""
    ours, theirs = corpus.split(one), corpus.split(other)
    places: dict[tuple[str, int], list[int]] = {}
    for place, key in enumerate(_texts_with_lengths(ours)):
        places.setdefault(key, []).append(place)
    return [
        theirs.ids[place]
        for place, key in enumerate(_texts_with_lengths(theirs))
        if any(torch.equal(theirs.utterance(place), ours.utterance(same)) for same in places.get(key, []))
    ]


def _texts_with_lengths(split: Split) -> Iterator[tuple[str, int]]:
    """Yields (text, number of frames) of each utterance; nothing for a split without texts."""
    return zip(split.texts, split.frames.tolist(), strict=True) if split.texts is not None else iter(())
