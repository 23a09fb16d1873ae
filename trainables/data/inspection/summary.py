"""Facts about a corpus that tell whether its data are sound, for `platform inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.data.corpus import Corpus, Split
from trainables.data.inspection.overlaps import Overlap, overlaps
from trainables.data.inspection.signals import Loudness, audio_of, is_clipped, loudness

EXTREMES = 5  # longest and shortest utterances of a split
MOST_MEASURED = 2000  # utterances of a split whose features are measured
MOST_HEARD = 200  # utterances of a split whose audio is read
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


@dataclass(frozen=True)
class UtteranceFacts:
    """An utterance that stands out: its place in the split, duration in seconds, and loudness."""

    split: str
    place: int
    id: str
    speaker: str | None
    seconds: float
    text: str | None
    loudness: Loudness


@dataclass(frozen=True)
class SpeakerFacts:
    """A speaker's utterances in a split; the name is None for all whose speaker is not known."""

    name: str | None
    utterances: int
    seconds: float


@dataclass(frozen=True)
class AudioFacts:
    """What the audio files of a split say.

    Args:
        checked: number of utterances whose audio was looked for.
        missing: those of them whose files are not there any more, or cannot be read.
        clipped: those of them that stay at full scale for several samples in a row.
        examples: ids of the first clipped utterances.
    """

    checked: int
    missing: int
    clipped: int
    examples: list[str]


@dataclass(frozen=True)
class SplitFacts:
    """Facts about a split.

    Args:
        seconds: total duration.
        lengths: quantiles of the durations in seconds.
        rates: quantiles of characters a second; None without texts.
        alphabet: number of occurrences of each character, the most frequent first.
        distinct_texts: number of different texts.
        speakers: those with most speech first; empty where none is known.
        measured: number of utterances, at equal distances in the split, whose loudness was measured.
        loudness: over the measured utterances.
        audio: None where the corpus knows no audio files.
    """

    name: str
    utterances: int
    seconds: float
    lengths: dict[str, float]
    rates: dict[str, float] | None
    alphabet: dict[str, int]
    distinct_texts: int
    speakers: list[SpeakerFacts]
    measured: int
    loudness: Loudness
    audio: AudioFacts | None
    longest: list[UtteranceFacts]
    shortest: list[UtteranceFacts]
    quietest: list[UtteranceFacts]  # of the measured utterances, those with the largest share of silence


@dataclass(frozen=True)
class Inspection:
    """Facts about a corpus: its splits, and what they have in common."""

    corpus: str
    hash: str
    source: str
    splits: list[SplitFacts]
    overlaps: list[Overlap]


def inspect_corpus(corpus: Corpus, progress: Callable[[int, int], None] | None = None) -> Inspection:
    """Facts about all splits of a corpus.

    Features of at most 2,000 utterances of a split are measured, and the audio of 200 is read where its files are
    there; these lie at equal distances in the split.

    Args:
        progress: called with (splits done, all splits).

    Raises:
        InputError: a split is damaged.
    """
    splits = []
    for number, name in enumerate(corpus.splits):
        splits.append(_split_facts(corpus, corpus.split(name)))
        if progress:
            progress(number + 1, len(corpus.splits))
    return Inspection(str(corpus.path), corpus.hash, corpus.source, splits, overlaps(corpus))


def utterance_facts(corpus: Corpus, split: Split, place: int) -> UtteranceFacts:
    """Facts about the utterance at index `place` of a split."""
    speaker = split.speakers[place] if split.speakers else None
    text = split.texts[place] if split.texts else None
    measured = loudness(split.utterance(place).numpy(), corpus.recipe)
    return UtteranceFacts(split.name, place, split.ids[place], speaker, float(split.seconds[place]), text, measured)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. count - 1, at equal distances, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _split_facts(corpus: Corpus, split: Split) -> SplitFacts:
    order = np.argsort(split.seconds, kind="stable").tolist()
    chosen = evenly_spaced(len(split), MOST_MEASURED)
    measured = [loudness(split.utterance(place).numpy(), corpus.recipe) for place in chosen]
    silent = np.argsort([-one.silent for one in measured], kind="stable")[:EXTREMES]
    lengths = np.array([len(text) for text in split.texts or ()])
    return SplitFacts(
        name=split.name,
        utterances=len(split),
        seconds=float(split.seconds.sum()),
        lengths=_quantiles(split.seconds),
        rates=_quantiles(lengths / np.maximum(split.seconds, 1e-3)) if split.texts else None,
        alphabet=dict(Counter("".join(split.texts or ())).most_common()),
        distinct_texts=len(set(split.texts or ())),
        speakers=_speakers(split),
        measured=len(chosen),
        loudness=Loudness.mean(measured, [int(split.frames[place]) for place in chosen]),
        audio=_audio_facts(split),
        longest=[utterance_facts(corpus, split, place) for place in order[: -EXTREMES - 1 : -1]],
        shortest=[utterance_facts(corpus, split, place) for place in order[:EXTREMES]],
        quietest=[utterance_facts(corpus, split, chosen[place]) for place in silent],
    )


def _quantiles(values: npt.NDArray[np.floating]) -> dict[str, float]:
    found = np.quantile(values, list(QUANTILES.values())).tolist()
    return dict(zip(QUANTILES, found, strict=True))


def _speakers(split: Split) -> list[SpeakerFacts]:
    if split.speakers is None:
        return []
    counts, seconds = Counter(split.speakers), Counter[str | None]()
    for name, duration in zip(split.speakers, split.seconds.tolist(), strict=True):
        seconds[name] += duration
    return [SpeakerFacts(name, counts[name], total) for name, total in seconds.most_common()]


def _audio_facts(split: Split) -> AudioFacts | None:
    known = [place for place in evenly_spaced(len(split), MOST_HEARD) if split.recordings(place)]
    if not known:
        return None
    clipped, missing = [], 0
    for place in known:
        samples = audio_of(split, place)
        missing += samples is None
        if samples is not None and is_clipped(samples):
            clipped.append(place)
    return AudioFacts(len(known), missing, len(clipped), [split.ids[place] for place in clipped[:EXTREMES]])
