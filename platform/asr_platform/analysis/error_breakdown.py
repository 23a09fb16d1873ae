"""Where a model's errors lie: by kind of error, speaker, length and noise of the utterance, and by word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_platform.analysis.bootstrap import ConfidenceInterval, resampled_rates
from trainables.evaluation.metrics import align_characters, align_words
from trainables.evaluation.utterance_errors import UtteranceErrors

MOST_GROUPS = 6
FEWEST_IN_A_GROUP = 20  # utterances: with fewer, an interval says nothing


@dataclass(frozen=True)
class EditCounts:
    """Numbers of edits that turn the references of a split into the hypotheses."""

    substitutions: int
    deletions: int
    insertions: int

    def __str__(self) -> str:
        """The counts in words, such as `12 substitutions, 1 deletion, 0 insertions`."""
        named = {"substitution": self.substitutions, "deletion": self.deletions, "insertion": self.insertions}
        return ", ".join(f"{count:,} {name}{'s' * (count != 1)}" for name, count in named.items())


@dataclass(frozen=True)
class LengthGroup:
    """Utterances whose references have `shortest` to `longest` characters, with their CER (a fraction)."""

    shortest: int
    longest: int
    utterances: int
    cer: float
    interval: ConfidenceInterval


@dataclass(frozen=True)
class NoiseGroup:
    """Utterances with a signal-to-noise ratio of `lowest` to `highest` dB, with their CER (a fraction)."""

    lowest: float
    highest: float
    utterances: int
    cer: float
    interval: ConfidenceInterval


@dataclass(frozen=True)
class SpeakerGroup:
    """Utterances of a speaker (None: of all who are not known), with their CER and WER (fractions)."""

    speaker: str | None
    utterances: int
    cer: float
    wer: float


@dataclass
class WordErrors:
    """Recognition of one word of the references.

    Args:
        occurrences: number of times that the word is in the references.
        hypotheses: number of times that each other word was recognised instead; the key "" counts deletions.
    """

    word: str
    occurrences: int = 0
    hypotheses: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        """Number of occurrences that were not recognised."""
        return self.hypotheses.total()


@dataclass(frozen=True)
class WordBreakdown:
    """Errors that WER counts, by word.

    Args:
        words: words of the references, the one with most errors first.
        inserted: number of insertions by word.
    """

    words: list[WordErrors]
    inserted: Counter[str]

    @property
    def deletions(self) -> int:
        """Number of reference words without a word in the hypothesis."""
        return sum(word.hypotheses[""] for word in self.words)

    @property
    def substitutions(self) -> int:
        """Number of reference words with another word in the hypothesis."""
        return sum(word.errors for word in self.words) - self.deletions


def edits(errors: UtteranceErrors, words: bool = False) -> EditCounts:
    """Numbers of edits of characters, as CER counts them, or of words if `words`, as WER does."""
    align = align_words if words else align_characters
    found = Counter(pair.operation for alignment in align(errors.references, errors.hypotheses) for pair in alignment)
    return EditCounts(found["substitute"], found["delete"], found["insert"])


def span(lowest: float, highest: float) -> str:
    """The values of a group in words, such as `3–5`, or `3` where they are equal."""
    return f"{lowest:.0f}–{highest:.0f}" if highest > lowest else f"{highest:.0f}"


def by_length(errors: UtteranceErrors) -> list[LengthGroup]:
    """Groups of about equally many utterances, the shortest first; utterances of equal length share a group."""
    lengths = np.array(errors.characters)
    return [
        LengthGroup(int(lengths[places].min()), int(lengths[places].max()), len(places), *_cer_of(errors, places))
        for places in _alike(lengths)
    ]


def by_noise(errors: UtteranceErrors, ratios: npt.ArrayLike) -> list[NoiseGroup]:
    """Groups of about equally many utterances, the noisiest first.

    Args:
        ratios: signal-to-noise ratio (N,) of each utterance in dB.
    """
    ratios_N = np.asarray(ratios)
    return [
        NoiseGroup(float(ratios_N[places].min()), float(ratios_N[places].max()), len(places), *_cer_of(errors, places))
        for places in _alike(ratios_N)
    ]


def _alike(values_N: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.int64]]:
    """Yields the places of utterances in groups of similar values, the lowest first; equal values share a group."""
    groups = max(1, min(MOST_GROUPS, len(values_N) // FEWEST_IN_A_GROUP))
    edges = np.unique(np.quantile(values_N, np.linspace(0, 1, groups + 1)[1:-1], method="higher"))
    group_N = np.searchsorted(edges, values_N, side="right")
    for group in np.unique(group_N):
        yield np.nonzero(group_N == group)[0]


def _cer_of(errors: UtteranceErrors, places: npt.NDArray[np.int64]) -> tuple[float, ConfidenceInterval]:
    """CER of some utterances, and its interval."""
    counts, lengths = np.array(errors.character_errors)[places], np.array(errors.characters)[places]
    speakers = errors.speakers and [errors.speakers[place] for place in places]
    interval = ConfidenceInterval.of(resampled_rates(counts[:, None], lengths, speakers)[:, 0])
    return float(counts.sum() / max(1, lengths.sum())), interval


def by_speaker(errors: UtteranceErrors) -> list[SpeakerGroup]:
    """A group for each speaker, the one with the highest CER first; empty where no speaker is known."""
    places: dict[str | None, list[int]] = {}
    for place, speaker in enumerate(errors.speakers or ()):
        places.setdefault(speaker, []).append(place)

    def rate(counts: list[int], lengths: list[int], of: list[int]) -> float:
        return sum(counts[place] for place in of) / max(1, sum(lengths[place] for place in of))

    groups = [
        SpeakerGroup(
            speaker,
            len(own),
            rate(errors.character_errors, errors.characters, own),
            rate(errors.word_errors, errors.words, own),
        )
        for speaker, own in places.items()
    ]
    return sorted(groups, key=lambda group: (-group.cer, group.speaker or ""))


def by_word(errors: UtteranceErrors) -> WordBreakdown:
    """Word errors of all utterances, grouped by the word of the reference."""
    words: dict[str, WordErrors] = {}
    inserted: Counter[str] = Counter()
    for alignment in align_words(errors.references, errors.hypotheses):
        for pair in alignment:
            if pair.operation == "insert":
                inserted[pair.hypothesis] += 1
                continue
            entry = words.setdefault(pair.reference, WordErrors(pair.reference))
            entry.occurrences += 1
            if pair.operation != "equal":
                entry.hypotheses[pair.hypothesis] += 1
    return WordBreakdown(sorted(words.values(), key=lambda entry: (-entry.errors, entry.word)), inserted)
