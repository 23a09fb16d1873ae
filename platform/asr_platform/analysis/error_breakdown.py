"""Where a model's errors lie: in long utterances or short ones, and in which words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from asr_platform.analysis.bootstrap import Interval, interval, rates
from trainables.evaluation.metrics import align_words
from trainables.evaluation.utterance_errors import UtteranceErrors

MOST_GROUPS = 6
FEWEST_IN_A_GROUP = 20  # utterances: of fewer, an interval says nothing


@dataclass(frozen=True)
class LengthGroup:
    """The utterances whose references have from `shortest` to `longest` characters, and their CER, a fraction."""

    shortest: int
    longest: int
    utterances: int
    cer: float
    interval: Interval


@dataclass
class WordErrors:
    """What became of one word of the references.

    Args:
        said: how often it was.
        heard: what was heard where it was heard wrong, and how often; an empty text where it was left out.
    """

    word: str
    said: int = 0
    heard: Counter[str] = field(default_factory=Counter)

    @property
    def wrong(self) -> int:
        return self.heard.total()


@dataclass(frozen=True)
class WordBreakdown:
    """The errors that WER counts, by word.

    Args:
        words: those of the references, by falling number of errors.
        added: words that nobody said, and how often they were heard.
    """

    words: list[WordErrors]
    added: Counter[str]

    @property
    def left_out(self) -> int:
        return sum(word.heard[""] for word in self.words)

    @property
    def replaced(self) -> int:
        return sum(word.wrong for word in self.words) - self.left_out


def by_length(errors: UtteranceErrors) -> list[LengthGroup]:
    """Groups of about as many utterances each, short ones first; utterances of one length are never parted."""
    lengths, counts = np.array(errors.characters), np.array(errors.character_errors)
    groups = max(1, min(MOST_GROUPS, len(lengths) // FEWEST_IN_A_GROUP))
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, groups + 1)[1:-1], method="higher"))
    group_N = np.searchsorted(edges, lengths, side="right")
    return [_group(lengths[group_N == group], counts[group_N == group]) for group in np.unique(group_N)]


def _group(lengths: np.ndarray, counts: np.ndarray) -> LengthGroup:
    cer = float(counts.sum() / max(1, lengths.sum()))
    found = interval(rates(counts[:, None], lengths)[:, 0])
    return LengthGroup(int(lengths.min()), int(lengths.max()), len(lengths), cer, found)


def by_word(errors: UtteranceErrors) -> WordBreakdown:
    """Word errors of all utterances, grouped by the word of the reference."""
    words: dict[str, WordErrors] = {}
    added: Counter[str] = Counter()
    for alignment in align_words(errors.references, errors.hypotheses):
        for pair in alignment:
            if pair.operation == "insert":
                added[pair.hypothesis] += 1
                continue
            entry = words.setdefault(pair.reference, WordErrors(pair.reference))
            entry.said += 1
            if pair.operation != "equal":
                entry.heard[pair.hypothesis] += 1
    return WordBreakdown(sorted(words.values(), key=lambda entry: (-entry.wrong, entry.word)), added)
